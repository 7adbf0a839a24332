"""Latency in a run: a verdict of its own, beside the one on the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from kpstore_conformance import dataset
from kpstore_conformance.latency.baseline import machine_class
from kpstore_conformance.latency.bench import Bench
from kpstore_conformance.latency.recording import RUNS
from kpstore_conformance.report import schema
from kpstore_conformance.suite import packaged_scenarios

from kpstore.cli import main

pytestmark = pytest.mark.usefixtures("small_package")

SUITE = """\
format: 1
title: Skills are found, and found fast
clauses: [SKILL-2]
scenarios:
  - name: a skill is found
    given:
      - skill: { id: a }
    steps:
      - skills.get_by_id: { id: a }
        expect: { id: a }
latency:
  - name: by its id
    records: [20, 20000]
    measure:
      - skills.get_by_id: { id: "${record.id}" }
        expect: { id: "${record.id}" }
    at_most: { memory: 10 ms }
  - name: that it is gone
    records: 20
    before:
      - skills.create: { skill: "${new}" }
    measure:
      - skills.delete: { id: "${new.id}" }
        expect: true
    at_most: { memory: 10 ms, sqlite: 1 s }
"""

# Right, and every call made twice: it calls itself memory, as the stores that it is made from.
DOUBLED_BACKEND = """\
from kpstore.backends.memory import open_store as open_memory
from kpstore_conformance.latency.campaign import twice_as_slow


async def open_store(settings, clock):
    return twice_as_slow(await open_memory(settings, clock))
"""

# Right, and slow: each look-up takes its time.
SLOW_BACKEND = """\
import asyncio
from kpstore.backends.memory import open_store as open_memory


async def open_store(settings, clock):
    stores = await open_memory(settings, clock)
    get_by_id = stores.skills.get_by_id

    async def slow(id):
        await asyncio.sleep(0.05)
        return await get_by_id(id)

    stores.skills.get_by_id = slow
    return stores
"""


@pytest.fixture
def folder(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (workplace / "mine").mkdir()
    (workplace / "mine" / "fast.yaml").write_text(SUITE)
    (workplace / "slow_backend.py").write_text(SLOW_BACKEND)
    (workplace / "doubled_backend.py").write_text(DOUBLED_BACKEND)
    monkeypatch.syspath_prepend(str(workplace))
    # Records are made of the prose that comes with the suite, which is not what is stood for here.
    monkeypatch.setattr(dataset, "packaged_scenarios", packaged_scenarios)
    return workplace


def run(folder: Path, *arguments: str, backend: str = "memory") -> tuple[int, dict[str, Any]]:
    given = ["--backend", backend, "--scenarios", str(folder / "mine"), "--no-packaged"]
    status = main(["conformance", "run", *given, "--report", str(folder / "out"), *arguments])
    document = json.loads((folder / "out" / "conformance.json").read_text())
    jsonschema.Draft202012Validator(schema()).validate(document)
    return status, document


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {case["case"]: case["outcome"] for case in document["latency"]["cases"]}


def test_a_fast_backend_keeps_its_budgets(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, document = run(folder)
    assert status == 0
    assert document["latency"]["verdict"] == "passed"
    assert document["latency"]["counts"] == {
        "measured": 2,
        "passed": 2,
        "failed": 0,
        "not_applicable": 0,
        "not_selected": 1,
        "with_baseline": 0,
    }
    assert outcomes(document) == {
        "fast/by its id[records=20]": "passed",
        "fast/that it is gone[records=20]": "passed",
    }
    figures = document["latency"]["cases"][0]["figures"]
    assert figures["operation"] == "skills.get_by_id"
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] < 10
    assert [case["kind"] for case in document["cases"]] == ["scenario"]
    shown = capfd.readouterr().out
    assert "latency        PASSED · 2 of 2 kept · quick: up to 10,000 records" in shown


def test_a_slow_backend_is_slow_and_right(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = "slow_backend:open_store"
    text = (folder / "mine" / "fast.yaml").read_text()
    # It calls itself memory, as the stores that it is made from.
    assert "memory: 10 ms" in text
    status, document = run(folder, backend=backend)
    assert status == 1
    assert document["verdict"]["passed"] is True
    assert document["verdict"]["counts"]["passed"] == 1
    assert document["clauses"]["SKILL-2"]["status"] == "proven"
    assert document["latency"]["verdict"] == "failed"
    assert outcomes(document) == {
        "fast/by its id[records=20]": "failed",
        "fast/that it is gone[records=20]": "passed",
    }
    case = document["latency"]["cases"][0]
    assert case["figures"]["broken"] == ["limit"]
    assert case["summary"].endswith("the limit is 10 ms")
    shown = capfd.readouterr().out
    assert "FAILED in latency alone" in shown
    assert "latency        FAILED · 1 of 2 kept" in shown
    assert "← the limit" in shown
    assert "the reference (in-loop): at their quietest p50 " in shown
    assert "the load it saw: load average " in shown
    assert "--latency quick --case 'fast/by its id[records=20]'" in shown
    suites = {
        suite.get("name"): suite
        for suite in ElementTree.parse(folder / "out" / "junit.xml").iter("testsuite")
    }
    assert suites["kpstore conformance: memory"].get("failures") == "0"
    assert suites["kpstore latency: memory"].get("failures") == "1"


def test_left_out_is_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, document = run(folder, "--no-latency", backend="slow_backend:open_store")
    assert status == 0
    assert document["latency"]["verdict"] == "left out"
    assert document["latency"]["counts"]["not_selected"] == 3
    assert "LEFT OUT (--no-latency) · 3 not selected" in capfd.readouterr().out


def test_a_backend_for_which_nothing_is_stated_is_counted(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, document = run(folder, backend="sqlite")
    assert status == 0
    assert outcomes(document) == {
        "fast/by its id[records=20]": "not_applicable",
        "fast/that it is gone[records=20]": "passed",
    }
    assert "not measured: 1 × states no limit for sqlite" in capfd.readouterr().out


def test_the_larger_ones_are_measured_when_asked_for(folder: Path) -> None:
    large = "fast/by its id[records=20000]"
    _, document = run(folder, "--latency", "full", "--case", large)
    assert outcomes(document) == {large: "passed"}
    assert document["latency"]["level"] == "full"


def test_a_recorded_baseline_sees_what_no_limit_does(folder: Path) -> None:
    case = "fast/by its id[records=20]"
    given = ["--scenarios", str(folder / "mine"), "--no-packaged", "--case", case]
    file = folder / "baseline.json"
    command = ["conformance", "baseline", "--backend", "memory", *given, "--into", str(file)]
    assert main(command) == 0
    status, document = run(folder, "--baseline", str(file))
    assert status == 0
    assert document["latency"]["counts"]["with_baseline"] == 1
    status, document = run(folder, "--baseline", str(file), backend="doubled_backend:open_store")
    assert status == 1
    assert document["verdict"]["passed"] is True
    assert document["latency"]["cases"][0]["figures"]["broken"] == ["tail", "median"]


def test_each_run_of_a_baseline_fills_its_stores_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same records cost more or less, as they happen to lie in memory."""
    closed = []
    close = Bench.close

    def closing(bench: Bench) -> None:
        closed.append(bench)
        close(bench)

    monkeypatch.setattr(Bench, "close", closing)
    given = ["--scenarios", str(folder / "mine"), "--no-packaged", "--case", "fast/by its id[records=20]"]
    into = ["--into", str(folder / "baseline.json")]
    assert main(["conformance", "baseline", "--backend", "memory", *given, *into]) == 0
    assert len(closed) == RUNS


@pytest.mark.parametrize(
    ("backend", "method", "kind"),
    [
        ("memory", "get_by_id: { id: x }", "in-loop"),
        ("sqlite", "get_by_id: { id: x }", "statement"),
        ("sqlite", "search: {}", "hop of"),
        ("sqlite", 'create: { skill: "${record}" }', "synced hop of"),
    ],
)
def test_the_reference_does_as_the_calls_do(folder: Path, backend: str, method: str, kind: str) -> None:
    (folder / "mine" / "fast.yaml").write_text(
        "format: 1\ntitle: Skills are fast\nlatency:\n"
        f"  - name: it is\n    records: 20\n    measure:\n      - skills.{method}\n    at_most: 1 s\n"
    )
    _, document = run(folder, backend=backend)
    assert document["latency"]["cases"][0]["figures"]["reference"]["kind"].startswith(kind)


def test_the_reference_gives_many_records_where_the_calls_do(folder: Path) -> None:
    (folder / "mine" / "fast.yaml").write_text(
        "format: 1\ntitle: All agents\nlatency:\n"
        "  - name: are given\n    records: 1000\n    measure:\n      - reputation.get_all: {}\n"
        "    at_most: 1 s\n"
    )
    _, document = run(folder)
    assert document["latency"]["cases"][0]["figures"]["reference"]["kind"] == "many in-loop"


def test_what_reads_is_measured_before_what_writes(folder: Path) -> None:
    """What a budget adds may stay there, and must not be what another one is measured on."""
    budget = "  - name: {0}\n    records: 20\n    measure:\n      - skills.{1}\n    at_most: 1 s\n"
    (folder / "mine" / "fast.yaml").write_text(
        "format: 1\ntitle: Skills are fast\nlatency:\n"
        + budget.format("a write", "create: { skill: { id: new } }")
        + budget.format("the read", "get_by_id: { id: new }\n        expect: null")
    )
    _, document = run(folder)
    assert set(outcomes(document).values()) == {"passed"}


def test_the_reference_is_the_recorded_one(folder: Path) -> None:
    """A store that takes to hopping is slower, and not compared with hops."""
    recorded = {
        "fast/by its id[records=20]": {"reference": "statement", "ratios": {"median": 100, "tail": 100}}
    }
    file = folder / "baseline.json"
    file.write_text(json.dumps({"format": 1, "machines": {machine_class(): {"memory": recorded}}}))
    _, document = run(folder, "--baseline", str(file))
    assert document["latency"]["cases"][0]["figures"]["reference"]["kind"] == "statement"


def test_a_file_that_cannot_be_recorded_into_is_refused_before_anything_is_measured(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = folder / "baseline.json"
    file.write_text("{}}")
    given = ["--scenarios", str(folder / "mine"), "--no-packaged", "--into", str(file)]
    assert main(["conformance", "baseline", "--backend", "memory", *given]) == 2
    told = capfd.readouterr().err
    assert "no JSON" in told
    assert "by its id" not in told


def test_a_baseline_that_cannot_be_read_is_a_usage_error(folder: Path) -> None:
    given = ["--scenarios", str(folder / "mine"), "--no-packaged", "--baseline", str(folder / "none.json")]
    assert main(["conformance", "run", "--backend", "memory", *given]) == 2


def test_a_wrong_answer_is_an_error_and_no_time(folder: Path) -> None:
    file = folder / "mine" / "fast.yaml"
    file.write_text(SUITE.replace('expect: { id: "${record.id}" }', "expect: null"))
    status, document = run(folder)
    assert status == 1
    case = document["latency"]["cases"][0]
    assert (case["outcome"], case["figures"]) == ("error", None)
    assert case["summary"].startswith("WrongAnswerError: skills.get_by_id: result: expected null")


def test_in_two_processes_one_of_them_measures(folder: Path) -> None:
    status, document = run(folder, "-n", "2")
    assert status == 0
    assert set(outcomes(document).values()) == {"passed"}
    assert document["verdict"]["counts"]["passed"] == 1
