"""What a run leaves for machines: `conformance.json` (its schema is beside this file) and `junit.xml`."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kpstore import __version__
from kpstore_conformance.scenario.show import redact
from kpstore_conformance.suite import Missing, Suite, digest_of, packaged_scenarios
from kpstore_conformance.verdict import CaseOutcome, Verdict

__all__ = ["FORMAT", "as_json", "as_junit", "schema", "write_reports"]

FORMAT = 1
"""The version of `conformance.json`; grows when a reader of the old one would be misled."""


def schema() -> dict[str, Any]:
    """The JSON Schema of `conformance.json`."""
    text = (files(__package__) / "conformance.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def write_reports(folder: Path, verdict: Verdict, suite: Suite, started: datetime) -> list[Path]:
    """Write both reports into `folder`, which is made if it is not there; gives their paths. Raises
    OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(as_json(verdict, suite, started), indent=2, ensure_ascii=True)
    paths = [folder / "conformance.json", folder / "junit.xml"]
    _replace(paths[0], f"{redact(document)}\n".encode())
    _replace(paths[1], as_junit(verdict, started))
    return paths


def _replace(path: Path, content: bytes) -> None:
    # Whole or not at all: a reader who finds the file never finds half of it.
    beside = path.with_name(f"{path.name}.part")
    beside.write_bytes(content)
    beside.replace(path)


def as_json(verdict: Verdict, suite: Suite, started: datetime) -> dict[str, Any]:
    """The document of `conformance.json`."""
    packaged = packaged_scenarios()
    level = verdict.level
    return {
        "format": FORMAT,
        "suite": {
            "version": __version__,
            "scenarios_digest": f"sha256:{digest_of(packaged)}",
            "packaged": suite.packaged,
            "extra": [{"folder": str(one), "digest": f"sha256:{digest_of(one)}"} for one in suite.extra],
        },
        "backend": verdict.backend.to_json(),
        "platform": {
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "sqlite": sqlite3.sqlite_version,
        },
        "run": {"started": started.isoformat(), "duration_s": round(verdict.duration_s, 3)},
        "verdict": {
            "passed": verdict.passed,
            "level": str(level) if level.granted else None,
            "withheld": level.withheld,
            "gaps": list(level.gaps),
            "capabilities": verdict.capabilities,
            "counts": {
                "executed": verdict.executed,
                "passed": verdict.count("passed"),
                "failed": verdict.count("failed"),
                "error": verdict.count("error"),
                "differs": verdict.count("differs"),
                "known_failing": verdict.count("known_failing"),
                "unexpected_pass": verdict.count("unexpected_pass"),
                "flaky_failed": verdict.count("flaky_failed"),
                "not_applicable": verdict.count("not_applicable"),
                "not_selected": verdict.not_selected,
            },
            "problems": list(verdict.problems),
            "against": _against(verdict),
        },
        "clauses": {
            one.clause: {
                "status": one.status,
                "passed": one.passed,
                "failed": one.failed,
                "not_applicable": one.not_applicable,
                "needs": list(one.needs),
            }
            for one in verdict.clauses
        },
        "cases": [_case(one) for one in verdict.outcomes],
        "latency": {
            **verdict.latency.to_json(),
            "cases": [_budget(one) for one in verdict.latency.outcomes],
        },
    }


def _against(verdict: Verdict) -> dict[str, Any] | None:
    if verdict.against is None:
        return None
    return {
        "backend": verdict.against.to_json(),
        "cases": len(verdict.compared),
        "calls": sum(one.compared or 0 for one in verdict.compared),
        "not_compared": [{"reason": reason, "cases": count} for reason, count in verdict.not_compared()],
    }


def _budget(one: CaseOutcome) -> dict[str, Any]:
    shared = _case(one)
    return {**{key: shared[key] for key in _BUDGET_KEYS}, "figures": one.latency}


_BUDGET_KEYS = (
    *("case", "file", "line", "requires", "outcome", "duration_s"),
    *("summary", "at", "missing", "known"),
)


def _case(one: CaseOutcome) -> dict[str, Any]:
    return {
        "case": one.case,
        "kind": one.kind,
        "file": one.file,
        "line": one.line,
        "clauses": one.clauses,
        "requires": one.requires,
        "outcome": one.outcome,
        "duration_s": round(one.duration_s, 6),
        "summary": one.summary,
        "at": one.at,
        "missing": [str(Missing(kind, name)) for kind, name in one.missing],
        "known": one.known,
        "compared": one.compared,
        "not_compared": one.not_compared,
    }


def as_junit(verdict: Verdict, started: datetime) -> bytes:
    """The verdict as JUnit XML: a test case per case, with the file and line of its YAML as properties."""
    root = ElementTree.Element("testsuites", name="kpstore conformance")
    suite = _junit_suite(
        root, f"kpstore conformance: {verdict.backend.name}", verdict.outcomes, started, verdict.duration_s
    )
    suite.set("tests", str(len(verdict.outcomes) + len(verdict.problems)))
    suite.set("errors", str(verdict.count("error") + len(verdict.problems)))
    for problem in verdict.problems:
        element = ElementTree.SubElement(suite, "testcase", classname="verdict", name=_xml(problem), time="0")
        ElementTree.SubElement(element, "error", message=_xml(problem))
    if verdict.latency.outcomes:
        took = sum(one.duration_s for one in verdict.latency.outcomes)
        _junit_suite(
            root, f"kpstore latency: {verdict.backend.name}", verdict.latency.outcomes, started, took
        )
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def _junit_suite(
    root: ElementTree.Element,
    name: str,
    outcomes: Sequence[CaseOutcome],
    started: datetime,
    duration_s: float,
) -> ElementTree.Element:
    def count(*wanted: str) -> str:
        return str(sum(one.outcome in wanted for one in outcomes))

    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=name,
        tests=str(len(outcomes)),
        failures=count("failed", "differs", "unexpected_pass"),
        errors=count("error"),
        skipped=count("not_applicable", "known_failing", "flaky_failed"),
        time=f"{duration_s:.3f}",
        timestamp=started.isoformat(timespec="seconds"),
    )
    for one in outcomes:
        _junit_case(suite, one)
    return suite


def _junit_case(suite: ElementTree.Element, one: CaseOutcome) -> None:
    folder, _, name = _split(one.case)
    element = ElementTree.SubElement(
        suite, "testcase", classname=_xml(folder), name=_xml(name), time=f"{one.duration_s:.6f}"
    )
    properties = ElementTree.SubElement(element, "properties")
    for key, value in (
        ("case", one.case),
        ("file", one.file),
        ("line", str(one.line)),
        ("clauses", " ".join(one.clauses)),
    ):
        ElementTree.SubElement(properties, "property", name=key, value=_xml(value))
    text = _xml(one.summary or "")
    if one.outcome in ("failed", "differs", "unexpected_pass"):
        failure = ElementTree.SubElement(element, "failure", type=one.outcome, message=text)
        failure.text = f"{_xml(one.at or '')}: {text}"
    elif one.outcome == "error":
        ElementTree.SubElement(element, "error", message=text).text = f"{_xml(one.at or '')}: {text}"
    elif one.outcome == "not_applicable":
        ElementTree.SubElement(element, "skipped", message=_xml(f"not applicable: {one.why_not_applicable}"))
    elif one.known is not None and one.outcome != "passed":
        ElementTree.SubElement(
            element, "skipped", message=_xml(f"{one.outcome}: {one.known['reason']}: {text}")
        )


def _split(case: str) -> tuple[str, str, str]:
    # Parameters may hold a slash; the name's folder ends before them.
    head, bracket, parameters = case.partition("[")
    folder, slash, name = head.rpartition("/")
    return folder, slash, name + bracket + parameters


def _xml(text: str) -> str:
    """The text with keys redacted, and with what XML cannot hold written as an escape."""
    return "".join(
        character
        if character in "\t\n\r" or (character >= " " and not _unspeakable(ord(character)))
        else f"\\u{ord(character):04x}"
        for character in redact(text)
    )


def _unspeakable(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF) or 0x7F <= code <= 0x9F
