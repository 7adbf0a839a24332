"""Measuring budgets: what a call is timed after, and what is measured once more, on stores filled anew."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance.latency import bench
from kpstore_conformance.latency.bench import Bench
from kpstore_conformance.latency.statistics import Baseline, Demand, Measurement, broken
from kpstore_conformance.latency.stopwatch import StopWatch
from kpstore_conformance.latency.telling import as_text
from kpstore_conformance.scenario import BudgetCase, load_file
from kpstore_conformance.target import adapter_for, probe

from kpstore import AllStores

TAKES_S = 0.01

RECORDED = Baseline("in-loop", {"tail": 20, "median": 20})
"""Less than what a call of 10 ms is a multiple of, and many times what a call of the memory backend is."""

READ = """\
      - skills.get_by_id: { id: "${record.id}" }
        expect: { id: "${record.id}" }
"""
WRITE = '      - skills.create: { skill: "${record}" }\n'
BUDGET = f"""\
format: 1
title: Found fast
latency:
  - name: by its id
    data: skills
    records: 20
    measure:
{READ}    at_most: 1 s
"""


class SlowFills:
    """Wraps stores, and makes those of the first so many fills slow."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.fills = 0

    def __call__(self, stores: AllStores) -> AllStores:
        self.fills += 1
        self.left -= 1
        if self.left >= 0:
            get_by_id = stores.skills.get_by_id

            async def slow(id: str) -> Any:
                await asyncio.sleep(TAKES_S)
                return await get_by_id(id)

            stores.skills.get_by_id = slow  # type: ignore[method-assign]
        return stores


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BudgetCase:
    monkeypatch.setattr(bench, "MAX_PASSES", 6)
    monkeypatch.setattr(bench, "CALLS", 20)
    file = tmp_path / "fast.yaml"
    file.write_text(BUDGET)
    (found,) = load_file(file, root=tmp_path).budget_cases()
    return found


def measured(
    case: BudgetCase,
    demand: Demand,
    wrap: Callable[[AllStores], AllStores],
    backend: str = "memory",
) -> Measurement:
    adapter = adapter_for(backend)
    with closing(Bench(adapter, asyncio.run(probe(adapter)), wrap=wrap)) as one:
        return one.measure(case, demand)


@pytest.mark.parametrize(("backend", "times"), [("memory", 2), ("sqlite", 1)])
def test_a_call_in_memory_is_timed_after_its_like(case: BudgetCase, backend: str, times: int) -> None:
    """What of it is in the processor's cache is then no chance."""
    asked: list[str] = []

    def wrap(stores: AllStores) -> AllStores:
        get_by_id = stores.skills.get_by_id

        async def noted(id: str) -> Any:
            asked.append(id)
            return await get_by_id(id)

        stores.skills.get_by_id = noted  # type: ignore[method-assign]
        return stores

    found = measured(case, Demand(), wrap, backend)
    timed = sum(len(one.times_ns) for one in found.calls.passes)
    in_passes = asked[-timed * times :]
    alike = [list(ids) for _, ids in groupby(in_passes)]
    assert {len(ids) for ids in alike} == {times}
    assert len(alike) == timed


@pytest.mark.parametrize(("measured_call", "times"), [(READ, 1), (WRITE, 4)], ids=["read", "write"])
def test_what_a_store_does_with_what_was_written_has_ended_before_the_next_pass(
    case: BudgetCase, measured_call: str, times: int, rests: list[StopWatch]
) -> None:
    """Once when the store was loaded, and before each of three passes of writes."""
    file = case.budget.file
    file.write_text(BUDGET.replace(READ, measured_call))
    (case,) = load_file(file, root=file.parent).budget_cases()
    measured(case, Demand(), lambda stores: stores)
    assert len(rests) == times


def test_a_ratio_that_only_the_first_stores_exceed_is_kept(case: BudgetCase) -> None:
    demand, slow = Demand(baseline=RECORDED), SlowFills(1)
    found = measured(case, demand, slow)
    assert broken(found, demand) == []
    assert (found.fills, slow.fills) == (2, 2)


def test_one_that_both_exceed_is_broken_and_told_so(case: BudgetCase) -> None:
    demand, slow = Demand(baseline=RECORDED), SlowFills(sys.maxsize)
    found = measured(case, demand, slow)
    faults = broken(found, demand)
    assert [fault.what for fault in faults] == ["tail", "median"]
    assert slow.fills == 2
    assert "filled anew: the first ones were too slow as well" in as_text(case, found, demand, faults)[0]


@pytest.mark.parametrize(
    ("demand", "slow"),
    [
        (Demand(baseline=RECORDED), SlowFills(0)),
        # Ten times what any place in memory may cost, and a store that is so slow is so in all its budgets.
        (Demand(at_most_ms=1, baseline=RECORDED), SlowFills(1)),
    ],
    ids=["kept", "beyond the limit"],
)
def test_what_is_kept_or_beyond_the_limit_is_measured_once(
    case: BudgetCase, demand: Demand, slow: SlowFills
) -> None:
    found = measured(case, demand, slow)
    assert (found.fills, slow.fills) == (1, 1)
    assert "anew" not in as_text(case, found, demand, [])[0]
