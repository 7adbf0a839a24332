"""Mutants of the SQLite backend: of its file, its transactions, its upgrade."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from kpstore import AllStores, BackendUnavailableError, DataCorruptionError, SchemaVersionError, create_store
from kpstore.backends.sqlite import database
from mutants.registry import mutant, mutant_opening, patch


def _database(stores: AllStores) -> Any:
    return stores.skills._database  # type: ignore[attr-defined]


async def _open(settings: Any, clock: Any) -> AllStores:
    return await create_store("sqlite", settings=settings, clock=clock)


async def _on_every_connection(stores: AllStores, statement: str) -> None:
    database = _database(stores)
    for connection in (database._writer, database._reader, database._searcher):
        await connection.run(lambda db: db.execute(statement).fetchall())


@mutant_opening("SQL-1", base="sqlite")
async def synchronous_is_off(settings: Any, clock: Any) -> AllStores:
    """Commits do not wait for the disk: `PRAGMA synchronous = OFF` for speed."""
    stores = await _open(settings, clock)
    await _on_every_connection(stores, "PRAGMA synchronous = OFF")
    return stores


@mutant_opening("SQL-1", base="sqlite")
async def synchronous_is_normal(settings: Any, clock: Any) -> AllStores:
    """Commits wait for no sync of the log, which is declared durable all the same."""
    stores = await _open(settings, clock)
    await _on_every_connection(stores, "PRAGMA synchronous = NORMAL")
    return stores


@mutant_opening("SQL-1", base="sqlite")
async def checkpoints_do_not_sync(settings: Any, clock: Any) -> AllStores:
    """The log starts over before what was moved out of it is on the disk; each commit is synced."""
    stores = await _open(settings, clock)

    def unsynced(db: sqlite3.Connection, mode: str) -> None:
        db.execute("PRAGMA synchronous = OFF")
        database._checkpoint(db, mode)
        db.execute("PRAGMA synchronous = FULL")

    for connection in (_database(stores)._writer, _database(stores)._checkpointer):

        def mutated(function: Any, *arguments: Any, run: Any = connection.run) -> Any:
            return run(unsynced if function is database._checkpoint else function, *arguments)

        connection.run = mutated
    return stores


@mutant_opening("GEN-10", base="sqlite")
async def new_folders_are_not_synced(settings: Any, clock: Any) -> AllStores:
    """The folders made for a new file are lost with the power, and the file with them."""
    Path(settings.sqlite_path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return await _open(settings, clock)


@mutant_opening("SQL-1", base="sqlite")
async def no_write_ahead_log(settings: Any, clock: Any) -> AllStores:
    """The journal mode is SQLite's default."""
    await (await _open(settings, clock)).close()
    db = sqlite3.connect(settings.sqlite_path)
    db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    stores = await _open(settings, clock)
    database = _database(stores)
    for connection in (database._reader, database._searcher, database._checkpointer):
        await connection.close()
    database._near.close()
    database._near = None
    await database._writer.run(lambda db: db.execute("PRAGMA journal_mode = DELETE").fetchall())
    database._reader = database._searcher = database._checkpointer = database._writer
    return stores


@mutant("SQL-1", base="sqlite")
def acknowledged_before_commit(stores: AllStores) -> None:
    """A write is acknowledged when it is queued."""
    append = stores.audit_log._append
    tasks: set[Any] = set()

    async def mutated(entry: Any, expired_before: int) -> None:
        tasks.add(asyncio.create_task(append(entry, expired_before)))

    patch(stores.audit_log, _append=mutated)


@mutant_opening("SQL-2", base="sqlite")
async def newer_versions_are_opened(settings: Any, clock: Any) -> AllStores:
    """A file of a newer schema is taken for one of this."""
    from kpstore.backends.sqlite.schema import VERSION

    try:
        return await _open(settings, clock)
    except SchemaVersionError:
        with sqlite3.connect(settings.sqlite_path) as db:
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.close()
        return await _open(settings, clock)


@mutant_opening("SQL-2", base="sqlite")
async def opening_writes(settings: Any, clock: Any) -> AllStores:
    """Every opening writes to the file."""
    stores = await _open(settings, clock)

    def touch(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS opened (at TEXT)")
        db.execute("INSERT INTO opened VALUES (datetime('now'))")

    await _database(stores).write(touch)
    return stores


@mutant_opening("SQL-2", base="sqlite")
async def user_version_is_not_set(settings: Any, clock: Any) -> AllStores:
    """The schema's version is left at 0."""
    stores = await _open(settings, clock)
    await _database(stores)._writer.run(lambda db: db.execute("PRAGMA user_version = 0").fetchall())
    return stores


@mutant_opening("SQL-3", base="sqlite")
async def upgrade_cuts_the_history(settings: Any, clock: Any) -> AllStores:
    """The upgrade takes over the latest 50 entries of a history."""
    _change_registry(
        settings.sqlite_path,
        "UPDATE reputation SET history = (SELECT json_group_array(json(value)) FROM (SELECT value FROM"
        " json_each(history) ORDER BY key DESC LIMIT 50))",
    )
    return await _open(settings, clock)


@mutant_opening("SQL-3", base="sqlite")
async def upgrade_forgets_revocations(settings: Any, clock: Any) -> AllStores:
    """The upgrade takes revoked keys for live ones."""
    _change_registry(settings.sqlite_path, "UPDATE api_keys SET revoked = 0")
    return await _open(settings, clock)


@mutant_opening("SQL-3", base="sqlite")
async def upgrade_drops_unknown_tables(settings: Any, clock: Any) -> AllStores:
    """The upgrade tidies up what it does not know."""
    _change_registry(settings.sqlite_path, "DROP TABLE credit_balances")
    return await _open(settings, clock)


@mutant_opening("SQL-3", base="sqlite")
async def upgrade_loses_votes(settings: Any, clock: Any) -> AllStores:
    """The upgrade forgets the votes against."""
    _change_registry(settings.sqlite_path, "DELETE FROM validation_votes WHERE valid = 0")
    return await _open(settings, clock)


def _change_registry(path: str, statement: str) -> None:
    """Run a statement on a file of the TypeScript registry before it is upgraded."""
    if not Path(path).exists():
        return
    db = sqlite3.connect(path)
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "credit_balances" in tables and db.execute("PRAGMA user_version").fetchone()[0] == 0:
            db.execute(statement)
            db.commit()
    except sqlite3.Error:
        pass
    finally:
        db.close()


@mutant_opening("SQL-4", base="sqlite")
async def the_world_may_read(settings: Any, clock: Any) -> AllStores:
    """A new file has the mode 0644."""
    stores = await _open(settings, clock)
    for file in Path(settings.sqlite_path).parent.glob(f"{Path(settings.sqlite_path).name}*"):
        file.chmod(0o644)
    return stores


@mutant_opening("SQL-4", base="sqlite")
async def folders_must_be_there(settings: Any, clock: Any) -> AllStores:
    """A missing folder is an error."""
    if settings.sqlite_path != ":memory:" and not Path(settings.sqlite_path).parent.exists():
        raise BackendUnavailableError(f"{settings.sqlite_path}: no such folder")
    return await _open(settings, clock)


@mutant_opening("SQL-4", base="sqlite")
async def memory_is_a_file_name(settings: Any, clock: Any) -> AllStores:
    """`:memory:` is a file of that name."""
    from dataclasses import replace

    if settings.sqlite_path == ":memory:":
        settings = replace(settings, sqlite_path=str(Path.cwd() / f"memory-{id(clock)}.db"))
    return await _open(settings, clock)


@mutant_opening("SQL-5", base="sqlite")
async def damaged_files_are_started_anew(settings: Any, clock: Any) -> AllStores:
    """A file that cannot be read is replaced by a new one."""
    try:
        return await _open(settings, clock)
    except DataCorruptionError:
        Path(settings.sqlite_path).unlink()
        return await _open(settings, clock)


@mutant_opening("SQL-5", base="sqlite")
async def locks_are_not_waited_for(settings: Any, clock: Any) -> AllStores:
    """A lock is an error at once."""
    from kpstore.backends.sqlite import database

    stores = await _open(settings, clock)
    write = _database(stores).write
    module: Any = database

    async def impatient(function: Any) -> Any:
        before, module.BUSY_TIMEOUT_S = module.BUSY_TIMEOUT_S, 0.0
        try:
            return await write(function)
        finally:
            module.BUSY_TIMEOUT_S = before

    patch(_database(stores), write=impatient)
    return stores


@mutant("SQL-5", base="sqlite")
def one_bad_row_breaks_every_search(stores: AllStores) -> None:
    """A search reads all rows before it cuts the page."""
    search = stores.knowledge.search

    async def mutated(**arguments: Any) -> Any:
        async for _ in stores.knowledge.scan():
            pass
        return await search(**arguments)

    patch(stores.knowledge, search=mutated)


@mutant_opening("SQL-6", base="sqlite")
async def deleted_text_stays(settings: Any, clock: Any) -> AllStores:
    """Deleted rows are not overwritten."""
    stores = await _open(settings, clock)
    await _on_every_connection(stores, "PRAGMA secure_delete = OFF")
    _keep_free_pages(stores)
    return stores


def _keep_free_pages(stores: AllStores) -> None:
    """Close as if nothing had been deleted."""
    database = _database(stores)

    async def close() -> None:
        database._context.closed = True
        if database._near is not None:
            database._near.close()
        for connection in {database._reader, database._searcher, database._checkpointer, database._writer}:
            await connection.close()

    patch(stores, close=close)


@mutant_opening("SQL-6", base="sqlite")
async def a_copy_is_kept(settings: Any, clock: Any) -> AllStores:
    """A copy of the file from before the last opening lies beside it."""
    path = Path(settings.sqlite_path)
    if settings.sqlite_path != ":memory:" and path.exists():
        path.with_suffix(".bak").write_bytes(path.read_bytes())
    stores = await _open(settings, clock)
    delete = stores.skills.delete

    async def mutated(id: str) -> bool:
        found = await stores.skills.get_by_id(id)
        if found is not None:
            path.with_suffix(".bak").write_text(repr(found), encoding="utf-8", errors="replace")
        return await delete(id)

    patch(stores.skills, delete=mutated)
    return stores


@mutant_opening("AUDIT-2", base="sqlite")
async def cleared_entries_stay_in_the_totals(settings: Any, clock: Any) -> AllStores:
    """What expires is not taken off the counts of the blocks that it was in."""
    stores = await _open(settings, clock)
    await _without_trigger(stores, "audit_log_delete_counts")
    return stores


@mutant_opening("REP-3", base="sqlite")
async def agents_are_counted_where_they_were(settings: Any, clock: Any) -> AllStores:
    """An agent whose score changes is still counted in the part of the leaderboard where it was."""
    stores = await _open(settings, clock)
    await _without_trigger(stores, "reputation_update_counts")
    return stores


async def _without_trigger(stores: AllStores, name: str) -> None:
    await _database(stores).write(lambda db: db.execute(f"DROP TRIGGER IF EXISTS {name}").close())


@mutant("SQL-1", base="sqlite")
def moved_files_are_written_to(stores: AllStores) -> None:
    """A write is acknowledged though its file was moved away, replaced or deleted."""
    patch(_database(stores), _check_files=lambda: None)


@mutant("SQL-1", base="sqlite")
def full_disks_are_not_mentioned(stores: AllStores) -> None:
    """A vote that finds no room is logged somewhere, and dropped."""
    append = stores.reputation._append_vote

    async def mutated(vote: Any) -> None:
        with contextlib.suppress(BackendUnavailableError):
            await append(vote)

    patch(stores.reputation, _append_vote=mutated)


@mutant_opening("GEN-6", base="sqlite")
async def missing_descriptors_are_waited_for(settings: Any, clock: Any) -> AllStores:
    """What cannot be opened is tried again for a while."""
    for _ in range(10):
        try:
            return await _open(settings, clock)
        except BackendUnavailableError as error:
            if "cannot be opened" not in str(error):
                raise
        await asyncio.sleep(0.5)
    return await _open(settings, clock)
