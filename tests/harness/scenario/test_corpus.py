"""The corpus: files that must pass, that must fail as they say, and that must be refused where they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.scenario import corpus
from kpstore_conformance.scenario import BudgetCase, Case, ScenarioFileError, load_file
from kpstore_conformance.scenario.matchers import MATCHERS
from kpstore_conformance.scenario.steps import GIVEN, MODIFIERS, STEPS
from kpstore_conformance.scenario.values import CONSTRUCTORS
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, parse

PASS, FAIL = corpus.cases("pass"), corpus.cases("fail")
REFUSED = sorted((corpus.HERE / "refused").glob("*.yaml"))
WORDS = sorted({*MATCHERS, *CONSTRUCTORS, *STEPS, *MODIFIERS, *GIVEN})


def case_id(case: Case | BudgetCase) -> str:
    return case.id


@pytest.mark.parametrize("case", PASS, ids=case_id)
def test_a_case_that_must_pass_passes(case: Case) -> None:
    result = corpus.run(case)
    assert result.outcome == "passed", result.failure and result.failure.render(rerun=None)
    assert result.failure is None
    assert result.executed_steps >= len(case.scenario.steps)


@pytest.mark.parametrize("case", FAIL, ids=case_id)
def test_a_case_that_must_fail_fails_as_it_says(case: Case) -> None:
    result = corpus.run(case)
    assert result.failure is not None
    assert corpus.settled(f"{result.outcome}: {result.failure.summary}") == case.scenario.why
    assert "Traceback" not in result.failure.render(rerun=None)


@pytest.mark.parametrize("case", corpus.budget_cases("pass"), ids=case_id)
def test_a_budget_that_must_be_kept_is(case: BudgetCase) -> None:
    assert corpus.measure(case) == ""


@pytest.mark.parametrize("case", corpus.budget_cases("fail"), ids=case_id)
def test_a_budget_that_must_be_broken_is_broken_as_it_says(case: BudgetCase) -> None:
    assert corpus.settled(corpus.measure(case)) == case.budget.why


def test_the_whole_text_of_a_failure_is_as_recorded() -> None:
    failures = [corpus.run(case).failure for case in FAIL if case.scenario.file.name == "rendering.yaml"]
    texts = [failure.render(rerun="kpstore conformance run …") for failure in failures if failure]
    assert corpus.settled("\n".join(texts)) == (corpus.HERE / "fail" / "rendering.expected").read_text()


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_a_file_that_must_be_refused_tells_every_problem_at_its_place(path: Path) -> None:
    with pytest.raises(ScenarioFileError) as refusal:
        load_file(path)
    problems = refusal.value.problems
    told = "".join(f"{problem.line}:{problem.column}: {problem.message}\n" for problem in problems)
    assert told == path.with_suffix(".expected").read_text()
    assert str(problems[0]).startswith(f"{path}:{problems[0].line}:{problems[0].column}: ")


def test_a_file_with_five_mistakes_tells_five_each_on_its_line() -> None:
    with pytest.raises(ScenarioFileError) as refusal:
        load_file(corpus.HERE / "refused" / "five_mistakes.yaml")
    assert [problem.line for problem in refusal.value.problems] == [7, 9, 10, 11, 12]


def is_about(name: str, word: str) -> bool:
    return f" {word}:" in f" {name}"


def keys(node: Node | None) -> set[str]:
    if isinstance(node, ListNode):
        return set().union(*map(keys, node.items))
    if isinstance(node, MapNode):
        return {str(key.value) for key, _ in node}.union(*(keys(value) for _, value in node))
    return set()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("folder", ["pass", "fail"])
def test_every_matcher_constructor_step_modifier_and_given_is_in_the_corpus(folder: str, word: str) -> None:
    """Each has a scenario whose name says that it is about it (`$regex: not found`), and which uses it."""
    about = {
        case.scenario for case in (PASS if folder == "pass" else FAIL) if is_about(case.scenario.name, word)
    }
    assert about, f"no scenario in {folder}/ is named `{word}: …`"
    for scenario in about:
        root = parse(scenario.file.read_bytes(), scenario.file, lambda problem: None)
        assert isinstance(root, MapNode)
        scenarios = root.get("scenarios")
        assert isinstance(scenarios, ListNode)
        assert word in keys(next(item for item in scenarios.items if item.line == scenario.line))
