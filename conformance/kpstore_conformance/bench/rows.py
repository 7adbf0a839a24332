"""What is shown of a result, of its targets and of a comparison: tables of text, for the terminal and the
picture alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kpstore_conformance.bench.compare import Verdict
from kpstore_conformance.bench.floors import FLOORS
from kpstore_conformance.bench.result import Result, Run
from kpstore_conformance.bench.targets import Judgement

__all__ = [
    "Rows",
    "described",
    "duration",
    "fact_rows",
    "load_rows",
    "operation_rows",
    "rate",
    "size",
    "storage",
    "target_rows",
    "verdict_rows",
]


@dataclass(frozen=True, slots=True)
class Rows:
    """A table. Its first `words` columns are read from the left, the others are numbers; the rows in
    `bad` are what somebody should look at.
    """

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int
    bad: frozenset[int] = frozenset()


def duration(microseconds: float) -> str:
    """With three digits and a unit."""
    for limit, unit in ((1e3, "µs"), (1e6, "ms")):
        if microseconds < limit:
            return f"{_digits(microseconds * 1e3 / limit)} {unit}"
    return f"{_digits(microseconds / 1e6)} s"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def rate(per_second: float) -> str:
    """Of calls or records, with a comma at thousands."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def size(records: int) -> str:
    """As it is written on the command line."""
    for unit, factor in (("M", 1_000_000), ("k", 1000)):
        if records % factor == 0:
            return f"{records // factor}{unit}"
    return str(records)


def storage(count: float | None) -> str:
    """Bytes, as a person reads them."""
    if count is None:
        return "–"
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if abs(count) < limit:
            return f"{_digits(count * 1e3 / limit)} {unit}" if unit != "B" else f"{count:.0f} B"
    return f"{_digits(count / 1e9)} GB"


def described(result: Result) -> tuple[str, str]:
    """The machine, and how it was measured; a sentence or two each."""
    machine, method = result.machine, result.method
    return (
        f"kpstore {result.kpstore} on {machine.processor}, {machine.cores} cores, "
        f"{storage(machine.memory_bytes)} of memory, {machine.system}, Python {machine.python}, "
        f"SQLite {machine.sqlite}, {machine.file_system}; started {result.started}",
        f"{method.passes} passes, of up to {method.most_calls} calls or {method.seconds_per_pass:g} s; "
        f"garbage {method.collector}. Each number is that of its best pass, "
        "± is how far the passes' medians lie apart. "
        f"Open loop: {method.open_loop}. SQLite's synchronous: {method.synchronous}.",
    )


def operation_rows(runs: Sequence[Run]) -> Rows:
    """Each operation. `stall` is the longest time for which the event loop did not turn."""
    rows = []
    for run in runs:
        for operation in run.operations:
            closed, opened = operation.closed, operation.open
            floor = run.floor_of(operation)
            rows.append(
                (
                    operation.name,
                    run.backend,
                    size(run.size),
                    str(closed.passes[0].calls),
                    duration(closed.p50_us),
                    f"{closed.spread:.0%}",
                    duration(closed.p99_us),
                    rate(closed.calls_per_second * operation.records_per_call),
                    "" if operation.open_per_second is None else rate(operation.open_per_second),
                    "" if opened is None else duration(opened.p50_us),
                    "" if opened is None else duration(opened.p99_us),
                    duration(operation.stall_ms * 1000),
                    f"{_digits(closed.p50_us / run.floors[floor].p50_us)} {floor}",
                )
            )
    head = ("operation", "backend", "size", "calls", "p50", "±", "p99", "per s")
    return Rows((*head, "open at /s", "p50", "p99", "stall", "÷ floor"), rows, 2)


def fact_rows(runs: Sequence[Run]) -> Rows:
    """What is known once a run, and the machine's floors beside it (their medians)."""
    rows = [
        (
            run.section,
            run.backend,
            size(run.size),
            duration(run.facts.load_seconds * 1e6),
            rate(run.facts.load_per_second),
            storage(run.facts.rss_bytes_per_record),
            storage(run.facts.file_bytes),
            "–" if run.facts.open_seconds is None else duration(run.facts.open_seconds * 1e6),
            storage(run.facts.reopened_rss_bytes_per_record),
            duration(run.facts.collection_ms * 1000),
            duration(run.facts.idle_stall_ms * 1000),
            f"{run.facts.load_average:.1f}",
            *(duration(run.floors[name].p50_us) for name in FLOORS),
        )
        for run in runs
    ]
    head = (
        "section",
        "backend",
        "size",
        "filled in",
        "per s",
        "RSS/record",
        "file",
        "opens in",
        "RSS/record",
    )
    return Rows((*head, "gc", "idle stall", "busy", *FLOORS), rows, 2)


def load_rows(runs: Sequence[Run]) -> Rows:
    """The points of the curves."""
    rows = [
        (
            point.mix,
            run.backend,
            size(run.size),
            str(point.processes),
            "" if point.clients is None else str(point.clients),
            "" if point.offered_per_second is None else rate(point.offered_per_second),
            rate(point.per_second),
            duration(point.p50_us),
            duration(point.p99_us),
            duration(point.max_us),
        )
        for run in runs
        for point in run.load
    ]
    head = ("load", "backend", "size", "processes", "clients", "offered/s", "done/s", "p50", "p99", "max")
    return Rows(head, rows, 2)


def target_rows(judgements: Sequence[Judgement]) -> Rows:
    """Each target with what was measured."""
    rows = [
        (
            each.what,
            each.operation,
            each.backend,
            size(each.size),
            f"{each.limit:g} {each.unit}",
            f"{each.measured:.3f} {each.unit}",
            "met" if each.met else "MISSED",
        )
        for each in judgements
    ]
    bad = frozenset(number for number, each in enumerate(judgements) if not each.met)
    return Rows(("target", "operation", "backend", "size", "at most", "measured", ""), rows, 3, bad)


def verdict_rows(verdicts: Sequence[Verdict]) -> Rows:
    """What was compared; `machine` is how much slower the machine's floor was the second time."""
    show = {"us": duration, "B": storage}
    rows = []
    for each in verdicts:
        backend, records, operation = each.what
        old, new = show[each.unit](each.old), show[each.unit](each.new)
        ratios = (f"{each.new / each.old:.2f}", f"{each.machine:.2f}")
        rows.append((operation, each.statistic, backend, size(records), old, new, *ratios, each.word))
    bad = frozenset(number for number, each in enumerate(verdicts) if each.is_regression)
    head = ("operation", "statistic", "backend", "size", "old", "new", "new ÷ old", "machine", "")
    return Rows(head, rows, 3, bad)
