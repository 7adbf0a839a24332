"""Other processes on the data of a check."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from kpstore_conformance.check import Lab

_READY_S = 60.0
_ANSWER_S = 90.0
_LARGEST_ANSWER = 2**24


async def _start(lab: Lab, job: str, runner: Sequence[str], variables: Mapping[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *(*runner, "kpstore_conformance.checks._worker", job),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=lab.environment | dict(variables),
        limit=_LARGEST_ANSWER,
    )


async def _line(process: Process, seconds: float, what: str) -> bytes:
    """The next line that the process says; an AssertionError with what it complained of, if it says none."""
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds):
            line = await process.stdout.readline()
    except TimeoutError:
        raise AssertionError(f"{what}: no answer after {seconds:g} s") from None
    if not line:
        complaint = (await process.stderr.read()).decode(errors="replace").strip()
        raise AssertionError(f"{what}: the process ended: {complaint[-2000:] or 'without a word'}")
    return line


@asynccontextmanager
async def processes(
    lab: Lab,
    job: str,
    count: int = 1,
    *,
    runner: Sequence[str] = ("-m",),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[list[Process]]:
    """Processes that are ready for their arguments. Those still there at the end are killed.

    Args:
        lab: whose data they open.
        job: a function of `_worker`.
        count: how many.
        runner: what Python runs the module with.
        variables: of their environment, in place of the lab's.
    """
    started: list[Process] = []
    try:
        while len(started) < count:
            started.append(await _start(lab, job, runner, variables))
        for process in started:
            assert await _line(process, _READY_S, f"{job}, starting") == b"ready\n"
        yield started
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
            # The transport of a pipe that was not read to its end closes with the loop, which is too late.
            process._transport.close()  # type: ignore[attr-defined]


def tell(process: Process, arguments: dict[str, Any]) -> None:
    """Give a process that is ready its arguments: it begins."""
    assert process.stdin is not None
    process.stdin.write((json.dumps(arguments) + "\n").encode())


async def in_processes(
    lab: Lab,
    job: str,
    arguments: Sequence[dict[str, Any]],
    *,
    opened_first: bool = True,
    answer_s: float = _ANSWER_S,
) -> list[Any]:
    """Do a job in as many processes as there are arguments, all at once; each one's answer.

    Args:
        lab: whose data they open.
        job: a function of `_worker`.
        arguments: what each is given besides the stores.
        opened_first: whether the stores are open before all begin; else opening them is part of the job.
        answer_s: how long the job may take.
    """
    name = job if opened_first else f"late:{job}"
    async with processes(lab, name, len(arguments)) as started:
        for process, given in zip(started, arguments, strict=True):
            tell(process, given)
        return [json.loads(await _line(process, answer_s, job)) for process in started]
