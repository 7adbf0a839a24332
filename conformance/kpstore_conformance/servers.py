"""A Qdrant server for tests: the address in `KP_QDRANT_URL`, else a container, else a loud skip.

Backend authors name this module as a pytest plugin (`pytest_plugins = ["kpstore_conformance.servers"]` in
their top `conftest.py`, or `-p kpstore_conformance.servers`) and ask for the fixture `qdrant_server` or
`qdrant_cluster`; everybody else enters `run_qdrant_server()` or `run_qdrant_cluster()`.

Variables:

- `KP_QDRANT_URL`, `KP_QDRANT_API_KEY`: a server that is already running. It wins, and it is never stopped.
- `KP_QDRANT_IMAGE`: the image of the container, default `DEFAULT_IMAGE`.
- `KP_REQUIRE_DOCKER=1`: no Docker, or no image, fails the tests that need a server instead of skipping them.
- `TESTCONTAINERS_RYUK_DISABLED`, `DOCKER_HOST` and the like: as testcontainers and Docker document them.
"""

import contextlib
import gc
import http.client
import importlib
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

# Docker's client has no types of its own. It is imported by name when needed, as checkers that start at the
# top of this repository take the folder `docker/` for it.
_DockerClient = Any

__all__ = [
    "DEFAULT_IMAGE",
    "MINIMUM_VERSION",
    "NoServerError",
    "QdrantServer",
    "ServerFailedError",
    "check_version",
    "docker_client",
    "qdrant_cluster",
    "qdrant_server",
    "run_qdrant_cluster",
    "run_qdrant_server",
    "skip_or_fail",
]

_log = logging.getLogger(__name__)

# Conditional writes (`update_filter`, `update_mode`) are what keeps concurrent calls atomic on Qdrant. A
# server before 1.17 ignores the condition and overwrites; before 1.19.0 it may evaluate it again when it
# replays its log.
MINIMUM_VERSION = (1, 19, 0)
DEFAULT_IMAGE = "qdrant/qdrant:v1.19.0"

# A container of Qdrant is ready within 2 s on a laptop; the rest is for a busy CI machine with a cold disk.
_START_TIMEOUT_S = 60.0
# A server that somebody else runs is either there or not.
_GIVEN_TIMEOUT_S = 10.0
_HTTP_PORT = 6333
_PEER_PORT = 6335
_LABEL = "kpstore.server"
_LOUD = "NO QDRANT SERVER"
_LOG_LINES = 20

# Straight to the server: a company's HTTP proxy has no business between a test and its container.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoServerError(Exception):
    """There is nothing to run a server on: no testcontainers, no Docker, or no image. A reason to skip."""


class ServerFailedError(Exception):
    """A server was to be used, and cannot be: it died, never got ready, or is too old. Always a failure."""


@dataclass(frozen=True)
class QdrantServer:
    """A Qdrant server that answered `/readyz` and is new enough."""

    url: str
    version: tuple[int, int, int]
    api_key: str | None = field(default=None, repr=False)


def check_version(text: str) -> tuple[int, int, int]:
    """The three numbers of a Qdrant version such as `1.19.0`; `ServerFailedError` when it is too old.

    A pre-release counts as older than its release: `1.19.0-dev` is refused.
    """
    match = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)([-+][0-9A-Za-z.+-]+)?", text)
    if match is None:
        raise ServerFailedError(f"the server gives its version as {text!r}, which is not MAJOR.MINOR.PATCH")
    version = (int(match[1]), int(match[2]), int(match[3]))
    pre_release = (match[4] or "").startswith("-")
    if version < MINIMUM_VERSION or (version == MINIMUM_VERSION and pre_release):
        raise ServerFailedError(
            f"Qdrant {text} is too old: kpstore needs {_dotted(MINIMUM_VERSION)} or newer, because an older "
            "server ignores the conditions of conditional writes and overwrites newer data. Use a newer "
            f"server, or the image {DEFAULT_IMAGE}."
        )
    return version


@contextlib.contextmanager
def run_qdrant_server(
    environ: Mapping[str, str] | None = None, *, timeout_s: float | None = None
) -> Iterator[QdrantServer]:
    """One ready Qdrant server: that of `KP_QDRANT_URL`, else a container that is gone when the block is left.

    `environ` is read for the `KP_*` variables (default: `os.environ`). `timeout_s` bounds the wait for
    `/readyz`. Raises `NoServerError` when there is nothing to run a container on, `ServerFailedError` when
    the server cannot be used.
    """
    environ = os.environ if environ is None else environ
    url = environ.get("KP_QDRANT_URL", "").strip()
    if url:
        api_key = environ.get("KP_QDRANT_API_KEY", "").strip() or None
        yield _given_server(url, api_key, _GIVEN_TIMEOUT_S if timeout_s is None else timeout_s)
        return
    with _Containers(_image(environ)) as containers:
        containers.start()
        yield containers.ready(0, _START_TIMEOUT_S if timeout_s is None else timeout_s)


@contextlib.contextmanager
def run_qdrant_cluster(
    environ: Mapping[str, str] | None = None, *, nodes: int = 3, timeout_s: float | None = None
) -> Iterator[tuple[QdrantServer, ...]]:
    """A Qdrant cluster of containers in a network of their own; all of it is gone when the block is left.

    Every node is ready and sees all `nodes` peers. `KP_QDRANT_URL` plays no part: tests of a cluster stop its
    nodes. `timeout_s` bounds the wait of each node. Raises as `run_qdrant_server` does.
    """
    environ = os.environ if environ is None else environ
    timeout_s = _START_TIMEOUT_S if timeout_s is None else timeout_s
    with _Containers(_image(environ)) as containers:
        containers.join_network()
        first = f"http://{containers.name(0)}:{_PEER_PORT}"
        for node in range(nodes):
            bootstrap = f"--bootstrap {first} " if node else ""
            uri = f"http://{containers.name(node)}:{_PEER_PORT}"
            containers.start(f"./qdrant {bootstrap}--uri {uri}", {"QDRANT__CLUSTER__ENABLED": "true"})
            if node == 0:
                # The others ask the first for the cluster when they start, and give up if it is not there.
                containers.ready(0, timeout_s)
        servers = tuple(containers.ready(node, timeout_s) for node in range(nodes))
        for node, server in enumerate(servers):
            containers.joined(node, server, nodes, timeout_s)
        yield servers


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[QdrantServer]:
    """One Qdrant server for the session (under pytest-xdist: for each worker)."""
    with skip_or_fail(), run_qdrant_server() as server:
        yield server


@pytest.fixture(scope="session")
def qdrant_cluster() -> Iterator[tuple[QdrantServer, ...]]:
    """A Qdrant cluster of three nodes for the session (under pytest-xdist: for each worker)."""
    with skip_or_fail(), run_qdrant_cluster() as servers:
        yield servers


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, whatever the verbosity, that tests found no server: a quiet skip looks like a pass."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if _LOUD in reason:
            reasons[reason] = reasons.get(reason, 0) + 1
    if not reasons:
        return
    terminalreporter.section("NOT TESTED: Qdrant", sep="!", yellow=True, bold=True)
    for reason, count in reasons.items():
        terminalreporter.write_line(
            f"{count} test{'s' if count > 1 else ''} skipped: {reason.removeprefix('Skipped: ')}"
        )


@contextlib.contextmanager
def skip_or_fail() -> Iterator[None]:
    """Turn a missing server into a skip that says why, or into a failure where Docker was promised."""
    try:
        yield
    except NoServerError as error:
        if os.environ.get("KP_REQUIRE_DOCKER", "").strip() not in ("", "0"):
            pytest.fail(f"{_LOUD}, and KP_REQUIRE_DOCKER is set: {error}", pytrace=False)
        pytest.skip(
            f"{_LOUD}: {error} Start Docker or set KP_QDRANT_URL; KP_REQUIRE_DOCKER=1 makes this a failure."
        )
    except ServerFailedError as error:
        pytest.fail(str(error), pytrace=False)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(str(number) for number in version)


def _image(environ: Mapping[str, str]) -> str:
    return environ.get("KP_QDRANT_IMAGE", "").strip() or DEFAULT_IMAGE


def _given_server(url: str, api_key: str | None, timeout_s: float) -> QdrantServer:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ServerFailedError(f"KP_QDRANT_URL={url!r} is not an address such as http://localhost:6333")
    try:
        return _ready_server(url.rstrip("/"), timeout_s, api_key)
    except ServerFailedError as error:
        raise ServerFailedError(f"the server of KP_QDRANT_URL cannot be used: {error}") from error


def _ready_server(
    url: str, timeout_s: float, api_key: str | None = None, check: Callable[[], None] = lambda: None
) -> QdrantServer:
    """Wait for `/readyz`, then ask the server who it is."""
    _poll(f"{url}/readyz", timeout_s, api_key=api_key, check=check)
    status, body = _get(f"{url}/", api_key)
    try:
        version = json.loads(body)["version"]
    except (ValueError, TypeError, KeyError):
        version = None
    if status != http.HTTPStatus.OK or not isinstance(version, str):
        raise ServerFailedError(f"{url} does not answer as a Qdrant server: {status} {body[:200]!r}")
    return QdrantServer(url, check_version(version), api_key)


def _poll(
    url: str,
    timeout_s: float,
    *,
    api_key: str | None = None,
    accept: Callable[[bytes], bool] = lambda body: True,
    wanted: str = "200 OK",
    check: Callable[[], None] = lambda: None,
) -> None:
    """Ask until the answer is `200 OK` and accepted; `check` raises when waiting on has become pointless."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            status, body = _get(url, api_key)
            if status == http.HTTPStatus.OK and accept(body):
                return
            answer = f"{status} {body[:200].decode('utf-8', 'replace')}".strip()
        except (OSError, http.client.HTTPException) as error:
            answer = f"{type(error).__name__}: {error}"
        check()
        if time.monotonic() >= deadline:
            raise ServerFailedError(
                f"no {wanted} from {url} within {timeout_s:g} s; the last answer was: {answer}"
            )
        time.sleep(0.1)


def _get(url: str, api_key: str | None = None) -> tuple[int, bytes]:
    headers = {"api-key": api_key} if api_key else {}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s), checked on entry
        with _OPENER.open(request, timeout=2.0) as response:
            return response.status, response.read(65_536)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(65_536)


def _peers(body: bytes) -> int:
    """How many peers a node's `/cluster` names; 0 when it is no such answer."""
    try:
        return len(json.loads(body)["result"]["peers"])
    except (ValueError, TypeError, KeyError):
        return 0


class _Containers:
    """Containers of one image that share a label, by which all are removed on leaving, started or not.

    Removing by label, not by handle, is what covers a container that was created but failed to start, and an
    interrupt between its creation and the return of its handle.
    """

    def __init__(self, image: str) -> None:
        self._image = image
        self._run = uuid.uuid4().hex
        self._started: list[DockerContainer] = []
        self._network: str | None = None
        self._client: _DockerClient

    def __enter__(self) -> "_Containers":
        self._client = docker_client()
        try:
            _require_image(self._client, self._image)
            _without_unavailable_ryuk(self._client)
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.closing(self._client), contextlib.ExitStack() as stack:
            mine = {"label": f"{_LABEL}={self._run}"}
            for container in self._started:
                stack.callback(container.get_docker_client().client.close)
            # The stack goes on when one of them fails, so that one stuck container does not keep the others.
            # Last in, first out: a network can only go when nothing is in it.
            for network in self._client.networks.list(filters=mine):
                stack.callback(network.remove)
            for found in self._client.containers.list(all=True, filters=mine, ignore_removed=True):
                stack.callback(found.remove, force=True, v=True)

    def name(self, node: int) -> str:
        """The name of a container, which is its host name inside the network too."""
        return f"kpstore-{self._run[:12]}-{node}"

    def join_network(self) -> None:
        """Put the containers started from now on into a network of their own."""
        self._network = f"kpstore-{self._run[:12]}"
        self._client.networks.create(self._network, labels={_LABEL: self._run})

    def start(self, command: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Start the next container, its HTTP port published on a free port of the host."""
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(self._image, command=command, env=dict(environment or {}))
        self._started.append(container)
        container.with_exposed_ports(_HTTP_PORT).with_name(self.name(len(self._started) - 1))
        network = {"network": self._network} if self._network else {}
        container.with_kwargs(labels={_LABEL: self._run}, **network)
        try:
            container.start()
        except Exception as error:  # whatever Docker's client makes of a container that does not start
            raise ServerFailedError(f"a container of {self._image} did not start: {error}") from error

    def ready(self, node: int, timeout_s: float) -> QdrantServer:
        """Wait until the container's server is ready."""
        container = self._started[node]
        with self._explained(node):
            try:
                host, port = container.get_container_host_ip(), container.get_exposed_port(_HTTP_PORT)
            except Exception as error:  # a stopped container has no port; testcontainers' error for it varies
                self._check_alive(node)
                raise ServerFailedError(f"the container has no address: {error}") from error
            return _ready_server(f"http://{host}:{port}", timeout_s, check=lambda: self._check_alive(node))

    def joined(self, node: int, server: QdrantServer, peers: int, timeout_s: float) -> None:
        """Wait until a node of a cluster sees all of its peers, itself included."""
        with self._explained(node):
            _poll(
                f"{server.url}/cluster",
                timeout_s,
                accept=lambda body: _peers(body) == peers,
                wanted=f"{peers} peers",
                check=lambda: self._check_alive(node),
            )

    def _check_alive(self, node: int) -> None:
        container = self._started[node].get_wrapped_container()
        container.reload()
        if container.status not in ("created", "running"):
            code = container.attrs.get("State", {}).get("ExitCode")
            raise ServerFailedError(f"the container is {container.status} with exit code {code}")

    @contextlib.contextmanager
    def _explained(self, node: int) -> Iterator[None]:
        """Add the image and the end of the container's log to the error."""
        try:
            yield
        except ServerFailedError as error:
            log = self._started[node].get_wrapped_container().logs(tail=_LOG_LINES).decode("utf-8", "replace")
            raise ServerFailedError(
                f"{self._image} gave no usable server: {error}\nIts log ends:\n{log.strip() or '(nothing)'}"
            ) from error


def docker_client() -> _DockerClient:
    """A Docker SDK client that has spoken with its daemon; `NoServerError` when none answers."""
    try:
        importlib.import_module("testcontainers.core.container")
        docker = importlib.import_module("docker")
    except ImportError as error:
        raise NoServerError(f"{error}; containers need `pip install 'kpstore[containers]'`.") from error
    # The client leaves its socket open when nobody listens on the other side. The exception holds the socket,
    # so it is let go here, where the warning about it can be silenced, and not chained.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
            client.ping()
        except docker.errors.DockerException as error:
            reason = _first_line(error)
        else:
            return client
        gc.collect()
    raise NoServerError(f"no Docker daemon answers ({reason}).")


def _require_image(client: _DockerClient, image: str) -> None:
    """Have the image on this machine, pulling it if need be."""
    errors = importlib.import_module("docker.errors")
    try:
        client.images.get(image)
    except errors.ImageNotFound:
        try:
            client.images.pull(image)
        except errors.DockerException as error:
            raise NoServerError(
                f"the image {image} is not here and cannot be pulled ({_first_line(error)})."
            ) from error


def _without_unavailable_ryuk(client: _DockerClient) -> None:
    """Do without Ryuk where its image cannot be had, unless the user has decided.

    Ryuk is testcontainers' reaper: a container that removes the others when this process is killed. They are
    removed without it too, in every case but that one.
    """
    from testcontainers.core.config import testcontainers_config

    if testcontainers_config.ryuk_disabled or "TESTCONTAINERS_RYUK_DISABLED" in os.environ:
        return
    try:
        _require_image(client, testcontainers_config.ryuk_image)
    except NoServerError as error:
        _log.warning("containers will outlive a killed test run: %s", error)
        testcontainers_config.ryuk_disabled = True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
