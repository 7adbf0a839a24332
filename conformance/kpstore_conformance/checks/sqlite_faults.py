"""Faults that come under an open store, or at each place of a file, end in the right error and pass over.

The disk is full at each size that a file may have come to, the process has no descriptor left, the file is
deleted, moved or replaced, its log is damaged. KP_CHECKS_HEAVY=1 tries ten times as many places.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from kpstore import AllStores, BackendUnavailableError, DataCorruptionError, create_store
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import gathered, vote
from kpstore_conformance.checks.sqlite_support import (
    IS_HEAVY,
    opened,
    path_of,
    python,
    raw,
    refused,
    skill,
    unit,
)

__all__: list[str] = []

_AT_ONCE_S = 4.0
"""None of these faults is one to wait out: a call that takes longer waits for something, as for a lock, 5 s.
They take milliseconds.
"""


async def _at_once(call: Awaitable[object], what: str) -> None:
    start_s = time.monotonic()
    try:
        await call
    finally:
        took_s = time.monotonic() - start_s
        assert took_s < _AT_ONCE_S, f"{what}: ended after {took_s:.1f} s"


# Deleted, moved, replaced -----------------------------------------------------

_COMPANIONS = ("", "-wal", "-shm")


def _move(path: Path, to: Path, suffixes: tuple[str, ...] = _COMPANIONS) -> None:
    for suffix in suffixes:
        Path(f"{path}{suffix}").rename(f"{to}{suffix}")


def _delete(path: Path) -> None:
    for suffix in _COMPANIONS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _writes(stores: AllStores, name: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """A write to each of the stores."""
    return {
        "skills": lambda: stores.skills.create(skill(name)),
        "knowledge": lambda: stores.knowledge.create(unit(name)),
        "reputation": lambda: stores.reputation.upsert(name, 1, "reason"),
        "votes": lambda: stores.reputation.record_vote(vote(f"kp:trace:{name}", validator_id=name)),
        "api_keys": lambda: stores.api_keys.create(name, {"read"}, "free"),
        "rate_limit": lambda: stores.rate_limit.consume(name, "free", "GET"),
        "audit_log": lambda: stores.audit_log.log("act", name, "t", "r", "ip"),
    }


async def _written(stores: AllStores) -> dict[str, list[str]]:
    """Whose writes each store has, but for the buckets."""
    return {
        "skills": [each.id for each in await gathered(stores.skills.scan())],
        "knowledge": [each.id.removeprefix("kp:trace:") for each in await gathered(stores.knowledge.scan())],
        "reputation": [each.agent_id for each in await stores.reputation.get_all()],
        "votes": [each.validator_id for each in await stores.reputation.get_votes()],
        "api_keys": [each.agent_id for each in await gathered(stores.api_keys.scan())],
        "audit_log": [each.agent_id for each in await gathered(stores.audit_log.scan())],
    }


def _assert_has(found: dict[str, list[str]], names: list[str], what: str) -> None:
    for store, there in found.items():
        assert there == names, f"{what}: {store} has {there}, not {names}"


async def _write_all(stores: AllStores, name: str) -> None:
    for write in _writes(stores, name).values():
        await write()


async def _refuse_all(stores: AllStores, path: Path, name: str, what: str) -> None:
    for store, write in _writes(stores, name).items():
        with refused(BackendUnavailableError, path, f"{what}, {store}"):
            await _at_once(write(), f"{what}, {store}")


def _new(lab: Lab, name: str) -> Path:
    """Where a database can be made, in a folder of its own."""
    folder = lab.folder / name
    folder.mkdir()
    return folder / "kept.db"


async def _open_at(lab: Lab, path: Path) -> AllStores:
    """Stores that the check closes itself, whatever has become of their file."""
    return await create_store(
        lab.backend_spec, settings=replace(lab.settings, sqlite_path=str(path)), clock=lab.clock
    )


@check(
    clauses=["GEN-6", "SQL-1"],
    backends=["sqlite"],
    name="a file that was moved away takes no write until it is back",
)
async def moved_and_moved_back(lab: Lab) -> None:
    """While the files of an open store are elsewhere, or one of them is, each write is a
    BackendUnavailableError that names the file, at once, and happens neither then nor later; when they are
    back all goes on.
    """
    path = _new(lab, "moved")
    stores = await _open_at(lab, path)
    expected = []
    for number, suffixes in enumerate([_COMPANIONS, ("",), ("-wal",), ("-shm",), ("-wal", "-shm")]):
        await _write_all(stores, f"before {number}")
        _move(path, lab.folder / "away.db", suffixes)
        await _refuse_all(stores, path, f"lost {number}", f"without {suffixes}")
        _move(lab.folder / "away.db", path, suffixes)
        await _write_all(stores, f"after {number}")
        expected += [f"before {number}", f"after {number}"]
        _assert_has(await _written(stores), expected, f"after {suffixes} were back")
    await stores.close()
    async with opened(lab, path) as again:
        _assert_has(await _written(again), expected, "after reopening")


@check(
    clauses=["GEN-6", "SQL-1"],
    backends=["sqlite"],
    name="a file that was moved for good has all that was acknowledged",
)
async def moved_for_good(lab: Lab) -> None:
    """A database that is moved under an open store, without its log, has everything that was acknowledged
    once the store is closed; the writes after that were refused.
    """
    path, kept = _new(lab, "moved"), lab.folder / "kept.db"
    stores = await _open_at(lab, path)
    await _write_all(stores, "before")
    await stores.skills.create(skill("before", content="replaced"))  # which closing would erase
    _move(path, kept, ("",))
    await _refuse_all(stores, path, "lost", "moved")
    with refused(BackendUnavailableError, path, "closing"):
        await _at_once(stores.close(), "closing")
    await stores.close()
    async with opened(lab, kept) as again:
        _assert_has(await _written(again), ["before"], "what was moved")


@check(
    clauses=["GEN-6", "SQL-1"],
    backends=["sqlite"],
    name="a file that was replaced is not touched by who had the old one open",
)
async def replaced_under_the_store(lab: Lab) -> None:
    """When other files, in use or not, take the place of an open store's, its writes are refused at once with
    a BackendUnavailableError that names the file, and closing it takes nothing from the new ones, their log
    included.
    """
    for what, suffixes in {"the file alone": ("",), "all its files": _COMPANIONS}.items():
        path, other = _new(lab, what), _new(lab, f"{what}, the other")
        stores = await _open_at(lab, path)
        await _write_all(stores, "old")
        await stores.skills.create(skill("old", content="replaced"))  # which closing would erase
        if suffixes == _COMPANIONS:
            _move(path, lab.folder / "old.db")
            new = await _open_at(lab, path)
            await _write_all(new, "new")
        else:
            async with opened(lab, other) as made:
                await _write_all(made, "new")
            other.replace(path)
        await _refuse_all(stores, path, "lost", f"{what} was replaced")
        with refused(BackendUnavailableError, path, f"closing after {what} was replaced"):
            await _at_once(stores.close(), "closing")
        expected = ["new"]
        if suffixes == _COMPANIONS:
            await _write_all(new, "newer")
            # What another process sees is what is in the files of these names.
            async with python(lab, _SKILLS, path) as process:
                found = (await process.rest()).split()
            expected = ["new", "newer"]
            assert found == expected, f"{what}: in the new files is {found}"
            await new.close()
        async with opened(lab, path) as again:
            _assert_has(await _written(again), expected, what)


_SKILLS = """
import sqlite3, sys
print(*(id for (id,) in sqlite3.connect(sys.argv[1]).execute("SELECT id FROM skills ORDER BY position")))
"""


@check(
    clauses=["GEN-6", "GEN-10"],
    backends=["sqlite"],
    name="a store whose files were deleted says so, and closes",
)
async def deleted_under_the_store(lab: Lab) -> None:
    """After the files are deleted, or their folder, each write is a BackendUnavailableError that names the
    file, at once, closing ends at once, and the path can be opened anew.
    """
    for what in ("the file", "the folder"):
        path = _new(lab, what)
        stores = await _open_at(lab, path)
        await _write_all(stores, "old")
        if what == "the file":
            _delete(path)
        else:
            shutil.rmtree(path.parent)
        await _refuse_all(stores, path, "lost", f"{what} was deleted")
        with refused(BackendUnavailableError, path, f"closing after {what} was deleted"):
            await _at_once(stores.close(), "closing")
        async with opened(lab, path) as again:
            await _write_all(again, "new")
            _assert_has(await _written(again), ["new"], f"{what}, made anew")


# No space and no descriptors ------------------------------------------------------

# Arguments: the folder, the registry's file, how many times finer the steps are.
_FULL = """
import asyncio, os, resource, shutil, sys, time
from pathlib import Path
from kpstore import BackendUnavailableError, create_store, Settings
from kpstore_conformance.checks.sqlite_faults import _AT_ONCE_S, _writes, _written
folder, registry, finer = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
refused = 0

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

async def at_once(call, path, what):
    global refused
    start_s = time.monotonic()
    try:
        return await call, True
    except BackendUnavailableError as error:
        refused += 1
        assert str(path) in str(error), f"{what}: {error}"
        return None, False
    finally:
        assert time.monotonic() - start_s < _AT_ONCE_S, f"{what}: {time.monotonic() - start_s} s"

def opened(path):
    return create_store(os.environ["KP_STORE_BACKEND"], settings=Settings(sqlite_path=str(path)))

async def use(path, size, had):
    what = f"room for {size} bytes of each file"
    room(size)
    stores, is_open = await at_once(opened(path), path, what)
    done = {name: [] for name in had}
    if is_open:
        for n in range(2):
            for name, write in _writes(stores, f"{n}").items():
                _, is_done = await at_once(write(), path, f"{what}, {name} {n}")
                if is_done and name in done:
                    done[name].append(f"{n}")
        await at_once(stores.skills.search(query="name"), path, what)
    room(None)
    if not is_open:
        stores = await opened(path)
    for again in range(2):
        found = await _written(stores)
        for name in had:
            assert found[name] == had[name] + done[name], f"{what}: {name}: {found[name]}, not {done[name]}"
        if again == 0:
            for name, write in _writes(stores, "room").items():
                await write()
                done.get(name, []).append("room")
            await stores.close()
            stores = await opened(path)
    await stores.close()

async def main():
    made = folder / "made.db"
    async with opened(made) as stores:
        for write in _writes(stores, "first").values():
            await write()
        first = await _written(stores)
    nothing = {name: [] for name in first}
    upgraded = folder / "upgraded.db"
    shutil.copy(registry, upgraded)
    async with opened(upgraded) as stores:
        registered = await _written(stores)
    for kind, step, until, source, had in (
        ("new", 8192, 200_000, None, nothing),
        ("old", 8192, 200_000, made, first),
        ("registry", 131_072, 2_000_000, registry, registered),
    ):
        before = refused
        for number, size in enumerate(range(0, until, step // finer)):
            path = folder / f"{kind}-{number}" / "kept.db"
            path.parent.mkdir()
            if source is not None:
                shutil.copy(source, path)
            await use(path, size + number % 3, had)
            shutil.rmtree(path.parent)
        assert refused > before, f"{kind}: there was always room"
    print(refused)
asyncio.run(main())
"""
_REGISTRY = Path(__file__).parents[1] / "data" / "typescript-registry" / "knowledgepulse.sqlite"


@check(
    clauses=["GEN-6", "SQL-1", "SQL-3"],
    backends=["sqlite"],
    name="a disk that is full at any size of a file loses nothing",
    timeout_s=600 if IS_HEAVY else 180,
)
async def full_at_any_size(lab: Lab) -> None:
    """With room for so and so many bytes in each file, from none to plenty, a new file, an old one and one of
    the registry are opened and written: what finds no room is a BackendUnavailableError that names the file,
    at once, and is not there later; what was acknowledged is; and with room again, the same handle goes on.
    """
    folder = lab.folder / "full"
    folder.mkdir()
    async with python(lab, _FULL, folder, _REGISTRY, 10 if IS_HEAVY else 1) as process:
        assert int(await process.rest(600)) > 50


# Arguments: the file.
_NO_DESCRIPTORS = """
import asyncio, os, resource, sys, time
from kpstore import BackendUnavailableError, create_store
from kpstore_conformance.checks.sqlite_faults import _AT_ONCE_S, _writes, _written
path = sys.argv[1]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
descriptors = lambda: len(os.listdir("/dev/fd"))
refused, written = [], []

def more(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if count is None else in_use + count, hard))

async def write_all(stores, name):
    for write in _writes(stores, name).values():
        await write()
    written.append(name)

async def main():
    global in_use
    async with create_store() as stores:  # what is loaded once
        await write_all(stores, "first")
        await _written(stores)
    in_use = descriptors() - 1  # but for the one that looks
    for count in range(40):
        start_s = time.monotonic()
        more(count)
        try:
            stores = await create_store()
        except BackendUnavailableError as error:
            more(None)
            assert path in str(error), error
            assert "open files" in str(error), error
            refused.append(count)
        else:
            # None is left; and what is open already needs none.
            await write_all(stores, f"{count}")
            await stores.close()
            more(None)
        assert time.monotonic() - start_s < _AT_ONCE_S, time.monotonic() - start_s
        assert descriptors() - 1 == in_use, f"{count}: {descriptors() - 1} descriptors, before: {in_use}"
    assert refused == list(range(len(refused))) and refused and len(refused) < 40, refused
    # And where the last is taken while the store is open.
    stores = await create_store()
    more(0)
    await write_all(stores, "while open")
    found = await _written(stores)
    more(None)
    for name, there in found.items():
        assert there == written, (name, there)
    await stores.close()
    print(len(refused))
asyncio.run(main())
"""


@check(
    clauses=["GEN-6", "GEN-10"],
    backends=["sqlite"],
    name="a process without descriptors is told so, and opens when it has some",
)
async def out_of_descriptors(lab: Lab) -> None:
    """With too few descriptors left to open the file, opening is a BackendUnavailableError that names the
    file and the limit, at once, and leaves none open; with just enough, and when the last is taken while the
    store is open, all reads and writes work.
    """
    async with python(lab, _NO_DESCRIPTORS, path_of(lab)) as process:
        assert int(await process.rest()) > 0


# Damage to the log, and to an open file -------------------------------------------


def _log(path: Path) -> Path:
    return Path(f"{path}-wal")


def _copied(source: Path, target: Path) -> None:
    for suffix in ("", "-wal"):
        shutil.copy(f"{source}{suffix}", f"{target}{suffix}")


_COPY = """
import shutil, sys
for suffix in ("", "-wal"):
    shutil.copy(sys.argv[1] + suffix, sys.argv[2] + suffix)
"""


@check(
    clauses=["SQL-5", "GEN-6"],
    backends=["sqlite"],
    name="a damaged log is an error, or ends before the damage",
    timeout_s=600 if IS_HEAVY else 120,
)
async def damaged_logs(lab: Lab) -> None:
    """With a byte of its log changed, or the log cut off anywhere, a file is a DataCorruptionError, or holds
    what was acknowledged up to some write and nothing of any later one, and takes writes again.
    """
    path, source = _new(lab, "live"), lab.folder / "source.db"
    names = [f"s{n}" for n in range(20)]
    async with opened(lab, path) as stores:
        for name in names:
            await stores.skills.create(skill(name, content=name * 200))
        # By another process: closing a descriptor here would drop the locks of the open handle.
        async with python(lab, _COPY, path, source) as process:
            await process.rest()
    content = _log(source).read_bytes()
    rng = random.Random(8)  # noqa: S311  # the same every time, guards nothing
    count = 300 if IS_HEAVY else 30
    places = [*range(0, 32, 4), *(rng.randrange(len(content)) for _ in range(count))]
    cut_short = 0
    for number, place in enumerate([*places, *places]):
        what = f"the log {'changed' if number < len(places) else 'cut off'} at byte {place}"
        target = lab.folder / "damaged.db"
        _copied(source, target)
        damaged = bytearray(content)
        if number < len(places):
            damaged[place] ^= rng.randrange(1, 256)
        else:
            del damaged[place:]
        _log(target).write_bytes(damaged)
        try:
            async with opened(lab, target) as stores:
                found = [each.id for each in await gathered(stores.skills.scan())]
                assert found == names[: len(found)], f"{what}: {found}"
                assert (await stores.skills.search(limit=0)).total == len(found), what
                cut_short += len(found) < len(names)
                await stores.skills.create(skill("later"))
            with raw(target) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], what
        except DataCorruptionError as error:
            assert str(target) in str(error), f"{what}: {error}"  # noqa: PT017
        _delete(target)
    assert cut_short > len(places), f"only {cut_short} of {2 * len(places)} damages were noticed at all"
