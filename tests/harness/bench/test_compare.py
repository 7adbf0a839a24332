"""What a comparison says, given how well its numbers are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.bench.results import operation, result, run
from kpstore_conformance.bench.cli import main
from kpstore_conformance.bench.compare import compare, verdict
from kpstore_conformance.bench.result import Result, write_result


@pytest.mark.parametrize(
    ("old", "new", "machine", "expected"),
    [
        ([10, 11, 12], [20, 21, 22], 1.0, 1),
        ([20, 21, 22], [10, 11, 12], 1.0, -1),
        ([10, 11, 12], [10, 11, 12], 1.0, 0),
        ([10, 11, 21], [20, 21, 22], 1.0, 0),  # the passes overlap
        ([100, 101], [105, 106], 1.0, 0),  # a change of 5 %
        ([10, 11, 12], [20, 21, 22], 2.0, 0),  # the machine is half as fast
        ([10, 11, 12], [30, 31, 32], 2.0, 1),
        ([20, 21, 22], [10, 11, 12], 0.5, 0),
    ],
)
def test_a_change_is_one_beyond_both_spreads_and_the_machines(
    old: list[float], new: list[float], machine: float, expected: int
) -> None:
    assert verdict(old, new, machine) == expected


def words(old: Result, new: Result) -> dict[tuple[str, str], str]:
    return {(each.what[2], each.statistic): each.word for each in compare(old, new)}


def test_each_operation_has_a_verdict_on_its_median_and_its_tail() -> None:
    old = result(run(operation("a", 10, 11), operation("b", 10, 11), operation("only old", 1)))
    new = result(run(operation("a", 20, 21), operation("b", 10, 11), operation("only new", 1)))
    found = words(old, new)
    assert found.pop(("knowledge", "rss_bytes_per_record")) == "same"
    assert found == {
        ("a", "p50"): "slower",
        ("a", "p99"): "slower",
        ("b", "p50"): "same",
        ("b", "p99"): "same",
    }


def test_only_one_size_and_backend_is_compared_with_itself() -> None:
    old = result(run(operation("a", 10), size=1000), run(operation("a", 10), backend="sqlite"))
    assert compare(old, result(run(operation("a", 20)))) == []


def test_an_operation_is_held_against_the_floor_it_stands_on() -> None:
    old = result(run(operation("a", 10)))
    for machine, expected in ((1.0, "slower"), (2.0, "same")):
        assert words(old, result(run(operation("a", 20), machine=machine)))["a", "p50"] == expected


def test_memory_that_grew_is_a_regression_and_a_tiny_stores_is_noise() -> None:
    for size, expected in ((100_000, "larger"), (1000, None)):
        old, new = (result(run(size=size, rss_bytes_per_record=each)) for each in (900.0, 1800.0))
        assert words(old, new).get(("knowledge", "rss_bytes_per_record")) == expected


@pytest.mark.parametrize(("new", "status"), [(10.0, 0), (5.0, 0), (20.0, 1)])
def test_the_command_exits_with_1_on_a_regression(
    new: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(result(run(operation("knowledge/get", 10.0))), tmp_path / "old.json")
    write_result(result(run(operation("knowledge/get", new))), tmp_path / "new.json")
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == status
    out = capsys.readouterr().out
    assert ("slower" in out) == (status == 1)
    assert ("knowledge/get" in out) == (new != 10.0)


def test_results_with_nothing_in_common_are_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(result(run(operation("a", 10.0))), tmp_path / "old.json")
    write_result(result(run(operation("a", 10.0), size=1000)), tmp_path / "new.json")
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 2
    assert "in common" in capsys.readouterr().err
