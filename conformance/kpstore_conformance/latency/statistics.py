"""From timings to figures, and from figures to a judgement. Nothing here measures: all of it is repeatable.

A wall-clock time on a machine that others use too is the call's own plus whatever else went on, never less.
So calls are timed in several passes over the same inputs, and a pass is as good as the quietest of them: a
statistic is the least that any pass gave. What the machine itself is worth at that moment is what a
*reference* of the same kind cost, timed in turn with the calls: ratios to it carry over from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log10
from statistics import median
from typing import Literal

import msgspec

from kpstore_conformance.latency.reference import Kind

__all__ = [
    "TOLERANCE",
    "Baseline",
    "Broken",
    "Demand",
    "Gate",
    "Load",
    "Measurement",
    "Pass",
    "Timings",
    "broken",
    "histogram",
    "percentile",
    "ratios",
]

TOLERANCE = 1.3
"""What a ratio may be of the recorded one. A store whose calls are all made twice comes to 1.34 and more
beside busy processes, and not to 2: the second call finds in the processor's cache what the first brought. A
sound store is measured on until it has come to less.
"""

Gate = Literal["tail", "median"]

_BARS = 40
_BUCKETS_PER_DECADE = 5


@dataclass(frozen=True, slots=True)
class Pass:
    """The wall-clock times of the calls of one pass, in order, without what a `StopWatch` takes off."""

    times_ns: tuple[int, ...]


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that `share` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(ceil(share * len(ordered)), 1) - 1]


@dataclass(slots=True)
class Timings:
    """Passes over the same calls. Statistics of one pass are the least that any pass gave."""

    passes: list[Pass] = field(default_factory=list)

    def best_ns(self, share: float) -> float:
        """A percentile of the times."""
        return min(percentile(one.times_ns, share) for one in self.passes)

    def quietest_ns(self) -> list[int]:
        """Of each call its least time in any pass; of those that at least half of the passes got to before
        they were cut short, since what was timed once was not at its quietest.
        """
        lengths = sorted((len(one.times_ns) for one in self.passes), reverse=True)
        reached = lengths[ceil(len(lengths) / 2) - 1]
        return [
            min(one.times_ns[number] for one in self.passes if number < len(one.times_ns))
            for number in range(reached)
        ]

    def all_ns(self) -> list[int]:
        """Every time of every pass."""
        return [time for one in self.passes for time in one.times_ns]


@dataclass(frozen=True, slots=True)
class Load:
    """What else went on: the system's load average at the end, how often this thread had to give way to
    another (None where the system does not tell), and whether each pass had its threads on one processor.
    """

    average: float | None
    involuntary_switches: int | None
    one_processor: bool


@dataclass(slots=True)
class Measurement:
    """What was timed: the calls, the same calls on a tenth of the records, and the reference.

    `fills` is 2 where that is the second try, on stores that were filled anew.
    """

    reference_kind: Kind
    calls: Timings = field(default_factory=Timings)
    on_a_tenth: Timings = field(default_factory=Timings)
    reference: Timings = field(default_factory=Timings)
    load: Load = Load(None, None, False)
    fills: int = 1

    def statistic_ms(self, name: str) -> float:
        """`p50` or `p99` of the calls, in milliseconds."""
        return self.calls.best_ns(int(name[1:]) / 100) / 1e6

    def growth(self) -> float | None:
        """The median ÷ the median on a tenth of the records, if those were measured; of the calls each at its
        quietest.
        """
        if not self.on_a_tenth.passes:
            return None
        return median(self.calls.quietest_ns()) / median(self.on_a_tenth.quietest_ns())


def ratios(measurement: Measurement) -> dict[Gate, float]:
    """The cost as multiples of the reference, over the calls each at its quietest: what a baseline records.

    `median`: median ÷ median. `tail`: p95 ÷ p95. What happens to a call now and then is in neither; it is
    left to the limit, which is on p99 of a whole pass.
    """
    calls, reference = measurement.calls.quietest_ns(), measurement.reference.quietest_ns()
    return {
        "tail": percentile(calls, 0.95) / percentile(reference, 0.95),
        "median": median(calls) / median(reference),
    }


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a budget cost when it was recorded, as multiples of a reference of that kind."""

    reference: Kind
    ratios: Mapping[Gate, float]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a measurement is held to; whatever is None or missing is not asked for."""

    statistic: str = "p99"
    at_most_ms: float | None = None
    growth: float | None = None
    baseline: Baseline | None = None

    @property
    def states_anything(self) -> bool:
        """Whether anything is asked for at all."""
        return self.at_most_ms is not None or self.growth is not None or self.baseline is not None


@dataclass(frozen=True, slots=True)
class Broken:
    """One thing that does not hold, told in a line."""

    what: str
    text: str


def broken(measurement: Measurement, demand: Demand) -> list[Broken]:
    """What of the demand the measurement does not keep."""
    found = []
    came = measurement.statistic_ms(demand.statistic)
    if demand.at_most_ms is not None and came > demand.at_most_ms:
        text = f"{demand.statistic} is {came:.3g} ms at the best of {len(measurement.calls.passes)} passes"
        found.append(Broken("limit", f"{text}; the limit is {demand.at_most_ms:g} ms"))
    growth = measurement.growth()
    if demand.growth is not None and growth is not None and growth > demand.growth:
        found.append(
            Broken("growth", f"costs {growth:.2f} times what it costs with a tenth of the records; "
                             f"the bound is {demand.growth:g}")
        )  # fmt: skip
    for gate, ratio in ratios(measurement).items():
        recorded = demand.baseline.ratios.get(gate) if demand.baseline else None
        if recorded is not None and ratio > recorded * TOLERANCE:
            found.append(
                Broken(gate, f"{_GATES[gate]} is {ratio:.3g}; recorded {recorded:.3g}, "
                             f"which allows {recorded * TOLERANCE:.3g}")
            )  # fmt: skip
    return found


_GATES: dict[Gate, str] = {
    "tail": "p95 of the calls at their quietest ÷ the reference's",
    "median": "median of the calls at their quietest ÷ the reference's",
}


def histogram(times_ns: Sequence[int], mark_ms: float | None = None) -> list[str]:
    """The distribution as text, a row for each fifth of a power of ten; the row that holds `mark_ms` is
    marked.
    """
    counts: dict[int, int] = {}
    for time in times_ns:
        bucket = _bucket(time)
        counts[bucket] = counts.get(bucket, 0) + 1
    marked = None if mark_ms is None else _bucket(mark_ms * 1e6)
    shown = sorted({*range(min(counts), max(counts) + 1), *(() if marked is None else (marked,))})
    most = max(counts.values())
    rows = []
    previous = None
    for bucket in shown:
        if previous is not None and bucket > previous + 1:
            rows.append(f"{'…':>9}")
        previous = bucket
        count = counts.get(bucket, 0)
        bar = "█" * (ceil(_BARS * count / most) if count else 0)
        note = "  ← the limit" if bucket == marked else ""
        rows.append(
            f"{_time_text(10 ** (bucket / _BUCKETS_PER_DECADE)):>9} │{bar} {count or ''}{note}".rstrip()
        )
    return rows


def _bucket(time_ns: float) -> int:
    return int(log10(max(time_ns, 1)) * _BUCKETS_PER_DECADE // 1)


def _time_text(time_ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if time_ns >= size * 0.999:
            return f"{time_ns / size:.3g} {unit}"
    return f"{time_ns:.3g} ns"
