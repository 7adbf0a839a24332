"""What was acknowledged survives a power loss at any moment (clauses SQL-1, GEN-10, AUDIT-1, SQL-3).

A process writes while `kpstore_conformance.recorder` notes what it writes to its files and what it syncs;
from that, `kpstore_conformance.disks` makes the disks that a power cut could have left, at many moments of
one run: while commits are on their way, while the log is moved into the database, while a file is made,
upgraded, closed. Each is opened like any other data. Those modules say what is modelled and what is not.

`KP_POWER_LOSS_ROUNDS` (2) sets how many processes write, and half of it how many make or upgrade a file.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from kpstore import AllStores, KpStoreError, StoredSkill
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._processes import processes, tell
from kpstore_conformance.checks._samples import contents, difference, gathered
from kpstore_conformance.checks._written import assert_run, by_task, state_of
from kpstore_conformance.checks.sqlite_support import opened, raw
from kpstore_conformance.disks import Kept, Recording
from kpstore_conformance.recorder import command

__all__: list[str] = []

ROUNDS = int(os.environ.get("KP_POWER_LOSS_ROUNDS", "2"))
_MOMENTS = 3
"""How many moments of a round are tried, each with every way to keep what was not synced."""

_SHORT_BYTES = (200_000, 6_000_000)
_LONG_BYTES = (22_000_000, 36_000_000)
"""How much a writer has written when it is killed. After the long ones, a log that is moved into the database
at 16 MiB, and at some more that came in meanwhile, was.
"""
_SHORT_CONTENT_BYTES, _LONG_CONTENT_BYTES = 6_000, 50_000
_WRITES_S = 20.0
"""A writer that has not written so much by then is killed all the same: it takes a tenth of that."""
_LINE = 4
"""So many writers follow one another on the same data before the next begins with none: what each left is
looked at after every cut of its successors.
"""
_OPENS_S = 30.0


def _file(lab: Lab, folder: Path) -> Path:
    """Where the case's database would be in another folder."""
    return folder / Path(lab.settings.sqlite_path).name


@asynccontextmanager
async def _recorded(
    lab: Lab, job: str, folder: Path, database: Path, recording: Path, **arguments: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that does a job of `_worker` on a database below `folder`, and is recorded."""
    async with processes(
        lab, job, runner=command(recording, folder), variables={"KP_SQLITE_PATH": str(database)}
    ) as (process,):
        tell(process, {"path": str(recording), **arguments})
        yield process


def _grown(recording: Path, written: float) -> None:
    """Wait until so many bytes were written since now, or for as long as that may take."""
    end, target = monotonic() + _WRITES_S, recording.stat().st_size + written
    while recording.stat().st_size < target and monotonic() < end:
        sleep(0.002)


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    complaint = (await process.stderr.read()).decode(errors="replace")
    assert await process.wait() == 0, f"the recorded process: {complaint[-2000:]}"


@asynccontextmanager
async def _after_the_cut(lab: Lab, database: Path, what: str) -> AsyncIterator[AllStores]:
    """The stores on a disk; once they are closed, SQLite must find the file in order, indexes included."""
    try:
        async with asyncio.timeout(_OPENS_S), opened(lab, database) as stores:
            yield stores
    except TimeoutError:
        raise AssertionError(f"{what}: not opened, read and closed after {_OPENS_S:g} s") from None
    except KpStoreError as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    with raw(database) as db:
        found = db.execute("PRAGMA integrity_check").fetchall()
    assert found == [("ok",)], f"{what}: integrity_check: {found[:5]}"


def _disks(
    lab: Lab, recording: Recording, moments: Sequence[int], chance: random.Random
) -> Iterator[tuple[int, Kept, Path]]:
    """Each disk that may be there after each of the moments: when, what it kept, and its folder, which is
    removed when the next one is asked for.
    """
    folder = lab.folder / "disk"
    for moment, disk in recording.disks(moments):
        for kept in Kept:
            folder.mkdir()
            disk.write(folder, kept, chance)
            yield moment, kept, folder
            shutil.rmtree(folder)


def _chosen(recording: Recording, first: int, chance: random.Random) -> list[int]:
    """Moments to cut the power at, none before `first`: the last one, any, and some amid a checkpoint."""
    amid = [moment for moment in recording.checkpoints() if moment >= first]
    anywhere = range(first, len(recording) + 1)
    return [
        len(recording),
        *(chance.choice(amid if amid and number % 2 else anywhere) for number in range(_MOMENTS - 1)),
    ]


def _said(round_number: int, moment: int, recording: Recording, kept: Kept) -> str:
    return (
        f"round {round_number}, power lost at write {moment} of {len(recording)},"
        f" of what was not synced the disk keeps {kept}"
    )


@check(
    clauses=["SQL-1", "GEN-10", "AUDIT-1"],
    requires=["durable", "inspector.power_loss"],
    name="what was acknowledged survives a power loss at any moment",
    timeout_s=120 + 60 * ROUNDS,
)
async def power_lost_amid_writes(lab: Lab) -> None:
    """Writers on all six stores lose the power at random moments and amid checkpoints: on every disk that
    this may leave, all that was acknowledged is there, nothing is there in part, and the file is in order.
    The next writer goes on with one of these disks, and loses the power in opening it, too.
    """
    chance = random.Random()  # noqa: S311  # other moments every time: that is what finds something
    before: dict[int, dict[str, Any]] = {}
    live = lab.folder / "live"
    acknowledged = 0
    for run in range(ROUNDS):
        if run % _LINE == 0:
            before = {}
            shutil.rmtree(live, ignore_errors=True)
            live.mkdir()
        path = lab.folder / "recording"
        is_long = run % 2 == 0
        async with _recorded(
            lab,
            "write_until_killed",
            live,
            _file(lab, live),
            path,
            round_number=run,
            content_bytes=_LONG_CONTENT_BYTES if is_long else _SHORT_CONTENT_BYTES,
        ) as writer:
            size = chance.uniform(*(_LONG_BYTES if is_long else _SHORT_BYTES))
            await asyncio.to_thread(_grown, path, size)
            assert writer.returncode is None, "the writer ended by itself"
            writer.kill()
            await writer.wait()
        recording = Recording(path)
        path.unlink()
        acknowledged += len(recording.acknowledged(len(recording)))
        moments = _chosen(recording, recording.first_write(), chance)
        goes_on_with = chance.choice([(moment, kept) for moment in moments for kept in Kept])
        state: dict[str, Any] = {}
        for moment, kept, disk in _disks(lab, recording, moments, chance):
            what = _said(run, moment, recording, kept)
            if (moment, kept) == goes_on_with:
                shutil.rmtree(live)
                shutil.copytree(disk, live)
            async with _after_the_cut(lab, _file(lab, disk), what) as stores:
                try:
                    await assert_run(stores, run, by_task(recording.acknowledged(moment)))
                    for earlier, left in before.items():
                        changed = difference(left, await state_of(stores, earlier))
                        assert not changed, f"what round {earlier} had left is another: {changed}"
                    if (moment, kept) == goes_on_with:
                        state = await state_of(stores, run)
                except AssertionError as error:
                    raise AssertionError(f"{what}: {error}") from error
        before[run] = state
    assert acknowledged > 0, "no writer got as far as one acknowledged write: nothing was tried"


@check(
    clauses=["GEN-10"],  # and none of SQLite's: it is for every backend that keeps its data in such files
    requires=["durable", "inspector.power_loss"],
    name="what a new file was given survives a power loss, its folders too",
    timeout_s=120 + 60 * ROUNDS,
)
async def power_lost_in_a_short_life(lab: Lab) -> None:
    """The power is lost while a file is made in a folder that was not there, written, cleaned of what was
    deleted, and closed: whatever the disk keeps, what was acknowledged is there, and nothing in part.
    """
    chance = random.Random()  # noqa: S311
    for number in range((ROUNDS + 1) // 2):
        live, path = lab.folder / "live", lab.folder / "recording"
        live.mkdir()
        inner = Path("made") / "for it"
        async with _recorded(
            lab, "late:live_and_close", live, _file(lab, live / inner), path, round_number=number
        ) as process:
            await _ended(process)
        recording = Recording(path)
        moments = [chance.randrange(len(recording) + 1) for _ in range(3 * _MOMENTS)]
        for moment, kept, disk in _disks(lab, recording, [*moments, len(recording)], chance):
            what = _said(number, moment, recording, kept)
            async with _after_the_cut(lab, _file(lab, disk / inner), what) as stores:
                skills = await gathered(stores.skills.scan())
            _assert_short_life(what, number, recording.acknowledged(moment), skills)
        shutil.rmtree(live)
        path.unlink()


def _assert_short_life(what: str, number: int, noted: list[list[Any]], skills: list[StoredSkill]) -> None:
    """Fail unless the skills are those of `_worker.live_and_close`, with the next write or without it."""
    there = {skill.id: skill.content.split(" ", 1)[0] for skill in skills}
    acknowledged = sum(kind not in ("opened", "closed") for kind, *_ in noted)

    def after(count: int) -> dict[str, str]:
        made = {f"{number} {n}": "first" for n in range(min(count, 4))}
        if count > 4:
            made[f"{number} 1"] = "second"
        if count > 5:
            del made[f"{number} 2"]
        return made

    allowed = (after(acknowledged), after(acknowledged + 1))
    assert there in allowed, f"{what}: after {noted[-1:]} there is {there}, not {allowed[0]} or {allowed[1]}"


_REGISTRY = Path(__file__).parents[1] / "data" / "typescript-registry" / "knowledgepulse.sqlite"


@check(
    clauses=["SQL-3"],
    backends=["sqlite"],
    requires=["durable", "inspector.power_loss"],
    name="an upgrade that loses the power leaves the old file or the new one",
    timeout_s=120 + 60 * ROUNDS,
)
async def power_lost_amid_an_upgrade(lab: Lab) -> None:
    """The power is lost while a file of the TypeScript registry is upgraded: whatever the disk keeps, opening
    it gives all that an upgrade gives that nothing cuts short.
    """
    chance = random.Random()  # noqa: S311
    whole = lab.folder / "whole.db"
    shutil.copy(_REGISTRY, whole)
    async with opened(lab, whole) as stores:
        expected = await contents(stores)
    for number in range((ROUNDS + 1) // 2):
        live, path = lab.folder / "live", lab.folder / "recording"
        live.mkdir()
        shutil.copy(_REGISTRY, _file(lab, live))
        async with _recorded(
            lab, "late:live_and_close", live, _file(lab, live), path, round_number=number
        ) as process:
            await _ended(process)
        recording = Recording(path)
        upgraded = recording.acknowledgement("opened")
        moments = [chance.randrange(1, upgraded) for _ in range(2 * _MOMENTS)]
        for moment, kept, disk in _disks(lab, recording, [*moments, upgraded], chance):
            what = _said(number, moment, recording, kept)
            async with _after_the_cut(lab, _file(lab, disk), what) as stores:
                changed = difference(expected, await contents(stores))
                assert not changed, f"{what}: not what an upgrade gives: {changed}"
        shutil.rmtree(live)
        path.unlink()
