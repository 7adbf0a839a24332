"""The published JSON Schema is current, accepts every file that loads, and sees the mistakes that it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness.scenario import corpus
from kpstore_conformance.scenario import discover
from kpstore_conformance.scenario.schema import SCHEMA_FILE, make_schema, schema_text
from kpstore_conformance.scenario.yaml_nodes import parse, plain

SHIPPED = Path(__file__).parents[3] / "scenarios"
FILES = discover([corpus.HERE / "pass", corpus.HERE / "fail", SHIPPED])
VALIDATOR = jsonschema.Draft7Validator(make_schema())


def errors(path: Path) -> list[str]:
    root = parse(path.read_bytes(), path, lambda problem: None)
    assert root is not None
    found = VALIDATOR.iter_errors(plain(root))
    return [f"{list(error.absolute_path)}: {error.message[:300]}" for error in found]


def test_the_published_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "run `python -m kpstore_conformance.scenario.schema`"


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(make_schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_that_loads_is_accepted(path: Path) -> None:
    assert errors(path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_names_the_schema_in_its_first_line(path: Path) -> None:
    first = path.read_text().split("\n", 1)[0]
    before, _, named = first.partition("$schema=")
    assert before == "# yaml-language-server: "
    assert (path.parent / named).resolve() == SCHEMA_FILE


def document(**changes: Any) -> dict[str, Any]:
    step = {"skills.search": {"query": "a"}, "expect": {"total": 1}}
    scenario = {"name": "n", "steps": [step]}
    return {"format": 1, "title": "t", "clauses": ["GEN-1"], "scenarios": [{**scenario, **changes}]}


def test_a_sound_document_is_accepted() -> None:
    assert list(VALIDATOR.iter_errors(document())) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"stepz": []},
        {"steps": []},
        {"clauses": ["GEN-99"]},
        {"requires": ["durabel"]},
        {"tags": ["Upper"]},
        {"steps": [{"skills.find": {}}]},
        {"steps": [{"skills.search": {"qeury": "a"}}]},
        {"steps": [{"skills.get_by_id": {}}]},
        {"steps": [{"skills.create": {"skill": {"nam": "a"}}}]},
        {"steps": [{"skills.search": {}, "expect": {"$lenght": 1}}]},
        {"steps": [{"skills.search": {}, "error": "ValidatonError"}]},
        {"steps": [{"skills.search": {"query": {"$flaot": "nan"}}}]},
        {"steps": [{"advance": "1 s", "expect": 1}]},
        {"steps": [{"skills.search": {}, "outcomes": []}]},
        {"steps": [{"expect": 1}]},
        {"given": [{"skil": {}}]},
    ],
    ids=str,
)
def test_a_mistake_is_seen(changes: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(document(**changes)))


def budget(**changes: Any) -> dict[str, Any]:
    sound = {"name": "n", "records": 10, "measure": [{"skills.search": {}}], "at_most": {"memory": "1 ms"}}
    return {"format": 1, "title": "t", "latency": [{**sound, **changes}]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"records": [10, 100], "growth": 2, "data": "units", "statistic": "p50"},
        {"at_most": "1 ms", "before": [{"skills.search": {}, "save": "page"}]},
    ],
    ids=str,
)
def test_a_sound_budget_is_accepted(changes: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(budget(**changes))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"recrods": 10},
        {"records": 0},
        {"records": []},
        {"measure": [{"skills.find": {}}]},
        {"measure": [{"advance": "1 s"}]},
        {"measure": [{"skills.search": {}, "save": "page"}]},
        {"data": "skillz"},
        {"statistic": "p95"},
        {"at_most": {}},
        {"growth": 0.5},
        {"clauses": ["GEN-2"]},
    ],
    ids=str,
)
def test_a_mistake_in_a_budget_is_seen(changes: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(budget(**changes)))


def test_a_budget_states_something() -> None:
    document = budget()
    del document["latency"][0]["at_most"]
    assert list(VALIDATOR.iter_errors(document))


def test_a_file_has_scenarios_or_budgets() -> None:
    assert list(VALIDATOR.iter_errors({"format": 1, "title": "t"}))
