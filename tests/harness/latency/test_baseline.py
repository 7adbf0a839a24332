"""Files of baselines: what is recorded is what a budget is held to, on this class of machines alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kpstore_conformance.latency import baseline
from kpstore_conformance.latency.baseline import BaselineError, load_baselines, machine_class, record
from kpstore_conformance.latency.statistics import Baseline

CASE = "latency/skills/fast[records=10]"


def costs(tail: float, median: float) -> Baseline:
    return Baseline("hop of 20", {"tail": tail, "median": median})


def test_the_median_of_the_runs_is_recorded_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    record(file, "memory", {CASE: [costs(tail, 1) for tail in (2, 90, 3)]})
    assert load_baselines("memory", file)[CASE] == costs(3, 1)
    assert CASE not in load_baselines("sqlite", file)
    assert "another" not in load_baselines("memory", file)


def test_recording_again_replaces_the_case_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    record(file, "memory", {CASE: [costs(2, 1)], "other": [costs(5, 5)]})
    record(file, "memory", {CASE: [costs(4, 3)]})
    record(file, "sqlite", {CASE: [costs(9, 8)]})
    found = load_baselines("memory", file)
    assert found[CASE] == costs(4, 3)
    assert found["other"] == costs(5, 5)


def test_another_class_of_machines_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.json"
    record(file, "memory", {CASE: [costs(2, 1)]})
    monkeypatch.setattr(baseline, "machine_class", lambda: "another")
    assert CASE not in load_baselines("memory", file)


def test_a_file_goes_before_what_comes_with_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged, mine = tmp_path / "packaged.json", tmp_path / "mine.json"
    record(packaged, "memory", {CASE: [costs(2, 1)], "b": [costs(7, 7)]})
    record(mine, "memory", {CASE: [costs(3, 1)]})
    monkeypatch.setattr(baseline, "PACKAGED", packaged)
    found = load_baselines("memory", mine)
    assert found[CASE] == costs(3, 1)
    assert found["b"] == costs(7, 7)


def test_what_comes_with_the_suite_can_be_read() -> None:
    load_baselines("memory", None)


def test_a_machine_class_is_one_word_that_names_the_python() -> None:
    assert "python-3." in machine_class()
    assert not set(machine_class()) & set(" /\"'")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 2, "machines": {}}',
        '{"format": 1, "machine": {}}',
        '{"format": 1, "machines": {"m": {"b": {"c": {"reference": "in-loop", "ratios": {"tial": 1}}}}}}',
        '{"format": 1, "machines": {"m": {"b": {"c": {"reference": "in-loop", "ratios": {"tail": "1"}}}}}}',
        '{"format": 1, "machines": {"m": {"memory": {"c": {"reference": "hip", "ratios": {"tail": 1}}}}}}',
        '{"format": 1, "machines": {"m": {"memory": {"case": {"ratios": {"tail": 1}}}}}}',
        '{"format": 1, "machines": {"m": {"memory": {"case": 1}}}}',
    ],
)
def test_what_is_no_file_of_baselines_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(BaselineError, match=r"mine\.json: no "):
        load_baselines("memory", file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="cannot be read: No such file"):
        load_baselines("memory", tmp_path / "none.json")


def test_recording_never_overwrites_another_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"precious": True}))
    with pytest.raises(BaselineError):
        record(file, "memory", {CASE: [costs(1, 1)]})
    assert json.loads(file.read_text()) == {"precious": True}
