"""The speeds that the backends are held to, at 100,000 and at 1,000,000 records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kpstore_conformance.bench.load import Load
from kpstore_conformance.bench.result import Measured, Result, Run
from kpstore_conformance.known import matches

__all__ = ["SIZES", "TARGETS", "Judgement", "Target", "judge"]

SIZES = (100_000, 1_000_000)
"""The sizes that there are targets for."""

_POINTS = (
    *("knowledge/get", "skills/get", "reputation/get", "api_keys/verify/*", "rate_limit/consume/*"),
    *("reputation/upsert/*", "knowledge/delete", "skills/delete"),
)
_CREATIONS = ("knowledge/create", "skills/create", "knowledge/replace", "skills/replace", "api_keys/create")
_SEARCHES = tuple(
    f"*/search/{kind}"
    for kind in (
        *("all", "characters", "frequent_word", "rare_word", "word_and_filters", "filters", "deep_offset"),
        "no_match",
    )
)
_WIDE_SEARCHES = ("*/search/cold_phrase", "*/search/infix")
_LEADERBOARD = ("reputation/leaderboard/*",)


@dataclass(frozen=True, slots=True)
class Target:
    """A limit for operations of a backend: milliseconds at the 99th percentile, by number of records.

    Attributes:
        backend: the backend held to it, or `*`.
        what: the row's name.
        operations: names, in which `*` stands for any text.
        limits_ms: by size.
        stalls: the limit is on the event loop's longest standstill instead.
        beyond_disk: writes may take as long as the disk's own fdatasync besides (99th percentile for 99th
            percentile); reads may not.
    """

    backend: str
    what: str
    operations: tuple[str, ...]
    limits_ms: dict[int, float]
    stalls: bool = False
    beyond_disk: bool = False


def _at(small: float, large: float) -> dict[int, float]:
    return dict(zip(SIZES, (small, large), strict=True))


TARGETS = (
    Target(
        "memory",
        "get, verify, consume, upsert, leaderboard page, delete",
        (*_POINTS, *_LEADERBOARD),
        _at(0.05, 0.1),
    ),
    Target("memory", "create", _CREATIONS, _at(0.3, 0.5)),
    Target("memory", "search", _SEARCHES, _at(0.5, 1)),
    Target("memory", "search, cold phrase or wide infix", _WIDE_SEARCHES, _at(1, 5)),
    Target(
        "sqlite",
        "get, verify, consume, upsert, log, create, delete",
        (*_POINTS, *_CREATIONS, "audit_log/log"),
        _at(1, 1.5),
        beyond_disk=True,
    ),
    Target("sqlite", "search", _SEARCHES, _at(1, 2)),
    Target("sqlite", "search, cold phrase or wide infix", _WIDE_SEARCHES, _at(3, 10)),
    Target(
        "sqlite",
        "leaderboard page, audit query with its total",
        (*_LEADERBOARD, "audit_log/query/*"),
        _at(1, 3),
    ),
    Target("*", "the event loop turns", ("*",), _at(2, 5), stalls=True),
)
"""What is asked of single operations."""

OPEN_SECONDS = 3.0
"""How long opening 1,000,000 units may take."""

SHARING = 4.0
"""How many times the writes of one client 64 clients must get done, where commits cost something."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A target, and what was measured; for an operation both in milliseconds."""

    backend: str
    size: int
    what: str
    operation: str
    unit: str
    limit: float
    measured: float
    met: bool


def judge(result: Result) -> list[Judgement]:
    """Each thing measured that there is a target for."""
    found: list[Judgement] = []
    for run in result.runs:
        for target in TARGETS:
            if matches(target.backend, run.backend) and run.size in target.limits_ms:
                found += _judged(target, run)
        found += _facts_judged(run)
    return found


def _judged(target: Target, run: Run) -> Iterator[Judgement]:
    limit = target.limits_ms[run.size]
    for operation in run.operations:
        if any(matches(glob, operation.name) for glob in target.operations):
            value = operation.stall_ms if target.stalls else _p99_ms(target, run, operation)
            yield Judgement(
                run.backend, run.size, target.what, operation.name, "ms", limit, value, value <= limit
            )


def _p99_ms(target: Target, run: Run, operation: Measured) -> float:
    disk_us = run.floors["fdatasync"].p99_us if target.beyond_disk and operation.writes else 0.0
    return (operation.closed.p99_us - disk_us) / 1000


def _facts_judged(run: Run) -> Iterator[Judgement]:
    if not run.durable or run.size not in SIZES:
        return
    seconds = run.facts.open_seconds
    if run.section == "knowledge" and run.size == SIZES[-1] and seconds is not None:
        met = seconds <= OPEN_SECONDS
        yield Judgement(run.backend, run.size, "opening", "create_store", "s", OPEN_SECONDS, seconds, met)
    writes = {
        point.clients: point.per_second for point in run.load if (point.mix, point.processes) == ("write", 1)
    }
    if 1 in writes and 64 in writes:
        times = writes[64] / writes[1]
        what = "64 writers share commits"
        yield Judgement(
            run.backend, run.size, what, f"{Load.name}/write", "x", SHARING, times, times >= SHARING
        )
