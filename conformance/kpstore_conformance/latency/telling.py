"""What a budget gave, as plain data for reports and as text for a person."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from kpstore_conformance.latency.statistics import (
    TOLERANCE,
    Broken,
    Demand,
    Measurement,
    histogram,
    percentile,
    ratios,
)
from kpstore_conformance.scenario.budget import BudgetCase

__all__ = ["as_plain", "as_text"]

_AGAIN = ", on stores that were filled anew: the first ones were too slow as well"


def as_plain(
    case: BudgetCase, measurement: Measurement, demand: Demand, faults: Sequence[Broken]
) -> dict[str, Any]:
    """The figures of a case, as `conformance.json` has them."""
    growth = measurement.growth()
    reference = measurement.reference
    return {
        "operation": f"{case.budget.method.store}.{case.budget.method.name}",
        "data": case.budget.data,
        "records": case.records,
        "statistic": demand.statistic,
        "at_most_ms": demand.at_most_ms,
        "p50_ms": _rounded(measurement.statistic_ms("p50")),
        "p99_ms": _rounded(measurement.statistic_ms("p99")),
        "passes": len(measurement.calls.passes),
        "calls": len(measurement.calls.all_ns()),
        "fills": measurement.fills,
        "growth": None if growth is None else _rounded(growth),
        "growth_at_most": demand.growth,
        "ratios": {gate: _rounded(ratio) for gate, ratio in ratios(measurement).items()},
        "baseline": None if demand.baseline is None else dict(demand.baseline.ratios),
        "reference": {
            "kind": measurement.reference_kind,
            "p50_ms": _rounded(median(reference.quietest_ns()) / 1e6),
            "p95_ms": _rounded(percentile(reference.quietest_ns(), 0.95) / 1e6),
        },
        "load": {
            "average": measurement.load.average,
            "involuntary_switches": measurement.load.involuntary_switches,
            "one_processor": measurement.load.one_processor,
        },
        "broken": [fault.what for fault in faults],
    }


def as_text(
    case: BudgetCase, measurement: Measurement, demand: Demand, faults: Sequence[Broken]
) -> list[str]:
    """Why a case does not keep its budget: what is broken, the distribution, the reference and the load."""
    calls, reference, load = measurement.calls, measurement.reference, measurement.load
    method = case.budget.method
    lines = [
        f"{method.store}.{method.name} with {case.records:,} {case.budget.data}: "
        f"p50 {measurement.statistic_ms('p50'):.3g} ms, p99 {measurement.statistic_ms('p99'):.3g} ms "
        f"at the best of {len(calls.passes)} passes{_AGAIN if measurement.fills > 1 else ''}",
        *(f"  ✗ {fault.text}" for fault in faults),
        "",
        f"all {len(calls.all_ns()):,} calls:",
        *(f"  {row}" for row in histogram(calls.all_ns(), demand.at_most_ms)),
        "",
        f"the reference ({measurement.reference_kind}): "
        f"at their quietest p50 {median(reference.quietest_ns()) / 1e6:.3g} ms, "
        f"p95 {percentile(reference.quietest_ns(), 0.95) / 1e6:.3g} ms",
    ]
    for gate, ratio in ratios(measurement).items():
        recorded = demand.baseline.ratios.get(gate) if demand.baseline else None
        beside = "no baseline" if recorded is None else f"recorded {recorded:.3g}, × {TOLERANCE:g} allowed"
        lines.append(f"  {gate} ratio {ratio:.3g} ({beside})")
    seen = []
    if load.average is not None:
        seen.append(f"load average {load.average:.1f}")
    if load.involuntary_switches is not None:
        seen.append(f"{load.involuntary_switches:,} times that this thread had to give way")
    if not load.one_processor:
        seen.append("threads on several processors: the system does not let them be kept on one")
    lines.append(f"the load it saw: {', '.join(seen) or 'unknown here'}")
    return lines


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
