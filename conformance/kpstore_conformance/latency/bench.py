"""Measures budgets: loads each data set once, times the calls and the reference in turn, and judges."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from math import inf
from typing import Any

from kpstore import AllStores
from kpstore_conformance.latency.datasets import DataSetInUse, load
from kpstore_conformance.latency.reference import Hop, InLoop, Reference, SyncedHop
from kpstore_conformance.latency.statistics import Demand, Load, Measurement, Pass, broken, percentile
from kpstore_conformance.latency.stopwatch import StopWatch
from kpstore_conformance.scenario.budget import Budget, BudgetCase
from kpstore_conformance.scenario.scope import Context
from kpstore_conformance.scenario.show import snapshot, view
from kpstore_conformance.scenario.steps import CallStep
from kpstore_conformance.scenario.values import Computed, walk
from kpstore_conformance.target import BackendAdapter, BackendFacts, CaseTarget

__all__ = ["Bench", "WrongAnswerError"]

CALLS = 100
"""Calls in a pass: the fewest of which one in a hundred can be told from the slowest."""

MIN_PASSES = 5
MAX_PASSES = 30
"""Five will do on a quiet machine. A budget that does not hold is given more: each may be the quiet one, and
a store that is too slow is too slow in all of them.
"""

PATIENCE_S = 10.0
"""How long a budget that does not hold is measured for a quieter pass. Thirty passes take a second on a
quiet machine, and ten beside thirty busy processes.
"""

_PASS_S = 1.0
_FEWEST_CALLS = 5
"""A pass of calls that take far too long is cut short after a second, but not before so many calls."""

_HOPELESS = 4.0
"""Where calls take so many times the limit even at their quietest, no quiet pass will come."""

_LOADING_S = 0.005
"""Seconds that a record may take to be loaded; ten times what the slowest of the known backends needs."""
_TIMEOUT_S = 120.0


class WrongAnswerError(Exception):
    """A timed call did not give what its `expect` says, so that its time means nothing."""


def _now() -> datetime:
    return datetime.now(UTC)


class Bench:
    """One backend's data sets, on an event loop that lives as long as they do.

    Args:
        adapter: how to reach the backend.
        facts: what it says of itself; one that is durable is compared with a reference that hops to a thread.
        wrap: what is done to stores once they are loaded, such as slowing them down.
        keep: whether data sets stay although another one is asked for.
    """

    def __init__(
        self,
        adapter: BackendAdapter,
        facts: BackendFacts,
        *,
        wrap: Callable[[AllStores], AllStores] = lambda stores: stores,
        keep: bool = False,
    ) -> None:
        self._adapter = adapter
        self._facts = facts
        self._wrap = wrap
        self._keep = keep
        self._runner = asyncio.Runner()
        self._loaded: dict[tuple[str, int], DataSetInUse] = {}
        self._references: dict[type[Reference], Reference] = {}
        self._numbers = count()

    def measure(self, case: BudgetCase, demand: Demand, *, passes: int = MIN_PASSES) -> Measurement:
        """Time the calls of a budget, for that many passes, and more where `demand` needs them to hold.

        Raises:
            WrongAnswerError, CaseError: the calls are not what the budget is about.
            TimeoutError: loading or a call takes for ever.
        """
        timeout_s = _TIMEOUT_S + case.records * _LOADING_S

        async def measure() -> Measurement:
            async with asyncio.timeout(timeout_s):
                if not self._keep:
                    await self._keep_only(case.budget.data)
                loaded = await self._data_set(case.budget.data, case.records)
                tenth = None
                if demand.growth is not None:
                    tenth = await self._data_set(case.budget.data, max(case.records // 10, 1))
                reference = self._reference(case.budget)
                with _no_collections(), _room():
                    return await self._passes(case.budget, loaded, tenth, reference, demand, passes)

        return self._runner.run(measure())

    def close(self) -> None:
        """Close and remove all data sets."""
        self._runner.run(self._keep_only(None))
        for reference in self._references.values():
            reference.close()
        self._runner.close()

    # --- what it measures on -----------------------------------------------------------------------

    async def _keep_only(self, data: str | None) -> None:
        for key in [key for key in self._loaded if key[0] != data]:
            await self._loaded.pop(key).close()

    async def _data_set(self, data: str, records: int) -> DataSetInUse:
        key = (data, records)
        if key not in self._loaded:
            target = CaseTarget(self._adapter, self._facts.name)
            try:
                stores = await target.open(_now)
                try:
                    loaded = await load(data, records, stores, target)
                    self._loaded[key] = replace(loaded, stores=self._wrap(stores))
                except BaseException:
                    await stores.close()
                    raise
            except BaseException:
                await target.dispose()
                raise
        return self._loaded[key]

    def _reference(self, budget: Budget) -> Reference:
        kind: type[Reference] = InLoop
        if "durable" in self._facts.capabilities:
            kind = SyncedHop if budget.method.writes else Hop
        if kind not in self._references:
            self._references[kind] = kind()
        return self._references[kind]

    # --- passes ------------------------------------------------------------------------------------

    async def _passes(
        self,
        budget: Budget,
        loaded: DataSetInUse,
        tenth: DataSetInUse | None,
        reference: Reference,
        demand: Demand,
        at_least: int,
    ) -> Measurement:
        measurement = Measurement(reference.kind)
        clock = StopWatch(hops=reference.hops)
        switches = _involuntary_switches()
        end_s = time.perf_counter() + PATIENCE_S
        clock.look_for_threads()
        await self._pass(budget, loaded, clock, _FEWEST_CALLS)  # what is done once is not the call's cost
        while True:
            clock.look_for_threads()
            measurement.calls.passes.append(await self._pass(budget, loaded, clock))
            if tenth is not None:
                measurement.on_a_tenth.passes.append(await self._pass(budget, tenth, clock))
            measurement.reference.passes.append(await _reference_pass(reference, clock))
            if _is_enough(measurement, demand, at_least, late=time.perf_counter() > end_s):
                break
        clock.close()
        after = _involuntary_switches()
        measurement.load = Load(
            os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            None if switches is None or after is None else after - switches,
        )
        return measurement

    async def _pass(self, budget: Budget, loaded: DataSetInUse, clock: StopWatch, calls: int = CALLS) -> Pass:
        prepared = [self._prepared(budget, loaded, number) for number in range(calls)]
        times: list[int] = []
        end_s = time.perf_counter() + _PASS_S
        for context, measured, arguments in prepared:
            for step in budget.before:
                result = await _called(step, loaded.stores, _arguments(step, context))
                for save in step.saves:
                    context.variables[save.name] = walk(snapshot(result), save.path, f"save: {save.name}")
            given = _arguments(measured, context) if arguments is None else arguments
            time_ns, result = await clock.time(partial(_called, measured, loaded.stores, given))
            times.append(time_ns)
            _look_at(measured, result, context)
            for step in budget.after:
                _look_at(step, await _called(step, loaded.stores, _arguments(step, context)), context)
            if len(times) >= _FEWEST_CALLS and time.perf_counter() > end_s:
                break
        return Pass(tuple(times))

    def _prepared(
        self, budget: Budget, loaded: DataSetInUse, number: int
    ) -> tuple[Context, CallStep, dict[str, Any] | None]:
        """What a call needs, made before the pass where `before` has no part in it: a short pass has a better
        chance to be a quiet one.
        """
        variables: dict[str, object] = {
            "record": loaded.sample[number % len(loaded.sample)],
            # Made where it is asked for: few calls are given a record that is not there yet.
            "new": Computed(budget.measure[0].node, lambda _: loaded.new(number)),
            "n": next(self._numbers),
        }
        context = Context(budget.file.parent, _now, variables)
        measured = budget.measure[number % len(budget.measure)]
        return context, measured, None if budget.before else _arguments(measured, context)


def _is_enough(measurement: Measurement, demand: Demand, at_least: int, *, late: bool) -> bool:
    passes = len(measurement.calls.passes)
    if passes < 2:
        return False
    if percentile(measurement.calls.quietest_ns(), 0.99) > _HOPELESS * (demand.at_most_ms or inf) * 1e6:
        return True
    if passes < at_least:
        return late
    return late or passes >= MAX_PASSES or not broken(measurement, demand)


def _arguments(step: CallStep, context: Context) -> dict[str, Any]:
    return {name: value.build(context) for name, value in step.arguments}


async def _called(step: CallStep, stores: AllStores, arguments: Mapping[str, Any]) -> Any:
    """The result of a call; of an iterator, its first item."""
    method = getattr(getattr(stores, step.method.store), step.method.name)
    if not step.method.iterates:
        return await method(**arguments)
    async with aclosing(method(**arguments)) as iterator:
        return await anext(iterator, None)


async def _reference_pass(reference: Reference, clock: StopWatch) -> Pass:
    times = [await clock.time(partial(reference.call, number)) for number in range(CALLS)]
    return Pass(tuple(time_ns for time_ns, _ in times))


def _look_at(step: CallStep, result: object, context: Context) -> None:
    if step.expect is None:
        return
    mismatches = step.expect.match(view(result), context, "result")
    if mismatches:
        first = mismatches[0]
        raise WrongAnswerError(f"{step.action}: {first.path}: expected {first.expected}, came {first.came}")


@contextmanager
def _no_collections() -> Iterator[None]:
    """Hold the garbage collector: when it runs is chance, and what it costs is everything in the process."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def _room() -> Iterator[None]:
    """Keep room in the heap: whether a call is the one for which pages must be asked of the system, a hundred
    times the cost of a small call, depends on everything that was there before.
    """
    for size, number in ((64, 100_000), (600, 20_000)):
        ballast: list[bytes | None] = [bytes(size) for _ in range(number)]
        # Whatever holds one piece in a hundred is not given back.
        ballast = ballast[::100]
        _PINNED.extend(ballast)
    try:
        yield
    finally:
        _PINNED.clear()


_PINNED: list[bytes | None] = []


def _involuntary_switches() -> int | None:
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):
        return None
