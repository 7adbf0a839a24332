"""From a backend's name to its open stores (clauses CFG-1 and CFG-2)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Generator
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any, TypeAlias

from kpstore.clock import Clock, system_clock
from kpstore.errors import ConfigurationError, KpStoreError
from kpstore.settings import Settings
from kpstore.stores.all_stores import AllStores

ENTRY_POINT_GROUP = "kpstore.backends"

# Looking through all installed packages takes 10 ms, so it is done when a name is not known yet.
_KNOWN: dict[str, EntryPoint] = {}

OpenStore: TypeAlias = Callable[[Settings, Clock], Awaitable[AllStores]]
"""What a backend is: `async def open_store(settings, clock) -> AllStores`."""


class _Opening:
    """Stores about to be open: awaited, or entered with `async with`."""

    def __init__(self, backend: str | None, settings: Settings | None, clock: Clock | None) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._stores: AllStores | None = None

    def __await__(self) -> Generator[Any, None, AllStores]:
        return self._open().__await__()

    async def __aenter__(self) -> AllStores:
        self._stores = await self._open()
        return self._stores

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stores is not None:
            await self._stores.close()

    async def _open(self) -> AllStores:
        settings = Settings.from_env() if self._settings is None else self._settings
        clock = system_clock if self._clock is None else self._clock
        if not isinstance(settings, Settings):
            raise ConfigurationError("settings must be a Settings")
        if not callable(clock):
            raise ConfigurationError("clock must be callable without arguments")
        name = self._backend if self._backend is not None else settings.store_backend
        return await _opened(find_backend(name), name, settings, clock)


async def _opened(open_store: OpenStore, name: str, settings: Settings, clock: Clock) -> AllStores:
    """What the backend opens; a `ConfigurationError` if it is no backend."""
    wanted = "a backend is `async def open_store(settings, clock) -> AllStores`"
    try:
        inspect.signature(open_store).bind(settings, clock)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"KP_STORE_BACKEND={name!r}: {error}; {wanted}") from error
    stores: object = open_store(settings, clock)
    if inspect.isawaitable(stores):
        stores = await stores
    if not isinstance(stores, AllStores):
        raise ConfigurationError(
            f"KP_STORE_BACKEND={name!r}: gave a {type(stores).__name__}, not AllStores; {wanted}"
        )
    return stores


def create_store(
    backend: str | None = None, *, settings: Settings | None = None, clock: Clock | None = None
) -> _Opening:
    """Open the six stores of a backend.

    `stores = await create_store()`, or `async with create_store() as stores:`.

    Args:
        backend: `memory`, `sqlite`, another installed backend's name, or
            `module:callable`; default: `KP_STORE_BACKEND`, else `memory`.
        settings: default: `Settings.from_env()`.
        clock: where time comes from; default: the system's clock.

    Raises:
        ConfigurationError: no such backend, or a bad setting.
        BackendUnavailableError, DataCorruptionError, SchemaVersionError: the
            data cannot be opened.
    """
    return _Opening(backend, settings, clock)


def find_backend(name: str) -> OpenStore:
    """The backend of that name, imported; if there is none, a `ConfigurationError` lists the known ones."""
    if not isinstance(name, str):
        raise ConfigurationError("KP_STORE_BACKEND: the name of a backend must be text")
    name = name.strip()
    if ":" in name:
        return _import_callable(name)
    point = _KNOWN.get(name.lower())
    if point is None:
        _KNOWN.update((each.name.lower(), each) for each in entry_points(group=ENTRY_POINT_GROUP))
        point = _KNOWN.get(name.lower())
    if point is None:
        raise ConfigurationError(
            f"KP_STORE_BACKEND={name!r}: no such backend; "
            f"known: {', '.join(sorted(_KNOWN))}, or module:callable"
        )
    return _load(point)


def _load(point: EntryPoint) -> OpenStore:
    try:
        loaded: OpenStore = point.load()
    except KpStoreError:
        raise
    except Exception as error:  # importing runs the backend's own code
        raise ConfigurationError(
            f"KP_STORE_BACKEND={point.name!r}: the backend cannot be imported ({error}); "
            f"what it needs may come with: pip install 'kpstore[{point.name}]'"
        ) from error
    return loaded


def _import_callable(name: str) -> OpenStore:
    module_name, _, attribute = name.partition(":")
    allowed = "allowed: module:callable, such as my_package.backend:open_store"
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except KpStoreError:
        raise
    except Exception as error:  # as above; a bad name is a ValueError or a TypeError
        raise ConfigurationError(
            f"KP_STORE_BACKEND={name!r}: cannot be imported ({error}); {allowed}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"KP_STORE_BACKEND={name!r}: not callable; {allowed}")
    opened: OpenStore = found
    return opened
