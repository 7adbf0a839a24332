"""Two backends answer alike: the same random history, or the same scenario, step by step.

`KP_DIFFERENTIAL_AGAINST` names the other backend of the check; the default is `memory`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kpstore import AllStores, Clock
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks.stateful import TIMEOUT_S, AllStoresMachine, profile, run_search
from kpstore_conformance.history import Names, Observation, Raised, Returned, compare, raised
from kpstore_conformance.model import clone
from kpstore_conformance.scenario import Case, CaseResult, Target, run_case
from kpstore_conformance.target import adapter_for

__all__ = ["ScenarioComparison", "compare_scenario"]

STORES = ("skills", "knowledge", "reputation", "api_keys", "rate_limit", "audit_log")


@check(
    clauses=["GEN-4", "GEN-5", "GEN-6", "GEN-9", "PAGE-3", "PAGE-4"],
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories answer as on another backend",
)
async def histories(lab: Lab) -> None:
    """Whatever is done, the backend and the reference backend answer alike, step by step."""
    reference = adapter_for(os.environ.get("KP_DIFFERENTIAL_AGAINST") or "memory")
    await run_search(lab, AllStoresMachine, "differential", profile(), reference)


# --- scenarios -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScenarioComparison:
    """One scenario on two backends. `problems` is empty where every call was answered alike; `compared`
    counts the calls looked at, which end at the first one that either run cancelled.
    """

    case: str
    results: tuple[CaseResult, CaseResult]
    compared: int
    problems: list[str]


@dataclass
class _Noted:
    """A call as it was answered. `concurrent`: others were under way at the same time."""

    call: str
    observed: Observation | None = None
    concurrent: bool = False


class _Log:
    def __init__(self) -> None:
        self.calls: list[_Noted] = []
        self._names = Names()
        self._under_way: list[_Noted] = []

    def begin(self, call: str) -> _Noted:
        noted = _Noted(call)
        self.calls.append(noted)
        self._under_way.append(noted)
        if len(self._under_way) > 1:
            for one in self._under_way:
                one.concurrent = True
        return noted

    def end(self, noted: _Noted, result: Any = None, error: Exception | None = None) -> None:
        self._under_way.remove(noted)
        if error is not None:
            noted.observed = Raised(raised(error).error, text=str(error))
            return
        self._names.learn(result)
        # A copy: the scenario may scribble on what it got.
        noted.observed = Returned(self._names.symbolic(clone(result)))

    def drop(self, noted: _Noted) -> None:
        """The call was cancelled: it has no answer."""
        self._under_way.remove(noted)


class _RecordingStore:
    """Stands in for a store and notes every answer."""

    def __init__(self, name: str, store: Any, log: _Log) -> None:
        self._name = name
        self._store = store
        self._log = log

    def __getattr__(self, method: str) -> Callable[..., Any]:
        function = getattr(self._store, method)
        call = f"{self._name}.{method}"
        log = self._log

        async def scan(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            items = []
            noted = log.begin(call)
            try:
                async for record in function(*args, **kwargs):
                    items.append(clone(record))
                    yield record
            except Exception as error:
                log.end(noted, error=error)
                raise
            except BaseException:
                log.drop(noted)
                raise
            log.end(noted, items)

        async def other(*args: Any, **kwargs: Any) -> Any:
            noted = log.begin(call)
            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                log.end(noted, error=error)
                raise
            except BaseException:
                log.drop(noted)
                raise
            log.end(noted, result)
            return result

        return scan if method == "scan" else other


class _RecordingStores:
    """Stands in for `AllStores`."""

    def __init__(self, stores: AllStores, log: _Log) -> None:
        self._stores = stores
        for name in STORES:
            setattr(self, name, _RecordingStore(name, getattr(stores, name), log))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stores, name)


class _RecordingTarget:
    """A case's target whose handles note every answer."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.log = _Log()

    @property
    def name(self) -> str:
        return self._target.name

    def inspectors(self) -> frozenset[str]:
        return self._target.inspectors()

    async def open(self, clock: Clock) -> Any:
        return _RecordingStores(await self._target.open(clock), self.log)

    async def inspect_sql(self, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
        return await self._target.inspect_sql(sql, parameters)

    async def inspect_raw(self, needle: bytes) -> int:
        return await self._target.inspect_raw(needle)

    async def dispose(self) -> None:
        await self._target.dispose()


async def compare_scenario(case: Case, target: Target, reference: Target) -> ScenarioComparison:
    """Run one case on two backends and compare how every call was answered, expected by the scenario or not.

    The caller chooses cases that apply to both backends, and disposes of the targets. Of calls that ran
    concurrently only how many succeeded, and how many raised what, is compared: which of them is open.

    Args:
        case: the case; its verdict on each backend is in the result, too.
        target: the backend in question.
        reference: the backend that it is compared with.
    """
    ours, theirs = _RecordingTarget(target), _RecordingTarget(reference)
    results = (await run_case(case, ours), await run_case(case, theirs))
    compared, problems = _compare_logs(ours.log.calls, theirs.log.calls, target.name, reference.name)
    if results[0].outcome != results[1].outcome:
        problems.append(
            f"the case {results[0].outcome} on {target.name}, but {results[1].outcome} on {reference.name}"
        )
    return ScenarioComparison(case.id, results, compared, problems)


def _compare_logs(
    ours: Sequence[_Noted], theirs: Sequence[_Noted], name: str, other: str
) -> tuple[int, list[str]]:
    problems: list[str] = []
    both = min(len(ours), len(theirs))
    index = 0
    while index < both:
        one, two = ours[index], theirs[index]
        if one.observed is None or two.observed is None:
            # Cancelled: backends suspend at different places, so what comes after may rightly differ.
            return index, problems
        if one.concurrent or two.concurrent:
            until = index
            while until < both and (ours[until].concurrent or theirs[until].concurrent):
                until += 1
            left, right = _outcomes(ours[index:until]), _outcomes(theirs[index:until])
            if left != right:
                problems.append(f"call {index + 1}: at once, {name} gave {left}, but {other} {right}")
            index = until
            continue
        if one.call != two.call:
            problems.append(f"call {index + 1}: {one.call} on {name}, but {two.call} on {other}")
            return index, problems
        found = compare(two.observed, one.observed)
        problems += [f"call {index + 1}, {one.call} ({other}'s answer first): {problem}" for problem in found]
        index += 1
    if len(ours) != len(theirs):
        problems.append(f"{len(ours)} calls on {name}, but {len(theirs)} on {other}")
    return index, problems


def _outcomes(calls: Sequence[_Noted]) -> dict[str, int]:
    named = [f"{c.call}: {c.observed.error if isinstance(c.observed, Raised) else 'a result'}" for c in calls]
    return dict(sorted(Counter(named).items()))
