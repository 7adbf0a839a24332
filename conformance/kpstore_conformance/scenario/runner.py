"""Runs one case against one target: its steps in order, each judged, every handle closed whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import kpstore
from kpstore_conformance.scenario.document import Case
from kpstore_conformance.scenario.failure import Before, Failure
from kpstore_conformance.scenario.matchers import ABSENT, CANCELLED, Matcher, Mismatch
from kpstore_conformance.scenario.scope import CaseError, Context
from kpstore_conformance.scenario.show import clip, counted, redact, short, snapshot, view
from kpstore_conformance.scenario.steps import (
    AdvanceStep,
    CallStep,
    CloseStep,
    CompareStep,
    ConcurrentlyStep,
    ErrorExpectation,
    ForEachStep,
    GivenStep,
    InspectStep,
    OpenStep,
    Outcome,
    ReopenStep,
    RepeatStep,
    Save,
    SetClockStep,
    Step,
)
from kpstore_conformance.scenario.values import Constant, Value, walk
from kpstore_conformance.scenario.yaml_nodes import Node

__all__ = ["CaseResult", "Target", "run_case", "step_under_way"]

SHOWN_BEFORE = 10
"""How many steps before the failing one are told: a screen's worth."""

GIVEN_BATCH = 500
"""Records per create_many of `given`: few calls, and no batch that itself holds the event loop."""


step_under_way: ContextVar[Step | None] = ContextVar("step_under_way", default=None)
"""The step that a call of a target's stores belongs to, for a target that looks at its calls."""


class Target(Protocol):
    """One case's own data on one backend."""

    @property
    def name(self) -> str:
        """The backend's name."""

    def inspectors(self) -> frozenset[str]:
        """Which inspectors there are: a subset of `sql` and `raw`."""

    async def open(self, clock: kpstore.Clock) -> kpstore.AllStores:
        """A handle on the data; another call gives another handle on the same data."""

    async def inspect_sql(self, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
        """The rows of a query behind the store's back."""

    async def inspect_raw(self, needle: bytes) -> int:
        """How often the bytes occur in everything that the backend keeps on disk."""

    async def dispose(self) -> None:
        """Remove the data."""


@dataclass(frozen=True)
class CaseResult:
    """The verdict on a case. `failed` is the store's fault, `error` the scenario's or the target's."""

    case: Case
    outcome: Literal["passed", "failed", "error"]
    failure: Failure | None
    duration_s: float
    executed_steps: int


class _Stop(Exception):  # noqa: N818 - ends the case; not an error of its own
    """The case ends here, with this verdict."""

    def __init__(
        self,
        outcome: Literal["failed", "error"],
        summary: str,
        marked: Node,
        mismatches: Sequence[Mismatch] = (),
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(summary)
        self.outcome: Literal["failed", "error"] = outcome
        self.summary = summary
        self.marked = marked
        self.mismatches = tuple(mismatches)
        self.notes = tuple(notes)


async def run_case(case: Case, target: Target) -> CaseResult:
    """Run one case and close every handle it opened. Raises nothing but a cancellation of itself."""
    return await _Run(case, target).run()


class _CancelAt(Awaitable[Any]):
    """Drives a coroutine by hand and cancels the running task at the coroutine's n-th suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], suspension: int) -> None:
        self._coroutine = coroutine
        self._suspension = suspension

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        thrown: BaseException | None = None
        count = 0
        while True:
            try:
                awaited = inner.send(None) if thrown is None else inner.throw(thrown)
            except StopIteration as stop:
                return stop.value
            thrown = None
            count += 1
            if count == self._suspension:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # takes effect on what is awaited next: the very future of this suspension
            try:
                yield awaited
            except GeneratorExit:
                inner.close()
                raise
            except BaseException as error:
                thrown = error


class _Run:
    def __init__(self, case: Case, target: Target) -> None:
        self._case = case
        self._target = target
        self._clock = kpstore.ManualClock(case.scenario.clock)
        self._context = Context(case.scenario.file.parent, self._clock, dict(case.parameters))
        self._handles: dict[str, kpstore.AllStores] = {}
        self._open: set[str] = set()
        self._loops: list[str] = []  # names of the loops' variables, outermost first
        self._before: deque[tuple[Step, object, Mapping[str, object]]] = deque(maxlen=SHOWN_BEFORE)
        self._noted = 0
        self._executed = 0
        self._step: Step | None = None
        self._actions: dict[type[Step], Callable[[Any], Awaitable[None]]] = {
            AdvanceStep: self._advance,
            CallStep: self._call,
            CloseStep: self._close,
            CompareStep: self._compare,
            ConcurrentlyStep: self._concurrently,
            ForEachStep: self._for_each,
            GivenStep: self._given,
            InspectStep: self._inspect,
            OpenStep: self._open_step,
            ReopenStep: self._reopen,
            RepeatStep: self._repeat,
            SetClockStep: self._set_clock,
        }

    async def run(self) -> CaseResult:
        started = time.perf_counter()
        outcome: Literal["passed", "failed", "error"] = "passed"
        failure: Failure | None = None
        try:
            await self._open_handle("main")
            await self._steps(self._case.scenario.given)
            await self._steps(self._case.scenario.steps)
        except _Stop as stop:
            outcome, failure = stop.outcome, self._failure(stop)
        except CaseError as error:
            node = error.node or self._place()
            outcome, failure = "error", self._failure(_Stop("error", error.message, node))
        except Exception as error:
            what = f"the engine or the target raised {_described(error)}"
            outcome = "error"
            failure = self._failure(_Stop("error", what, self._place(), notes=_frames(error)))
        finally:
            closing = await self._close_all()
        if closing is not None and failure is None:
            what = f"closing the store raised {_described(closing)}"
            outcome, failure = (
                "failed",
                self._failure(_Stop("failed", what, self._place(), notes=_frames(closing))),
            )
        return CaseResult(self._case, outcome, failure, time.perf_counter() - started, self._executed)

    # --- life ------------------------------------------------------------------------------------

    async def _open_handle(self, name: str) -> None:
        if name in self._open:
            raise CaseError(f"the handle `{name}` is open already")
        try:
            self._handles[name] = await self._target.open(self._clock)
        except Exception as error:
            step = self._step or next(iter(self._case.scenario.steps))
            known = isinstance(error, kpstore.KpStoreError)
            what = f"opening the handle `{name}` on {self._target.name} raised {_described(error)}"
            outcome: Literal["failed", "error"] = "failed" if self._step is not None else "error"
            raise _Stop(outcome, what, step.node, notes=() if known else _frames(error)) from error
        self._open.add(name)

    async def _close_handle(self, name: str) -> None:
        self._open.discard(name)
        try:
            await self._handle(name).close()
        except Exception as error:
            what = f"closing the handle `{name}` raised {_described(error)}"
            raise _Stop("failed", what, self._place(), notes=_frames(error)) from error

    def _handle(self, name: str) -> kpstore.AllStores:
        if name not in self._handles:
            raise CaseError(f"the handle `{name}` was never opened")
        return self._handles[name]

    async def _close_all(self) -> Exception | None:
        first: Exception | None = None
        for name in list(self._open):
            self._open.discard(name)
            try:
                await self._handles[name].close()
            except Exception as error:
                first = first or error
        return first

    # --- steps -----------------------------------------------------------------------------------

    async def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._step = step
            self._executed += 1
            await self._actions[type(step)](step)

    def _note(self, step: Step, result: object) -> None:
        loops = {
            name: self._context.variables[name] for name in self._loops if name in self._context.variables
        }
        self._before.append((step, result, loops))
        self._noted += 1

    async def _advance(self, step: AdvanceStep) -> None:
        duration = step.duration.build(self._context)
        try:
            self._clock.advance(duration)
        except OverflowError:
            raise CaseError("the clock would leave the years 1 to 9999", step.node) from None
        self._note(step, self._clock())

    async def _set_clock(self, step: SetClockStep) -> None:
        self._clock.set(step.time.build(self._context))
        self._note(step, self._clock())

    async def _open_step(self, step: OpenStep) -> None:
        await self._open_handle(step.handle)
        self._note(step, _Text(step.handle))

    async def _close(self, step: CloseStep) -> None:
        await self._close_handle(step.handle)
        self._note(step, _Text(step.handle))

    async def _reopen(self, step: ReopenStep) -> None:
        await self._close_handle(step.handle)
        await self._open_handle(step.handle)
        self._note(step, _Text(step.handle))

    async def _repeat(self, step: RepeatStep) -> None:
        await self._loop(step.variable, range(step.times.build(self._context)), step.steps)

    async def _for_each(self, step: ForEachStep) -> None:
        await self._loop(step.variable, step.values.build(self._context), step.steps)

    async def _loop(self, variable: str, values: Sequence[object] | range, steps: Sequence[Step]) -> None:
        self._loops.append(variable)
        for value in values:
            self._context.variables[variable] = value
            await self._steps(steps)
        self._loops.pop()
        self._context.variables.pop(variable, None)

    async def _compare(self, step: CompareStep) -> None:
        value = view(step.value.build(self._context))
        self._check(step, step.expect, value, "value")
        self._note(step, _Text("as expected"))

    async def _inspect(self, step: InspectStep) -> None:
        if step.sql is not None:
            parameters = [value.build(self._context) for value in step.parameters]
            result: object = await self._target.inspect_sql(step.sql.build(self._context), parameters)
        else:
            assert step.raw is not None
            needle = step.raw.build(self._context).encode("utf-8", "surrogatepass")
            result = {"occurrences": await self._target.inspect_raw(needle)}
        if step.expect is not None:
            self._check(step, step.expect, view(result), "result")
        self._save(step.saves, result)
        self._note(step, result)

    async def _given(self, step: GivenStep) -> None:
        if step.listed is not None:
            records = step.listed(self._context)
            await self._given_batches(step, records)
            return
        times = step.times.build(self._context)
        result: object = None
        if step.many is not None:
            assert step.variable is not None
            records = []
            for index in range(times):
                self._context.variables[step.variable] = index
                records.append(step.build(self._context)["record"])
            self._context.variables.pop(step.variable, None)
            await self._given_batches(step, records)
            return
        for index in range(times):
            if step.variable is not None:
                self._context.variables[step.variable] = index
            result = await self._given_call(step, step.build(self._context))
        if step.variable is not None:
            self._context.variables.pop(step.variable, None)
        self._save(step.saves, result)
        self._note(step, result)

    async def _given_batches(self, step: GivenStep, records: list[Any]) -> None:
        assert step.many is not None
        for start in range(0, len(records), GIVEN_BATCH):
            await self._given_call(step, {step.many: records[start : start + GIVEN_BATCH]})
        self._note(step, _Text(counted(len(records), "record")))

    async def _given_call(self, step: GivenStep, arguments: Mapping[str, Any]) -> object:
        step_under_way.set(step)
        store = getattr(self._handle("main"), step.method.store)
        try:
            return await getattr(store, step.method.name)(**arguments)
        except Exception as error:
            known = isinstance(error, kpstore.KpStoreError)
            call = f"{step.method.store}.{step.method.name}"
            what = f"`given` could not be stored: {call} raised {_described(error)}"
            raise _Stop("error", what, step.node, notes=() if known else _frames(error)) from error

    # --- calls -----------------------------------------------------------------------------------

    async def _call(self, step: CallStep) -> None:
        arguments = {name: value.build(self._context) for name, value in step.arguments}
        result: object = None
        raised: BaseException | None = None
        try:
            result = await self._perform(step, arguments)
        except (_Stop, CaseError):
            raise  # of a step inside `during`
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raised = error  # nobody cancelled: the store made it up
        except Exception as error:
            raised = error
        self._step = step
        self._judge(step, result, raised)
        noted: object = result if raised is None else _Text(f"raised {_described(raised)}")
        if raised is None:
            self._save(step.saves, None if result is CANCELLED else result)
        if step.scribble_arguments:
            _scribble(list(arguments.values()), set())
        if step.scribble_result and raised is None:
            noted = view(result)
            frozen = _scribble(result, set())
            if frozen:
                raise _Stop(
                    "failed", f"{frozen} is not immutable (GEN-3): a field of it could be set", step.node
                )
        self._note(step, noted)

    def _judge(self, step: CallStep, result: object, raised: BaseException | None) -> None:
        if raised is not None:
            if step.error is None:
                notes = () if isinstance(raised, kpstore.KpStoreError) else _frames(raised)
                what = f"{step.action} raised {_described(raised)}"
                raise _Stop("failed", what, step.node, notes=notes) from raised
            mismatches = self._error_mismatches(step.error, raised)
            if mismatches:
                raise self._mismatch("failed", mismatches) from raised
        elif result is CANCELLED:
            return  # `expect` and `error` are about the completed case
        elif step.error is not None:
            came = f"the result {short(result)}"
            raise self._mismatch("failed", [Mismatch("error", step.error.name, came, step.error.node)])
        elif step.expect is not None:
            self._check(step, step.expect, view(result), "result")

    def _error_mismatches(self, expected: ErrorExpectation, raised: BaseException) -> list[Mismatch]:
        if not isinstance(raised, getattr(kpstore, expected.name)):
            return [Mismatch("error", expected.name, _described(raised), expected.node)]
        found: list[Mismatch] = []
        for name, matcher in expected.parts:
            value: object = str(raised) if name == "message" else getattr(raised, name, ABSENT)
            found += matcher.match(value, self._context, f"error.{name}")
        return found

    async def _perform(self, step: CallStep, arguments: Mapping[str, Any]) -> Any:
        """The result of the call, or `CANCELLED`."""
        step_under_way.set(step)
        store = getattr(self._handle(step.handle), step.method.store)
        method = getattr(store, step.method.name)
        coroutine = (
            self._collect(step, method, arguments) if step.method.iterates else _called(method, arguments)
        )
        if step.cancel_at is None:
            return await coroutine
        try:
            suspension = step.cancel_at.build(self._context)
        except BaseException:
            coroutine.close()
            raise
        task = asyncio.ensure_future(_awaited(_CancelAt(coroutine, suspension)))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:  # of the whole run
            task.cancel()
            raise
        return CANCELLED if task.cancelled() else task.result()

    async def _collect(
        self, step: CallStep, method: Callable[..., AsyncIterator[Any]], arguments: Mapping[str, Any]
    ) -> list[Any]:
        items: list[Any] = []
        after = None if step.during_after is None else step.during_after.build(self._context)
        if after == 0:
            await self._steps(step.during_steps)
        iterator = method(**arguments)
        async for item in iterator:
            items.append(item)
            if len(items) == after:
                await self._steps(step.during_steps)
        if after is not None and len(items) < after:
            what = f"`during` never came: it was to run after item {after}, and the scan gave {len(items)}"
            raise _Stop("failed", what, step.node)
        return items

    async def _concurrently(self, step: ConcurrentlyStep) -> None:
        calls: list[tuple[CallStep, dict[str, Any]]] = []
        for call in step.calls:
            times = 1 if call.times is None else call.times.build(self._context)
            for index in range(times):
                if call.times is not None:
                    self._context.variables[call.variable] = index
                arguments = {name: value.build(self._context) for name, value in call.arguments}
                own = call
                if (
                    call.cancel_at is not None
                ):  # it may name the variable, which has moved on when the call starts
                    suspension = Constant(call.node, call.cancel_at.build(self._context))
                    own = dataclasses.replace(call, cancel_at=suspension)
                calls.append((own, arguments))
            if call.times is not None:
                self._context.variables.pop(call.variable, None)
        tasks = [asyncio.ensure_future(self._perform(call, arguments)) for call, arguments in calls]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for result in results:
            if isinstance(result, (CaseError, _Stop)):
                raise result
        self._step = step
        if step.outcomes:
            self._judge_outcomes(step, results)
        else:
            self._all_completed(step, results)
        self._save(step.saves, results)
        self._note(step, _Results(results))

    def _all_completed(self, step: ConcurrentlyStep, results: Sequence[object]) -> None:
        raised = [result for result in results if isinstance(result, BaseException)]
        if raised:
            what = f"{len(raised)} of {len(results)} concurrent calls raised, first {_described(raised[0])}"
            notes = () if isinstance(raised[0], kpstore.KpStoreError) else _frames(raised[0])
            raise _Stop("failed", what, step.node, notes=notes)

    def _judge_outcomes(self, step: ConcurrentlyStep, results: Sequence[Any]) -> None:
        counts = [0] * len(step.outcomes)
        strangers: list[Any] = []
        for result in results:
            seen = result if isinstance(result, BaseException) else view(result)
            for index, outcome in enumerate(step.outcomes):
                if self._is_outcome(outcome, seen):
                    counts[index] += 1
                    break
            else:
                strangers.append(result)
        mismatches = [
            mismatch
            for index, (outcome, count) in enumerate(zip(step.outcomes, counts, strict=True))
            if outcome.count is not None
            for mismatch in outcome.count.match(count, self._context, f"outcomes[{index}].count")
        ]
        if not strangers and not mismatches:
            return
        notes = (f"the outcomes were: {_tally(results)}",)
        if strangers:
            what = f"{len(strangers)} of {len(results)} outcomes match none that is listed"
            first = _outcome_text(strangers[0])
            own = Mismatch("outcome", "one of those listed", f"{first} (1 of {len(strangers)})", step.node)
            raise _Stop("failed", what, step.node, [own, *mismatches], notes)
        raise self._mismatch("failed", mismatches, notes)

    def _is_outcome(self, outcome: Outcome, seen: Any) -> bool:
        if isinstance(seen, Exception):
            return outcome.error is not None and not self._error_mismatches(outcome.error, seen)
        if isinstance(seen, BaseException):
            return False
        return outcome.result is not None and not outcome.result.match(seen, self._context, "result")

    # --- verdicts --------------------------------------------------------------------------------

    def _check(self, step: Step, matcher: Matcher, value: object, path: str) -> None:
        mismatches = matcher.match(value, self._context, path)
        if mismatches:
            raise self._mismatch("failed", mismatches)

    def _mismatch(
        self, outcome: Literal["failed", "error"], mismatches: Sequence[Mismatch], notes: Sequence[str] = ()
    ) -> _Stop:
        first = mismatches[0]
        expected, came = clip(first.expected, 100), clip(first.came, 100)
        return _Stop(
            outcome, f"{first.path}: expected {expected}, came {came}", first.node, mismatches, notes
        )

    def _save(self, saves: Sequence[Save], result: object) -> None:
        for save in saves:
            value = snapshot(result)
            if save.path:
                try:
                    value = walk(value, save.path, f"save: {save.name}")
                except CaseError as error:
                    raise _Stop("failed", error.message, save.node) from None
            self._context.variables[save.name] = value

    def _place(self) -> Node:
        return (self._step or self._case.scenario.steps[0]).node

    def _failure(self, stop: _Stop) -> Failure:
        scenario = self._case.scenario
        step = self._step or scenario.steps[0]
        marked = stop.marked
        inside = step.node.line <= marked.line <= max(step.node.last_line, step.node.line)
        before = tuple(
            Before(noted.node.line, noted.action, _result_text(result), _variables(loops))
            for noted, result, loops in self._before
        )
        variables = self._context.variables
        return Failure(
            summary=redact(stop.summary.replace("\n", " ")),
            file=scenario.file,
            line=step.node.line,
            case_id=self._case.id,
            outcome=stop.outcome,
            clauses=tuple(sorted(scenario.clauses, key=_clause_order)),
            lines=scenario.lines,
            step=step.node,
            marked=marked if inside else step.node,
            mismatches=stop.mismatches,
            notes=tuple(map(redact, stop.notes)),
            before=before,
            before_count=self._noted,
            parameters=tuple((name, self._shown(value)) for name, value in self._case.parameters.items()),
            variables=_variables({name: variables[name] for name in self._loops if name in variables}),
        )

    def _shown(self, value: object) -> str:
        if isinstance(value, Value):
            try:
                value = value.build(self._context)
            except CaseError:
                return "(not made yet)"
        return short(value, 80)


class _Text(str):
    """A result that is told as it stands, not as a value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Results:
    """The outcomes of concurrent calls, told as a tally."""

    results: Sequence[object]


async def _called(method: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]) -> Any:
    return await method(**arguments)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _clause_order(clause: str) -> tuple[str, int]:
    prefix, _, number = clause.rpartition("-")
    return prefix, int(number)


def _described(error: BaseException) -> str:
    message = clip(redact(str(error)).replace("\n", " "), 300)
    own = "" if isinstance(error, kpstore.KpStoreError) else " (not a KpStoreError)"
    return f"{type(error).__name__}: {message}{own}" if message else f"{type(error).__name__}{own}"


def _frames(error: BaseException) -> tuple[str, ...]:
    """Where an unexpected error was raised: the last few places outside of this engine."""
    here = Path(__file__).parent
    trace: TracebackType | None = error.__traceback__
    frames = [frame for frame in traceback.extract_tb(trace) if not Path(frame.filename).is_relative_to(here)]
    return tuple(f"at {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-4:])


def _result_text(result: object) -> str:
    if isinstance(result, _Results):
        return clip(_tally(result.results), 300)
    if isinstance(result, _Text):
        return clip(redact(result), 160)
    return "cancelled" if result is CANCELLED else short(result, 160)


def _variables(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {short(value, 60)}" for name, value in values.items())


def _outcome_text(result: object) -> str:
    if isinstance(result, BaseException):
        return f"raised {_described(result)}"
    return _result_text(result)


def _tally(results: Sequence[object]) -> str:
    """Equal outcomes counted: `30 × {…}, 50 × {…}`."""
    counts: dict[str, int] = {}
    for result in results:
        text = clip(_outcome_text(result), 100)
        counts[text] = counts.get(text, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{count} × {text}" for text, count in ordered[:4]]
    return ", ".join(shown + [f"… {len(ordered) - 4} other kinds"] * (len(ordered) > 4))


def _scribble(value: object, seen: set[int]) -> str | None:
    """Change every dict and list within reach; gives the class of a record whose fields could be set."""
    if id(value) in seen:
        return None
    seen.add(id(value))
    loose: str | None = None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            loose = _scribble(inner, seen) or loose
            try:
                setattr(value, field.name, inner)
            except (AttributeError, TypeError):  # FrozenInstanceError is one; slots may raise the other
                continue
            loose = type(value).__name__
    elif isinstance(value, dict):
        for inner in list(value.values()):
            loose = _scribble(inner, seen) or loose
        for key in list(value):
            value[key] = "scribbled"
        value["scribbled"] = "scribbled"
    elif isinstance(value, list):
        for inner in list(value):
            loose = _scribble(inner, seen) or loose
        value[:] = ["scribbled"] * (len(value) + 1)
    elif isinstance(value, (tuple, set, frozenset)):
        for inner in value:
            loose = _scribble(inner, seen) or loose
    return loose
