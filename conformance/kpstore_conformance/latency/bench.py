"""Measures budgets: loads each data set once, times the calls and the reference in turn, and judges."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from typing import Any, TypeVar

from kpstore import AllStores
from kpstore_conformance.latency.datasets import DataSetInUse, LoadingClock, load
from kpstore_conformance.latency.processors import on_one_processor
from kpstore_conformance.latency.reference import (
    IN_LOOP,
    MANY,
    REFERENCES,
    Kind,
    Reference,
    kinds_of,
    nearest,
)
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

MIN_PASSES = 3
MIN_PASSES_BESIDE_A_BASELINE = 6
MAX_PASSES = 30
"""Three will do for a limit, and six for ratios, three on each of two processors. A budget that does not hold
is given more: each may be the quiet one, and a store that is too slow is too slow in all of them.
"""

PATIENCE_S = 30.0
"""How long a budget that does not hold is measured for a quieter pass."""

_PAUSE_S = 0.2
"""Seconds before each of these further passes. A hundred calls may take a hundredth of a second, and what
disturbs them goes on for many; and to who has slept a system gives the processor at once.
"""

_REST_S = 1.0
"""How long is waited before a pass for what a store still does with what was written in the one before."""

_PASS_S = 3.0
_FEWEST_CALLS = 5
"""A pass of calls that take far too long is cut short after three seconds (beside four busy processes a
commit takes 15 ms), but not before so many calls.
"""

_TO_COMPARE = 15
"""Calls that tell which of several references is the nearest."""

_HOPELESS = 4.0
"""Where calls take so many times the limit even at their quietest, no quiet pass will come."""

_LOADING_S = 0.005
"""Seconds that a record may take to be loaded; ten times what the slowest of the known backends needs."""
_TIMEOUT_S = 120.0


T = TypeVar("T")
_Call = Callable[[], Awaitable[Any]]
_Watch = Callable[[_Call], Awaitable[tuple[T, Any]]]
"""Makes a call; gives what it saw of it, and the call's result."""


class WrongAnswerError(Exception):
    """A timed call did not give what its `expect` says, so that its time means nothing."""


class Bench:
    """One backend's data sets, on an event loop that lives as long as they do.

    Args:
        adapter: how to reach the backend.
        facts: what it says of itself; what it is compared with depends on whether it is durable.
        wrap: what is done to stores once they are loaded, such as slowing them down.
    """

    def __init__(
        self,
        adapter: BackendAdapter,
        facts: BackendFacts,
        *,
        wrap: Callable[[AllStores], AllStores] = lambda stores: stores,
    ) -> None:
        self._adapter = adapter
        self._facts = facts
        self._wrap = wrap
        self._runner = asyncio.Runner()
        self._clock = StopWatch()
        self._loaded: dict[tuple[str, int], DataSetInUse] = {}
        self._references: dict[Kind, Reference] = {}
        self._numbers = count()

    def measure(self, case: BudgetCase, demand: Demand) -> Measurement:
        """Time the calls of a budget, for a few passes, and more where `demand` needs them to hold.

        Where growth or a recorded ratio is still exceeded, all is filled anew and measured once more, and
        that is what is given: the same calls take up to 1.4 times as long where records happen to lie worse
        in memory, for as long as they lie there. Beside a limit in milliseconds that is nothing.

        Raises:
            WrongAnswerError, CaseError: the calls are not what the budget is about.
            TimeoutError: loading or a call takes for ever.
        """
        measurement = self._measured(case, demand)
        faults = broken(measurement, demand)
        if faults and all(fault.what != "limit" for fault in faults):
            self._let_go()
            measurement = self._measured(case, demand)
            measurement.fills = 2
        return measurement

    def _measured(self, case: BudgetCase, demand: Demand) -> Measurement:
        timeout_s = _TIMEOUT_S + case.records * _LOADING_S

        async def measure() -> Measurement:
            async with asyncio.timeout(timeout_s):
                await self._keep_only(case.budget.data)
                loaded = await self._data_set(case.budget.data, case.records)
                tenth = None
                if demand.growth is not None:
                    tenth = await self._data_set(case.budget.data, max(case.records // 10, 1))
                with _no_collections(), _room():
                    return await self._passes(case.budget, loaded, tenth, demand)

        return self._runner.run(measure())

    def close(self) -> None:
        """Close and remove all data sets."""
        self._let_go()
        self._clock.close()
        self._runner.close()

    # --- what it measures on -----------------------------------------------------------------------

    def _let_go(self) -> None:
        """Close and remove all data sets and references."""
        self._runner.run(self._keep_only(None))
        while self._references:
            self._references.popitem()[1].close()

    async def _keep_only(self, data: str | None) -> None:
        for key in [key for key in self._loaded if key[0] != data]:
            await self._loaded.pop(key).close()

    async def _data_set(self, data: str, records: int) -> DataSetInUse:
        key = (data, records)
        if key not in self._loaded:
            target = CaseTarget(self._adapter, self._facts.name)
            try:
                clock = LoadingClock()
                stores = await target.open(clock)
                try:
                    loaded = await load(data, records, stores, target, clock)
                    # What a store does by itself after that, an index for one, is not a call's cost.
                    await self._clock.rest()
                    self._loaded[key] = replace(loaded, stores=self._wrap(stores))
                except BaseException:
                    await stores.close()
                    raise
            except BaseException:
                await target.dispose()
                raise
        return self._loaded[key]

    async def _kinds(self, budget: Budget, loaded: DataSetInUse) -> tuple[Kind, ...]:
        """The kinds of references that a budget may be compared with, seen from a few calls, which also do
        what is done only once.
        """
        seen = [await self._one(budget, loaded, number, _ways) for number in range(_FEWEST_CALLS)]
        return kinds_of(
            durable="durable" in self._facts.capabilities,
            writes=budget.method.writes,
            hops=all(hops for hops, _ in seen),
            many=all(many for _, many in seen),
        )

    async def _nearest(self, kinds: Sequence[Kind], budget: Budget, loaded: DataSetInUse) -> Kind:
        """That of these kinds which costs most nearly what the calls do."""
        if len(kinds) == 1:
            return kinds[0]
        clock = self._clock
        calls: list[int] = []
        references: dict[Kind, list[int]] = {kind: [] for kind in kinds}
        with on_one_processor(0):
            clock.look_for_threads()
            for number in range(_TO_COMPARE):
                calls.append(await self._one(budget, loaded, number, clock.time))
                for kind, times in references.items():
                    times.append((await clock.time(partial(self._reference(kind).call, number)))[0])
        return nearest(calls, references)

    def _reference(self, kind: Kind) -> Reference:
        if kind not in self._references:
            self._references[kind] = REFERENCES[kind]()
        return self._references[kind]

    # --- passes ------------------------------------------------------------------------------------

    async def _passes(
        self, budget: Budget, loaded: DataSetInUse, tenth: DataSetInUse | None, demand: Demand
    ) -> Measurement:
        kinds = await self._kinds(budget, loaded)
        if demand.baseline is not None:
            kinds = (demand.baseline.reference,)
        kind = await self._nearest(kinds, budget, loaded)
        measurement = Measurement(kind)
        clock = self._clock
        switches = _involuntary_switches()
        kept: list[bool] = []
        end_s = time.perf_counter() + PATIENCE_S
        while True:
            if len(kept) >= _fewest_passes(demand):
                await asyncio.sleep(_PAUSE_S)
            if budget.method.writes:
                # While an index takes in what was written, calls and reference take twice as long, but not
                # alike.
                await clock.rest(_REST_S)
            with on_one_processor(len(kept)) as processor:
                kept.append(processor is not None)
                clock.look_for_threads()
                await self._pass(budget, loaded, tenth, clock, measurement)
            if _is_enough(measurement, demand, late=time.perf_counter() > end_s):
                break
        after = _involuntary_switches()
        measurement.load = Load(
            os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            None if switches is None or after is None else after - switches,
            all(kept),
        )
        return measurement

    async def _pass(
        self,
        budget: Budget,
        loaded: DataSetInUse,
        tenth: DataSetInUse | None,
        clock: StopWatch,
        into: Measurement,
    ) -> None:
        """Calls in turn with the reference, so that whatever goes on beside them goes on beside both."""
        reference = self._reference(into.reference_kind)
        calls: list[int] = []
        on_a_tenth: list[int] = []
        references: list[int] = []
        # Half of what a call of microseconds takes is what has to come from memory into the processor's
        # cache: where it lies there, and what else goes on, decide about a factor of 1.9. After its like it
        # has come.
        warm = into.reference_kind in IN_LOOP

        async def timed(on: DataSetInUse, number: int) -> int:
            if warm:
                await self._one(budget, on, number, _untimed)
            return await self._one(budget, on, number, clock.time)

        end_s = time.perf_counter() + _PASS_S
        for number in range(CALLS):
            calls.append(await timed(loaded, number))
            if warm:
                await reference.call(number)
            references.append((await clock.time(partial(reference.call, number)))[0])
            if tenth is not None:
                on_a_tenth.append(await timed(tenth, number))
                if not warm:  # then the next call comes after a reference too, not after its like
                    await reference.call(number)
            if number + 1 >= _FEWEST_CALLS and time.perf_counter() > end_s:
                break
        into.calls.passes.append(Pass(tuple(calls)))
        into.reference.passes.append(Pass(tuple(references)))
        if tenth is not None:
            into.on_a_tenth.passes.append(Pass(tuple(on_a_tenth)))

    async def _one(self, budget: Budget, loaded: DataSetInUse, number: int, watch: _Watch[T]) -> T:
        """What is seen of one call of a budget."""
        variables: dict[str, object] = {
            "record": loaded.sample[number % len(loaded.sample)],
            # Made where it is asked for: few calls are given a record that is not there yet.
            "new": Computed(budget.measure[0].node, lambda _: loaded.new(number)),
            "n": next(self._numbers),
        }
        context = Context(budget.file.parent, loaded.clock, variables)
        for step in budget.before:
            result = await _call(step, loaded.stores, context)()
            for save in step.saves:
                context.variables[save.name] = walk(snapshot(result), save.path, f"save: {save.name}")
        measured = budget.measure[number % len(budget.measure)]
        seen, result = await watch(_call(measured, loaded.stores, context))
        _look_at(measured, result, context)
        for step in budget.after:
            _look_at(step, await _call(step, loaded.stores, context)(), context)
        return seen


async def _untimed(call: _Call) -> tuple[None, Any]:
    return None, await call()


async def _ways(call: _Call) -> tuple[tuple[bool, bool], Any]:
    """Whether the event loop goes on to something else while a call is under way, and whether what it gives
    is many records; and its result.
    """
    turns: list[bool] = []
    asyncio.get_running_loop().call_soon(turns.append, True)
    result = await call()
    return (bool(turns), isinstance(result, list) and len(result) >= MANY), result


def _fewest_passes(demand: Demand) -> int:
    return MIN_PASSES if demand.baseline is None else MIN_PASSES_BESIDE_A_BASELINE


def _is_enough(measurement: Measurement, demand: Demand, *, late: bool) -> bool:
    passes = len(measurement.calls.passes)
    if passes < 2:
        return False
    if percentile(measurement.calls.quietest_ns(), 0.99) > _HOPELESS * (demand.at_most_ms or inf) * 1e6:
        return True
    if passes < _fewest_passes(demand):
        return late
    return late or passes >= MAX_PASSES or not broken(measurement, demand)


def _call(step: CallStep, stores: AllStores, context: Context) -> _Call:
    """A call that is ready to be made: some take less than it takes to look for the method."""
    method = getattr(getattr(stores, step.method.store), step.method.name)
    call = partial(method, **{name: value.build(context) for name, value in step.arguments})
    return partial(_first, call) if step.method.iterates else call


async def _first(call: Callable[[], AsyncGenerator[Any]]) -> Any:
    async with aclosing(call()) as iterator:
        return await anext(iterator, None)


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
