"""Latency budgets as they are written: what is timed, on how many records, and what it may cost at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from kpstore_conformance.scenario.catalogue import DATA_SETS, Method
from kpstore_conformance.scenario.scope import CaseError, Context, Scope, describe
from kpstore_conformance.scenario.show import clip
from kpstore_conformance.scenario.steps import CallStep, compile_steps
from kpstore_conformance.scenario.values import compile_duration
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, ScalarNode

__all__ = [
    "BUDGET_KEYS",
    "BUDGET_NAMES",
    "BUDGET_REQUIRED",
    "FULL",
    "NIGHT",
    "STATISTICS",
    "Budget",
    "BudgetCase",
    "Level",
    "compile_budget",
]

BUDGET_KEYS = {
    "name": "a fact, unique in the file",
    "why": "what a reader should know beyond the name",
    "requires": "capabilities that it needs, besides the file's",
    "tags": "free words, besides the file's; `full` and `night` leave it to runs with `--latency`",
    "data": "the data set that it is measured on; by default that of the store whose method is timed",
    "records": "how many records the data set has, or a list of such numbers: each is a case",
    "before": "calls before each timed one, not timed",
    "measure": "the calls that are timed, in turn: all of one method",
    "after": "calls after each timed one, not timed",
    "statistic": "p99 (the default) or p50",
    "at_most": "the limit: `1 ms`, or one per backend, `{memory: 1 ms, sqlite: 5 ms, default: 20 ms}`",
    "growth": "at most so many times what it costs with a tenth of the records: `2`, or one per backend",
}
BUDGET_REQUIRED = ("name", "records", "measure")

BUDGET_NAMES = {
    "record": "a record of the data set, another one for each call",
    "new": "a record like those of the data set, which is not in it; another one for each call",
    "n": "a number that no other call has",
}
"""The names that the calls of a budget may use."""

STATISTICS = ("p99", "p50")

FULL = 10_000
"""Cases with more records than this are left to `--latency full`: loading them takes up to a minute."""
NIGHT = 100_000
"""Cases with more records than this are left to `--latency night`: loading them takes many minutes."""

Level = Literal["quick", "full", "night"]

_DEFAULT = "default"
_KNOWN_BACKENDS = ("memory", "sqlite", "qdrant", _DEFAULT)


@dataclass(frozen=True, eq=False)
class Budget:
    """What calls of one method may cost. `at_most_ms` and `growth` are by backend, `default` for others."""

    name: str
    why: str | None
    requires: frozenset[str]
    tags: frozenset[str]
    data: str
    records: tuple[int, ...]
    before: tuple[CallStep, ...]
    measure: tuple[CallStep, ...]
    after: tuple[CallStep, ...]
    statistic: str
    at_most_ms: Mapping[str, float]
    growth: Mapping[str, float]
    line: int
    file: Path

    @property
    def method(self) -> Method:
        """The method that is timed."""
        return self.measure[0].method

    def limit_ms(self, backend: str) -> float | None:
        """The limit for a backend, if one is stated."""
        return self.at_most_ms.get(backend, self.at_most_ms.get(_DEFAULT))

    def growth_at_most(self, backend: str) -> float | None:
        """The bound on growth for a backend, if one is stated."""
        return self.growth.get(backend, self.growth.get(_DEFAULT))


@dataclass(frozen=True, eq=False)
class BudgetCase:
    """A budget on one number of records."""

    id: str
    budget: Budget
    records: int

    @property
    def level(self) -> Level:
        """Which runs measure it: all of them, or those with `--latency full` or `--latency night`."""
        if self.records > NIGHT or "night" in self.budget.tags:
            return "night"
        return "full" if self.records > FULL or "full" in self.budget.tags else "quick"

    @property
    def turn(self) -> tuple[str, bool, int]:
        """By this cases are sorted: those on one data set together, and what reads before what writes, since
        what is written may stay there.
        """
        return (self.budget.data, self.budget.method.writes, self.records)


def compile_budget(
    found: Mapping[str, Node],
    node: Node,
    scope: Scope,
    *,
    name: str,
    why: str | None,
    requires: frozenset[str],
    tags: frozenset[str],
) -> Budget | None:
    """What is particular to a budget; every problem is reported to the scope."""
    before = _calls(found.get("before"), scope, "before", saves=True)
    measure = _calls(found.get("measure"), scope, "measure")
    after = _calls(found.get("after"), scope, "after")
    for call in measure[1:]:
        if call.method is not measure[0].method:
            message = f"`measure` is of one method, {measure[0].action}; this is {call.action}"
            scope.report(call.node, f"{message}, which needs a budget of its own")
    data = scope.word(found["data"], "data set", DATA_SETS) if "data" in found else None
    statistic = scope.word(found["statistic"], "statistic", STATISTICS) if "statistic" in found else None
    records = _records(found["records"], scope) if "records" in found else ()
    at_most = _by_backend(found.get("at_most"), scope, "at_most", _milliseconds)
    growth = _by_backend(found.get("growth"), scope, "growth", _factor)
    if not {"at_most", "growth"} & found.keys():
        scope.report(node, "the budget states nothing: add `at_most`, `growth` or both")
    if not measure:
        return None
    return Budget(
        name=name,
        why=why,
        requires=requires,
        tags=tags,
        data=data or _data_of(measure[0].method),
        records=records,
        before=before,
        measure=measure,
        after=after,
        statistic=statistic or STATISTICS[0],
        at_most_ms=at_most,
        growth=growth,
        line=node.line,
        file=scope.file,
    )


def _data_of(method: Method) -> str:
    return next(name for name, data in DATA_SETS.items() if data.store == method.store)


def _calls(node: Node | None, scope: Scope, what: str, *, saves: bool = False) -> tuple[CallStep, ...]:
    if node is None:
        return ()
    allowed = ("save",) if saves else ("expect",)
    calls = []
    for step in compile_steps(node, scope, what):
        if not isinstance(step, CallStep):
            scope.report(step.node, f"`{what}` holds calls alone, `store.method: {{…}}`, not `{step.action}`")
            continue
        calls.append(step)
        assert isinstance(step.node, MapNode)
        for key, _ in step.node:
            if key.value != step.action and key.value not in allowed:
                scope.report(key, f"in `{what}` a call has no `{key.value}`, only `{allowed[0]}`")
    return tuple(calls)


def _records(node: Node, scope: Scope) -> tuple[int, ...]:
    numbers: list[int] = []
    for item in node.items if isinstance(node, ListNode) else [node]:
        value = item.value if isinstance(item, ScalarNode) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            scope.report(item, f"records must be an integer of at least 1, not {describe(item)}")
        elif value in numbers:
            scope.report(item, f"{value} is there twice")
        else:
            numbers.append(value)
    if isinstance(node, ListNode) and not node.items:
        scope.report(node, "`records` is empty, so there would be no case")
    return tuple(numbers)


def _by_backend(
    node: Node | None, scope: Scope, what: str, read: Callable[[Node, Scope, str], float]
) -> dict[str, float]:
    if node is None:
        return {}
    if not isinstance(node, MapNode):
        return {_DEFAULT: read(node, scope, what)}
    if not node.entries:
        scope.report(node, f"`{what}` names no backend")
    stated: dict[str, float] = {}
    for key, value in node:
        name = key.value
        if not isinstance(name, str) or not name.strip():
            scope.report(key, f"the keys of `{what}` are names of backends")
            continue
        # Anybody may call a backend what they like; but a letter that is wrong in one of ours is a mistake.
        near = [] if name in _KNOWN_BACKENDS else get_close_matches(name, _KNOWN_BACKENDS, 1, 0.8)
        if near and len(near[0]) == len(name):
            scope.report(key, f"unknown backend `{clip(name, 40)}` in {what}; did you mean `{near[0]}`?")
        stated[name] = read(value, scope, what)
    return stated


def _milliseconds(node: Node, scope: Scope, what: str) -> float:
    problems = len(scope.problems)
    duration = compile_duration(node, scope, what)
    milliseconds = 0.0
    if len(scope.problems) == problems:
        try:
            built: Any = duration.build(Context(scope.folder, lambda: datetime.now(UTC)))
            milliseconds = built.total_seconds() * 1000
        except CaseError as error:
            scope.report(node, error.message)
            return 0.0
        if milliseconds <= 0:
            scope.report(node, f"{what} must be longer than nothing")
    return milliseconds


def _factor(node: Node, scope: Scope, what: str) -> float:
    value = node.value if isinstance(node, ScalarNode) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 1:
        scope.report(node, f"{what} must be a number of at least 1, not {describe(node)}")
        return 1.0
    return float(value)
