"""The reports for machines: they keep to their schema, hold what XML and JSON can hold, and no API key."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from kpstore_conformance.report import as_json, as_junit, schema, write_reports
from kpstore_conformance.suite import Suite, digest_of
from kpstore_conformance.target import BackendFacts
from kpstore_conformance.verdict import CaseOutcome, Outcome, Verdict, judge

pytestmark = pytest.mark.usefixtures("small_package")

STARTED = datetime(2026, 1, 15, 12, tzinfo=UTC)
KEY = "kp_" + "0123456789abcdef" * 4
KNOWN = {"reason": "it forgets", "issue": "https://example.org/1", "expires": "2027-01-01"}


def an_outcome(name: str, outcome: Outcome, **more: Any) -> CaseOutcome:
    failed = outcome not in ("passed", "not_applicable")
    made = CaseOutcome(
        case=f"skills/delete/{name}",
        kind="scenario",
        file="scenarios/skills/delete.yaml",
        line=7,
        clauses=["SKILL-6"],
        requires=["controllable_clock"],
        outcome=outcome,
        duration_s=0.25,
        summary="expected true, came false" if failed else None,
        at="scenarios/skills/delete.yaml:11" if failed else None,
        missing=[("capability", "durable")] if outcome == "not_applicable" else [],
        known=KNOWN if outcome in ("known_failing", "flaky_failed", "unexpected_pass") else None,
    )
    return replace(made, **more)


ALL: tuple[Outcome, ...] = (
    "passed",
    "failed",
    "error",
    "differs",
    "known_failing",
    "unexpected_pass",
    "flaky_failed",
    "not_applicable",
)


def a_verdict(*outcomes: CaseOutcome) -> Verdict:
    backend = BackendFacts("mine:open", "mine", frozenset({"controllable_clock"}), frozenset({"raw"}))
    found = outcomes or tuple(an_outcome(f"case {outcome}", outcome) for outcome in ALL)
    return judge(backend, found, suite=[], problems=["the process died"], duration_s=2.5)


def validate(document: object) -> None:
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema(), format_checker=checker).validate(document)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_a_report_keeps_to_its_schema() -> None:
    document = as_json(a_verdict(), Suite(), STARTED)
    validate(document)
    assert document["verdict"]["counts"] == {
        "executed": 7,
        "passed": 1,
        "failed": 1,
        "error": 1,
        "differs": 1,
        "known_failing": 1,
        "unexpected_pass": 1,
        "flaky_failed": 1,
        "not_applicable": 1,
        "not_selected": 0,
    }


def test_a_granted_level_keeps_to_the_schema_too() -> None:
    from kpstore_conformance.scenario import CLAUSES

    backend = BackendFacts("mine", "mine", frozenset(), frozenset())
    one = an_outcome("all", "passed", clauses=list(CLAUSES), requires=[])
    document = as_json(judge(backend, [one], suite=[]), Suite(), STARTED)
    validate(document)
    assert document["verdict"]["level"] == "core"
    assert document["verdict"]["withheld"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("verdict", "level"), 1),
        (("verdict", "counts", "passed"), -1),
        (("suite", "scenarios_digest"), "abc"),
        (("cases", 0, "outcome"), "skipped"),
        (("cases", 0, "extra"), 1),
        (("cases", 0, "clauses"), []),
        (("backend", "inspectors"), ["eyes"]),
    ],
)
def test_the_schema_refuses_what_is_no_report(path: tuple[str | int, ...], value: object) -> None:
    document = as_json(a_verdict(), Suite(), STARTED)
    *way, last = path
    inner: Any = document
    for step in way:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_junit_counts_and_properties() -> None:
    root = ElementTree.fromstring(as_junit(a_verdict(), STARTED))
    suite = root.find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "9", "failures": "3", "errors": "2", "skipped": "3"}
    assert len(list(suite)) == 9
    case = suite[1]
    assert (case.get("classname"), case.get("name")) == ("skills/delete", "case error")
    assert {one.get("name"): one.get("value") for one in case.iter("property")} == {
        "case": "skills/delete/case error",
        "file": "scenarios/skills/delete.yaml",
        "line": "7",
        "clauses": "SKILL-6",
    }
    kinds = {
        one.get("name"): next((child.tag for child in one if child.tag != "properties"), None)
        for one in suite
    }
    assert kinds == {
        "case passed": None,
        "case failed": "failure",
        "case error": "error",
        "case differs": "failure",
        "case known_failing": "skipped",
        "case unexpected_pass": "failure",
        "case flaky_failed": "skipped",
        "case not_applicable": "skipped",
        "the process died": "error",
    }


def test_parameters_with_slashes_stay_in_the_name() -> None:
    root = ElementTree.fromstring(as_junit(a_verdict(an_outcome("x[path=a/b]", "passed")), STARTED))
    case = next(root.iter("testcase"))
    assert (case.get("classname"), case.get("name")) == ("skills/delete", "x[path=a/b]")


@pytest.mark.parametrize("text", ["\x00", "\ud800", "\x1b[31m", "\ufffe", "𝔘 <&>\"'"])
def test_any_text_survives(tmp_path: Path, text: str) -> None:
    outcome = an_outcome("x", "failed", summary=f"came {text}")
    written = write_reports(tmp_path / "a" / "b", a_verdict(outcome), Suite(), STARTED)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["conformance.json", "junit.xml"]
    document = json.loads(written[0].read_text("utf-8"))
    validate(document)
    assert document["cases"][0]["summary"] == f"came {text}"
    ElementTree.parse(written[1])


def test_no_report_holds_an_api_key(tmp_path: Path) -> None:
    outcome = an_outcome(f"x[key={KEY}]", "failed", summary=f"expected {KEY}")
    for path in write_reports(tmp_path, a_verdict(outcome), Suite(), STARTED):
        content = path.read_text("utf-8")
        assert KEY not in content
        assert KEY[11:] not in content
        assert "expected kp_????????…" in content


def test_the_digest_changes_with_any_file_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a" / "data").mkdir(parents=True)
    (tmp_path / "a" / "x.yaml").write_text("1")
    (tmp_path / "a" / "data" / "x.json").write_text("2")
    first = digest_of(tmp_path / "a")
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("3")
    assert digest_of(tmp_path / "a") == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest_of(tmp_path / "b") == first
    (tmp_path / "b" / "data" / "x.json").write_text("changed")
    assert digest_of(tmp_path / "b") != first
    (tmp_path / "b" / "data" / "x.json").write_text("2")
    (tmp_path / "b" / "x.yaml").rename(tmp_path / "b" / "y.yaml")
    assert digest_of(tmp_path / "b") != first
