"""A whole benchmark: one process after another, and what they found put together."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import gettempdir

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kpstore import __version__
from kpstore_conformance.bench.result import FORMAT, Machine, Method, Result, Run
from kpstore_conformance.bench.rows import size
from kpstore_conformance.bench.worker import Task, work

__all__ = ["SessionError", "bench"]


class SessionError(Exception):
    """A run could not be made; the message is one line."""


def bench(tasks: Sequence[Task], method: Method, keep: Callable[[Result], None], *, quiet: bool) -> Result:
    """Run the tasks one after another.

    Args:
        tasks: what to measure.
        method: how, as the result says it.
        keep: is given what there is after each task, so that a long benchmark that breaks off is not lost.
        quiet: show no progress.

    Raises:
        SessionError: a task failed; what came before it was kept.
    """
    runs: list[Run] = []
    started = datetime.now(UTC).isoformat(" ", "seconds")
    columns = (
        TextColumn("{task.fields[number]}/{task.fields[count]}"),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    machine = _machine(tasks[0].folder)
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task("", count=len(tasks), number=0)
        for number, task in enumerate(tasks, 1):
            name = f"{task.backend} {size(task.size)} {task.section}"

            def show(what: str, done: int, all: int, *, name: str = name, number: int = number) -> None:
                progress.update(bar, description=f"{name}: {what}", completed=done, total=all, number=number)

            show("starting", 0, 1)
            runs.append(_run(task, name, show))
            result = Result(FORMAT, __version__, started, machine, method, runs)
            keep(result)
    return result


def _run(task: Task, name: str, show: Callable[[str, int, int], None]) -> Run:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(task, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, Run):
                process.join()
                return message
            if isinstance(message, str):
                raise SessionError(f"{name}: {message}")
            show(*message)
    except EOFError:
        process.join()
        raise SessionError(f"{name}: the process ended with {process.exitcode}") from None
    finally:
        ours.close()
        process.terminate()
        process.join()


def _machine(folder: str | None) -> Machine:
    place = Path(folder or gettempdir()).resolve()
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    mount = next((each for each in (place, *place.parents) if each in mounts), None)
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        file_system="unknown file system" if mount is None else mounts[mount],
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
