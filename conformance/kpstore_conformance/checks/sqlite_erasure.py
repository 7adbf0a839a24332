"""What was deleted or replaced is nowhere in the file once it is closed (clause SQL-6).

The bytes of the file are the witness: every record holds markers, random texts that occur in it and
nowhere else; after close() no marker of a record that went is in any file of the folder, and each of one
that stays is.

SQLite's own `secure_delete` does not do it: it zeroes the cells that it frees, but where it splits or
merges pages it moves cells and leaves the copies in the free part of the old page. So the records here
are written in a random order of their ids, which splits pages, and go in another.
"""

from __future__ import annotations

import random
import re
import sqlite3
from datetime import timedelta
from pathlib import Path

from kpstore import AllStores, StoredKnowledgeUnit, StoredSkill
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks.sqlite_support import IS_HEAVY, opened, path_of, python, raw, skill, unit

# Bodies from some bytes to far beyond a page of the database, which takes 4,096.
SIZES = [10, 60, 200, 450, 900, 1900, 3900, 4100, 9000, 40_000]
TAGS = 24  # the more entries an index has, the more of them SQLite moves about
ROUNDS = 20 if IS_HEAVY else 2

_MARKER = re.compile(rb"mk[0-9a-f]{22}", re.IGNORECASE)


class Markers:
    """Makes markers, and knows which of them belong to a record that is there."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  # the same every time, guards nothing
        self.living: set[str] = set()
        self.gone: set[str] = set()

    def new(self) -> str:
        """A marker: 24 characters, the same under folding."""
        marker = f"mk{self.random.getrandbits(88):022x}"
        self.living.add(marker)
        return marker

    def body(self, marker: str) -> str:
        """A text of some size that begins and ends with the marker."""
        size = 300_000 if self.random.random() < 0.002 else self.random.choice(SIZES)
        return f"{marker} {' filler' * (size // 7)} {marker}"

    def went(self, markers: list[str]) -> None:
        """The record with these is no more."""
        self.living.difference_update(markers)
        self.gone.update(markers)

    def check(self, folder: Path, when: str) -> None:
        """No marker of those that went in any file below `folder`, each of the others in one."""
        found = {
            marker.decode().lower()
            for file in folder.rglob("*")
            if file.is_file()
            for marker in _MARKER.findall(file.read_bytes())
        }
        left = sorted(self.gone & found)
        assert not left, f"{when}: {len(left)} of {len(self.gone)} erased texts are in the file: {left[:3]}"
        lost = sorted(self.living - found)
        assert not lost, f"{when}: {len(lost)} texts that were not erased are not in the file: {lost[:3]}"


async def _documents(stores: AllStores, markers: Markers, count: int) -> None:
    """Create, replace and delete skills and units at random."""
    rng = markers.random
    skills: dict[str, list[str]] = {}
    units: dict[str, list[str]] = {}

    def new_skill(id: str) -> tuple[list[str], StoredSkill]:
        made = [markers.new() for _ in range(4 + TAGS)]
        return (
            made,
            skill(
                id,
                name=made[0],
                description=made[1].upper() + " É",  # is stored twice: as given, and folded
                content=markers.body(made[2]),
                domain=made[3],
                tags=tuple(made[4:]),
                files={f"{made[0]}.md": made[1]},
                quality_score=rng.random(),
            ),
        )

    def new_unit(id: str) -> tuple[list[str], StoredKnowledgeUnit]:
        made = [markers.new() for _ in range(2)]
        return made, unit(id, agent_id=made[0], content=markers.body(made[1]), quality=rng.random())

    async def put_skills(ids: list[str]) -> None:
        made = {id: new_skill(id) for id in ids}
        await stores.skills.create_many([record for _, record in made.values()])
        for id, (texts, _) in made.items():
            markers.went(skills.get(id, []))
            skills[id] = texts

    async def put_units(ids: list[str]) -> None:
        made = {id: new_unit(id) for id in ids}
        await stores.knowledge.create_many([record for _, record in made.values()])
        for id, (texts, _) in made.items():
            markers.went(units.get(id, []))
            units[id] = texts

    while len(skills) + len(units) < count:
        size = rng.choice([1, 30, 100])
        await put_skills([markers.new() for _ in range(size)])
        await put_units([markers.new() for _ in range(size)])
        await put_skills(rng.sample(list(skills), min(len(skills), 5)))
        await put_units(rng.sample(list(units), min(len(units), 5)))
        for id in rng.sample(list(skills), len(skills) // 5):
            assert await stores.skills.delete(id)
            markers.went([id, *skills.pop(id)])
        for id in rng.sample(list(units), len(units) // 5):
            assert await stores.knowledge.delete(f"kp:trace:{id}")
            markers.went([id, *units.pop(id)])


@check(
    clauses=["SQL-6"],
    backends=["sqlite"],
    name="no byte of a deleted or replaced skill or unit is left after close",
)
async def documents_are_erased(lab: Lab) -> None:
    """Of skills and units of 10 bytes to 300 kB, created, replaced and deleted at random, nothing is left
    after close(): no id, text, folded text, tag, domain, agent or body; of the others all is there.
    """
    for seed in range(ROUNDS):
        folder = lab.folder / f"documents{seed}"
        markers = Markers(seed)
        async with opened(lab, folder / "erased.db", sqlite_synchronous="normal") as stores:
            await _documents(stores, markers, 500)
        markers.check(folder, f"seed {seed}")
        # Opening it again and closing it brings nothing back.
        async with opened(lab, folder / "erased.db") as stores:
            assert await stores.skills.get_by_id("nothing") is None
        markers.check(folder, f"seed {seed}, opened again")


@check(
    clauses=["SQL-6", "AUDIT-3", "RATE-6"],
    backends=["sqlite"],
    name="no byte of an expired entry, violation or bucket is left after close",
)
async def expired_rows_are_erased(lab: Lab) -> None:
    """Of audit entries older than 90 days, violations older than an hour and buckets that are full again,
    once later writes have cleared them away, nothing is left after close().
    """
    markers = Markers(1)
    path = path_of(lab)
    count = 150
    async with opened(lab, path, sqlite_synchronous="normal") as stores:
        for _ in range(count):
            made = [markers.new() for _ in range(6)]
            await stores.audit_log.log(
                made[0], made[1], made[2], made[3], made[4], {made[5]: markers.body(made[5])}
            )
            markers.went(made)  # soon
            identifier = markers.new()
            await stores.rate_limit.consume(identifier, "free", "GET")
            await stores.rate_limit.record_429(identifier)
            markers.went([identifier])
        lab.clock.advance(timedelta(days=91))
        kept = markers.new()
        for _ in range(count):  # a call clears away a bounded number of rows
            await stores.audit_log.log(kept, kept, "t", "r", "ip")
            await stores.rate_limit.consume(kept, "free", "GET")
            await stores.rate_limit.record_429(kept)
    with raw(path) as db:
        for table, expected in (("audit_log", count), ("rate_limit_violations", count), ("rate_limits", 1)):
            found = db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608  # our names
            assert found == expected, f"{table} has {found} rows, not {expected}: nothing to look for yet"
    markers.check(path.parent, "after close")


_DELETE_AND_DIE = """
import asyncio, os
from kpstore import create_store
async def main():
    stores = await create_store()
    for each in (await stores.skills.search(query="erase", limit=1000)).data:
        await stores.skills.delete(each.id)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


@check(clauses=["SQL-6"], backends=["sqlite"], name="what a killed process deleted goes with the next close")
async def erasure_outlives_a_kill(lab: Lab) -> None:
    """A process that is killed after deleting leaves the erasure to the next handle that closes; and with
    several handles open it is done when the last of them has closed.
    """
    markers = Markers(2)
    records = [(markers.new(), markers.new()) for _ in range(800)]
    async with opened(lab, sqlite_synchronous="normal") as stores:
        await stores.skills.create_many(
            skill(id, name=f"{name} {'erase' if number % 3 == 0 else 'keep'}")
            for number, (id, name) in enumerate(records)
        )
    markers.check(path_of(lab).parent, "before anything is deleted")
    async with python(lab, _DELETE_AND_DIE) as process:
        assert await process.wait() == -9
    for pair in records[::3]:
        markers.went(list(pair))
    async with opened(lab):
        pass
    markers.check(path_of(lab).parent, "after the next close")
    one, other = await lab.open(), await lab.open()
    await one.skills.delete(records[1][0])
    markers.went(list(records[1]))
    await one.close()
    await other.close()
    markers.check(path_of(lab).parent, "after the last close")


@check(
    clauses=["SQL-6", "SQL-3"],
    backends=["sqlite"],
    name="what the TypeScript registry deleted is gone after the upgrade",
)
async def registry_leftovers_are_erased(lab: Lab) -> None:
    """The registry left the text of deleted units in the file; upgraded and closed, it is gone."""
    markers = Markers(3)
    path = path_of(lab)
    with raw(path) as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute(
            "CREATE TABLE skills (id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL,"
            " version TEXT, author TEXT, tags TEXT NOT NULL DEFAULT '[]', content TEXT NOT NULL, visibility"
            " TEXT NOT NULL DEFAULT 'public', quality_score REAL NOT NULL DEFAULT 0,"
            " created_at TEXT NOT NULL, updated_at TEXT NOT NULL)"
        )
        pairs = [_registry_skill(db, markers) for _ in range(300)]
        for pair in pairs[30:]:  # most of them, so that what is written next does not cover it
            db.execute("DELETE FROM skills WHERE id = ?", (pair[0],))
            markers.went(pair)
    content = path.read_bytes()
    assert any(marker.encode() in content for marker in markers.gone), "the check's set-up left nothing"
    async with opened(lab) as stores:
        assert (await stores.skills.search(limit=0)).total == 30
    markers.check(path.parent, "after the upgrade")


def _registry_skill(db: sqlite3.Connection, markers: Markers) -> list[str]:
    made = [markers.new(), markers.new()]
    db.execute(
        "INSERT INTO skills (id, name, description, content, created_at, updated_at) VALUES (?, 'n', 'd', ?,"
        " '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z')",
        (made[0], markers.body(made[1])),
    )
    return made
