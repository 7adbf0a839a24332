"""From the outcomes of the cases to a verdict: what a backend keeps, what it breaks, and what nobody
looked at.

A level is granted only for what was executed. It cannot be bought with skips: a clause that binds the
backend and of which no case ran is a gap that the level names, a selection of cases grants none, and
nothing executed is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from kpstore_conformance.latency.judging import LatencyLevel, LatencyVerdict
from kpstore_conformance.scenario import CLAUSES
from kpstore_conformance.suite import Missing, SuiteCase, binds, clause_group
from kpstore_conformance.target import BackendFacts

__all__ = [
    "FAILING",
    "CaseOutcome",
    "ClauseStatus",
    "Level",
    "Line",
    "Outcome",
    "Status",
    "Verdict",
    "judge",
    "render",
]

Outcome: TypeAlias = Literal[
    "passed",
    "failed",
    "error",
    "differs",
    "known_failing",
    "unexpected_pass",
    "flaky_failed",
    "not_applicable",
]
"""`error`: the case broke before it could say anything of the clause. `differs`: it passed, but another
backend answered otherwise. `known_failing` and `flaky_failed` failed as the known-failing file foretold;
`unexpected_pass` passed against it.
"""

Status: TypeAlias = Literal[
    "proven", "failed", "known_failing", "unobserved", "unproven", "not_binding", "incomplete"
]
"""`unobserved`: it binds the backend and all of its cases are not applicable. `unproven`: the suite has
no case. `not_binding`: it is about another backend or an undeclared capability. `incomplete`: cases of it
were not selected.
"""

FAILING = frozenset({"failed", "error", "differs", "unexpected_pass"})
"""The outcomes that fail a run."""
_KNOWN = frozenset({"known_failing", "flaky_failed"})
_SHOWN_FAILURES = 12
_RED = {"red": True}


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What became of one case; plain data, so that it travels between processes.

    `line` is where the case is declared, `at` (file:line) where it failed; `missing` is what a not
    applicable case needs; `summary` is one line on a failure; `known` is the reason, issue and date of
    the entry that foretold it; `rerun` is the command that runs the case alone. In a run that compares two
    backends, `compared` is how many of the case's calls were, or `not_compared` why it ran on one alone.
    """

    case: str
    kind: str
    file: str
    line: int
    clauses: list[str]
    requires: list[str]
    outcome: Outcome
    duration_s: float = 0.0
    summary: str | None = None
    at: str | None = None
    missing: list[tuple[str, str]] = field(default_factory=list)
    known: dict[str, str] | None = None
    rerun: str | None = None
    compared: int | None = None
    not_compared: str | None = None
    latency: dict[str, Any] | None = None
    """The figures of a latency budget."""

    def to_plain(self) -> dict[str, Any]:
        """As a dict of plain data."""
        plain = asdict(self)
        plain["missing"] = [list(one) for one in self.missing]
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> CaseOutcome:
        """The other way round."""
        return cls(**{**plain, "missing": [(kind, name) for kind, name in plain["missing"]]})

    @property
    def executed(self) -> bool:
        """Whether it ran at all."""
        return self.outcome != "not_applicable"

    @property
    def why_not_applicable(self) -> str:
        """What it needs and the backend has not, if anything."""
        return " and ".join(str(Missing(kind, name)) for kind, name in self.missing)


@dataclass(frozen=True, slots=True)
class ClauseStatus:
    """Where a clause stands, and how many cases say so. `needs`: what its not applicable cases are
    missing.
    """

    clause: str
    status: Status
    passed: int
    failed: int
    not_applicable: int
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """What a backend has shown. Without `withheld` it keeps every clause that every backend must keep,
    but for `gaps` (clauses that nothing could be seen of), and each of `capabilities`.
    """

    withheld: str | None
    capabilities: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def granted(self) -> bool:
        """Whether there is one."""
        return self.withheld is None

    def __str__(self) -> str:
        if self.withheld is not None:
            return f"none ({self.withheld})"
        core = f"core except {', '.join(self.gaps)}" if self.gaps else "core"
        return " + ".join((core, *self.capabilities))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one run on one backend."""

    backend: BackendFacts
    outcomes: tuple[CaseOutcome, ...]
    clauses: tuple[ClauseStatus, ...]
    capabilities: dict[str, str]
    level: Level
    not_selected: int
    packaged: bool
    problems: tuple[str, ...]
    duration_s: float
    latency: LatencyVerdict
    against: BackendFacts | None = None
    """The backend that this one was compared with."""

    @property
    def failures(self) -> tuple[CaseOutcome, ...]:
        """The cases that fail the run."""
        return tuple(one for one in self.outcomes if one.outcome in FAILING)

    @property
    def known(self) -> tuple[CaseOutcome, ...]:
        """The cases that failed as foretold."""
        return tuple(one for one in self.outcomes if one.outcome in _KNOWN)

    @property
    def executed(self) -> int:
        """How many cases ran."""
        return sum(one.executed for one in self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether whatever was to be run was run, and nothing went wrong unforetold. Latency is another
        matter: `latency.passed`.
        """
        return not self.failures and not self.problems

    def count(self, *outcomes: str) -> int:
        """How many cases ended so."""
        return sum(one.outcome in outcomes for one in self.outcomes)

    def not_applicable(self) -> list[tuple[str, int]]:
        """Why cases were not applicable, and how many for that reason; the most frequent first."""
        reasons = Counter(one.why_not_applicable for one in self.outcomes if not one.executed)
        return _by_frequency(reasons)

    @property
    def compared(self) -> tuple[CaseOutcome, ...]:
        """The cases that ran on both backends."""
        return tuple(one for one in self.outcomes if one.compared is not None)

    def not_compared(self) -> list[tuple[str, int]]:
        """Why cases ran on this backend alone, and how many for that reason; the most frequent first."""
        return _by_frequency(Counter(one.not_compared for one in self.outcomes if one.not_compared))


def _by_frequency(counted: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


CAPABILITIES = ("durable", "multi_process", "vector_search", "controllable_clock")


def judge(
    backend: BackendFacts,
    outcomes: Iterable[CaseOutcome],
    *,
    suite: Collection[SuiteCase],
    packaged: bool = True,
    problems: Sequence[str] = (),
    duration_s: float = 0.0,
    against: BackendFacts | None = None,
    latency_level: LatencyLevel = "quick",
) -> Verdict:
    """The verdict on a run.

    Args:
        backend: the backend, as it described itself.
        outcomes: what became of each case that was selected.
        suite: every case of the whole suite, selected or not.
        packaged: False where the suite is without the packaged scenarios and checks.
        problems: what else went wrong; each fails the run.
        duration_s: how long the run took.
        against: the backend that its answers were compared with, if they were.
        latency_level: how much of the latency budgets was to be measured.
    """
    everything = sorted(outcomes, key=lambda one: one.case)
    found = [one for one in everything if one.kind != "latency"]
    timed = [one for one in everything if one.kind == "latency"]
    latency = LatencyVerdict(
        latency_level,
        tuple(timed),
        tuple(one for one in timed if one.outcome in FAILING),
        sum(case.kind == "latency" for case in suite) - len(timed),
    )
    suite = [case for case in suite if case.kind != "latency"]
    all_problems = [*problems, *_twice(everything)]
    if not any(one.executed for one in everything):
        all_problems.append("nothing was executed: no case of the selection is applicable to this backend")
    elif against is not None and all(one.compared is None for one in found if one.kind == "scenario"):
        all_problems.append(f"nothing was compared: no scenario that was run applies to {against.name} too")
    seen = {one.case for one in found}
    left_out = [case for case in suite if case.id not in seen]
    clauses = tuple(_clause(clause, backend, found, left_out) for clause in CLAUSES)
    capabilities = {name: _capability(name, backend, found, left_out) for name in CAPABILITIES}
    partial = None
    if left_out:
        partial = f"{len(left_out)} of {len(suite)} cases were not selected"
    elif not packaged:
        partial = "the packaged scenarios and checks were left out"
    level = _level(found, clauses, capabilities, partial, all_problems)
    return Verdict(
        backend=backend,
        outcomes=tuple(found),
        clauses=clauses,
        capabilities=capabilities,
        level=level,
        not_selected=len(left_out),
        packaged=packaged,
        problems=tuple(all_problems),
        duration_s=duration_s,
        against=against,
        latency=latency,
    )


def _twice(found: Sequence[CaseOutcome]) -> list[str]:
    places: dict[str, list[str]] = {}
    for one in found:
        places.setdefault(one.case, []).append(f"{one.file}:{one.line}")
    return [
        f"the case {case!r} is there twice: {', '.join(at)}" for case, at in places.items() if len(at) > 1
    ]


def _clause(
    clause: str, backend: BackendFacts, found: Sequence[CaseOutcome], left_out: Sequence[SuiteCase]
) -> ClauseStatus:
    of_it = [one for one in found if clause in one.clauses]
    passed = sum(one.outcome == "passed" for one in of_it)
    failed = sum(one.outcome in FAILING or one.outcome in _KNOWN for one in of_it)
    needs = sorted({name for one in of_it for _, name in one.missing})
    status: Status
    if any(one.outcome in FAILING for one in of_it):
        status = "failed"
    elif failed:
        status = "known_failing"
    elif not binds(clause, backend):
        status = "not_binding"
    elif any(clause in case.clauses and not case.missing(backend) for case in left_out):
        status = "incomplete"
    elif passed:
        status = "proven"
    elif of_it:
        status = "unobserved"
    else:
        # A partial run that left out only cases which do not apply here has no outcome of them either.
        status = "unobserved" if any(clause in case.clauses for case in left_out) else "unproven"
    return ClauseStatus(clause, status, passed, failed, sum(not one.executed for one in of_it), tuple(needs))


def _capability(
    name: str, backend: BackendFacts, found: Sequence[CaseOutcome], left_out: Sequence[SuiteCase]
) -> str:
    if name not in backend.capabilities:
        return "not declared"
    of_it = [one for one in found if name in one.requires and one.executed]
    if any(one.outcome != "passed" for one in of_it):
        return "failed"
    if any(name in case.requires and not case.missing(backend) for case in left_out):
        return "incomplete"
    return "kept" if of_it else "declared, and no case looks at it"


def _level(
    found: Sequence[CaseOutcome],
    clauses: Sequence[ClauseStatus],
    capabilities: dict[str, str],
    partial: str | None,
    problems: Sequence[str],
) -> Level:
    failures = sum(one.outcome in FAILING for one in found)
    if failures:
        return Level(f"{_plural(failures, 'case')} failed")
    if problems:
        return Level("the run has problems")
    if partial is not None:
        return Level(f"partial: {partial}")
    broken = [one.clause for one in clauses if one.status == "known_failing"]
    if broken:
        return Level(f"known failures in {', '.join(broken)}")
    unproven = [one.clause for one in clauses if one.status == "unproven"]
    if unproven:
        return Level(f"the suite has no case for {', '.join(unproven)}")
    gaps = tuple(one.clause for one in clauses if one.status == "unobserved")
    return Level(None, tuple(name for name, state in capabilities.items() if state == "kept"), gaps)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, slots=True)
class Line:
    """A line for the terminal, with its colours by pytest's names for them."""

    text: str
    markup: dict[str, bool] = field(default_factory=dict)


def render(
    verdict: Verdict, *, suite_version: str, reports: Sequence[str] = (), width: int = 100
) -> list[Line]:
    """The verdict for a person: what, on which backend, how far, and what to do about the rest."""
    passed = verdict.passed and verdict.latency.passed
    good = {"green": True, "bold": True} if passed else {"red": True, "bold": True}
    outcome = "PASSED" if passed else "FAILED in latency alone" if verdict.passed else "FAILED"
    rule = "─" * min(width, 100)
    backend = verdict.backend
    title = backend.name if backend.name == backend.spec else f"{backend.name} ({backend.spec})"
    lines = [
        Line(rule, good),
        Line(f"  {outcome}  {title}  ·  kpstore conformance {suite_version}", good),
        Line(rule, good),
    ]

    def row(label: str, *values: str, **markup: bool) -> None:
        for number, value in enumerate(values):
            lines.append(Line(f"  {label if not number else '':<15}{value}", markup))

    row("level", str(verdict.level), **({"bold": True} if verdict.level.granted else {"yellow": True}))
    row("declares", ", ".join(_declared(verdict)) or "no capability")
    row("cases", _counts(verdict))
    row("own rules", *_wrap(sorted(backend.own_methods), width - 17), yellow=True)
    row("latency", *verdict.latency.told(), **({} if verdict.latency.passed else _RED))
    row("not applicable", *(f"{count} × {reason}" for reason, count in verdict.not_applicable()))
    if verdict.against is not None:
        row("compared with", _comparison(verdict, verdict.against))
        row("not compared", *(f"{count} × {reason}" for reason, count in verdict.not_compared()))
    row("clauses", *_wrap([_group(verdict, group) for group in _groups()], width - 17))
    row("gaps", *_gaps(verdict), yellow=True)
    row("unproven", *_unproven(verdict), yellow=True)
    row("known failures", *_known(verdict), yellow=True)
    row("problems", *verdict.problems, red=True)
    lines.extend(_failures(verdict))
    lines.extend(_too_slow(verdict.latency))
    row("reports", *reports)
    row("time", f"{verdict.duration_s:.1f} s")
    lines.append(Line(rule, good))
    return lines


def _declared(verdict: Verdict) -> list[str]:
    notes = {"kept": "", "failed": " (cases failed)", "incomplete": " (not all run)"}
    return [
        name + notes.get(state, f" ({state.rpartition(', ')[2]})")
        for name, state in verdict.capabilities.items()
        if state != "not declared"
    ]


def _counts(verdict: Verdict) -> str:
    parts = [f"{verdict.executed} executed", f"{verdict.count('passed')} passed"]
    for outcomes, word in (
        (("failed", "error"), "failed"),
        (("differs",), "answered otherwise"),
        (("unexpected_pass",), "passed unexpectedly"),
        (("known_failing",), "failed as known"),
        (("flaky_failed",), "flaky, failed"),
        (("not_applicable",), "not applicable"),
    ):
        count = verdict.count(*outcomes)
        if count:
            parts.append(f"{count} {word}")
    if verdict.not_selected:
        parts.append(f"{verdict.not_selected} not selected")
    return " · ".join(parts)


def _comparison(verdict: Verdict, against: BackendFacts) -> str:
    cases = verdict.compared
    calls = sum(one.compared or 0 for one in cases)
    differ = verdict.count("differs")
    found = (
        "no difference"
        if not differ
        else f"{_plural(differ, 'case')} {'differs' if differ == 1 else 'differ'}"
    )
    title = against.name if against.name == against.spec else f"{against.name} ({against.spec})"
    return f"{title}: {_plural(len(cases), 'case')}, {_plural(calls, 'call')} · {found}"


def _groups() -> list[str]:
    return list(dict.fromkeys(clause_group(clause) for clause in CLAUSES))


def _group(verdict: Verdict, group: str) -> str:
    of_it = [one for one in verdict.clauses if clause_group(one.clause) == group]
    binding = [one for one in of_it if one.status != "not_binding"]
    if not binding:
        return f"{group} –"
    return f"{group} {sum(one.status == 'proven' for one in binding)}/{len(binding)}"


def _gaps(verdict: Verdict) -> list[str]:
    return [
        f"{one.clause} was not observed: its cases need {', '.join(one.needs)}"
        for one in verdict.clauses
        if one.status == "unobserved" and one.needs
    ]


def _unproven(verdict: Verdict) -> list[str]:
    if verdict.not_selected or not verdict.packaged:
        return []
    missing = [one.clause for one in verdict.clauses if one.status == "unproven"]
    return [f"no case of the suite is about {', '.join(missing)}"] if missing else []


def _known(verdict: Verdict) -> list[str]:
    return [
        f"{one.case}: {one.known['reason']} ({one.known['issue']}, until {one.known['expires']}"
        f"{', flaky' if one.outcome == 'flaky_failed' else ''})"
        for one in verdict.known
        if one.known is not None
    ]


def _failures(verdict: Verdict) -> list[Line]:
    # Each failure has been told at length above; here is where to begin. Cases of one scenario mostly fail
    # for one reason.
    scenarios: dict[str, list[CaseOutcome]] = {}
    for one in verdict.failures:
        scenarios.setdefault(one.case.partition("[")[0], []).append(one)
    if not scenarios:
        return []
    broken = [one.clause for one in verdict.clauses if one.status == "failed"]
    count = _plural(len(verdict.failures), "case")
    lines = [Line(f"  {'failures':<15}{count} in {', '.join(broken)}", _RED)]
    for name, cases in list(scenarios.items())[:_SHOWN_FAILURES]:
        first = cases[0]
        shown = first.case if len(cases) == 1 else f"{name} ({len(cases)} cases)"
        lines.append(Line(f"    ✗ {shown} · {' '.join(first.clauses)}", _RED))
        lines.append(Line(f"      {first.at}: {_clip(first.summary or '')}"))
    if len(scenarios) > _SHOWN_FAILURES:
        more = _plural(len(scenarios) - _SHOWN_FAILURES, "scenario")
        lines.append(Line(f"    … and {more} more", _RED))
    again = verdict.failures[0].rerun
    if again is not None:
        lines.append(Line(f"  {'one alone':<15}{again}"))
    return lines


def _too_slow(latency: LatencyVerdict) -> list[Line]:
    if not latency.failing:
        return []
    lines = [Line(f"  {'too slow':<15}{_plural(len(latency.failing), 'budget')}", _RED)]
    for one in latency.failing[:_SHOWN_FAILURES]:
        lines.append(Line(f"    ✗ {one.case}", _RED))
        lines.append(Line(f"      {one.at}: {_clip(one.summary or '')}"))
    if len(latency.failing) > _SHOWN_FAILURES:
        lines.append(Line(f"    … and {len(latency.failing) - _SHOWN_FAILURES} more", _RED))
    if latency.failing[0].rerun is not None:
        lines.append(Line(f"  {'one alone':<15}{latency.failing[0].rerun}"))
    return lines


def _clip(text: str, room: int = 150) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _wrap(parts: Sequence[str], width: int) -> list[str]:
    rows: list[str] = []
    for part in parts:
        if rows and len(rows[-1]) + 3 + len(part) <= width:
            rows[-1] += f" · {part}"
        else:
            rows.append(part)
    return rows
