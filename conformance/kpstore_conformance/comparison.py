"""One scenario on two backends: how every call was answered, step by step, whatever the scenario expects."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kpstore import AllStores, Clock
from kpstore_conformance.history import Names, Observation, Raised, Returned, compare, raised
from kpstore_conformance.model import clone
from kpstore_conformance.scenario import Case, CaseResult, Failure, Target, run_case
from kpstore_conformance.scenario.runner import step_under_way
from kpstore_conformance.scenario.show import counted, short
from kpstore_conformance.scenario.yaml_nodes import Node

__all__ = ["Difference", "ScenarioComparison", "compare_scenario"]

STORES = ("skills", "knowledge", "reputation", "api_keys", "rate_limit", "audit_log")
SHOWN_PARTS = 5


@dataclass(frozen=True)
class Difference:
    """What two backends did differently: at which step, in a line, and what else there is to say of it."""

    node: Node
    summary: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScenarioComparison:
    """One case on two backends. `compared` counts the calls looked at: all up to the first ones that ran at
    once, or that either run cancelled. What comes after those may rightly differ.
    """

    case: Case
    results: tuple[CaseResult, CaseResult]
    compared: int
    differences: tuple[Difference, ...]

    def failure(self) -> Failure:
        """The first difference, told as a failing step is."""
        first, *more = self.differences
        scenario = self.case.scenario
        notes = [*first.notes, *([f"and {counted(len(more), 'more difference')} after it"] if more else [])]
        return Failure(
            summary=first.summary,
            file=scenario.file,
            line=first.node.line,
            case_id=self.case.id,
            outcome="differs",
            clauses=tuple(sorted(scenario.clauses)),
            lines=scenario.lines,
            step=first.node,
            marked=first.node,
            notes=tuple(notes),
        )


@dataclass
class _Noted:
    """A call as it was answered. `concurrent`: other tasks' calls were under way at the same time; `changed`:
    it is a scan, and the scenario made calls before it was over.
    """

    call: str
    node: Node
    task: asyncio.Task[Any] | None
    observed: Observation | None = None
    concurrent: bool = False
    changed: bool = False


class _Log:
    def __init__(self, case: Case) -> None:
        self.calls: list[_Noted] = []
        self._first = case.scenario.steps[0].node
        self._names = Names()
        self._under_way: list[_Noted] = []

    def begin(self, call: str) -> _Noted:
        step = step_under_way.get()
        noted = _Noted(call, self._first if step is None else step.node, asyncio.current_task())
        for one in self._under_way:
            if one.task is noted.task:
                one.changed = True
            else:
                one.concurrent = noted.concurrent = True
        self.calls.append(noted)
        self._under_way.append(noted)
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

    def __init__(self, target: Target, log: _Log) -> None:
        self._target = target
        self._log = log

    @property
    def name(self) -> str:
        return self._target.name

    def inspectors(self) -> frozenset[str]:
        return self._target.inspectors()

    async def open(self, clock: Clock) -> Any:
        return _RecordingStores(await self._target.open(clock), self._log)

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
    ours, theirs = _Log(case), _Log(case)
    results = (
        await run_case(case, _RecordingTarget(target, ours)),
        await run_case(case, _RecordingTarget(reference, theirs)),
    )
    compared, differences = _compare_logs(ours.calls, theirs.calls, target.name, reference.name)
    if results[0].outcome != results[1].outcome:
        differences.append(_other_verdict(case, results, target.name, reference.name))
    return ScenarioComparison(case, results, compared, tuple(differences))


def _other_verdict(case: Case, results: Sequence[CaseResult], name: str, other: str) -> Difference:
    failures = [result.failure for result in results if result.failure is not None]
    node = failures[0].step if failures else case.scenario.steps[0].node
    summary = f"the case {results[0].outcome} on {name}, but {results[1].outcome} on {other}"
    return Difference(node, summary, tuple(failure.summary for failure in failures))


def _compare_logs(
    ours: Sequence[_Noted], theirs: Sequence[_Noted], name: str, other: str
) -> tuple[int, list[Difference]]:
    found: list[Difference] = []
    both = min(len(ours), len(theirs))
    for index in range(both):
        one, two = ours[index], theirs[index]
        if one.observed is None or two.observed is None:
            # Cancelled: backends suspend at different places, so what comes after may rightly differ.
            return index, found
        if one.concurrent or two.concurrent:
            until = index
            while until < both and (ours[until].concurrent or theirs[until].concurrent):
                until += 1
            together = ours[index:until], theirs[index:until]
            if any(each.observed is None for group in together for each in group):
                return index, found
            left, right = map(_outcomes, together)
            if left != right:
                summary = f"of calls at once, {name} gave {left}, but {other} {right}"
                found.append(Difference(one.node, summary))
            # Their order is open, and so is what it leaves behind.
            return until, found
        if one.call != two.call:
            summary = f"{one.call} is called on {name}, but {two.call} on {other}"
            return index, [*found, Difference(one.node, summary)]
        if one.changed and isinstance(one.observed, Returned) and isinstance(two.observed, Returned):
            continue  # what a scan gives of changes that are made under it is open
        parts = compare(two.observed, one.observed)
        if parts:
            answers = (f"{name}: {_answer(one.observed)}", f"{other}: {_answer(two.observed)}")
            summary = f"{one.call}, compared with {other}: {parts[0]}"
            found.append(Difference(one.node, summary, (*answers, *parts[1:SHOWN_PARTS])))
    if len(ours) != len(theirs):
        longer = ours if len(ours) > len(theirs) else theirs
        summary = f"{len(ours)} calls on {name}, but {len(theirs)} on {other}"
        found.append(Difference(longer[both].node, summary))
    return both, found


def _answer(observed: Observation) -> str:
    if isinstance(observed, Raised):
        return f"raised {observed.error}: {short(observed.text)}"
    return short(observed.value)


def _outcomes(calls: Sequence[_Noted]) -> dict[str, int]:
    named = [
        f"{each.call}: {each.observed.error if isinstance(each.observed, Raised) else 'a result'}"
        for each in calls
    ]
    return dict(sorted(Counter(named).items()))
