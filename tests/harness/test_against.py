"""`--against`: another backend's answers, in the verdict and the reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from kpstore_conformance.check import DifferenceError, Lab
from kpstore_conformance.checks import differential, stateful
from kpstore_conformance.checks.stateful import Profile
from kpstore_conformance.report import schema
from kpstore_conformance.target import CaseTarget, adapter_for

pytestmark = pytest.mark.usefixtures("small_package")

LIGHT = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest", "--kpstore-no-packaged")

# What the broken backend does wrong is nothing that a step of these expects anything of.
SCENARIOS = """\
format: 1
title: Finding a skill
clauses: [SKILL-3]
scenarios:
  - name: a search
    given:
      - skill: {}
        times: 3
    steps:
      - skills.search: {limit: 0}
      - skills.search: {limit: 2}
        expect: {total: {$type: integer}}
  - name: a read
    given:
      - skill: {id: a}
    steps:
      - skills.get_by_id: {id: a}
        expect: {id: a}
  - name: a durable read
    requires: [durable]
    given:
      - skill: {id: a}
    steps:
      - skills.get_by_id: {id: a}
        expect: {id: a}
"""
DIFFERENT = "broken_stores:total_after_cut"


@pytest.fixture(autouse=True)
def scenarios(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the one file, the current one; and the broken backends where they can be imported."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    shutil.copy(Path(__file__).parent / "model" / "broken_stores.py", workplace)
    monkeypatch.syspath_prepend(str(workplace))
    folder = workplace / "small"
    folder.mkdir()
    (folder / "find.yaml").write_text(SCENARIOS, "utf-8")
    return folder


def run(pytester: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    """A run on the folder, and its conformance.json, which keeps to the schema."""
    result = pytester.runpytest(*LIGHT, "small", "--report", "out", *arguments)
    document = json.loads((pytester.path / "out" / "conformance.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(document)
    return result, document


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_a_difference_fails_the_run(pytester: pytest.Pytester, processes: tuple[str, ...]) -> None:
    result, document = run(pytester, "--backend", DIFFERENT, "--against", "memory", *processes)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "DIFFERS find/a search",
            "*find.yaml:10: skills.search, compared with memory: result.total: must be 3, but came as 0",
            "*clauses: SKILL-3",
            "*run it again: kpstore conformance run --backend broken_stores:* --against memory *--case*",
            "*level*none (1 case failed)",
            "*cases*2 executed · 1 passed · 1 answered otherwise · 1 not applicable",
            "*compared with*memory: 2 cases, 5 calls · 1 case differs",
            "*find.yaml:10: skills.search, compared with memory*",
        ]
    )
    cases = {case["case"].rpartition("/")[2]: case for case in document["cases"]}
    assert cases["a search"]["outcome"] == "differs"
    assert cases["a search"]["at"] == "small/find.yaml:10"
    assert cases["a search"]["compared"] == 3
    assert cases["a read"]["outcome"] == "passed"
    assert document["clauses"]["SKILL-3"]["status"] == "failed"
    assert document["verdict"]["counts"]["differs"] == 1
    assert document["verdict"]["against"] == {
        "backend": {
            "spec": "memory",
            "name": "memory",
            "capabilities": ["controllable_clock"],
            "inspectors": ["raw"],
            "own_methods": [],
        },
        "cases": 2,
        "calls": 5,
        "not_compared": [],
    }
    root = ElementTree.parse(pytester.path / "out" / "junit.xml").getroot()
    assert [one.get("type") for one in root.iter("failure")] == ["differs"]


def test_equal_backends_do_not_differ_and_what_one_cannot_do_is_counted(pytester: pytest.Pytester) -> None:
    result, document = run(pytester, "--backend", "sqlite", "--against", "memory")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*compared with*memory: 2 cases, 5 calls · no difference", "*not compared*1 × needs durable"]
    )
    assert document["verdict"]["against"]["not_compared"] == [{"reason": "needs durable", "cases": 1}]


def test_without_it_nothing_is_compared(pytester: pytest.Pytester) -> None:
    result, document = run(pytester, "--backend", DIFFERENT)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*compared with*")
    assert document["verdict"]["against"] is None
    assert {case["compared"] for case in document["cases"]} == {None}


def test_a_run_that_compared_nothing_is_a_failure(pytester: pytest.Pytester) -> None:
    result, _ = run(pytester, "--backend", "sqlite", "--against", "memory", "--case", "*durable*")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*problems*nothing was compared*"])


def test_a_difference_may_be_a_known_failure(pytester: pytest.Pytester) -> None:
    (pytester.path / "known.yaml").write_text(
        "known_failing:\n  - case: find/a search\n    reason: it counts\n"
        "    issue: https://example.org/1\n    expires: 2999-01-01\n"
    )
    arguments = ("--backend", DIFFERENT, "--against", "memory", "--known", "known.yaml")
    result, document = run(pytester, *arguments)
    assert result.ret == 0
    assert document["verdict"]["counts"]["known_failing"] == 1


def test_a_backend_that_is_not_there_is_bad_usage(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest(*LIGHT, "small", "--backend", "memory", "--against", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*cannot open backend 'nowhere'*"])


async def test_random_histories_are_compared_with_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_STATEFUL_OUT", str(tmp_path))
    quick = Profile(rounds=20, histories=12, steps=30, search_s=60.0, shrink_s=0.5)
    monkeypatch.setattr(differential, "profile", lambda: quick)
    monkeypatch.setattr(differential, "AllStoresMachine", stateful.SkillsMachine)
    # The backend is the sound one: it is what it is compared with that is broken.
    target = CaseTarget(adapter_for("memory"), against=adapter_for(DIFFERENT))
    try:
        with pytest.raises(DifferenceError, match=r"compared with broken_stores:.*result\.total"):
            await differential.histories.function(Lab(target))
    finally:
        await target.dispose()
