"""A database file is its owner's alone, is where its path says, and the path may be any."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kpstore import BackendUnavailableError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks.sqlite_support import digests, opened, path_of, python, raw, refused, skill

SUFFIXES = ("", "-wal", "-shm")


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _modes(path: Path) -> dict[str, str]:
    return {suffix: _mode(Path(f"{path}{suffix}")) for suffix in SUFFIXES}


@check(clauses=["SQL-4"], backends=["sqlite"], name="a new file is its owner's alone whatever the umask")
async def new_file_is_private(lab: Lab) -> None:
    """The database, its -wal and its -shm have mode 0600, and folders made for them 0700, under any umask."""
    for number, umask in enumerate((0o000, 0o022, 0o077, 0o277, 0o777)):
        path = lab.folder / f"{number}" / "inner" / "new.db"
        before = os.umask(umask)
        try:
            async with opened(lab, path) as stores:
                await stores.skills.create(skill("a"))
                modes = _modes(path)
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(SUFFIXES, "0600"), f"under umask {umask:04o}: {modes}"
        folders = [_mode(path.parent), _mode(path.parent.parent)]
        assert folders == ["0700", "0700"], f"folders under umask {umask:04o}: {folders}"


@check(clauses=["SQL-4"], backends=["sqlite"], name="what exists keeps its mode")
async def existing_modes_are_kept(lab: Lab) -> None:
    """An existing file or folder keeps its mode; -wal and -shm never allow more than the database does."""
    folder = lab.folder / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    for mode in (0o640, 0o664, 0o600):
        path = folder / f"{mode:o}.db"
        path.touch()
        path.chmod(mode)
        for _ in range(2):  # first an empty file, then a database
            async with opened(lab, path) as stores:
                await stores.skills.create(skill("a"))
                modes = _modes(path)
            assert modes[""] == f"{mode:04o}", f"the file's mode became {modes['']}, from {mode:04o}"
            more = {suffix: one for suffix, one in modes.items() if int(one, 8) & ~mode}
            assert not more, f"beside a file of mode {mode:04o}: {more}"
    assert _mode(folder) == "0755", f"the folder's mode became {_mode(folder)}"


_MEMORY = """
import asyncio, os
from kpstore import Settings, StoredSkill, create_store
from datetime import datetime, UTC, timedelta
now = datetime.now(UTC)
async def main():
    settings = Settings(sqlite_path=":memory:")
    backend = os.environ["KP_STORE_BACKEND"]
    async with (create_store(backend, settings=settings) as one,
                create_store(backend, settings=settings) as other):
        await one.skills.create(StoredSkill("a", "n", "d", "c", created_at=now, updated_at=now))
        await one.reputation.upsert("agent", 1, "r")
        key = await one.api_keys.create("agent", {"read"}, "free")
        await one.rate_limit.consume("agent", "free", "GET")
        await one.audit_log.log("act", "agent", "t", "r", "ip")
        # Every kind of read and write works, at once too.
        await asyncio.gather(*(one.reputation.upsert("agent", 1, "r") for _ in range(20)))
        print((await one.reputation.get("agent")).score, (await one.skills.search()).total,
              (await one.audit_log.query()).total, (await one.api_keys.verify(key.raw_key)).agent_id,
              [each.id async for each in one.skills.scan()])
        print(await other.skills.get_by_id("a"), await other.reputation.get_all(),
              await other.api_keys.verify(key.raw_key), (await other.audit_log.query()).total)
        print("durable" in one.capabilities, "multi_process" in one.capabilities, os.listdir())
    print(os.listdir())
asyncio.run(main())
"""


@check(clauses=["SQL-4"], backends=["sqlite"], name="memory is one store per handle and no file")
async def memory_is_one_store_per_handle(lab: Lab) -> None:
    """With the path `:memory:` all stores work, two handles share nothing, nothing is on disk, and neither
    `durable` nor `multi_process` is declared.
    """
    folder = lab.folder / "empty"
    folder.mkdir()
    async with python(lab, _MEMORY, cwd=folder) as process:
        said = (await process.rest()).splitlines()
    assert said == ["21.0 1 1 agent ['a']", "None [] None 0", "False False []", "[]"], said


ODD_NAMES = [
    "a name.db",
    "what?mode=memory.db",
    "what?immutable=1",
    "part#2.db",
    "100%.db",
    "%41%2e.db",
    "file:x.db",
    "-wal",
    'it\'s "quoted".db',
    "new\nline.db",
    "back\\slash.db",
    "über-日本語-🔑.db",
    os.fsdecode(b"not-utf8-\xff.db"),
    "x" * 240,
]


@check(clauses=["SQL-4"], backends=["sqlite"], name="any file name means itself")
async def odd_names_mean_themselves(lab: Lab) -> None:
    """Spaces, `?`, `#`, `%`, `:`, quotes, line breaks, all of Unicode and bytes that are no UTF-8: the file
    of exactly that name is made and found again, and no other.
    """
    for number, name in enumerate(ODD_NAMES):
        folder = lab.folder / f"odd{number}"
        folder.mkdir()
        for _ in range(2):
            async with opened(lab, folder / name) as stores:
                await stores.skills.create(skill(f"s{number}"))
        async with opened(lab, folder / name) as stores:
            assert (await stores.skills.search()).total == 1, f"{name!r} does not have its record"
        assert list(digests(folder)) == [name], f"{name!r} made {list(digests(folder))}"
        with raw(folder / name) as db:
            assert db.execute("SELECT id FROM skills").fetchall() == [(f"s{number}",)]


@check(clauses=["SQL-4", "GEN-6"], backends=["sqlite"], name="a path that cannot be a file is named")
async def impossible_paths_are_named(lab: Lab) -> None:
    """A folder, a path below a file, a device, a dangling link and a name that is too long are a
    BackendUnavailableError that names the path; nothing is made.
    """
    folder, file = lab.folder / "folder", lab.folder / "file"
    folder.mkdir()
    file.write_bytes(b"")
    (lab.folder / "dangling").symlink_to(lab.folder / "nowhere")
    os.mkfifo(lab.folder / "pipe")
    before = sorted(lab.folder.rglob("*"))
    for path in (
        folder,
        file / "below.db",
        lab.folder / "dangling",
        lab.folder / "pipe",
        lab.folder / ("x" * 300),
        Path("/dev/null"),
    ):
        with refused(BackendUnavailableError, path, str(path)):
            async with opened(lab, path):
                pass
    assert sorted(lab.folder.rglob("*")) == before


@check(clauses=["SQL-1", "SQL-4"], backends=["sqlite"], name="after close the database is one file")
async def one_file_after_close(lab: Lab) -> None:
    """After the last close() the log is in the file: no -wal, -shm or journal is left, and the file is in
    WAL mode and intact.
    """
    async with opened(lab) as one, opened(lab) as other:
        await one.skills.create(skill("a"))
        await other.skills.create(skill("b"))
    path = path_of(lab)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]
    with raw(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT COUNT(*) FROM skills").fetchone() == (2,)


@check(clauses=["SQL-1"], backends=["sqlite"], name="SQLite declares what it can do")
async def capabilities_are_those_of_the_contract(lab: Lab) -> None:
    """With `synchronous=full` the capabilities are durable, multi_process and controllable_clock; `normal`,
    which a power cut may cost the last writes, is not durable.
    """
    for synchronous, expected in (
        ("full", ["controllable_clock", "durable", "multi_process"]),
        ("normal", ["controllable_clock", "multi_process"]),
    ):
        async with opened(lab, sqlite_synchronous=synchronous) as stores:
            found = sorted(map(str, stores.capabilities))
        assert found == expected, f"{synchronous}: {found}"
