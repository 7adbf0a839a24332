"""What was acknowledged is there after a close, and after a SIGKILL at any moment; nothing is there in part.

A process writes to all six stores from ten tasks at once, each of which does one write at a time and notes
in a file what was acknowledged, right after the await returned. It is killed at a random moment. Then each
task's data must be what its acknowledged writes make of it, or what those and its next one make of it; and
what earlier rounds left must be as it was. `KP_DURABILITY_ROUNDS` (8) sets how often in a row it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from kpstore import AllStores, KpStoreError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._processes import processes, tell
from kpstore_conformance.checks._samples import contents, difference, fill, gathered, skill, within
from kpstore_conformance.checks._written import assert_run, by_task, state_of

ROUNDS = int(os.environ.get("KP_DURABILITY_ROUNDS", "8"))

_EARLIEST_S, _LATEST_S = 0.05, 0.5
"""When a writer is killed, after it began to write: some have hardly begun, some have written thousands."""

_OPENS_S = 30.0


async def _assert_sound(lab: Lab, stores: AllStores) -> None:
    """Where the data is SQLite's, what SQLite says of the file."""
    if stores.backend == "sqlite":
        rows = await lab.inspect_sql("PRAGMA integrity_check")
        assert [list(row.values()) for row in rows] == [["ok"]], f"integrity_check: {rows[:5]}"


async def _kill_a_writer(lab: Lab, run: int, chance: random.Random) -> dict[str, list[list[Any]]]:
    """Start a writer, kill it, and give what it was told."""
    path = lab.folder / f"acknowledged-{run}"
    async with processes(lab, "write_until_killed") as (process,):
        tell(process, {"path": str(path), "round_number": run})
        await asyncio.sleep(chance.uniform(_EARLIEST_S, _LATEST_S))
        assert process.returncode is None, await _complaint(process)
        process.kill()
        await process.wait()
    return by_task(_lines(path))


def _lines(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def _complaint(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    return f"the writer ended by itself: {(await process.stderr.read()).decode(errors='replace')[-2000:]}"


@check(
    clauses=["GEN-10", "GEN-8", "AUDIT-1"],
    requires=["durable", "controllable_clock"],
    name="what was acknowledged survives SIGKILL, eight times in a row",
    timeout_s=60 + 20 * ROUNDS,
)
async def killed_writers(lab: Lab) -> None:
    """Writers on all six stores are killed at random moments, one after the other on the same data: after
    each everything acknowledged is there, nothing is there in part, and the data is sound.
    """
    chance = random.Random()  # noqa: S311  # other moments every time: that is what finds something
    before: dict[int, dict[str, Any]] = {}
    acknowledged = 0
    for run in range(ROUNDS):
        noted = await _kill_a_writer(lab, run, chance)
        acknowledged += sum(map(len, noted.values()))
        stores = await within(_OPENS_S, lab.open(), f"opening after kill {run}")
        await assert_run(stores, run, noted)
        for earlier, state in before.items():
            changed = difference(state, await state_of(stores, earlier))
            assert not changed, f"kill {run} changed what kill {earlier} had left: {changed}"
        before[run] = await state_of(stores, run)
        await _assert_sound(lab, stores)
        await stores.close()
    assert acknowledged > 0, "no writer got as far as one acknowledged write: nothing was tried"


@check(
    clauses=["GEN-8", "GEN-10"],
    requires=["durable", "multi_process"],
    name="a handle goes on when another process is killed amid its writes",
)
async def survivors(lab: Lab) -> None:
    """A process that is killed while it writes takes no lock with it: a handle that was open all the time
    writes on at once, and its earlier writes are there.
    """
    chance = random.Random()  # noqa: S311
    stores = await lab.open()
    for run in range(2):
        await stores.skills.create(skill(f"before {run}"))
        await _kill_a_writer(lab, run, chance)
        await within(
            4, stores.skills.create(skill(f"after {run}")), "a write after another process was killed"
        )
        await within(4, stores.reputation.upsert("survivor", 1, "went on"), "an upsert after the kill")
    for id in ("before 0", "after 0", "before 1", "after 1"):
        assert await stores.skills.get_by_id(id) is not None, f"{id!r} is not there"


def _appears(file: Path) -> None:
    """Wait until the file is there."""
    end = monotonic() + _OPENS_S
    while not file.exists() and monotonic() < end:
        sleep(0.0005)


@check(
    clauses=["SQL-1", "SQL-2"],
    name="a file is made whole or not at all when its maker is killed",
)
async def killed_makers(lab: Lab) -> None:
    """Processes that make a new file are killed at random moments, while they make it, write to it and close
    it: the next one opens it, finds what was acknowledged, and SQLite finds the file in order.
    """
    chance = random.Random()  # noqa: S311
    database = Path(lab.settings.sqlite_path)
    for run in range(2 * ROUNDS):
        path = lab.folder / f"acknowledged-{run}"
        async with processes(lab, "late:open_and_write") as (process,):
            tell(process, {"path": str(path), "round_number": run})
            # The importing takes longest; what matters begins when the file is there.
            await asyncio.to_thread(_appears, database)
            # Most are killed in the opening; the others in the writes or in the closing.
            await asyncio.sleep(chance.uniform(0, 0.06 if run % 4 == 0 else 0.015))
            with suppress(ProcessLookupError):  # it may have come to its end
                process.kill()
            await process.wait()
        noted = _lines(path)
        stores = await within(_OPENS_S, lab.open(), f"opening after kill {run}")
        ids = [each.id for each in await gathered(stores.skills.scan())]
        for _, n in noted:
            assert n == "closed" or f"{run} {n}" in ids, f"the acknowledged skill {run} {n} is not there"
        await _assert_sound(lab, stores)
        await stores.close()
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()


@check(
    clauses=["GEN-10"],
    requires=["durable"],
    name="every kind of record is the same after closing and opening",
)
async def clean_reopening(lab: Lab) -> None:
    """What every store shows, keys that verify, revoked ones, buckets and refusals are after each of three
    closings and openings what they were before.
    """
    stores = await lab.open()
    await fill(stores)
    alive = await stores.api_keys.create("author", ["read", "admin"], "enterprise")
    revoked = await stores.api_keys.create("author", ["write"], "free")
    assert await stores.api_keys.revoke(revoked.record.key_prefix)
    await stores.skills.delete("another")
    before = await contents(stores)
    for taken in range(1, 4):
        decision = await stores.rate_limit.consume("caller", "pro", "POST")
        assert decision.remaining == decision.limit - taken, "a bucket does not go on after reopening"
        await asyncio.gather(stores.close(), stores.close())
        await stores.close()
        stores = await within(_OPENS_S, lab.open(), "reopening")
        changed = difference(before, await contents(stores))
        assert not changed, f"reopening changed {changed}"
        assert await stores.api_keys.verify(alive.raw_key) == alive.record
        assert await stores.api_keys.verify(revoked.raw_key) is None


@check(
    clauses=["GEN-10", "GEN-7"],
    requires=["durable"],
    name="calls on their way when the store is closed are whole",
)
async def closing_amid_calls(lab: Lab) -> None:
    """Of hundreds of writes that are on their way when close() is called, each that is acknowledged is there
    after reopening, each other ends in an error of ours, and close() ends.
    """
    for number in range(3):
        stores = await lab.open()
        writes = [asyncio.ensure_future(stores.skills.create(skill(f"{number} {n}"))) for n in range(300)]
        await asyncio.sleep(0.002 * number)
        await within(_OPENS_S, stores.close(), "closing amid calls")
        results = await within(
            _OPENS_S, asyncio.gather(*writes, return_exceptions=True), "calls amid closing"
        )
        wrong = [
            one for one in results if isinstance(one, BaseException) and not isinstance(one, KpStoreError)
        ]
        assert not wrong, f"a call amid closing ended in {wrong[0]!r}"
        stores = await lab.open()
        there = {each.id for each in await gathered(stores.skills.scan())}
        lost = [one.id for one in results if not isinstance(one, BaseException) and one.id not in there]
        assert not lost, f"{len(lost)} acknowledged writes are lost: {lost[:3]}"
        await stores.close()
