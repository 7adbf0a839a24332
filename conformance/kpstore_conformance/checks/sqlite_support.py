"""What the checks of the SQLite backend share: records, the file as a witness, other processes. No checks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kpstore import AllStores, KpStoreError, Settings, StoredKnowledgeUnit, StoredSkill, create_store
from kpstore_conformance.check import Lab

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)

IS_HEAVY = os.environ.get("KP_CHECKS_HEAVY", "") not in ("", "0")
"""With KP_CHECKS_HEAVY=1, checks that try many places (bytes, moments, orders) try ten times as many."""

PROCESS_TIMEOUT_S = 90.0


def skill(id: str, **changes: Any) -> StoredSkill:
    """A small skill."""
    plain = StoredSkill(
        id=id, name=f"name of {id}", description="d", content="c", created_at=NOW, updated_at=NOW
    )
    return replace(plain, **changes)


def unit(
    id: str, *, agent_id: str = "agent", content: str = "c", quality: float = 0.5
) -> StoredKnowledgeUnit:
    """A small reasoning trace; `id` goes on after `kp:trace:`."""
    document = {
        "@context": "https://openknowledgepulse.org/schema/v1",
        "@type": "ReasoningTrace",
        "id": f"kp:trace:{id}",
        "metadata": {
            "created_at": "2026-01-15T12:00:00Z",
            "agent_id": agent_id,
            "task_domain": "testing",
            "success": True,
            "quality_score": quality,
            "visibility": "network",
            "privacy_level": "aggregated",
        },
        "task": {"objective": f"objective of {id}"},
        "steps": [{"step_id": 0, "type": "thought", "content": content}],
        "outcome": {"result_summary": "r", "confidence": 1},
    }
    return StoredKnowledgeUnit(id=f"kp:trace:{id}", unit=document, created_at=NOW, updated_at=NOW)


def path_of(lab: Lab) -> Path:
    """The database file of the case."""
    return Path(lab.settings.sqlite_path)


@contextlib.asynccontextmanager
async def opened(lab: Lab, path: str | Path | None = None, **changes: Any) -> AsyncIterator[AllStores]:
    """Stores on `path` (default: the case's file), closed at the end of the block."""
    if path is not None:
        changes["sqlite_path"] = str(path)
    settings: Settings = replace(lab.settings, **changes)
    async with create_store(lab.backend_spec, settings=settings, clock=lab.clock) as stores:
        yield stores


@contextlib.contextmanager
def refused(kind: type[KpStoreError], path: Path, what: str = "") -> Iterator[None]:
    """The block must raise `kind`, with `path` in its message."""
    try:
        yield
    except kind as error:
        assert str(path) in str(error), f"{what}: the message does not name {path}: {error}"  # noqa: PT017
    else:
        raise AssertionError(f"{what}: no {kind.__name__}")


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of the check's own, in autocommit mode, closed at the end of the block."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        yield db


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below `folder`. Only while no handle of this process is open on one of
    them: closing a descriptor of a file drops the locks that the process holds on it.
    """
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


class Process:
    """A Python process running `code`; talks by lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def line(self, timeout_s: float = PROCESS_TIMEOUT_S) -> str:
        """Its next line; an AssertionError with what it said instead, if it ends without one."""
        assert self._process.stdout is not None
        found = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        if not found:
            raise AssertionError(f"the process ended: {await self._errors()}")
        return found.decode().rstrip("\n")

    def tell(self, text: str = "") -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Its exit status."""
        return await asyncio.wait_for(self._process.wait(), PROCESS_TIMEOUT_S)

    async def rest(self, timeout_s: float = PROCESS_TIMEOUT_S) -> str:
        """What it writes until its end; an AssertionError unless it ends well."""
        out, errors = await asyncio.wait_for(self._process.communicate(), timeout_s)
        assert self._process.returncode == 0, f"exit status {self._process.returncode}: {errors.decode()}"
        return out.decode()

    async def _errors(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


@contextlib.asynccontextmanager
async def python(
    lab: Lab, code: str, *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] = {}
) -> AsyncIterator[Process]:
    """A process running `code` with the case's variables; killed at the end of the block if still there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**lab.environment, **environment},
        cwd=cwd,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # Reads on, so that a full pipe does not keep it, and closes the pipes with it.
            await process.communicate()


HOLD_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute(f"BEGIN {sys.argv[2]}")
db.execute("SELECT * FROM sqlite_master").fetchall()
print("held", flush=True)
sys.stdin.readline()
db.execute("ROLLBACK")
db.close()
print("released", flush=True)
"""
"""Arguments: the file, `IMMEDIATE` or `EXCLUSIVE`. Holds the lock until it is told a line."""
