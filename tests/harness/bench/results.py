"""Results to test with, made of numbers instead of measured."""

from __future__ import annotations

from collections.abc import Sequence

from kpstore_conformance.bench.floors import FLOORS
from kpstore_conformance.bench.result import (
    FORMAT,
    Facts,
    LoadPoint,
    Machine,
    Measured,
    Method,
    Pass,
    Result,
    Run,
    Timing,
)

FLOOR_US = {"dict_get": 0.5, "sqlite_statement": 10.0, "thread_hop": 100.0, "fdatasync": 200.0}


def timing(*medians_us: float) -> Timing:
    """A pass for each median; its p99 is twice that."""
    return Timing([Pass(100, each, 2 * each, 3 * each, each * 1e-4) for each in medians_us])


def operation(
    name: str, *medians_us: float, writes: bool = False, stall_ms: float = 0.5, open_us: float | None = None
) -> Measured:
    return Measured(
        name=name,
        writes=writes,
        records_per_call=1,
        closed=timing(*medians_us),
        stall_ms=stall_ms,
        open=None if open_us is None else timing(open_us),
        open_per_second=None if open_us is None else 100.0,
    )


def facts(**given: float) -> Facts:
    values = {"load_seconds": 2.0, "load_per_second": 500.0, "idle_stall_ms": 0.6, "collection_ms": 5.0}
    return Facts(**{**values, "load_average": 0.1, "rss_bytes_per_record": 900.0, **given})  # type: ignore[arg-type]


def run(
    *operations: Measured,
    backend: str = "memory",
    size: int = 100_000,
    section: str = "knowledge",
    load: Sequence[LoadPoint] = (),
    machine: float = 1.0,
    **given: float,
) -> Run:
    """A run; `machine` is how many times slower than usual the machine is."""
    floors = {name: timing(FLOOR_US[name] * machine) for name in FLOORS}
    return Run(backend, section, size, backend == "sqlite", facts(**given), floors, [*operations], [*load])


def point(
    mix: str, per_second: float, *, clients: int | None = None, processes: int = 1, p50_us: float = 100.0
) -> LoadPoint:
    offered = per_second if clients is None else None
    return LoadPoint(mix, processes, clients, offered, 1000, per_second, p50_us, 2 * p50_us, 3 * p50_us)


def result(*runs: Run) -> Result:
    machine = Machine("a processor", 2, 2**34, "Linux 6", "3.11.0", "3.40.1", "ext4")
    return Result(
        FORMAT, "0.1.0", "2026-01-01T00:00:00+00:00", machine, Method(3, 100, 0.5, 0, "off", "full"), [*runs]
    )
