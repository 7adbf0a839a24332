"""Two backends are compared step by step, on histories and on scenarios."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kpstore_conformance.checks import stateful
from kpstore_conformance.checks.stateful import Disagreement, Profile, Search, search
from kpstore_conformance.comparison import ScenarioComparison, compare_scenario
from kpstore_conformance.scenario import load_file
from kpstore_conformance.target import CaseTarget, adapter_for

QUICK = Profile(rounds=20, histories=12, steps=30, search_s=60.0, shrink_s=3.0)
MEMORY = frozenset({"controllable_clock"})

SCENARIO = """\
format: 1
title: Many answers
clauses: [PAGE-1]
scenarios:
  - name: many answers
    given:
      - skill: {}
        times: 30
    steps:
      - skills.search: {}
        expect: {$type: mapping}
      - skills.search: {limit: -1}
        error: ValidationError
      - api_keys.create: {agent_id: a, scopes: [read], tier: free}
        save: key
      - api_keys.verify: {raw_key: "${key.raw_key}"}
        scribble: [result]
      - skills.scan: {batch_size: 7}
      - concurrently:
          - rate_limit.consume: {identifier: a, tier: free, method: POST}
            times: 40
        outcomes:
          - {result: {$any: true}}
      - audit_log.log: {action: a, agent_id: a, resource_type: a, resource_id: a, ip: a}
      - audit_log.query: {}
      - skills.get_by_id: {id: skill-1}
        cancel_at: 1
      - skills.get_by_id: {id: skill-1}
"""


def compared(tmp_path: Path, backend: str, other: str, text: str = SCENARIO) -> ScenarioComparison:
    file = tmp_path / "many.yaml"
    file.write_text(text)
    case = load_file(file).scenarios[0].cases()[0]

    async def run() -> ScenarioComparison:
        one, two = CaseTarget(adapter_for(backend)), CaseTarget(adapter_for(other))
        try:
            return await compare_scenario(case, one, two)
        finally:
            await one.dispose()
            await two.dispose()

    return asyncio.run(run())


def test_memory_and_sqlite_answer_a_scenario_alike(tmp_path: Path) -> None:
    comparison = compared(tmp_path, "sqlite", "memory")
    assert comparison.differences == ()
    assert [result.outcome for result in comparison.results] == ["passed", "passed"]
    assert comparison.compared >= 40


def test_a_difference_that_the_scenario_does_not_look_at_is_seen(tmp_path: Path) -> None:
    comparison = compared(tmp_path, "broken_stores:total_after_cut", "memory")
    assert [result.outcome for result in comparison.results] == ["passed", "passed"]
    [difference] = comparison.differences
    assert difference.summary == (
        "skills.search, compared with memory: result.total: must be 30, but came as 20"
    )
    told = comparison.failure().render(rerun="kpstore …")
    assert told.startswith(f"DIFFERS many/many answers\n  {tmp_path}/many.yaml:10: skills.search, compared")
    assert "clauses: PAGE-1" in told
    assert "10 |       - skills.search: {}" in told
    answers = [note.partition(": ")[0] for note in difference.notes]
    assert answers == ["broken_stores:total_after_cut", "memory"]


def test_other_errors_are_seen(tmp_path: Path) -> None:
    text = SCENARIO[: SCENARIO.index("      - skills.search: {}")] + (
        "      - rate_limit.consume: {identifier: a, tier: free, method: PUT}\n"
        "        error: ValidationError\n"
    )
    comparison = compared(tmp_path, "broken_stores:leaky_error", "memory", text)
    first, second = comparison.differences
    assert "must raise ValidationError, but raised KeyError" in first.summary
    assert second.summary == "the case failed on broken_stores:leaky_error, but passed on memory"


@pytest.mark.parametrize("bug", ["total_after_cut", None])
def test_a_random_history_on_two_backends(
    bug: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_STATEFUL_OUT", str(tmp_path))
    with asyncio.Runner() as runner:
        backend = f"broken_stores:{bug}" if bug else "sqlite"
        state = Search(adapter_for(backend), MEMORY, runner, reference=adapter_for("memory"))
        if bug is None:
            search(stateful.AllStoresMachine, state, Profile(1, 8, 20, 60.0, 3.0), "two")
            assert state.played >= 8
        else:
            with pytest.raises(Disagreement, match=r"result\.total: must be \d+, but came as \d+"):
                search(stateful.SkillsMachine, state, QUICK, "two")
