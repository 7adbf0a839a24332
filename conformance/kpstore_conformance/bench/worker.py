"""One run of the benchmark, in a process of its own: a fresh heap, and a crash that ends nothing else."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import psutil

from kpstore import AllStores, Capability, Clock, KpStoreError, Settings, create_store
from kpstore_conformance.bench.documents import Knowledge, Skills
from kpstore_conformance.bench.floors import measure_floors
from kpstore_conformance.bench.ledgers import ApiKeys, AuditLog, RateLimit, Reputation
from kpstore_conformance.bench.load import MIXES, Curve, Load, curve
from kpstore_conformance.bench.measure import Call, closed_loop, collector_held, open_loop, run, stall_ms
from kpstore_conformance.bench.result import Facts, LoadPoint, Measured, Pass, Run, Timing
from kpstore_conformance.bench.section import Operation, Section
from kpstore_conformance.loop_watch import LoopWatch
from kpstore_conformance.target import BackendAdapter, CaseTarget, adapter_for

__all__ = ["MOST_OPEN_PER_SECOND", "SECTIONS", "OpenRate", "Task", "names", "run_section", "work"]

T = TypeVar("T")

SECTIONS: dict[str, type[Section]] = {
    section.name: section for section in (Knowledge, Skills, Reputation, ApiKeys, RateLimit, AuditLog, Load)
}

MOST_OPEN_PER_SECOND = 5000.0
"""No share of a closed loop's rate is higher: beyond, the bookkeeping would be what is timed."""

_FEWEST_CALLS = 10
_PROBES = 5
_IDLE_S = 0.2


@dataclass(frozen=True, slots=True)
class OpenRate:
    """How often calls arrive in the open loop: so many a second, or a share of the closed loop's rate."""

    per_second: float | None = None
    share: float | None = None

    def of(self, closed: Pass) -> float:
        """Calls a second, for an operation whose closed loop went like that."""
        if self.per_second is not None:
            return self.per_second
        assert self.share is not None
        return min(MOST_OPEN_PER_SECOND, self.share * closed.calls / closed.seconds)


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure, and how long.

    Attributes:
        backend: a name, or `module:callable`.
        adapter: `module:Class`, or None.
        section: one of `SECTIONS`.
        size: records in the store.
        seed: of the data and of all choices.
        wanted: the names of operations, and of mixes as `load/NAME`.
        passes: over the inputs of an operation.
        most_calls: in a pass.
        seconds: after which a pass should end, by making fewer calls.
        open_loop: None leaves it out.
        clients: how many at a time, for the load.
        processes: how many share the load.
        load_seconds: how long each point of a load takes.
        folder: where databases go; None is the system's folder for temporary files.
    """

    backend: str
    adapter: str | None
    section: str
    size: int
    seed: int
    wanted: frozenset[str]
    passes: int
    most_calls: int
    seconds: float
    open_loop: OpenRate | None
    clients: tuple[int, ...]
    processes: int
    load_seconds: float
    folder: str | None


Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


async def names(size: int = 100) -> list[str]:
    """Every operation, and every mix of the load, in the order in which they are measured."""
    found = []
    async with create_store("memory") as stores:
        for kind in SECTIONS.values():
            found += [operation.name for operation in kind(size, 0).operations(stores)]
    return [*found, *(f"{Load.name}/{mix}" for mix in MIXES)]


def work(task: Task, pipe: Connection) -> None:
    """Measure, in a process that exists for it. Sends (what, done, all) on the way, and at the end a
    `Run`, or a message of what went wrong.
    """
    tempfile.tempdir = task.folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the databases are removed then too
    try:
        pipe.send(run(run_section(task, lambda *step: pipe.send(step))))
    except KpStoreError as error:
        pipe.send(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        pass  # whoever started this knows


async def run_section(task: Task, progress: Progress) -> Run:
    """Fill a store, reopen it, and measure what is wanted of its section."""
    adapter = adapter_for(task.backend, task.adapter)
    target = CaseTarget(adapter)
    try:
        return await _Bench(task, adapter, target, progress).run()
    finally:
        gc.unfreeze()
        await target.dispose()


class _Bench:
    def __init__(self, task: Task, adapter: BackendAdapter, target: CaseTarget, progress: Progress) -> None:
        self._task = task
        self._adapter = adapter
        self._target = target
        self._progress = progress

    async def run(self) -> Run:
        task = self._task
        section = SECTIONS[task.section](task.size, task.seed)
        load_average = os.getloadavg()[0]
        stores = await self._target.open(section.clock)
        before = _rss_bytes()
        load_seconds = await section.fill(stores, self._filling())
        grown = _growth(before, task.size)
        durable = Capability.DURABLE in stores.capabilities
        file_bytes = open_seconds = close_seconds = reopened = None
        if durable:
            start = perf_counter()
            await stores.close()
            close_seconds = perf_counter() - start
            file_bytes = sum(each.stat().st_size for each in self._target.folder.rglob("*") if each.is_file())
            self._progress("reopening", 0, 1)
            open_seconds, reopened = await asyncio.to_thread(
                _elsewhere, _reopen, self._adapter, self._target.settings, section.clock, task.size
            )
            stores = await self._target.open(section.clock)
        gc.collect()  # what the stores that were filled have left
        start = perf_counter()
        gc.collect()
        collection_ms = (perf_counter() - start) * 1000
        # What is there by now stays: the collections before each pass need not look at it again.
        gc.freeze()
        self._progress("floors", 0, 1)
        with tempfile.TemporaryDirectory(prefix="kpstore-") as folder:
            floors = await measure_floors(Path(folder), task.passes, task.most_calls)
        idle_stall_ms = await _idle_stall_ms()
        operations = [each for each in section.operations(stores) if each.name in task.wanted]
        measured = []
        for number, operation in enumerate(operations):
            self._progress(operation.name, number, len(operations))
            measured.append(await self._measured(operation))
        points = await self._load(section, stores) if isinstance(section, Load) else []
        await stores.close()
        return Run(
            backend=task.backend,
            section=task.section,
            size=task.size,
            durable=durable,
            facts=Facts(
                load_seconds=load_seconds,
                load_per_second=task.size / load_seconds,
                idle_stall_ms=idle_stall_ms,
                collection_ms=collection_ms,
                load_average=load_average,
                rss_bytes_per_record=grown,
                reopened_rss_bytes_per_record=reopened,
                file_bytes=file_bytes,
                open_seconds=open_seconds,
                close_seconds=close_seconds,
            ),
            floors=floors,
            operations=measured,
            load=points,
        )

    def _filling(self) -> Callable[[int], None]:
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            self._progress("filling", done, self._task.size)

        return report

    async def _measured(self, operation: Operation) -> Measured:
        task = self._task
        count = await self._count(operation)
        batch = None if operation.fresh else await operation.make(count)

        async def one(way: Callable[[Sequence[Call]], Awaitable[T]]) -> T:
            inputs = batch or await operation.make(count)
            with collector_held():
                seen = await way(inputs.calls)
            if inputs.undo is not None:
                await inputs.undo()
            return seen

        closed: list[Pass] = []
        opened: list[Pass] = []
        stalls: list[float] = []
        rate = None
        # In turns, so that what slows the machine down for a while does not hit one way alone.
        for _ in range(task.passes):
            closed.append((await one(closed_loop)).to_pass())
            stalls.append(await one(stall_ms))
            if task.open_loop is not None and operation.records_per_call == 1:
                rate = rate or task.open_loop.of(closed[0])
                opened.append((await one(partial(open_loop, per_second=rate))).to_pass())
        return Measured(
            name=operation.name,
            writes=operation.writes,
            records_per_call=operation.records_per_call,
            closed=Timing(closed),
            stall_ms=min(stalls),
            open=Timing(opened) if opened else None,
            open_per_second=rate,
        )

    async def _count(self, operation: Operation) -> int:
        """How many calls fit into a pass, by a few that warm the store up."""
        probe = await operation.make(_PROBES)
        typical = (await closed_loop(probe.calls)).to_pass().p50_us / 1e6
        if probe.undo is not None:
            await probe.undo()
        fitting = max(_FEWEST_CALLS, int(self._task.seconds / typical))
        return min(fitting, self._task.most_calls, operation.most_calls or self._task.most_calls)

    async def _load(self, section: Load, stores: AllStores) -> list[LoadPoint]:
        task = self._task
        mixes = tuple(mix for mix in MIXES if f"{Load.name}/{mix}" in task.wanted)
        wanted = Curve(mixes, task.clients, task.processes, task.load_seconds)
        return await curve(
            wanted,
            stores,
            section,
            self._adapter,
            self._target.settings,
            lambda what: self._progress(f"load: {what}", 0, 1),
        )


async def _idle_stall_ms() -> float:
    async with LoopWatch() as watch:
        await asyncio.sleep(_IDLE_S)
    return watch.longest_s * 1000


# Memory ---------------------------------------------------------------------


def _rss_bytes() -> int:
    """The memory of this process, garbage collected and free memory given back."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _growth(before: int, records: int) -> float:
    return (_rss_bytes() - before) / records


def _elsewhere(function: Callable[..., T], *arguments: object) -> T:
    """What the function gives in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _reopen(adapter: BackendAdapter, settings: Settings, clock: Clock, records: int) -> tuple[float, float]:
    """How many seconds opening takes, and by how many bytes a record the process grows."""

    async def look() -> tuple[float, float]:
        before = _rss_bytes()
        start = perf_counter()
        stores = await adapter.open(settings, clock)
        seconds = perf_counter() - start
        grown = _growth(before, records)
        await stores.close()
        return seconds, grown

    return run(look())
