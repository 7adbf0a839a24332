"""How the runner treats a store: cancellation, aliasing, what it raises, what it leaves open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kpstore_conformance.scenario import CaseResult, load_file, run_case

import kpstore

HEAD = "format: 1\ntitle: t\nclauses: [GEN-7]\nscenarios:\n  - name: n\n    steps:\n"


@dataclass
class Loose:
    """A record that is not frozen."""

    id: str
    tags: list[str]


class Skills:
    """A store that suspends three times per call, keeps what it is given, and hands out its own records."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.suspended = 0

    async def create(self, skill: Any) -> Any:
        for _ in range(3):
            self.suspended += 1
            await asyncio.sleep(0)
        self.kept[skill.id] = skill
        return skill

    async def get_by_id(self, id: str) -> Any:
        if id == "broken":
            raise KeyError(id)
        if id == "cancelled":
            raise asyncio.CancelledError
        if id == "loose":
            return self.kept.setdefault(id, Loose("loose", ["a"]))
        return self.kept.get(id)

    async def delete(self, id: str) -> bool:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.kept[id] = "cleaned up"
        return True

    async def scan(self, batch_size: int = 500) -> AsyncIterator[Any]:
        for skill in list(self.kept.values()):
            await asyncio.sleep(0)
            yield skill


class Target:
    name = "fake"

    def __init__(self, *, close_fails: bool = False, open_fails: bool = False) -> None:
        self.skills = Skills()
        self.opened = self.closed = 0
        self._close_fails = close_fails
        self._open_fails = open_fails

    def inspectors(self) -> frozenset[str]:
        return frozenset()

    async def open(self, clock: kpstore.Clock) -> Any:
        if self._open_fails:
            raise kpstore.BackendUnavailableError("no disk")
        self.opened += 1
        return SimpleNamespace(skills=self.skills, close=self._close)

    async def _close(self) -> None:
        self.closed += 1
        if self._close_fails:
            raise OSError("disk gone")

    async def inspect_sql(self, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
        raise NotImplementedError

    async def inspect_raw(self, needle: bytes) -> int:
        raise NotImplementedError

    async def dispose(self) -> None:
        raise NotImplementedError


@pytest.fixture
def target() -> Target:
    return Target()


def load(folder: Path, steps: str) -> Any:
    path = folder / "case.yaml"
    path.write_text(HEAD + "\n".join(f"      {line}" for line in steps.strip("\n").split("\n")) + "\n")
    (case,) = load_file(path).scenarios[0].cases()
    return case


def run(folder: Path, target: Target, steps: str) -> CaseResult:
    return asyncio.run(run_case(load(folder, steps), target))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_call_is_cancelled_at_the_suspension_that_is_named(
    tmp_path: Path, target: Target, number: int
) -> None:
    steps = f"""
- skills.create: {{skill: {{id: a}}}}
  cancel_at: {number}
  expect: {{$cancelled_or: {{$not: {{$any: true}}}}}}
  save: result
- compare: {{value: "${{result}}", expect: null}}
"""
    assert run(tmp_path, target, steps).outcome == "passed"
    assert target.skills.suspended == number
    assert not target.skills.kept


def test_a_call_that_suspends_less_often_completes(tmp_path: Path, target: Target) -> None:
    steps = "- skills.create: {skill: {id: a}}\n  cancel_at: 4\n  expect: {$cancelled_or: {id: a}}"
    assert run(tmp_path, target, steps).outcome == "passed"
    assert list(target.skills.kept) == ["a"]


def test_a_cancellation_wakes_the_call_out_of_what_it_waits_for(tmp_path: Path, target: Target) -> None:
    steps = "- skills.delete: {id: a}\n  cancel_at: 1\n  expect: true"
    result = run(tmp_path, target, steps)
    assert result.outcome == "passed"
    assert result.duration_s < 10
    assert target.skills.kept == {"a": "cleaned up"}


def test_concurrent_calls_are_cancelled_each_at_its_own_suspension(tmp_path: Path, target: Target) -> None:
    steps = """
- concurrently:
    - skills.create: {skill: {id: "a-${n}"}}
      times: 3
      as: n
      cancel_at: 3
    - skills.create: {skill: {id: b}}
  outcomes:
    - {count: 3, result: {$cancelled_or: {$absent: true}}}
    - {count: 1, result: {id: b}}
"""
    result = run(tmp_path, target, steps)
    assert result.outcome == "passed", result.failure
    assert list(target.skills.kept) == ["b"]


def test_a_scan_can_be_cancelled_and_interrupted(tmp_path: Path, target: Target) -> None:
    steps = """
- skills.create: {skill: {id: a}}
- skills.create: {skill: {id: b}}
- skills.scan: {}
  cancel_at: 2
  expect: {$cancelled_or: {$not: {$any: true}}}
- skills.scan: {}
  during: {after: 0, steps: [{skills.create: {skill: {id: c}}, expect: {id: c}}]}
  expect: [{id: a}, {id: b}, {id: c}]
"""
    assert run(tmp_path, target, steps).outcome == "passed"


def test_a_cancelled_run_cancels_the_call_and_closes_the_store(tmp_path: Path, target: Target) -> None:
    case = load(tmp_path, "- skills.delete: {id: a}\n  cancel_at: 2\n  expect: true")

    async def cancel() -> None:
        task = asyncio.create_task(run_case(case, target))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(cancel())
    assert target.closed == 1
    assert target.skills.kept == {"a": "cleaned up"}


def test_scribbling_shows_a_store_that_keeps_what_it_is_given(tmp_path: Path, target: Target) -> None:
    steps = """
- skills.create: {skill: {id: a, tags: [x], files: {f: g}}}
  scribble: [arguments]
- skills.get_by_id: {id: a}
  expect: {files: {f: g}}
"""
    result = run(tmp_path, target, steps)
    assert result.failure is not None
    assert result.failure.summary == 'result.files.f: expected "g", came "scribbled"'


def test_scribbling_on_a_result_changes_no_saved_value(tmp_path: Path, target: Target) -> None:
    steps = """
- skills.create: {skill: {id: a, files: {f: g}}}
  save: before
  scribble: [result]
- compare: {value: "${before}", expect: {files: {$exact: {f: g}}}}
- skills.create: {skill: "${before}"}
  scribble: [arguments]
- compare: {value: "${before}", expect: {files: {$exact: {f: g}}}}
"""
    assert run(tmp_path, target, steps).outcome == "passed"


def test_scribbling_on_a_record_that_is_not_frozen_fails(tmp_path: Path, target: Target) -> None:
    result = run(
        tmp_path, target, "- skills.get_by_id: {id: loose}\n  scribble: [result]\n  expect: {tags: [a]}"
    )
    assert result.failure is not None
    assert result.failure.summary == "Loose is not immutable (GEN-3): a field of it could be set"


def test_an_error_that_is_not_the_librarys_is_told_with_its_place(tmp_path: Path, target: Target) -> None:
    result = run(tmp_path, target, "- skills.get_by_id: {id: broken}\n  error: ValidationError")
    assert result.outcome == "failed"
    assert result.failure is not None
    assert (
        result.failure.summary
        == "error: expected ValidationError, came KeyError: 'broken' (not a KpStoreError)"
    )
    result = run(tmp_path, target, "- skills.get_by_id: {id: broken}\n  expect: null")
    assert result.failure is not None
    assert f"at {__file__}:" in result.failure.render(rerun=None)
    assert "in get_by_id" in result.failure.render(rerun=None)


def test_a_store_that_makes_up_a_cancellation_fails(tmp_path: Path, target: Target) -> None:
    result = run(tmp_path, target, "- skills.get_by_id: {id: cancelled}\n  expect: null")
    assert result.failure is not None
    assert result.failure.summary == "skills.get_by_id raised CancelledError (not a KpStoreError)"


def test_a_store_without_the_method_fails(tmp_path: Path, target: Target) -> None:
    result = run(tmp_path, target, "- skills.search: {}\n  expect: {total: 0}")
    assert result.failure is not None
    assert "AttributeError" in result.failure.summary


def test_every_handle_is_closed_whatever_happens(tmp_path: Path, target: Target) -> None:
    steps = "- open: second\n- open: third\n- close: third\n- skills.get_by_id: {id: broken}\n  expect: null"
    assert run(tmp_path, target, steps).outcome == "failed"
    assert (target.opened, target.closed) == (3, 3)


def test_a_store_that_does_not_close_fails(tmp_path: Path) -> None:
    result = run(tmp_path, Target(close_fails=True), "- skills.get_by_id: {id: a}\n  expect: null")
    assert result.outcome == "failed"
    assert result.failure is not None
    assert result.failure.summary == "closing the store raised OSError: disk gone (not a KpStoreError)"


def test_a_store_that_does_not_open_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path, Target(open_fails=True), "- skills.get_by_id: {id: a}\n  expect: null")
    assert result.outcome == "error"
    assert result.failure is not None
    assert result.failure.summary == (
        "opening the handle `main` on fake raised BackendUnavailableError: no disk"
    )


def test_an_inspector_that_is_not_there_is_an_error(tmp_path: Path, target: Target) -> None:
    result = run(tmp_path, target, "- inspect: {raw: a}\n  expect: {occurrences: 0}")
    assert result.outcome == "error"
    assert result.failure is not None
    assert "NotImplementedError" in result.failure.summary
