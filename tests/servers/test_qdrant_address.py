"""The server fixtures where no container runs: a given address, versions, and a missing Docker."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kpstore_conformance.servers import (
    NoServerError,
    QdrantServer,
    ServerFailedError,
    check_version,
    run_qdrant_cluster,
    run_qdrant_server,
)

NO_DOCKER = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


class StandIn(ThreadingHTTPServer):
    """Answers like Qdrant; ready only once it was asked `not_ready` times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.not_ready = 0
        self.root = b'{"title":"qdrant - vector search engine","version":"1.19.3","commit":"c0ffee"}'
        self.api_keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.server.api_keys.append(self.headers["api-key"])
        status, body = 200, self.server.root
        if self.path == "/readyz":
            self.server.not_ready -= 1
            status, body = (
                (503, b"starting") if self.server.not_ready >= 0 else (200, b"all shards are ready")
            )
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NO_DOCKER["DOCKER_HOST"])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.19.0", (1, 19, 0)),
        ("v1.19.0", (1, 19, 0)),
        ("1.20.1-dev", (1, 20, 1)),
        ("1.19.0+build.7", (1, 19, 0)),
        ("2.0.0", (2, 0, 0)),
        ("1.100.0", (1, 100, 0)),
    ],
)
def test_a_new_enough_version_is_accepted(text: str, version: tuple[int, int, int]) -> None:
    assert check_version(text) == version


@pytest.mark.parametrize("text", ["1.18.9", "1.9.0", "0.99.99", "1.19.0-dev"])
def test_an_old_version_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(
        ServerFailedError, match=rf"^Qdrant {text} is too old: kpstore needs 1\.19\.0 or newer.*image"
    ):
        check_version(text)


@pytest.mark.parametrize("text", ["", "1.19", "latest", "1.19.0 ", "1.19.0\n", "1.19.0.1"])
def test_a_version_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ServerFailedError, match=r"not MAJOR\.MINOR\.PATCH"):
        check_version(text)


@pytest.mark.usefixtures("no_docker")
def test_an_address_wins_over_a_container(stand_in: StandIn) -> None:
    with run_qdrant_server({"KP_QDRANT_URL": f" {stand_in.url}/ ", "KP_QDRANT_IMAGE": "unused:1"}) as server:
        assert server == QdrantServer(stand_in.url, (1, 19, 3), None)


def test_the_api_key_is_sent_and_never_shown(stand_in: StandIn) -> None:
    environ = {"KP_QDRANT_URL": stand_in.url, "KP_QDRANT_API_KEY": "s3cret"}
    with run_qdrant_server(environ) as server:
        assert server.api_key == "s3cret"
        assert set(stand_in.api_keys) == {"s3cret"}
        assert "s3cret" not in repr(server)


def test_a_server_that_is_starting_is_waited_for(stand_in: StandIn) -> None:
    stand_in.not_ready = 3
    with run_qdrant_server({"KP_QDRANT_URL": stand_in.url}):
        assert stand_in.not_ready < 0


def test_a_server_that_never_gets_ready_fails_in_time(stand_in: StandIn) -> None:
    stand_in.not_ready = 1_000_000
    start = time.monotonic()
    with (
        pytest.raises(ServerFailedError, match=r"KP_QDRANT_URL .*/readyz within 0\.3 s.*503 starting"),
        run_qdrant_server({"KP_QDRANT_URL": stand_in.url}, timeout_s=0.3),
    ):
        pass
    assert time.monotonic() - start < 5


def test_an_address_where_nobody_listens_fails(stand_in: StandIn) -> None:
    stand_in.server_close()
    with (
        pytest.raises(ServerFailedError, match=r"KP_QDRANT_URL .*refused"),
        run_qdrant_server({"KP_QDRANT_URL": stand_in.url}, timeout_s=0.3),
    ):
        pass


@pytest.mark.parametrize("url", ["localhost:6333", "file:///etc/passwd", "http://", "qdrant"])
def test_an_address_that_is_none_fails(url: str) -> None:
    with (
        pytest.raises(ServerFailedError, match="is not an address such as http://localhost:6333"),
        run_qdrant_server({"KP_QDRANT_URL": url}),
    ):
        pass


@pytest.mark.parametrize("root", [b"<html>", b"[]", b"{}", b'{"version": 1}'])
def test_another_kind_of_server_fails(stand_in: StandIn, root: bytes) -> None:
    stand_in.root = root
    with (
        pytest.raises(ServerFailedError, match="does not answer as a Qdrant server"),
        run_qdrant_server({"KP_QDRANT_URL": stand_in.url}),
    ):
        pass


def test_an_old_server_at_the_address_fails(stand_in: StandIn) -> None:
    stand_in.root = b'{"version":"1.18.0"}'
    with (
        pytest.raises(ServerFailedError, match=r"KP_QDRANT_URL .*Qdrant 1\.18\.0 is too old"),
        run_qdrant_server({"KP_QDRANT_URL": stand_in.url}),
    ):
        pass


@pytest.mark.usefixtures("no_docker")
@pytest.mark.parametrize("run", [run_qdrant_server, run_qdrant_cluster])
def test_without_docker_there_is_no_server(run: object) -> None:
    assert callable(run)
    with pytest.raises(NoServerError, match="no Docker daemon answers"), run({}):
        pass


def test_without_testcontainers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers.core.container", None)
    with pytest.raises(NoServerError, match=r"kpstore\[containers\]"), run_qdrant_server({}):
        pass


def run_a_test_that_needs_a_server(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on two tests that ask for `qdrant_server`, quietly: loudness must not depend on `-ra`."""
    folder.joinpath("test_backend.py").write_text(
        "def test_one(qdrant_server): assert qdrant_server.version >= (1, 19, 0)\n"
        "def test_two(qdrant_server): assert qdrant_server.url\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("KP_", "PYTEST_"))}
    return subprocess.run(
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
        cwd=folder,
        env=clean | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | NO_DOCKER | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_missing_docker_skips_loudly(tmp_path: Path) -> None:
    result = run_a_test_that_needs_a_server(tmp_path)
    assert result.returncode == 0, result.stdout
    assert "NOT TESTED: Qdrant" in result.stdout
    assert "2 tests skipped: NO QDRANT SERVER: no Docker daemon answers" in result.stdout
    assert "2 skipped" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("value", ["", "0"])
def test_requiring_docker_can_be_switched_off(tmp_path: Path, value: str) -> None:
    assert run_a_test_that_needs_a_server(tmp_path, KP_REQUIRE_DOCKER=value).returncode == 0


def test_a_missing_docker_fails_where_it_is_required(tmp_path: Path) -> None:
    result = run_a_test_that_needs_a_server(tmp_path, KP_REQUIRE_DOCKER="1")
    assert result.returncode == 1, result.stdout
    assert "NO QDRANT SERVER, and KP_REQUIRE_DOCKER is set: no Docker daemon answers" in result.stdout
    assert "skipped" not in result.stdout


def test_the_fixture_gives_the_server_of_the_address(tmp_path: Path, stand_in: StandIn) -> None:
    result = run_a_test_that_needs_a_server(tmp_path, KP_QDRANT_URL=stand_in.url, KP_REQUIRE_DOCKER="1")
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
    assert "NOT TESTED" not in result.stdout


def test_a_given_address_that_fails_is_no_skip(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.root = b'{"version":"1.16.2"}'
    result = run_a_test_that_needs_a_server(tmp_path, KP_QDRANT_URL=stand_in.url)
    assert result.returncode == 1, result.stdout
    assert "Qdrant 1.16.2 is too old" in result.stdout
