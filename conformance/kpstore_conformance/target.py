"""How the suite gets stores of a backend: one folder, one set of settings and one set of data per case."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kpstore import AllStores, Clock, KpStoreError, ManualClock, Settings, StoredSkill, create_store
from kpstore.stores import (
    ApiKeyStore,
    AuditLogStore,
    KnowledgeStore,
    RateLimitStore,
    ReputationStore,
    SkillStore,
)
from kpstore_conformance import recorder

__all__ = [
    "ADAPTER_GROUP",
    "AdapterError",
    "BackendAdapter",
    "BackendFacts",
    "CaseTarget",
    "MemoryAdapter",
    "SqliteAdapter",
    "adapter_for",
    "probe",
]

ADAPTER_GROUP = "kpstore.conformance"
"""Entry point group by which an installed package names the adapter of its backend (name = the backend's)."""

_SQL_TIMEOUT_S = 5.0


class AdapterError(Exception):
    """The backend or its adapter cannot be used at all; the message is one line for the person who named
    it.
    """


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What is known of a backend before its first case: what it calls itself, declares, and lets be
    looked at.
    """

    spec: str
    name: str
    capabilities: frozenset[str]
    inspectors: frozenset[str]
    own_methods: frozenset[str] = frozenset()
    """Its public methods, as `skills.create`, that are not those of `kpstore.stores`."""

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> BackendFacts:
        """The other way round."""
        sets = (frozenset(plain[name]) for name in ("capabilities", "inspectors", "own_methods"))
        return cls(plain["spec"], plain["name"], *sets)

    def to_json(self) -> dict[str, object]:
        """The facts as plain data."""
        return {
            "spec": self.spec,
            "name": self.name,
            "capabilities": sorted(self.capabilities),
            "inspectors": sorted(self.inspectors),
            "own_methods": sorted(self.own_methods),
        }


class BackendAdapter:
    """How the suite gets isolated stores of one backend. It works as it is for a backend that keeps its data
    in memory or in the file that `settings.sqlite_path` names; a backend that keeps it elsewhere (on a
    server, in a folder of its own) subclasses it and gives each case a place of its own.

    Every method that takes `folder` is called for one case; `folder` is an empty directory that belongs to
    that case alone, and is removed after it.

    Args:
        spec: what was given to `--backend`: a name, or `module:callable`.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def settings(self, folder: Path) -> Settings:
        """The settings of the case that owns `folder`: the environment's, with the database inside
        `folder`.
        """
        return replace(Settings.from_env(), store_backend=self.spec, sqlite_path=str(folder / "kpstore.db"))

    def environment(self, settings: Settings) -> dict[str, str]:
        """The variables with which another process opens the same data by `create_store()` without
        arguments.
        """
        variables = {
            "KP_STORE_BACKEND": settings.store_backend,
            "KP_SQLITE_PATH": str(settings.sqlite_path),
            "KP_SQLITE_SYNCHRONOUS": str(settings.sqlite_synchronous),
            "KP_QDRANT_URL": settings.qdrant_url,
            "KP_MAX_RECORD_BYTES": str(settings.max_record_bytes),
        }
        if settings.qdrant_api_key:
            variables["KP_QDRANT_API_KEY"] = settings.qdrant_api_key
        return variables

    async def open(self, settings: Settings, clock: Clock) -> AllStores:
        """A new handle on the data of `settings`."""
        return await create_store(self.spec, settings=settings, clock=clock)

    def inspectors(self) -> frozenset[str]:
        """Which looks behind the store's back it offers: any of `sql`, `raw`, `unsynced`, `power_loss`. The
        last is for data in SQLite files beside `settings.sqlite_path`, written through this interpreter's
        `sqlite3`, where `kpstore_conformance.recorder` works.
        """
        return frozenset()

    async def inspect_sql(
        self, folder: Path, settings: Settings, sql: str, parameters: Sequence[object]
    ) -> list[dict[str, object]]:
        """The rows of a query, each a mapping by column, read without going through the store."""
        raise AdapterError(f"the adapter of {self.spec} offers no inspector.sql")

    async def inspect_raw(self, folder: Path, settings: Settings, needle: bytes) -> int:
        """How often `needle` occurs in everything that the backend keeps on disk."""
        raise AdapterError(f"the adapter of {self.spec} offers no inspector.raw")

    async def inspect_unsynced(self, folder: Path, settings: Settings) -> int:
        """How many pages of its files have not reached the disk, and would be lost with the power."""
        raise AdapterError(f"the adapter of {self.spec} offers no inspector.unsynced")

    async def dispose(self, folder: Path, settings: Settings) -> None:
        """Remove what the case left outside `folder`, such as its collections on a server."""


# Run by another process: on POSIX, closing a file drops all locks that the process holds on it, those of
# the handles under test included, and a backend would lose data for no fault of its own.
# Every file, not a list of names: a copy that a backend keeps beside its database counts too.
_COUNT = """
import contextlib, pathlib, sys
needle, found = sys.stdin.buffer.read(), 0
for file in pathlib.Path(sys.argv[1]).rglob("*"):
    with contextlib.suppress(FileNotFoundError):  # a log goes when its database is closed
        found += file.read_bytes().count(needle) if file.is_file() else 0
print(found)
"""


def _count_in_files(folder: Path, needle: bytes) -> int:
    command = [sys.executable, "-I", "-S", "-c", _COUNT, str(folder)]
    done = subprocess.run(command, input=needle, check=True, capture_output=True)  # noqa: S603  # our script
    return int(done.stdout)


class MemoryAdapter(BackendAdapter):
    """The memory backend: whatever it would write to disk by default would be found in the case's folder."""

    def inspectors(self) -> frozenset[str]:
        """Raw only: there is no SQL to ask."""
        return frozenset({"raw"})

    async def inspect_raw(self, folder: Path, settings: Settings, needle: bytes) -> int:
        """How often `needle` occurs in the case's folder."""
        return await asyncio.to_thread(_count_in_files, folder, needle)


class SqliteAdapter(BackendAdapter):
    """The SQLite backend: one database file per case, looked at through connections of the suite's own."""

    def inspectors(self) -> frozenset[str]:
        """The file is SQL, and the file is bytes; some systems tell what of it is on the disk, and most
        interpreters what is written to it.
        """
        offered = {
            "raw": True,
            "sql": True,
            "unsynced": _tells_unsynced(),
            "power_loss": recorder.is_available(),
        }
        return frozenset(name for name, is_there in offered.items() if is_there)

    async def inspect_sql(
        self, folder: Path, settings: Settings, sql: str, parameters: Sequence[object]
    ) -> list[dict[str, object]]:
        """The rows of a query on a read-only connection of its own to the file."""
        return await asyncio.to_thread(_query, Path(settings.sqlite_path), sql, parameters)

    async def inspect_raw(self, folder: Path, settings: Settings, needle: bytes) -> int:
        """How often `needle` occurs in the database, its WAL, its journal and whatever lies beside them."""
        return await asyncio.to_thread(_count_in_files, folder, needle)

    async def inspect_unsynced(self, folder: Path, settings: Settings) -> int:
        """How many pages of the database and its log have not reached the disk."""
        return await asyncio.to_thread(_unsynced_pages, folder)


# Linux tells of each file how many of its pages in memory are newer than those on the disk: cachestat(2),
# since 6.5, under this number on every architecture. In a process of its own for the same reason as _COUNT.
# A -shm file is the one file of SQLite's that is never synced: it is made anew from the log.
_UNSYNCED = """
import contextlib, ctypes, os, pathlib, sys
libc, pages = ctypes.CDLL(None, use_errno=True), 0
for file in pathlib.Path(sys.argv[1]).rglob("*"):
    if file.is_file() and not file.name.endswith("-shm"):
        whole, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
        descriptor = os.open(file, os.O_RDONLY)
        if libc.syscall(451, descriptor, whole, counts, 0) != 0:
            raise OSError(ctypes.get_errno(), "cachestat")
        pages += counts[1] + counts[2]  # dirty, and on their way
        os.close(descriptor)
print(pages)
"""


def _unsynced_pages(folder: Path) -> int:
    command = [sys.executable, "-I", "-S", "-c", _UNSYNCED, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # our own script
    return int(done.stdout)


@cache
def _tells_unsynced() -> bool:
    """Whether this system, where cases have their folders, tells a page that was synced from others."""
    with tempfile.TemporaryDirectory(prefix="kpstore-") as name:
        file = Path(name) / "probe"
        try:
            with file.open("wb") as probe:
                probe.write(b"x" * 4096)
                probe.flush()
                before = _unsynced_pages(file.parent)
                os.fsync(probe.fileno())
            return before > 0 and _unsynced_pages(file.parent) == 0
        except (OSError, subprocess.CalledProcessError):
            return False


def _query(path: Path, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
    # Read-only, so that closing this connection neither checkpoints nor removes the WAL that a later
    # raw look is to see.
    uri = f"file:{quote(str(path))}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_SQL_TIMEOUT_S)) as connection:
        cursor = connection.execute(sql, tuple(parameters))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


class CaseTarget:
    """The stores of one case: what the scenario engine and a check's `Lab` open and look into.

    Args:
        adapter: how to reach the backend.
        name: the backend's name, as messages show it.
        against: the backend that the run compares with, if it does.
    """

    def __init__(
        self, adapter: BackendAdapter, name: str | None = None, *, against: BackendAdapter | None = None
    ) -> None:
        self.adapter = adapter
        self.name = name or adapter.spec
        self.against = against
        self.folder = Path(tempfile.mkdtemp(prefix="kpstore-"))
        self.settings = adapter.settings(self.folder)

    def inspectors(self) -> frozenset[str]:
        """Which looks behind the store's back the case may take."""
        return self.adapter.inspectors()

    async def open(self, clock: Clock) -> AllStores:
        """A handle on this case's data; call again for a second one, or to reopen."""
        return await self.adapter.open(self.settings, clock)

    async def inspect_sql(self, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
        """See `BackendAdapter.inspect_sql`."""
        return await self.adapter.inspect_sql(self.folder, self.settings, sql, parameters)

    async def inspect_raw(self, needle: bytes) -> int:
        """See `BackendAdapter.inspect_raw`."""
        return await self.adapter.inspect_raw(self.folder, self.settings, needle)

    async def inspect_unsynced(self) -> int:
        """See `BackendAdapter.inspect_unsynced`."""
        return await self.adapter.inspect_unsynced(self.folder, self.settings)

    def environment(self) -> dict[str, str]:
        """All variables of a process that opens this case's data by `create_store()`; imports work as
        they do here.
        """
        # Only the adapter says what the settings are; a variable that is the backend's own is passed on.
        settings = {f"KP_{field.name.upper()}" for field in fields(Settings)}
        inherited = {key: value for key, value in os.environ.items() if key not in settings}
        inherited["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        return inherited | self.adapter.environment(self.settings)

    async def dispose(self) -> None:
        """Remove everything that the case left."""
        try:
            await self.adapter.dispose(self.folder, self.settings)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


_BUILT_IN: dict[str, type[BackendAdapter]] = {"memory": MemoryAdapter, "sqlite": SqliteAdapter}


def adapter_for(backend: str, adapter: str | None = None) -> BackendAdapter:
    """The adapter of a backend: the one named, else the one an installed package names, else a built-in one.

    Args:
        backend: a backend's name, or `module:callable`.
        adapter: `module:Class`, a subclass of `BackendAdapter`, or None.

    Raises:
        AdapterError: the adapter named is not there or is no `BackendAdapter`.
    """
    spec = backend.strip()
    if not spec:
        raise AdapterError("--backend needs a name, or module:callable")
    if ":" not in spec:
        spec = spec.casefold()
    if adapter is not None:
        return _load_adapter(adapter)(spec)
    for entry in entry_points(group=ADAPTER_GROUP):
        if entry.name.casefold() == spec:
            return _load_adapter(entry.value)(spec)
    return _BUILT_IN.get(spec, BackendAdapter)(spec)


def _load_adapter(reference: str) -> type[BackendAdapter]:
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise AdapterError(f"--adapter {reference!r}: write module:Class")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise AdapterError(f"--adapter {reference!r}: cannot import {module_name}: {error}") from error
    except AttributeError as error:
        raise AdapterError(f"--adapter {reference!r}: {module_name} has no {attribute}") from error
    if not (isinstance(found, type) and issubclass(found, BackendAdapter)):
        raise AdapterError(
            f"--adapter {reference!r}: {attribute} must be a subclass of"
            " kpstore_conformance.target.BackendAdapter"
        )
    return found


async def probe(adapter: BackendAdapter) -> BackendFacts:
    """What a backend says of itself, from opening it once. It also refuses a backend whose cases would
    see each other's data, since no verdict on such a run means anything.

    Raises:
        AdapterError: the backend cannot be opened, or its cases are not isolated.
    """
    clock = ManualClock(datetime(2026, 1, 15, 12, tzinfo=UTC))
    first, second = _new_target(adapter), _new_target(adapter)
    try:
        stores = await _open(adapter, first, clock)
        try:
            facts = BackendFacts(
                spec=adapter.spec,
                name=str(stores.backend),
                capabilities=frozenset(str(capability) for capability in stores.capabilities),
                inspectors=adapter.inspectors(),
                own_methods=frozenset(_own_methods(stores)),
            )
            other = await _open(adapter, second, clock)
            try:
                shared = await _sees_the_other(stores, other, clock)
            finally:
                await other.close()
        finally:
            await stores.close()
    finally:
        await first.dispose()
        await second.dispose()
    if shared:
        raise AdapterError(
            f"the cases of backend {adapter.spec!r} see each other's data: write a BackendAdapter that gives"
            " each case a place of its own, and name it with --adapter module:Class"
        )
    return facts


_BASES: dict[str, type] = {
    "skills": SkillStore,
    "knowledge": KnowledgeStore,
    "reputation": ReputationStore,
    "api_keys": ApiKeyStore,
    "rate_limit": RateLimitStore,
    "audit_log": AuditLogStore,
}


def _own_methods(stores: AllStores) -> Iterator[str]:
    for name, base in _BASES.items():
        for method, function in inspect.getmembers(base, inspect.isfunction):
            theirs = getattr(getattr(stores, name), method, None)
            if not method.startswith("_") and getattr(theirs, "__func__", None) is not function:
                yield f"{name}.{method}"


def _new_target(adapter: BackendAdapter) -> CaseTarget:
    try:
        return CaseTarget(adapter)
    except KpStoreError as error:
        raise AdapterError(f"cannot open backend {adapter.spec!r}: {error}") from error


async def _open(adapter: BackendAdapter, target: CaseTarget, clock: Clock) -> AllStores:
    try:
        stores = await target.open(clock)
    except KpStoreError as error:
        raise AdapterError(f"cannot open backend {adapter.spec!r}: {error}") from error
    except Exception as error:
        raise AdapterError(
            f"cannot open backend {adapter.spec!r}: {type(error).__name__}: {error} ({_where(error)})"
        ) from error
    if not isinstance(stores, AllStores):
        raise AdapterError(
            f"cannot open backend {adapter.spec!r}: it gave a {type(stores).__name__}, not kpstore.AllStores"
        )
    return stores


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "no line" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


async def _sees_the_other(one: AllStores, other: AllStores, clock: Clock) -> bool:
    skill = StoredSkill(
        id="kpstore-conformance-isolation",
        name="isolation",
        description="Written by one case, looked for by another.",
        content="",
        created_at=clock(),
        updated_at=clock(),
    )
    try:
        await one.skills.create(skill)
        return await other.skills.get_by_id(skill.id) is not None
    except Exception:
        # A store that cannot even do this is what the cases are there to report.
        return False
