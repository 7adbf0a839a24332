"""Records baselines: what `kpstore conformance baseline` does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from kpstore_conformance.latency.baseline import load_baselines, record
from kpstore_conformance.latency.bench import Bench
from kpstore_conformance.latency.judging import LatencyLevel, is_selected
from kpstore_conformance.latency.statistics import Baseline, Demand, ratios
from kpstore_conformance.scenario import BudgetCase
from kpstore_conformance.suite import SuiteCase
from kpstore_conformance.target import BackendAdapter, probe

__all__ = ["RUNS", "record_baseline"]

RUNS = 3
"""The median of three runs is recorded: one that was disturbed from its start to its end does not count. Each
fills its stores anew: the same records take up to a third longer where they happen to lie worse in memory.
"""


def record_baseline(
    adapter: BackendAdapter, cases: Iterable[SuiteCase], level: LatencyLevel, into: Path
) -> int:
    """Measure the latency budgets among the cases and write their ratios; gives how many there were.

    Raises:
        AdapterError: the backend cannot be opened.
        BaselineError: the file is there and is none of baselines.
    """
    facts = asyncio.run(probe(adapter))
    if into.exists():  # it is to be refused before measuring takes minutes
        load_baselines(facts.name, into)
    works = [
        case.work
        for case in cases
        if isinstance(case.work, BudgetCase)
        and is_selected(case.work.level, level)
        and not case.missing(facts)
    ]
    found: dict[str, list[Baseline]] = {}
    for run in range(RUNS):
        with closing(Bench(adapter, facts)) as bench:
            for work in sorted(works, key=lambda work: work.turn):
                print(f"{run + 1} of {RUNS}: {work.id}", file=sys.stderr)
                runs = found.setdefault(work.id, [])
                like = Baseline(runs[0].reference, {}) if runs else None
                runs.append(_ratios(bench, work, like))
    if found:
        record(into, facts.name, found)
    return len(found)


def _ratios(bench: Bench, work: BudgetCase, like: Baseline | None) -> Baseline:
    measurement = bench.measure(work, Demand(baseline=like))
    return Baseline(measurement.reference_kind, ratios(measurement))
