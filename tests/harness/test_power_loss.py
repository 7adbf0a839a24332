"""A recording says what was written and synced, and the disks made from it keep what they must, and may."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance import recorder
from kpstore_conformance.check import Lab
from kpstore_conformance.checks import power_loss
from kpstore_conformance.disks import Disk, Kept, Recording
from kpstore_conformance.target import CaseTarget, adapter_for

CHANCE = random.Random(1)


def recording_of(path: Path, *records: Any) -> Recording:
    """A recording of records; a pair is one with its payload."""
    with path.open("wb") as file:
        for each in records:
            record, payload = each if isinstance(each, tuple) else (each, b"")
            file.write(json.dumps(record).encode() + b"\n" + payload)
    return Recording(path)


def made(file: int, name: str, content: bytes = b"", durable: bool = False) -> Any:
    return (
        {"op": "file", "file": file, "name": name, "durable": durable, "bytes": len(content)},
        content,
    )


def wrote(file: int, at: int, content: bytes) -> Any:
    return {"op": "write", "file": file, "at": at, "bytes": len(content)}, content


def syncing(file: int, sync: int) -> Any:
    return {"op": "syncing", "file": file, "sync": sync}


def synced(file: int, sync: int) -> Any:
    return {"op": "synced", "file": file, "sync": sync}


ENTRIES = {"op": "entries", "name": "."}


def left(folder: Path, recording: Recording, kept: Kept, moment: int | None = None) -> dict[str, bytes]:
    """What is on a disk."""
    ((_, disk),) = recording.disks([len(recording) if moment is None else moment])
    folder.mkdir()
    disk.write(folder, kept, CHANCE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_synced_is_kept_and_nothing_else_need_be(tmp_path: Path) -> None:
    recording = recording_of(
        tmp_path / "r", made(1, "a", b"old", True), wrote(1, 0, b"new"), syncing(1, 1), synced(1, 1),
        wrote(1, 3, b"er"), {"op": "truncate", "file": 1, "size": 1},
    )  # fmt: skip
    assert left(tmp_path / "all", recording, Kept.ALL) == {"a": b"n"}
    assert left(tmp_path / "nothing", recording, Kept.NOTHING) == {"a": b"new"}
    assert left(tmp_path / "before the sync", recording, Kept.NOTHING, 3) == {"a": b"old"}


def test_a_sync_covers_what_was_written_before_it_began(tmp_path: Path) -> None:
    recording = recording_of(
        tmp_path / "r", made(1, "a", b"1234", True),
        wrote(1, 0, b"a"), syncing(1, 1), wrote(1, 1, b"b"), syncing(1, 2), synced(1, 1), wrote(1, 2, b"c"),
        synced(1, 2),
    )  # fmt: skip
    assert left(tmp_path / "after 1", recording, Kept.NOTHING, 6) == {"a": b"a234"}
    assert left(tmp_path / "after 2", recording, Kept.NOTHING) == {"a": b"ab34"}


def test_a_name_is_safe_once_its_folder_was_synced(tmp_path: Path) -> None:
    inner = {"op": "folder", "name": "inner", "durable": False}
    recording = recording_of(
        tmp_path / "r", inner, made(1, "inner/a"), syncing(1, 1), synced(1, 1),
        {"op": "entries", "name": "inner"}, ENTRIES, {"op": "delete", "name": "inner/a"},
        made(2, "inner/a", b"another"),
    )  # fmt: skip
    assert left(tmp_path / "only its own folder", recording, Kept.NOTHING, 5) == {}
    assert left(tmp_path / "both", recording, Kept.NOTHING, 6) == {"inner/a": b""}
    assert left(tmp_path / "deleted for now", recording, Kept.NOTHING) == {"inner/a": b""}
    assert left(tmp_path / "the next of that name", recording, Kept.ALL) == {"inner/a": b"another"}


def test_the_beginning_and_the_sectors_of_what_was_not_synced(tmp_path: Path) -> None:
    """Over many disks, each beginning is there and nothing else; of the sectors, each combination is."""
    recording = recording_of(
        tmp_path / "r", made(1, "a", bytes(1536), True),
        *(wrote(1, place * 512, bytes([65 + place]) * 512) for place in range(3)),
        {"op": "truncate", "file": 1, "size": 1600},
    )  # fmt: skip

    def seen(kept: Kept) -> set[str]:
        found = [left(tmp_path / f"{kept}-{n}", recording, kept)["a"] for n in range(200)]
        assert {len(content) for content in found} == {1536, 1600}
        return {bytes(content[place * 512] or 45 for place in range(3)).decode() for content in found}

    assert seen(Kept.BEGINNING) == {"---", "A--", "AB-", "ABC"}
    assert seen(Kept.SECTORS) == {f"{a}{b}{c}" for a in "-A" for b in "-B" for c in "-C"}


def test_a_write_can_be_torn_at_sectors_alone(tmp_path: Path) -> None:
    recording = recording_of(tmp_path / "r", made(1, "a", bytes(2000), True), wrote(1, 500, b"x" * 1000))
    found = {left(tmp_path / f"{n}", recording, Kept.SECTORS)["a"] for n in range(100)}
    pieces = [(0, 500), (500, 512), (512, 1024), (1024, 1500), (1500, 2000)]
    assert all(len(set(content[start:end])) == 1 for content in found for start, end in pieces)
    assert len(found) == 8


def test_what_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r"
    recording_of(path, made(1, "a", b"", True), ["done", 1], wrote(1, 0, b"whole"), wrote(1, 5, b"cut off"))
    path.write_bytes(path.read_bytes()[:-3])
    recording = Recording(path)
    assert len(recording) == 3
    assert recording.acknowledged(1) == []
    assert recording.acknowledged(2) == [["done", 1]]
    assert recording.acknowledgement("done", 1) == 1
    assert left(tmp_path / "disk", recording, Kept.ALL) == {"a": b"whole"}


def test_an_unknown_record_is_refused() -> None:
    with pytest.raises(ValueError, match="'rename'"):
        Disk().apply(0, {"op": "rename", "name": "a"}, b"")


WRITER = """
import os, sqlite3, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "made").mkdir()
db = sqlite3.connect(folder / "made" / "a.db", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute(f"PRAGMA synchronous = {sys.argv[2]}")
db.execute("CREATE TABLE t (n)")
for n in range(20):
    db.execute("INSERT INTO t VALUES (?)", (n,))
db.execute("CREATE TEMP TABLE temporary (n)")
os.fsync(os.open(folder, os.O_RDONLY))
db.execute("PRAGMA wal_checkpoint(PASSIVE)")
db.execute("INSERT INTO t VALUES (20)")
db.close() if sys.argv[3] == "closed" else os._exit(0)
"""


@pytest.mark.parametrize("end", ["closed", "open"])
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_a_recorded_database_can_be_made_anew(tmp_path: Path, synchronous: str, end: str) -> None:
    """All that was recorded makes the very files; nothing but what was synced, those of a power cut."""
    live, path = tmp_path / "live", tmp_path / "recording"
    live.mkdir()
    (tmp_path / "writer.py").write_text(WRITER)
    subprocess.run(
        [sys.executable, *recorder.command(path, live), "writer", str(live), synchronous, end],
        check=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    recording = Recording(path)
    expected = {
        str(file.relative_to(live)): file.read_bytes()
        for file in live.rglob("*")
        if file.is_file() and not file.name.endswith("-shm")
    }
    assert left(tmp_path / "all", recording, Kept.ALL) == expected
    assert set(expected) == ({"made/a.db"} if end == "closed" else {"made/a.db", "made/a.db-wal"})
    left(tmp_path / "nothing", recording, Kept.NOTHING)
    db = sqlite3.connect(tmp_path / "nothing" / "made" / "a.db")
    (count,) = db.execute("SELECT COUNT(*) FROM t").fetchone()
    db.close()
    # The checkpoint synced the log; of what came after it, NORMAL syncs nothing before the next one.
    assert count == (20 if (synchronous, end) == ("NORMAL", "open") else 21)
    assert recording.checkpoints()


def test_a_library_that_hides_its_functions_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorder.is_available()

    def hidden() -> Any:
        raise AttributeError("undefined symbol: sqlite3_vfs_find")

    monkeypatch.setattr(recorder, "_sqlite", hidden)
    assert not recorder.is_available()
    assert "power_loss" not in adapter_for("sqlite").inspectors()


def on_normal(body: Callable[[Lab], Awaitable[None]]) -> None:
    """Run something on SQLite with `synchronous=normal`."""

    async def run() -> None:
        target = CaseTarget(adapter_for("sqlite"))
        target.settings = replace(target.settings, sqlite_synchronous="normal")
        try:
            await body(Lab(target))
        finally:
            await target.dispose()

    asyncio.run(run())


def test_normal_is_seen_to_lose_its_tail() -> None:
    """The check of power losses finds what `synchronous=normal` does not promise to keep."""
    with pytest.raises(AssertionError, match=r"the disk keeps .* writes were acknowledged"):
        on_normal(power_loss.power_lost_amid_writes.function)


def test_normal_loses_no_more_than_its_tail() -> None:
    """With `synchronous=normal`, the file is sound on every disk, and what is there came first."""

    async def cut(lab: Lab) -> None:
        live, path = lab.folder / "live", lab.folder / "recording"
        live.mkdir()
        database = live / "kpstore.db"
        async with power_loss._recorded(
            lab, "write_until_killed", live, database, path, round_number=0, content_bytes=6000
        ) as writer:
            await asyncio.to_thread(power_loss._grown, path, 8_000_000)
            writer.kill()
            await writer.wait()
        recording = Recording(path)
        moments = [CHANCE.randrange(recording.first_write(), len(recording)) for _ in range(3)]
        lost = 0
        for moment, kept, disk in power_loss._disks(lab, recording, moments, CHANCE):
            acknowledged = [n for kind, n, *_ in recording.acknowledged(moment) if kind == "vote"]
            async with power_loss._after_the_cut(lab, disk / "kpstore.db", kept) as stores:
                there = [int(vote.validator_id) for vote in await stores.reputation.get_votes("unit 0")]
            assert there == list(range(len(there)))
            lost += len(there) < len(acknowledged)
            assert len(there) <= len(acknowledged) + 1
        assert lost, "no disk has lost anything"

    on_normal(cut)
