"""One SQLite file: its connections, its transactions, its errors.

Every operation is one function that runs on one thread, since the hop to a
thread costs more than the SQL: `read` and `search` on connections of their own,
`write` in a transaction that concurrent writers share, so that they share its
fsync too. `look_up` reads a few rows by key, which takes less than a tenth of a
hop, on the event loop's own thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from traceback import clear_frames
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import aiosqlite

from kpstore.backends.sqlite.near import NEAR_BYTES, NearConnection
from kpstore.backends.sqlite.schema import bring_up_to_date, check_version, is_current
from kpstore.backends.sqlite.search import SearchIndex
from kpstore.backends.sqlite.stored_index import UnreadableError, remove_all
from kpstore.errors import BackendUnavailableError, DataCorruptionError, KpStoreError
from kpstore.stores import StoreContext

T = TypeVar("T")

MEMORY = ":memory:"
BUSY_TIMEOUT_S = 5.0  # how long another process's lock is waited for, SQL-5
# Works that share one transaction. At 64 concurrent writers a batch holds 64; more would
# only make the first of them wait for the last.
_MAX_BATCH = 256
_SOON_S = 0.01  # several commits
# SQLite's own checkpoint runs inside a commit and makes it 16 ms long. Ours runs on another
# connection from this size of the log on; a writer only does it itself when that falls behind.
# Those who write meanwhile wait for the disk, 1 to 10 ms: less than one in a hundred writes of 30 kB.
_CHECKPOINT_BYTES = 16 * 1024 * 1024
_OVERFLOW_BYTES = 64 * 1024 * 1024
# Closing any descriptor of a file drops all locks that the process holds on it (that is how POSIX
# locks are), those of other handles included; SQLite then loses what is written. So nothing here opens
# a database but SQLite, and making an empty one is over before another thread can have locked it.
_creating = threading.Lock()


class _Connection(aiosqlite.Connection):
    """A connection with a thread, on which whole functions run."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        self._made: sqlite3.Connection | None = None

        def make() -> sqlite3.Connection:
            self._made = made = connector()
            return made

        super().__init__(make, iter_chunk_size=64)
        # A program that ends without close() must not hang in it; what was acknowledged is on disk.
        self._thread.daemon = True
        self._ended: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        """Ask the thread to end; done once it has nothing left to say."""
        self._tx.put_nowait((None, self._close_made))
        self._ended = super().stop()
        return self._ended

    def _close_made(self) -> None:
        """Close the connection, of which aiosqlite knows nothing if its opening was cancelled."""
        if self._made is not None:
            self._made.close()

    async def open(self) -> None:
        """Start the thread and connect."""
        try:
            await self
        except BaseException:
            # The thread was asked to end, but not waited for: it might find the event loop closed.
            if self._ended is not None:
                await self._ended
            raise

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(connection, *arguments)` on the connection's thread: one hop."""

        def call(
            db: sqlite3.Connection,
        ) -> T:  # aiosqlite logs the call: it shows no argument of ours (GEN-11)
            return _call(db, function, *arguments)

        result: T = await self._execute(call, self._conn)  # type: ignore[no-untyped-call]
        return result


class _Work(NamedTuple):
    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    deadline: float


class Database:
    """The open file. Made by `open`; `close` once.

    Args:
        path: the file, or `:memory:`.
        synchronous: `full` or `normal`, the pragma of that name.
        context: shared by the stores; its `location` names the file in errors.
    """

    def __init__(self, path: str, synchronous: str, context: StoreContext) -> None:
        self.is_file = path != MEMORY
        """Whether there is a file that outlives this handle."""
        # Absolute, since the log is looked at by name, and the program may change its directory.
        self._path = os.path.abspath(path) if self.is_file else path  # noqa: PTH100  # resolves no links
        self._synchronous = synchronous
        self._context = context
        self.indexes: list[SearchIndex] = []
        """Of the tables, each used on the thread of `search`."""
        self._files: dict[str, tuple[int, int] | None] = {}
        self._pending: list[_Work] = []
        self._flusher: asyncio.Task[None] | None = None
        self._checkpoint: asyncio.Task[None] | None = None
        self._is_log_copied = False  # nearly all of it
        self._closing: asyncio.Task[None] | None = None
        self._writer: _Connection
        self._reader: _Connection
        self._searcher: _Connection
        self._checkpointer: _Connection
        self._near: NearConnection | None = None
        self._near_thread = threading.get_ident()

    # Opening and closing ----------------------------------------------------

    async def open(self) -> None:
        """Make or upgrade the file and connect to it."""
        opened: list[_Connection] = []

        async def connect(connector: Callable[[], sqlite3.Connection]) -> _Connection:
            connection = _Connection(connector)
            with self._translated():
                await connection.open()
            opened.append(connection)
            return connection

        try:
            self._writer = await connect(self._connect_writer)
            if not self.is_file:  # each connection would be a database of its own
                self._reader = self._searcher = self._checkpointer = self._writer
            else:
                self._reader = await connect(self._connect)
                self._searcher = await connect(self._connect)
                self._checkpointer = await connect(self._connect)
                with self._translated():
                    await self._reader.run(lambda _: self._connect_near())
                self._files = {name: _identity(name) for name in _names(self._path)}
        except BaseException:
            for connection in reversed(opened):
                await connection.close()
            if self._near is not None:
                self._near.close()
            raise

    async def close(self) -> None:
        """Finish what was begun, move the log into the file, and disconnect. Does nothing the second time."""
        self._context.closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        elif self._closing.done():
            return  # an error in it was said once
        await asyncio.shield(self._closing)  # a caller who gives up leaves it to end by itself

    async def _close(self) -> None:
        for task in (self._flusher, self._checkpoint):
            if task is not None:
                await asyncio.wait([task])
        try:
            if self._near is not None:
                self._near.close()
            if self.is_file:
                for connection in (self._reader, self._searcher, self._checkpointer):
                    await connection.close()
                with self._translated():
                    try:
                        self._check_files()  # erasing goes by name, and would take another file's log away
                        await self._writer.run(_erase, self.indexes)
                        await self._writer.run(_store_indexes, self.indexes)
                    finally:  # a file that was moved gets what is only in its log
                        await self._writer.run(_empty_log)
        finally:
            await self._writer.close()

    def _connect_writer(self) -> sqlite3.Connection:
        if self.is_file:
            with self._translated():
                _prepare_file(Path(self._path))
                _check_header(Path(self._path), self._context.location)
        db = self._connect()
        try:
            db.execute("PRAGMA busy_timeout = 0")  # the writer waits in its own way
            # Before the log is switched on, which writes to the file: it may be another program's.
            is_ready = _patiently(lambda: in_snapshot(db, is_current, self._context.location))
            if self.is_file:
                mode = _patiently(lambda: db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
                if mode != "wal":
                    raise BackendUnavailableError(
                        f"{self._context.location}: SQLite cannot use its write-ahead log here ({mode}); "
                        "put the file on a local disk"
                    )
                # The switch alone does not open the log: this connection would not be among those using it,
                # and the last of the others to close would remove it.
                _patiently(lambda: db.execute("PRAGMA user_version").fetchone())
            if not is_ready:
                _begin(db, monotonic() + BUSY_TIMEOUT_S)
                with _all_or_nothing(db):
                    bring_up_to_date(db, self._context.location)
        except BaseException:
            db.close()
            raise
        return db

    def _connect_near(self) -> None:
        # Made on another thread, since making it reads the file; used on this one alone from then on.
        db = sqlite3.connect(
            self._path,
            timeout=0,  # where it would have to wait, another thread does
            isolation_level=None,
            cached_statements=256,
            check_same_thread=False,
            factory=NearConnection,
        )
        try:
            db.execute("PRAGMA query_only = ON")
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, NEAR_BYTES)  # a larger row is refused before it is read
            # Opens the file and its log, which another handle may be making at this moment.
            _patiently(lambda: db.execute("SELECT 1 FROM erasure").fetchone())
        except BaseException:
            db.close()
            raise
        self._near = db  # here, where no cancelled caller can lose it

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=256)
        try:
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            # A log that starts over would keep its size, and look in need of a checkpoint for ever.
            db.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")
            db.execute("PRAGMA secure_delete = ON")  # SQL-6
            db.execute("PRAGMA temp_store = MEMORY")
        except BaseException:
            db.close()
            raise
        return db

    # Operations -------------------------------------------------------------

    async def look_up(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(connection, *arguments)` for a read of a few rows by key, without a hop.

        Whatever goes wrong here, a lock, a large or damaged row or a `TooMuchHereError`
        of the function's own, goes to another thread, which waits, or says what it is.
        """
        self._context.check_open()
        if self._near is not None and threading.get_ident() == self._near_thread:
            with suppress(Exception):
                return _call(self._near, function, *arguments)
        return await self.read(function, *arguments)

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(connection, *arguments)` for a read that takes microseconds."""
        self._context.check_open()
        with self._translated():
            return await self._reader.run(function, *arguments)

    async def search(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for a read that may take long, so that short ones do not wait for it."""
        self._context.check_open()
        with self._translated():
            return await self._searcher.run(in_snapshot, function, *arguments)

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """`function(connection)` within a transaction, which is on disk when this returns.

        What `function` raises undoes what it did, and nothing else.
        """
        self._context.check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.append(_Work(function, future, monotonic() + BUSY_TIMEOUT_S))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        with self._translated():
            return await future

    async def written(self) -> bool:
        """Wait until what is being written is on disk, if it is soon; whether anything was being written."""
        if self._flusher is None:
            await asyncio.sleep(0)  # whoever has just been answered may write again
        if self._flusher is None:
            return False
        await asyncio.wait([self._flusher], timeout=_SOON_S)  # where more comes all the time, it goes on
        return True

    async def _flush(self) -> None:
        """Commit what is pending, batch by batch: what comes while one is on its way makes up the next."""
        batch: list[_Work] = []
        try:
            while self._pending:
                # A work whose caller gave up before it began does not happen at all.
                batch = [work for work in self._pending[:_MAX_BATCH] if not work.future.done()]
                del self._pending[:_MAX_BATCH]
                if not batch:
                    continue
                try:
                    outcomes = await self._writer.run(_commit, batch, self._check_files)
                except Exception as error:
                    outcomes = [error] * len(batch)
                for work, outcome in zip(batch, outcomes, strict=True):
                    if work.future.done():
                        continue
                    if isinstance(outcome, Exception):
                        work.future.set_exception(outcome)
                    else:
                        work.future.set_result(outcome)
                await self._keep_log_short()
        finally:
            self._flusher = None
            for work in [*batch, *self._pending]:  # only if the event loop is shutting down
                work.future.cancel()
            self._pending.clear()

    def _check_files(self) -> None:
        """Refuse to write into files that are no longer where their names say: nobody would find it again."""
        for name, identity in self._files.items():
            if _identity(name) != identity:
                raise BackendUnavailableError(
                    f"{self._context.location}: {Path(name).name} was deleted, moved or replaced while open; "
                    "put it back, or close the store and open another one"
                )

    async def _keep_log_short(self) -> None:
        size = _log_size(self._path)
        if size > _OVERFLOW_BYTES:
            with suppress(sqlite3.Error):  # as below
                await self._writer.run(_checkpoint, "RESTART")
        elif self._is_log_copied:
            # What was written during the checkpoint is copied while nobody writes. Then the log starts over:
            # to overwrite a file takes the disk half as long as to extend it.
            self._is_log_copied = False
            with suppress(sqlite3.Error):
                await self._writer.run(_checkpoint, "PASSIVE")
        elif size > _CHECKPOINT_BYTES and self._checkpoint is None:
            self._checkpoint = asyncio.create_task(self._checkpoint_aside())

    async def _checkpoint_aside(self) -> None:
        try:
            await self._checkpointer.run(_checkpoint, "PASSIVE")
            self._is_log_copied = True
        except sqlite3.Error:
            pass  # the log stays as it is, and the next write tries again
        finally:
            self._checkpoint = None

    # Errors -----------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self._context.location) from error
        except (TypeError, ValueError, OverflowError) as error:
            # All that goes in has been checked, so this is what a row holds.
            self._context.check_open()
            raise DataCorruptionError(
                f"{self._context.location}: a row cannot be read ({error}); restore the file from a copy"
            ) from error
        except OSError as error:
            raise BackendUnavailableError(
                f"{self._context.location}: {error.strerror or error}; check the path and its permissions"
            ) from error


def translate(error: sqlite3.Error, location: str) -> KpStoreError:
    """The driver's error as one of ours (clause GEN-6)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.OperationalError):  # the driver's own: a text is no UTF-8
        return DataCorruptionError(
            f"{location}: a row cannot be read ({error}); restore the file from a copy"
        )
    match (code or 0) & 0xFF:  # without the extension in the higher bits
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return BackendUnavailableError(
                f"{location}: busy: another process held its lock for over {BUSY_TIMEOUT_S:g} s; try again"
            )
        case sqlite3.SQLITE_FULL:
            return BackendUnavailableError(f"{location}: the disk is full; free some space and try again")
        case sqlite3.SQLITE_READONLY:
            return BackendUnavailableError(
                f"{location}: read-only; make the file and its folder writable for this user"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DataCorruptionError(f"{location}: {error}; restore it from a copy")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return BackendUnavailableError(
                f"{location}: cannot be opened; check the path, its permissions and the limit of open files"
            )
        case sqlite3.SQLITE_IOERR:
            return BackendUnavailableError(f"{location}: input/output error ({error}); check the disk")
        case sqlite3.SQLITE_ERROR | sqlite3.SQLITE_SCHEMA:
            return DataCorruptionError(
                f"{location}: its tables are not those of a kpstore database ({error})"
            )
        case _:
            return BackendUnavailableError(f"{location}: {error}")


# What runs on a connection's thread -----------------------------------------


def _call(db: sqlite3.Connection, function: Callable[..., T], *arguments: Any) -> T:
    with _no_cursor_left():
        return function(db, *arguments)


@contextmanager
def _no_cursor_left() -> Iterator[None]:
    """End the statements that an exception's traceback would keep alive in its frames.

    A statement that has not ended holds on to the state of the database that it
    saw: whatever the connection reads next would be as old as that.
    """
    try:
        yield
    except BaseException as error:
        clear_frames(error.__traceback__)
        raise


def _commit(db: sqlite3.Connection, batch: list[_Work], check: Callable[[], None]) -> list[Any]:
    """Run the works in one transaction, unless `check` raises; each one's result, or what it raised."""
    _begin(db, min(work.deadline for work in batch))
    outcomes: list[Any] = []
    with _all_or_nothing(db):
        for work in batch:
            db.execute("SAVEPOINT work")
            try:
                with _no_cursor_left():
                    outcomes.append(work.function(db))
            except Exception as error:
                if not db.in_transaction:  # SQLite has undone all of it: a full disk, say
                    raise
                db.execute("ROLLBACK TO work")
                outcomes.append(error)
            db.execute("RELEASE work")
        check()
    return outcomes


@contextmanager
def _all_or_nothing(db: sqlite3.Connection) -> Iterator[None]:
    """Commit the open transaction at the end, or roll it back."""
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _begin(db: sqlite3.Connection, deadline: float) -> None:
    _patiently(lambda: db.execute("BEGIN IMMEDIATE"), deadline)


def _patiently(action: Callable[[], T], deadline: float | None = None) -> T:
    """`action()`, again and again while the database is locked, until the deadline.

    SQLite's own waiting steps back to 100 ms, and a process that steps back always
    loses to one that commits without a pause; short random waits give each a fair chance.
    """
    deadline = monotonic() + BUSY_TIMEOUT_S if deadline is None else deadline
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or monotonic() >= deadline:
                raise
        sleep(random.uniform(0.0002, 0.002))  # noqa: S311  # spreads waiters, guards nothing


def in_snapshot(db: sqlite3.Connection, function: Callable[..., T], *arguments: Any) -> T:
    """Several statements that see one state of the database."""
    db.execute("BEGIN")
    try:
        return _call(db, function, *arguments)
    finally:
        if db.in_transaction:  # SQLite may have ended it itself, after an error
            db.execute("ROLLBACK")


def _checkpoint(db: sqlite3.Connection, mode: str) -> None:
    db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()


def _erase(db: sqlite3.Connection, indexes: list[SearchIndex]) -> None:
    """Leave nothing in the file of what was deleted or replaced (clause SQL-6).

    SQLite's `secure_delete` does not do it alone: where it splits or merges
    pages, it moves cells and leaves copies in the free part of the old ones. Only
    `VACUUM` is sure; it takes half a second for 100 MB, and so it runs when
    something has gone since the last time, and by the last handle to close.
    """
    if db.execute("SELECT owed FROM erasure").fetchone() == (0,):
        return
    try:
        db.execute("PRAGMA journal_mode = DELETE")  # which needs the file for oneself
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return
        raise
    db.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    db.execute("PRAGMA journal_mode = WAL")
    # The indexes stored hold strings of what has gone: they are written anew from those in memory.
    for index in indexes:
        index.catch_up(db)
    remove_all(db)
    db.execute("PRAGMA temp_store = FILE")  # the copy that VACUUM makes may not fit into memory
    # 2 is "at it": still owed if this ends half-way, and another process's deletion makes it 1 again.
    db.execute("UPDATE erasure SET owed = 2")
    db.execute("VACUUM")
    db.execute("UPDATE erasure SET owed = 0 WHERE owed = 2")


def _store_indexes(db: sqlite3.Connection, indexes: list[SearchIndex]) -> None:
    """Leave the indexes to handles to come."""
    # They can be built again, and need not be on disk with each commit, as what was acknowledged is.
    db.execute("PRAGMA synchronous = NORMAL")
    with suppress(sqlite3.Error, UnreadableError):  # a full disk, say: they can be built again
        for index in indexes:
            for transaction in index.store_last(db):
                if transaction is not None:
                    _begin(db, monotonic() + BUSY_TIMEOUT_S)
                    with _all_or_nothing(db):
                        transaction(db)


def _empty_log(db: sqlite3.Connection) -> None:
    # With another handle in the middle of a read the log cannot be emptied; the last to close does it.
    db.execute("PRAGMA busy_timeout = 1000")
    _checkpoint(db, "TRUNCATE")


def _names(path: str) -> list[str]:
    """Of the files that a database consists of while it is open."""
    return [path, f"{path}-wal", f"{path}-shm"]


def _identity(name: str) -> tuple[int, int] | None:
    """What tells the file of that name from another that takes its place; None if there is none."""
    try:
        found = os.stat(name)  # noqa: PTH116  # before each commit: a quarter of what pathlib takes
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _log_size(path: str) -> int:
    try:
        return os.stat(f"{path}-wal").st_size  # noqa: PTH116  # after each commit, as above
    except OSError:
        return 0


def _prepare_file(path: Path) -> None:
    """Make the file, for its owner alone, and the folders above it, unless they are there (clause SQL-4)."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)  # mkdir leaves out what the umask says
        _sync_entries(folder.parent)  # SQLite does it for the file, but not for the folders above
    with _creating:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except FileExistsError:
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError(None, "is not a file") from None
            return
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)


def _sync_entries(folder: Path) -> None:
    """Make what was made in a folder survive a power loss (clause SQL-1)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_header(path: Path, location: str) -> None:
    """Refuse what is no database, or a newer one, before SQLite gets to change anything (SQL-2, SQL-5)."""
    has_log = _log_size(str(path)) > 0
    size = path.stat().st_size
    if size == 0:
        if has_log:
            raise DataCorruptionError(
                f"{location}: is empty, but its log is not; the files were left as they are: "
                "restore them from a copy"
            )
        return
    if Path(f"{path}-journal").exists():
        return  # the file is in the middle of a change: SQLite undoes it first, and is_current looks then
    # A file with a log may be in the middle of a checkpoint, a killed one or another process's: alone it
    # says nothing, and even its length may be wrong. Opened read-only, both are read and stay as they are.
    if has_log:
        check_version(_header(path, "mode=ro")[0], location)
        return
    try:
        # Opened as immutable, the file gets no lock, no log and no other companion.
        version, page_bytes = _header(path, "immutable=1")
    except sqlite3.DatabaseError:
        if _log_size(str(path)) == 0:
            raise
        check_version(_header(path, "mode=ro")[0], location)  # a writer came in between
        return
    check_version(version, location)
    if size % page_bytes:
        raise DataCorruptionError(f"{location}: is cut off in the middle of a page; restore it from a copy")


def _header(path: Path, options: str) -> tuple[int, int]:
    """The file's `user_version`, and how many bytes a page of it has."""
    db = sqlite3.connect(f"file:{quote(os.fsencode(path))}?{options}", uri=True, timeout=BUSY_TIMEOUT_S)
    try:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        return version, page_bytes
    finally:
        db.close()
