"""How a database file and the folders above it are made, which files are refused, and what closing leaves."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kpstore import BackendUnavailableError, DataCorruptionError, SchemaVersionError
from kpstore.backends.sqlite import database as module
from kpstore.backends.sqlite.database import Database
from kpstore.backends.sqlite.schema import VERSION
from kpstore.backends.sqlite.stored_index import Transaction
from kpstore.stores import StoreContext

PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


async def opening(path: Path | str) -> Database:
    database = Database(str(path), "full", StoreContext(location=str(path)))
    await database.open()
    return database


async def make(path: Path) -> None:
    await (await opening(path)).close()


def contents(path: Path) -> dict[str, bytes]:
    """Of the files in its folder."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


# Making it ----------------------------------------------------------------------


@pytest.fixture
def modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """The modes that folders and files have before they are set, under a umask that takes nothing away."""
    found: dict[str, int] = {}
    chmod, fchmod = Path.chmod, os.fchmod

    def noted(folder: Path, mode: int) -> None:
        found[folder.name] = stat.S_IMODE(folder.stat().st_mode)
        if folder.is_relative_to(tmp_path):  # no mistake may reach the machine's own
            chmod(folder, mode)

    def noted_of_file(descriptor: int, mode: int) -> None:
        found["file"] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        fchmod(descriptor, mode)

    monkeypatch.setattr(Path, "chmod", noted)
    monkeypatch.setattr(os, "fchmod", noted_of_file)
    before = os.umask(0)
    yield found
    os.umask(before)


async def test_what_is_made_is_its_owners_alone_from_the_start(tmp_path: Path, modes: dict[str, int]) -> None:
    path = tmp_path / "outer" / "inner" / "test.db"
    await make(path)
    assert modes == {"outer": 0o700, "inner": 0o700, "file": 0o600}
    left = [stat.S_IMODE(one.stat().st_mode) for one in (path.parent.parent, path.parent, path)]
    assert left == [0o700, 0o700, 0o600]


async def test_another_process_may_make_the_folder_at_the_same_time(
    path: Path, modes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = path.parent / "new"
    exists = Path.exists

    def made_right_after(asked: Path) -> bool:
        found = exists(asked)
        if asked == folder and not found:
            folder.mkdir()
        return found

    monkeypatch.setattr(Path, "exists", made_right_after)
    await make(folder / "test.db")
    assert (folder / "test.db").stat().st_size > 0


async def test_memory_is_no_file_and_any_other_name_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = await opening(":memory:")
    assert not memory.is_file
    assert list(tmp_path.iterdir()) == []
    await memory.close()
    for name in ("!.db", "~.db", ":memory:.db", "./:memory:"):  # in the order of texts, before it and after
        database = await opening(name)
        assert database.is_file
        assert [*database._files] == [f"{tmp_path / name}{companion}" for companion in ("", "-wal", "-shm")]
        await database.close()


# Refusing it --------------------------------------------------------------------


async def test_a_folder_is_said_to_be_no_file(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        await opening(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is not a file; check the path and its permissions"


async def test_a_disk_where_sqlite_has_no_write_ahead_log_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def on_such_a_disk(name: str, **options: Any) -> sqlite3.Connection:
        # SQLite then locks by making files, as some need on a disk in the network.
        return connect(f"file:{name}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", on_such_a_disk)
    with pytest.raises(BackendUnavailableError, match=r"write-ahead log here \(delete\); put the file on a"):
        await opening(path)
    assert contents(path) == {path.name: b""}


@pytest.mark.parametrize("log", [b"x", bytes(3 * PAGE_BYTES)])
async def test_an_empty_file_beside_a_log_is_left_alone(path: Path, log: bytes) -> None:
    path.touch()
    Path(f"{path}-wal").write_bytes(log)
    with pytest.raises(DataCorruptionError, match="is empty, but its log is not"):
        await opening(path)
    assert contents(path) == {path.name: b"", f"{path.name}-wal": log}


async def test_a_file_that_lacks_a_page_is_refused_with_nothing_beside_it(path: Path) -> None:
    await make(path)
    os.truncate(path, path.stat().st_size - PAGE_BYTES)
    before = contents(path)
    with pytest.raises(DataCorruptionError, match="malformed"):
        await opening(path)
    assert contents(path) == before


async def test_a_file_that_changes_while_it_is_looked_at_is_looked_at_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    header = module._header
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:

        def torn(file: Path, options: str) -> tuple[int, int]:
            if options == "immutable=1":
                other.execute(f"PRAGMA user_version = {version}")  # into a log, of which there was none
                raise sqlite3.DatabaseError("database disk image is malformed")
            return header(file, options)

        monkeypatch.setattr(module, "_header", torn)
        version = VERSION
        await make(path)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        version = VERSION + 1
        with pytest.raises(SchemaVersionError):
            await opening(path)


async def test_what_is_a_uri_is_said_to_be_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some builds of SQLite take it for one unasked, others for the name of a file.
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    made = list[tuple[bool, bool]]()

    def noted(name: str, **options: Any) -> sqlite3.Connection:
        made.append((name.startswith("file:"), options.get("uri", False)))
        return connect(name, **options)

    await make(path)
    monkeypatch.setattr(sqlite3, "connect", noted)
    await make(path)
    assert {*made} == {(True, True), (False, False)}


@pytest.mark.parametrize("companion", ["", "-wal", "-shm"])
async def test_files_that_are_elsewhere_take_no_write(path: Path, companion: str) -> None:
    database = await opening(path)
    file = Path(f"{path}{companion}")

    def write(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE numbers (n INTEGER)")

    file.rename(path.parent / "away")
    with pytest.raises(BackendUnavailableError, match=f"{file.name} was deleted, moved or replaced"):
        await database.write(write)
    (path.parent / "away").rename(file)
    await database.write(write)
    await database.close()


# Closing ------------------------------------------------------------------------


class _Index:
    """Writes itself anew, and is stored, each time while another process has the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.busy_timeouts: list[object] = []

    def _lock(self) -> None:
        other = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.05, other.close).start()

    def catch_up(self, db: sqlite3.Connection) -> None:
        self.busy_timeouts += db.execute("PRAGMA busy_timeout").fetchone()
        self._lock()

    def store_last(self, db: sqlite3.Connection) -> Iterator[Transaction | None]:
        yield None  # something that needs no transaction
        self._lock()
        yield lambda db: db.execute("CREATE TABLE stored (n INTEGER)")


@pytest.mark.parametrize(("owed", "waits"), [(0, []), (1, [5000]), (2, [5000])])
async def test_closing_erases_what_is_owed_and_stores_the_indexes(
    path: Path, owed: int, waits: list[int]
) -> None:
    database = await opening(path)
    index = _Index(path)
    database.indexes.append(index)  # type: ignore[arg-type]
    await database.write(lambda db: db.execute("UPDATE erasure SET owed = ?", (owed,)).close())
    await database.close()
    assert index.busy_timeouts == waits
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT owed FROM erasure").fetchall() == [(0,)]
        assert db.execute("SELECT COUNT(*) FROM stored").fetchone() == (0,)
