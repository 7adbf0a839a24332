"""The server fixtures with real containers, of images made on the spot: a busybox that answers like Qdrant.

They need a Docker daemon and a statically linked `busybox` (Debian's `busybox-static`); nothing is pulled.
"""

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance.servers import (
    NoServerError,
    ServerFailedError,
    docker_client,
    run_qdrant_cluster,
    run_qdrant_server,
    skip_or_fail,
)

SERVE = "exec busybox httpd -f -p 6333 -h /www\n"

# What each image's entry point does before it serves.
GOOD = "echo ready > /www/readyz\n" + SERVE
SLOW = "(sleep 1; echo ready > /www/readyz) &\n" + SERVE
NEVER_READY = SERVE
DIES = "echo starting\necho 'the disk is on fire' >&2\nexit 3\n"

# A node of a cluster: it notes its arguments; one that joins others asks the first by name before it serves.
NODE = """
echo "$@" > /www/arguments
echo "$QDRANT__CLUSTER__ENABLED" > /www/enabled
if [ "$1" = --bootstrap ]; then
    first=${2#http://}
    wget -q -O /www/first "http://${first%:*}:6333/readyz" || exit 7
fi
"""

MakeImage = Callable[..., str]


def is_static(binary: bytes) -> bool:
    """Whether this is a 64-bit ELF program without an interpreter (program header 3) to load libraries."""
    if binary[:6] != b"\x7fELF\x02\x01":
        return False
    (offset,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    return all(struct.unpack_from("<I", binary, offset + n * size) != (3,) for n in range(count))


@pytest.fixture(scope="session")
def docker() -> Iterator[Any]:
    with skip_or_fail():
        client = docker_client()
    yield client
    client.close()


@pytest.fixture(scope="session")
def busybox() -> bytes:
    """A `busybox` that needs no libraries beside it."""
    found = shutil.which("busybox")
    binary = Path(found).read_bytes() if found else b""
    if not is_static(binary):
        with skip_or_fail():
            raise NoServerError("there is no static busybox to make an image of (Debian: busybox-static).")
    return binary


@pytest.fixture(scope="session")
def make_image(docker: Any, busybox: bytes) -> Iterator[MakeImage]:
    """A function that makes an image whose container runs a script, and answers as a version of Qdrant."""
    repository = f"kpstore-stand-in-{uuid.uuid4().hex[:8]}"
    made: list[str] = []

    def make(
        script: str, *, version: str = "1.19.0", peers: int = 3, command: str = "./entrypoint.sh"
    ) -> str:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:

            def add(path: str, content: bytes, mode: int = 0o644) -> None:
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(content), mode
                tar.addfile(info, io.BytesIO(content))

            add("bin/busybox", busybox, 0o755)
            for applet in ("sh", "sleep", "wget"):
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            for name in ("entrypoint.sh", "qdrant"):
                add(f"qdrant/{name}", f"#!/bin/sh\n{script}".encode(), 0o755)
            add("www/index.html", json.dumps({"title": "a stand-in", "version": version}).encode())
            add("www/cluster", json.dumps({"result": {"peers": {str(n): {} for n in range(peers)}}}).encode())
        tag = str(len(made))
        changes = ["WORKDIR /qdrant", f'CMD ["{command}"]', "ENV PATH=/bin"]
        docker.api.import_image_from_data(buffer.getvalue(), repository, tag, changes)
        made.append(f"{repository}:{tag}")
        return made[-1]

    yield make
    for image in made:
        docker.images.remove(image, force=True)


@pytest.fixture(scope="session")
def good(make_image: MakeImage) -> str:
    return make_image(GOOD)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(docker: Any, make_image: MakeImage) -> Iterator[None]:
    """After each test, whatever it did, every container and network of these fixtures is gone."""
    before = things(docker)
    yield
    left = {key: thing for key, thing in things(docker).items() if key not in before}
    # Under pytest-xdist some of them may be another worker's, which removes them in its own time.
    deadline = time.monotonic() + 20
    while left.keys() & things(docker).keys() and time.monotonic() < deadline:
        time.sleep(0.5)
    left = {key: thing for key, thing in left.items() if key in things(docker)}
    for (kind, _), thing in sorted(left.items(), key=lambda item: item[0]):
        thing.remove(**({"force": True} if kind == "container" else {}))
    assert list(left) == []


def things(docker: Any) -> dict[tuple[str, str], Any]:
    """Every container and network that carries the fixtures' label, by kind and id."""
    label = {"label": "kpstore.server"}
    containers = docker.containers.list(all=True, filters=label, ignore_removed=True)
    return {("container", found.id): found for found in containers} | {
        ("network", found.id): found for found in docker.networks.list(filters=label)
    }


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=2) as response:
        return str(response.read().decode())


def containers_of(docker: Any, image: str) -> list[Any]:
    return list(docker.containers.list(all=True, filters={"ancestor": image}, ignore_removed=True))


def test_a_server_is_there_inside_the_block_and_gone_after_it(docker: Any, good: str) -> None:
    with run_qdrant_server({"KP_QDRANT_IMAGE": good}) as server:
        assert server.version == (1, 19, 0)
        assert get(f"{server.url}/readyz") == "ready\n"
        assert len(containers_of(docker, good)) == 1
    assert containers_of(docker, good) == []
    with pytest.raises(urllib.error.URLError):
        get(server.url)


def test_two_servers_run_side_by_side(good: str) -> None:
    with (
        run_qdrant_server({"KP_QDRANT_IMAGE": good}) as one,
        run_qdrant_server({"KP_QDRANT_IMAGE": good}) as two,
    ):
        assert one.url != two.url
        assert get(f"{one.url}/readyz") == get(f"{two.url}/readyz") == "ready\n"


def test_a_server_that_is_starting_is_waited_for(make_image: MakeImage) -> None:
    start = time.monotonic()
    with run_qdrant_server({"KP_QDRANT_IMAGE": make_image(SLOW)}) as server:
        assert time.monotonic() - start >= 1
        assert get(f"{server.url}/readyz") == "ready\n"


def test_a_server_that_never_gets_ready_fails_with_its_last_answer(make_image: MakeImage) -> None:
    image = make_image("echo 'recovering shard 7'\n" + NEVER_READY)
    with (
        pytest.raises(
            ServerFailedError, match=r"(?s)/readyz within 1 s.*404.*Its log ends:\nrecovering shard 7"
        ) as error,
        run_qdrant_server({"KP_QDRANT_IMAGE": image}, timeout_s=1),
    ):
        pass
    assert image in str(error.value)


def test_a_server_that_dies_fails_at_once_with_its_log(make_image: MakeImage) -> None:
    start = time.monotonic()
    with (
        pytest.raises(
            ServerFailedError, match=r"(?s)exited with exit code 3\nIts log ends:.*the disk is on fire"
        ),
        run_qdrant_server({"KP_QDRANT_IMAGE": make_image(DIES)}, timeout_s=60),
    ):
        pass
    assert time.monotonic() - start < 30


def test_a_server_that_dies_later_is_not_waited_for(make_image: MakeImage) -> None:
    image = make_image("busybox httpd -p 6333 -h /www\nsleep 1\nexit 5\n")
    start = time.monotonic()
    with (
        pytest.raises(ServerFailedError, match="exited with exit code 5"),
        run_qdrant_server({"KP_QDRANT_IMAGE": image}, timeout_s=60),
    ):
        pass
    assert time.monotonic() - start < 30


def test_a_container_that_cannot_start_fails(make_image: MakeImage) -> None:
    image = make_image(GOOD, command="./missing")
    with (
        pytest.raises(ServerFailedError, match=r"(?s)did not start.*missing"),
        run_qdrant_server({"KP_QDRANT_IMAGE": image}),
    ):
        pass


def test_an_old_server_is_refused(make_image: MakeImage) -> None:
    image = make_image(GOOD, version="1.16.2")
    with (
        pytest.raises(ServerFailedError, match=r"Qdrant 1\.16\.2 is too old"),
        run_qdrant_server({"KP_QDRANT_IMAGE": image}),
    ):
        pass


def test_an_image_that_is_not_to_be_had_is_no_server(docker: Any) -> None:
    # Nobody listens on port 1: the refusal comes at once, with or without a network.
    with (
        pytest.raises(NoServerError, match=r"localhost:1/qdrant:v9 is not here and cannot be pulled"),
        run_qdrant_server({"KP_QDRANT_IMAGE": "localhost:1/qdrant:v9"}),
    ):
        pass


def test_an_exception_in_the_block_comes_through_and_the_server_is_gone(docker: Any, good: str) -> None:
    with pytest.raises(ZeroDivisionError), run_qdrant_server({"KP_QDRANT_IMAGE": good}) as server:
        raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError):
        get(server.url)


@pytest.mark.parametrize("moment", ["waiting", "using"])
def test_an_interrupt_leaves_nothing_behind(docker: Any, make_image: MakeImage, moment: str) -> None:
    image = make_image(NEVER_READY if moment == "waiting" else GOOD)
    code = (
        "import time\n"
        "from kpstore_conformance.servers import run_qdrant_server\n"
        "with run_qdrant_server() as server:\n"
        "    print('using', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "KP_QDRANT_IMAGE": image, "KP_QDRANT_URL": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if moment == "using":
            assert process.stdout.readline() == "using\n"
        deadline = time.monotonic() + 30
        while not (found := containers_of(docker, image)) or found[0].status != "running":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    assert containers_of(docker, image) == []


def test_the_fixture_runs_one_server_for_the_session(docker: Any, good: str, tmp_path: Path) -> None:
    tmp_path.joinpath("test_backend.py").write_text(
        "def test_one(qdrant_server): qdrant_server_url.append(qdrant_server.url)\n"
        "def test_two(qdrant_server): assert qdrant_server_url == [qdrant_server.url]\n"
        "qdrant_server_url = []\n"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "kpstore_conformance.servers",
            "-p",
            "no:cacheprovider",
            ".",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "KP_QDRANT_IMAGE": good,
            "KP_QDRANT_URL": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
    assert containers_of(docker, good) == []


def test_a_cluster_has_three_nodes_that_know_the_first(docker: Any, make_image: MakeImage) -> None:
    image = make_image(NODE + GOOD)
    with run_qdrant_cluster({"KP_QDRANT_IMAGE": image, "KP_QDRANT_URL": "http://not-used:1"}) as servers:
        assert len({server.url for server in servers}) == 3
        arguments = [get(f"{server.url}/arguments").split() for server in servers]
        first = arguments[0][1]
        assert arguments[0] == ["--uri", first]
        for node in arguments[1:]:
            assert node[:2] == ["--bootstrap", first]
            assert node[2] == "--uri"
        assert len({node[-1] for node in arguments}) == 3
        assert [get(f"{server.url}/enabled") for server in servers] == ["true\n"] * 3
        assert [get(f"{server.url}/first") for server in servers[1:]] == ["ready\n"] * 2
    assert containers_of(docker, image) == []


def test_a_cluster_that_does_not_come_together_fails(make_image: MakeImage) -> None:
    image = make_image(NODE + GOOD, peers=1)
    with (
        pytest.raises(ServerFailedError, match=r"no 3 peers from .*/cluster within 1 s"),
        run_qdrant_cluster({"KP_QDRANT_IMAGE": image}, timeout_s=1),
    ):
        pass


def test_a_cluster_whose_third_node_dies_fails(make_image: MakeImage) -> None:
    image = make_image('case "$*" in *-2:6335) echo no third; exit 9;; esac\n' + GOOD)
    with (
        pytest.raises(ServerFailedError, match=r"(?s)exit code 9.*no third"),
        run_qdrant_cluster({"KP_QDRANT_IMAGE": image}),
    ):
        pass
