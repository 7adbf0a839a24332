"""A level is what was shown, and skips show nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from kpstore_conformance.check import Check, Lab
from kpstore_conformance.scenario import CLAUSES
from kpstore_conformance.suite import Missing, SuiteCase
from kpstore_conformance.target import BackendFacts
from kpstore_conformance.verdict import CaseOutcome, Outcome, Verdict, judge, render

MakeFacts = Callable[..., BackendFacts]


async def _nothing(lab: Lab) -> None:
    """Does nothing."""


def a_case(
    name: str, *clauses: str, requires: Collection[str] = (), backends: frozenset[str] | None = None
) -> SuiteCase:
    check = Check(
        id=name,
        name=name,
        fact="A fact.",
        clauses=frozenset(clauses),
        requires=frozenset(requires),
        backends=backends,
        timeout_s=1.0,
        function=_nothing,
        file=Path("checks.py"),
        line=1,
    )
    return SuiteCase.of_check(check)


def a_suite(*more: SuiteCase) -> list[SuiteCase]:
    """A suite with one case for each clause, and `more`."""
    needs = {"KNOW-7": ["vector_search"], "SQL-6": ["inspector.raw"], "RATE-6": ["inspector.sql"]}
    return [*(a_case(f"of {clause}", clause, requires=needs.get(clause, ())) for clause in CLAUSES), *more]


def ran(case: SuiteCase, backend: BackendFacts, outcome: Outcome = "passed") -> CaseOutcome:
    missing = [(one.kind, one.name) for one in case.missing(backend)]
    return CaseOutcome(
        case=case.id,
        kind=case.kind,
        file=str(case.file),
        line=case.line,
        clauses=list(case.clauses),
        requires=list(case.requires),
        outcome="not_applicable" if missing else outcome,
        missing=missing,
        at="steps.yaml:7" if outcome != "passed" else None,
        summary="expected true, got false" if outcome != "passed" else None,
        known={"reason": "r", "issue": "https://example.org/1", "expires": "2027-01-01"}
        if outcome in ("known_failing", "flaky_failed", "unexpected_pass")
        else None,
        rerun=f"kpstore conformance run --case '{case.id}'" if outcome != "passed" else None,
    )


def judged(
    backend: BackendFacts,
    suite: Collection[SuiteCase],
    *,
    leave_out: Collection[str] = (),
    problems: tuple[str, ...] = (),
    **outcomes: Outcome,
) -> Verdict:
    found = [
        ran(case, backend, outcomes.get(case.id.replace("of ", "").replace("-", "_"), "passed"))
        for case in suite
        if case.id not in leave_out
    ]
    return judge(backend, found, suite=suite, problems=problems)


def status(verdict: Verdict, clause: str) -> str:
    return next(one.status for one in verdict.clauses if one.clause == clause)


def text(verdict: Verdict) -> str:
    return "\n".join(line.text for line in render(verdict, suite_version="0.1.0"))


def test_every_binding_clause_proven_is_the_core_level(facts: MakeFacts) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite())
    assert verdict.passed
    assert str(verdict.level) == "core"
    assert status(verdict, "GEN-1") == "proven"
    assert status(verdict, "SQL-1") == "not_binding"
    assert status(verdict, "KNOW-7") == "not_binding"
    assert status(verdict, "MEM-1") == "proven"


def test_a_capability_counts_where_a_case_that_needs_it_passed(facts: MakeFacts) -> None:
    backend = facts("durable", "multi_process", inspectors=("raw", "sql"))
    verdict = judged(backend, a_suite(a_case("survives", "GEN-10", requires=["durable"])))
    assert str(verdict.level) == "core + durable"
    assert verdict.capabilities == {
        "durable": "kept",
        "multi_process": "declared, and no case looks at it",
        "vector_search": "not declared",
        "controllable_clock": "not declared",
    }


def test_a_broken_capability_fails_the_run(facts: MakeFacts) -> None:
    backend = facts("durable", inspectors=("raw", "sql"))
    verdict = judged(backend, a_suite(a_case("survives", "GEN-10", requires=["durable"])), survives="failed")
    assert not verdict.passed
    assert verdict.capabilities["durable"] == "failed"
    assert str(verdict.level) == "none (1 case failed)"


def test_a_clause_that_nothing_could_be_seen_of_is_a_gap_in_the_level(facts: MakeFacts) -> None:
    verdict = judged(facts(inspectors=("raw",)), a_suite())
    assert verdict.passed
    assert status(verdict, "RATE-6") == "unobserved"
    assert str(verdict.level) == "core except RATE-6"
    assert "RATE-6 was not observed: its cases need inspector.sql" in text(verdict)


def test_skips_cannot_buy_a_level(facts: MakeFacts) -> None:
    suite = [a_case(f"of {clause}", clause, requires=["durable"]) for clause in CLAUSES]
    verdict = judged(facts(), suite)
    assert not verdict.passed
    assert not verdict.level.granted
    assert verdict.executed == 0
    assert any("nothing was executed" in problem for problem in verdict.problems)


def test_no_case_at_all_fails(facts: MakeFacts) -> None:
    verdict = judge(facts(), [], suite=[])
    assert not verdict.passed
    assert not verdict.level.granted


def test_a_clause_without_any_case_withholds_the_level(facts: MakeFacts) -> None:
    suite = [case for case in a_suite() if case.id != "of GEN-7"]
    verdict = judged(facts(inspectors=("raw", "sql")), suite)
    assert verdict.passed
    assert str(verdict.level) == "none (the suite has no case for GEN-7)"


def test_a_selection_gets_no_level(facts: MakeFacts) -> None:
    suite = a_suite()
    verdict = judged(facts(inspectors=("raw", "sql")), suite, leave_out=["of GEN-7"])
    assert verdict.passed
    assert str(verdict.level) == f"none (partial: 1 of {len(suite)} cases were not selected)"
    assert status(verdict, "GEN-7") == "incomplete"


def test_leaving_out_a_case_that_does_not_apply_is_a_selection_too(facts: MakeFacts) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite(), leave_out=["of SQL-1"])
    assert not verdict.level.granted


@pytest.mark.parametrize("outcome", ["failed", "error", "unexpected_pass"])
def test_what_fails_a_run(facts: MakeFacts, outcome: Outcome) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite(), GEN_4=outcome)
    assert not verdict.passed
    assert status(verdict, "GEN-4") == "failed"
    shown = text(verdict)
    assert "in GEN-4" in shown
    assert "✗ of GEN-4" in shown
    assert "steps.yaml:7: expected true, got false" in shown
    assert "kpstore conformance run --case 'of GEN-4'" in shown


@pytest.mark.parametrize("outcome", ["known_failing", "flaky_failed"])
def test_a_known_failure_passes_the_run_but_buys_no_level(facts: MakeFacts, outcome: Outcome) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite(), GEN_4=outcome)
    assert verdict.passed
    assert str(verdict.level) == "none (known failures in GEN-4)"
    assert "of GEN-4: r (https://example.org/1, until 2027-01-01" in text(verdict)


def test_a_problem_fails_the_run(facts: MakeFacts) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite(), problems=("the process died in x",))
    assert not verdict.passed
    assert not verdict.level.granted
    assert "the process died in x" in text(verdict)


def test_two_cases_of_one_name_fail_the_run(facts: MakeFacts) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite(a_case("of GEN-1", "GEN-1")))
    assert not verdict.passed
    assert "the case 'of GEN-1' is there twice" in verdict.problems[0]


@pytest.mark.parametrize(
    ("case", "name", "expected"),
    [
        (a_case("x", "SQL-1"), "memory", [Missing("backend", "sqlite")]),
        (a_case("x", "SQL-1", "GEN-10"), "sqlite", []),
        (a_case("x", "MEM-1"), "sqlite", [Missing("backend", "memory")]),
        (a_case("x", "GEN-1", backends=frozenset({"sqlite"})), "memory", [Missing("backend", "sqlite")]),
        (a_case("x", "GEN-1", requires=["inspector.raw"]), "memory", []),
        (a_case("x", "GEN-1", requires=["inspector.sql"]), "memory", [Missing("inspector", "inspector.sql")]),
        (a_case("x", "GEN-1", requires=["durable"]), "memory", [Missing("capability", "durable")]),
    ],
)
def test_what_a_case_is_missing(
    facts: MakeFacts, case: SuiteCase, name: str, expected: list[Missing]
) -> None:
    assert case.missing(facts(name=name)) == expected


def test_the_reasons_of_what_does_not_apply_are_counted(facts: MakeFacts) -> None:
    verdict = judged(facts(inspectors=("raw", "sql")), a_suite())
    assert verdict.not_applicable() == [("is about sqlite only", 6), ("needs vector_search", 1)]


def test_an_outcome_survives_the_way_between_processes(facts: MakeFacts) -> None:
    one = ran(a_case("x", "GEN-1", requires=["durable"]), facts())
    assert CaseOutcome.from_plain(one.to_plain()) == one


def test_a_short_verdict_for_many_failures(facts: MakeFacts) -> None:
    backend = facts(inspectors=("raw", "sql"))
    suite = [a_case(f"a{number}[x={row}]", "GEN-1") for number in range(20) for row in range(3)]
    shown = text(judge(backend, [ran(case, backend, "failed") for case in suite], suite=suite))
    assert "60 cases in GEN-1" in shown
    assert "✗ a0 (3 cases) · GEN-1" in shown
    assert shown.count("✗") == 12
    assert "… and 8 scenarios more" in shown


def test_without_the_packaged_suite_there_is_no_level(facts: MakeFacts) -> None:
    backend = facts()
    case = a_case("mine", "GEN-1")
    verdict = judge(backend, [ran(case, backend)], suite=[case], packaged=False)
    assert verdict.passed
    assert str(verdict.level) == "none (partial: the packaged scenarios and checks were left out)"
    assert "no case of the suite" not in text(verdict)
