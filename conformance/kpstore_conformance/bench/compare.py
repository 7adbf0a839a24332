"""`kpstore bench compare`: what became faster or slower from one result to another.

A number of either result is known as well as its passes agree. An operation is slower when the best pass
of the new result is worse than the worst of the old one, by more than `TOLERANCE` of the old best, and by
more than the machine itself is slower: the floor that the operation stands on is held against its own old
self.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kpstore_conformance.bench.result import Pass, Result, Run

__all__ = ["TOLERANCE", "Verdict", "compare", "verdict"]

TOLERANCE = 0.10
"""A change that is smaller is none, however well it is known. Two runs of one program on a quiet machine
differ by up to 5 %.
"""

_FEWEST_RECORDS = 10_000  # a few pages more or less are noise in a smaller store


@dataclass(frozen=True, slots=True)
class Verdict:
    """One number of one operation, or one fact of a run, in both results.

    Attributes:
        what: backend, size and operation.
        statistic: which number; `unit` is its unit.
        old: the best of the old passes; `new` of the new ones.
        machine: the floor's new best ÷ its old best; 1 where there is none.
        word: `faster`, `slower` or `same`; for memory and space `smaller`, `larger` or `same`.
    """

    what: tuple[str, int, str]
    statistic: str
    unit: str
    old: float
    new: float
    machine: float
    word: str

    @property
    def is_regression(self) -> bool:
        """Whether it became worse."""
        return self.word in ("slower", "larger")


def verdict(old: Sequence[float], new: Sequence[float], machine: float = 1.0) -> int:
    """1 if the new numbers are larger, -1 if smaller, 0 if the same as far as one can tell.

    Args:
        old: a number of each pass; likewise `new`.
        machine: how much larger the machine alone would make them.
    """
    ratio = min(new) / min(old)
    if min(new) > max(old) and min(ratio, ratio / machine) > 1 + TOLERANCE:
        return 1
    if max(new) < min(old) and max(ratio, ratio / machine) < 1 / (1 + TOLERANCE):
        return -1
    return 0


def compare(old: Result, new: Result) -> list[Verdict]:
    """Everything that both results have."""
    known = {(run.backend, run.section, run.size): run for run in old.runs}
    found: list[Verdict] = []
    for run in new.runs:
        before = known.get((run.backend, run.section, run.size))
        if before is not None:
            found += _operations(before, run)
            found += _facts(before, run)
    return found


def _operations(old: Run, new: Run) -> Iterator[Verdict]:
    known = {operation.name: operation for operation in old.operations}
    for operation in new.operations:
        earlier = known.get(operation.name)
        if earlier is None:
            continue
        floor = new.floor_of(operation)
        machine = new.floors[floor].p50_us / old.floors[floor].p50_us
        statistics: dict[str, Callable[[Pass], float]] = {
            "p50": lambda each: each.p50_us,
            "p99": lambda each: each.p99_us,
        }
        for statistic, number in statistics.items():
            before_us, now_us = (
                [number(each) for each in whose.closed.passes] for whose in (earlier, operation)
            )
            change = verdict(before_us, now_us, machine)
            yield Verdict(
                (new.backend, new.size, operation.name),
                statistic,
                "us",
                min(before_us),
                min(now_us),
                machine,
                {1: "slower", -1: "faster", 0: "same"}[change],
            )


def _facts(old: Run, new: Run) -> Iterator[Verdict]:
    """Memory and space. How long filling and opening took is known from one time only, and is not judged."""
    for statistic in ("rss_bytes_per_record", "reopened_rss_bytes_per_record", "file_bytes"):
        before, now = (getattr(run.facts, statistic) for run in (old, new))
        if before and now and min(before, now) > 0 and new.size >= _FEWEST_RECORDS:
            change = verdict([before], [now])
            yield Verdict(
                (new.backend, new.size, new.section),
                statistic,
                "B",
                before,
                now,
                1.0,
                {1: "larger", -1: "smaller", 0: "same"}[change],
            )
