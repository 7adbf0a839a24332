"""What a file becomes: ids, parameters, requirements, digests; and which files are found."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from kpstore_conformance.scenario import ScenarioFile, ScenarioFileError, discover, load_file

HEAD = "format: 1\ntitle: t\nclauses: [GEN-1]\nscenarios:\n"


def load(folder: Path, text: str, name: str = "file.yaml") -> ScenarioFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + text)
    return load_file(path, root=folder)


def steps(text: str) -> str:
    return f"  - name: n\n    steps:\n      - compare: {{value: 1, expect: 1}}\n{text}"


def test_case_ids_name_the_parameters_in_the_order_written(tmp_path: Path) -> None:
    text = """\
  - name: a fact
    cases: [{tier: free, limit: 300}, {tier: pro, limit: 1000}]
    matrix: {on: [true, null]}
    steps: [compare: {value: 1, expect: 1}]
"""
    file = load(tmp_path, text, "rate_limit/refill.yaml")
    cases = file.scenarios[0].cases()
    assert [case.id for case in cases] == [
        "rate_limit/refill/a fact[tier=free-limit=300-on=true]",
        "rate_limit/refill/a fact[tier=free-limit=300-on=null]",
        "rate_limit/refill/a fact[tier=pro-limit=1000-on=true]",
        "rate_limit/refill/a fact[tier=pro-limit=1000-on=null]",
    ]
    assert cases[1].parameters == {"tier": "free", "limit": 300, "on": None}


def test_labels_are_short_printable_and_unique(tmp_path: Path) -> None:
    key = "kp_" + "0123456789abcdef" * 4
    text = f"""\
  - name: n
    matrix: {{x: ["a\\nb", 1, "1", [1], "a::b", "", {{$repeat: {{text: a, times: 9}}}}, {key}]}}
    steps: [compare: {{value: 1, expect: 1}}]
"""
    labels = [case.id.partition("[")[2].rstrip("]") for case in load(tmp_path, text).scenarios[0].cases()]
    assert labels == [
        "x=a\\u000ab",
        "x=1",
        "x=1#2",
        "x=(1)",
        "x=a:b",
        "x=''",
        "x={$repeat: {text: a, times: 9}}",
        "x=kp_????????…",
    ]


@pytest.mark.parametrize(
    ("step", "implied"),
    [
        ("advance: 1 s", {"controllable_clock"}),
        ('set_clock: "2026-01-01T00:00:00Z"', {"controllable_clock"}),
        ("compare: {value: {$time: now}, expect: {$any: true}}", {"controllable_clock"}),
        ("reopen: main", {"durable"}),
        ("open: second", {"multi_process"}),
        ("close: main", set()),
        ("inspect: {sql: SELECT 1}\n        save: x", {"inspector.sql"}),
        ("inspect: {raw: a}\n        save: x", {"inspector.raw"}),
    ],
)
def test_steps_imply_what_they_require(tmp_path: Path, step: str, implied: set[str]) -> None:
    assert load(tmp_path, steps(f"      - {step}\n")).scenarios[0].requires == implied


def test_opening_main_again_implies_durable(tmp_path: Path) -> None:
    assert load(tmp_path, steps("      - close: main\n      - open: main\n")).scenarios[0].requires == {
        "durable"
    }


def test_a_scenario_adds_to_what_its_file_says(tmp_path: Path) -> None:
    text = """\
  - name: n
    clauses: [GEN-2]
    requires: [vector_search]
    tags: [slow]
    clock: "2020-01-01T00:00:00Z"
    steps: [compare: {value: 1, expect: 1}]
  - name: m
    steps: [compare: {value: 1, expect: 1}]
"""
    first, second = load(tmp_path, text).scenarios
    assert first.clauses == {"GEN-1", "GEN-2"}
    assert first.requires == {"vector_search", "controllable_clock"}
    assert (first.tags, first.clock.year, first.line) == (frozenset({"slow"}), 2020, 5)
    assert second.clauses == {"GEN-1"}
    assert (second.requires, second.clock.year) == (frozenset(), 2026)


BUDGET = """\
format: 1
title: t
tags: [mine]
requires: [durable]
latency:
  - name: a search by a word
    records: [10, 20000, 200000]
    measure:
      - knowledge.search: {query: "${record.id}"}
      - knowledge.search: {query: x}
    at_most: {memory: 500 us, default: 1 s}
    growth: 3
  - name: nightly
    data: history
    records: 10
    tags: [night]
    statistic: p50
    measure: [reputation.get: {agent_id: "${record}"}]
    growth: {memory: 2}
"""


def test_budgets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "latency" / "knowledge.yaml"
    path.parent.mkdir()
    path.write_text(BUDGET)
    file = load_file(path, root=tmp_path)
    assert file.scenarios == ()
    search, nightly = file.budgets
    assert (search.data, search.records, search.statistic) == ("units", (10, 20000, 200000), "p99")
    assert (search.method.store, search.method.name) == ("knowledge", "search")
    assert [search.limit_ms(name) for name in ("memory", "sqlite")] == [0.5, 1000]
    assert [search.growth_at_most(name) for name in ("memory", "sqlite")] == [3, 3]
    assert search.tags == {"mine"}
    assert search.requires == {"durable"}
    assert (nightly.data, nightly.statistic, nightly.line) == ("history", "p50", 13)
    assert (nightly.limit_ms("memory"), nightly.growth_at_most("sqlite")) == (None, None)
    assert [(case.id, case.level) for case in file.budget_cases()] == [
        ("latency/knowledge/a search by a word[records=10]", "quick"),
        ("latency/knowledge/a search by a word[records=20000]", "full"),
        ("latency/knowledge/a search by a word[records=200000]", "night"),
        ("latency/knowledge/nightly[records=10]", "night"),
    ]


def test_a_backend_may_be_called_as_its_author_likes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BUDGET.replace("{memory: 2}", "{sqlite3: 2, memory2: 2, mine: 2}"))
    assert load_file(path).budgets[1].growth_at_most("sqlite3") == 2


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    file = load(tmp_path, steps(""))
    assert file.digest == hashlib.sha256(file.path.read_bytes()).hexdigest()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioFileError, match=r"none\.yaml:1:1: cannot be read: No such file"):
        load_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("scalar", ["on", "yes", "0o", "1_000", "2026-01-01", "1:30", "0b1", "+", "."])
def test_these_are_texts(tmp_path: Path, scalar: str) -> None:
    text = f"  - name: n\n    matrix: {{x: [{scalar}]}}\n    steps: [compare: {{value: 1, expect: 1}}]\n"
    assert load(tmp_path, text).scenarios[0].cases()[0].parameters == {"x": scalar}


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("~", None),
        ("TRUE", True),
        ("+7", 7),
        (str(2**100), 2**100),
        ("''", ""),
        ("'1'", "1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, scalar: str, value: object) -> None:
    text = f"  - name: n\n    matrix: {{x: [{scalar}]}}\n    steps: [compare: {{value: 1, expect: 1}}]\n"
    found = load(tmp_path, text).scenarios[0].cases()[0].parameters["x"]
    assert found == value
    assert type(found) is type(value)


def test_aliases_cannot_grow_without_bound(tmp_path: Path) -> None:
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(rows))
    with pytest.raises(ScenarioFileError, match="200,000 values once the aliases are copied out"):
        load_file(path)


def test_deep_yaml_is_refused_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ScenarioFileError, match="nested too deeply"):
        load_file(path)


def test_discover_finds_scenarios_and_leaves_their_data_alone(tmp_path: Path) -> None:
    for name in ("b.yaml", "a/c.yml", "a/d.txt", "data/e.yaml", "a/data/f.yaml", ".git/g.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert discover([tmp_path]) == [tmp_path / "a/c.yml", tmp_path / "b.yaml"]
    assert discover([tmp_path / "data/e.yaml"]) == [tmp_path / "data/e.yaml"]
