"""The driver of the campaign catches what can be caught, lets live what cannot, and ends what is endless."""

from __future__ import annotations

import multiprocessing

import pytest

from mutation.generating import ROOT
from mutation.running import Result, Step, prepare_worker, run_mutant, run_own_tests

_FILE = "kpstore/stores/rate_limit.py"
_STEPS = [
    Step(backend, "rate_limit/decision/the numbers of a decision are whole", 0.01)
    for backend in ("memory", "sqlite")
]


def _run(old: str, new: str, steps: list[Step] = _STEPS) -> Result:
    original = (ROOT / _FILE).read_text(encoding="utf-8")
    source = original.replace(old, new)
    assert source != original
    # In a process with one thread, which the worker of a parallel test run is not.
    with multiprocessing.get_context("spawn").Pool(1, prepare_worker) as pool:
        return pool.apply(run_mutant, (_FILE, source, steps, 2.0))


def test_a_mutant_is_caught() -> None:
    result = _run("-dividend // divisor", "-dividend / divisor")
    assert (result.outcome, result.by, result.tried) == ("killed", f"memory {_STEPS[0].case}", 1)
    assert result.why


def test_a_mutant_that_does_the_same_survives_every_case() -> None:
    assert _run("now >= bucket.full_at", "now > bucket.full_at") == Result("survived", tried=2)


def test_a_mutant_that_never_ends_is_caught_by_the_time_out() -> None:
    result = _run("level -= TOKEN", "while True: pass")
    assert (result.outcome, result.why) == ("endless", "no end after 2 s")


def test_a_mutant_that_cannot_be_imported_is_caught() -> None:
    result = _run("_SECOND = 1_000_000", "_SECOND = 1 / 0")
    assert (result.outcome, result.by) == ("killed", "import")
    assert "ZeroDivisionError" in result.why


@pytest.mark.parametrize(
    ("old", "new", "expected", "why"),
    [
        ("-dividend // divisor", "-(dividend // divisor)", "own", "tests/library/test_rate_limit.py::test"),
        ("if width <= 0", "if width < 0", "survived", ""),
        ("level -= TOKEN", "while True: pass", "own", "no end after 5 s"),
    ],
)
def test_own_tests_are_run_on_the_mutant(old: str, new: str, expected: str, why: str) -> None:
    original = (ROOT / _FILE).read_text(encoding="utf-8")
    source = original.replace(old, new)
    assert source != original
    tests = ["tests/library/test_rate_limit.py"]
    with multiprocessing.get_context("spawn").Pool(1, prepare_worker) as pool:
        result = pool.apply(run_own_tests, (_FILE, source, tests, 0.1))
    assert result.outcome == expected
    assert result.why.startswith(why)
