"""The disks that a power cut could leave, made from a recording of `kpstore_conformance.recorder`.

What is modelled. A file's content is safe from the end of a sync of it on, as far as it was written before
the sync began. A name (a file made, a folder made, a file deleted) is safe once its folder was synced: that
is all POSIX promises, and less than most file systems give. Of what is not safe the disk keeps, by `Kept`:
nothing; all, as when the process alone dies; what was done up to some moment; or any of its 512-byte
sectors and names and none of the others, in any order, so that a write may be there in part (torn), and a
later one without an earlier one. A sector that was not kept has its old content, zeros where there was none.

What is not. A disk that says it has synced and has not; one that damages what lies beside the bytes written
(SQLite relies on "powersafe overwrite" too) or writes half a sector; bits that rot; a file system that moves
old data into a file that grew. And what a recording does not see, see there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["Disk", "Kept", "Recording"]

_SECTOR_BYTES = 512
_FOLDER = -1  # what a name leads to, if not to a file's number
_NOTHING = None

_Record = tuple[dict[str, Any], bytes]


class Kept(StrEnum):
    """What the disk keeps of what was not synced."""

    NOTHING = "nothing"
    ALL = "all"
    BEGINNING = "what was done up to some moment"
    SECTORS = "any of its sectors"


@dataclass
class _File:
    synced: bytearray
    waiting: list[tuple[int, dict[str, Any], bytes]] = field(default_factory=list)
    """Moment, record and payload of each write and truncation that no sync has covered."""


class Disk:
    """The files as they are at one moment of a recording, and what of them is safe."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._names: dict[str, int | None] = {}  # the safe ones, and what they lead to
        self._waiting_names: list[tuple[int, str, int | None]] = []
        self._syncs: dict[int, int] = {}  # when each began

    def apply(self, moment: int, record: dict[str, Any], payload: bytes) -> None:
        """Go on by one record."""
        name = record.get("name")
        match record["op"]:
            case "file" | "folder" as kind:
                leads_to = record["file"] if kind == "file" else _FOLDER
                if kind == "file":
                    self._files[leads_to] = _File(bytearray(payload))
                if record["durable"]:
                    self._names[str(name)] = leads_to
                else:
                    self._waiting_names.append((moment, str(name), leads_to))
            case "delete":
                self._waiting_names.append((moment, str(name), _NOTHING))
            case "entries":
                still = []
                for waiting in self._waiting_names:
                    if str(Path(waiting[1]).parent) == name:
                        self._names[waiting[1]] = waiting[2]
                    else:
                        still.append(waiting)
                self._waiting_names = still
            case "write" | "truncate":
                self._files[record["file"]].waiting.append((moment, record, payload))
            case "syncing":
                self._syncs[record["sync"]] = moment
            case "synced":
                file, began = self._files[record["file"]], self._syncs.pop(record["sync"])
                for at, done, content in file.waiting:
                    if at < began:
                        _change(file.synced, done, content)
                file.waiting = [waiting for waiting in file.waiting if waiting[0] >= began]
            case other:
                raise ValueError(f"the recording holds a record {other!r}")

    def is_amid_a_checkpoint(self) -> bool:
        """Whether a database itself, neither a log nor a journal, has content that no sync has covered."""
        names = self._names | {name: leads_to for _, name, leads_to in self._waiting_names}
        return any(
            leads_to in self._files and self._files[leads_to].waiting
            for name, leads_to in names.items()
            if not name.endswith(("-wal", "-journal"))
        )

    def write(self, folder: Path, kept: Kept, chance: random.Random) -> None:
        """Make the folder as the cut leaves it; `folder` must be empty."""
        unsafe = sorted(
            {moment for file in self._files.values() for moment, _, _ in file.waiting}
            | {moment for moment, _, _ in self._waiting_names}
        )
        first_lost = chance.choice([*unsafe, unsafe[-1] + 1]) if unsafe else 0
        share = chance.choice([0.1, 0.5, 0.9])

        def is_kept(moment: int) -> bool:
            match kept:
                case Kept.NOTHING:
                    return False
                case Kept.ALL:
                    return True
                case Kept.BEGINNING:
                    return moment < first_lost
                case Kept.SECTORS:
                    return chance.random() < share

        names = self._names | {
            name: leads_to for moment, name, leads_to in self._waiting_names if is_kept(moment)
        }
        for name, leads_to in sorted(names.items()):
            path = folder / name
            if leads_to is _NOTHING or not path.parent.is_dir():
                continue  # deleted; or what is in a folder that is not there
            if leads_to == _FOLDER:
                path.mkdir()
                continue
            file = self._files[leads_to]
            content = bytearray(file.synced)
            for moment, record, payload in file.waiting:
                if kept is Kept.SECTORS and record["op"] == "write":
                    _change_sectors(content, record["at"], payload, lambda: is_kept(moment))  # noqa: B023
                elif is_kept(moment):
                    _change(content, record, payload)
            path.write_bytes(content)


def _change(content: bytearray, record: dict[str, Any], payload: bytes) -> None:
    if record["op"] == "truncate":
        _resize(content, record["size"])
        return
    at = record["at"]
    _resize(content, max(len(content), at))
    content[at : at + len(payload)] = payload


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _change_sectors(content: bytearray, at: int, payload: bytes, is_kept: Callable[[], bool]) -> None:
    place = at
    while place < at + len(payload):
        end = min((place // _SECTOR_BYTES + 1) * _SECTOR_BYTES, at + len(payload))
        if is_kept():
            _change(content, {"op": "write", "at": place}, payload[place - at : end - at])
        place = end


class Recording:
    """A recording, read from its file. What a kill cut off at its end is left out."""

    def __init__(self, path: Path) -> None:
        self._records: list[_Record | list[Any]] = []
        content, at = path.read_bytes(), 0
        while (end := content.find(b"\n", at)) >= 0:
            record = json.loads(content[at:end])
            if isinstance(record, list):
                self._records.append(record)
                at = end + 1
                continue
            at = end + 1 + record.get("bytes", 0)
            if at > len(content):
                break
            self._records.append((record, content[end + 1 : at]))

    def __len__(self) -> int:
        return len(self._records)

    def acknowledged(self, moment: int) -> list[list[Any]]:
        """What the process had acknowledged before that moment."""
        return [record for record in self._records[:moment] if isinstance(record, list)]

    def acknowledgement(self, *what: Any) -> int:
        """The moment at which the process acknowledged just that, for the first time."""
        return self._records.index(list(what))

    def first_write(self) -> int:
        """The moment of the first record that is not about what was there already."""
        for moment, record in enumerate(self._records):
            if isinstance(record, list) or not record[0].get("durable"):
                return moment
        return len(self)

    def checkpoints(self) -> list[int]:
        """The moments at which a database itself is written, but not synced."""
        return [moment for moment, disk in self._walk(range(len(self) + 1)) if disk.is_amid_a_checkpoint()]

    def disks(self, moments: Sequence[int]) -> Iterator[tuple[int, Disk]]:
        """The disk at each of the moments, from 0 to the number of records, in order. It goes on when the
        next one is asked for.
        """
        yield from self._walk(sorted(moments))

    def _walk(self, moments: Sequence[int]) -> Iterator[tuple[int, Disk]]:
        disk, done = Disk(), 0
        for moment in moments:
            while done < moment:
                record = self._records[done]
                if not isinstance(record, list):
                    disk.apply(done, *record)
                done += 1
            yield moment, disk
