"""What a benchmark found, and the JSON it is written as: `format` 1, whose schema is derived from these
types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

__all__ = [
    "FORMAT",
    "Facts",
    "LoadPoint",
    "Machine",
    "Measured",
    "Method",
    "Pass",
    "Result",
    "ResultError",
    "Run",
    "Timing",
    "pass_of",
    "percentile",
    "read_result",
    "schema",
    "write_result",
]

FORMAT = 1
"""Version of the JSON. A reader refuses another one."""


class ResultError(Exception):
    """A file is no result of this version; the message is one line that names the file."""


class Pass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pass over an operation's inputs: microseconds per call, and how long all calls took."""

    calls: int
    p50_us: float
    p99_us: float
    max_us: float
    seconds: float


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several passes. Noise makes a pass slower, never faster: each number is that of its best pass."""

    passes: list[Pass]

    @property
    def p50_us(self) -> float:
        """Median of the best pass."""
        return min(each.p50_us for each in self.passes)

    @property
    def p99_us(self) -> float:
        """99th percentile of the pass in which it was smallest; of less than 100 calls it is the maximum."""
        return min(each.p99_us for each in self.passes)

    @property
    def spread(self) -> float:
        """How far the medians lie apart: the largest ÷ the smallest, less 1."""
        return max(each.p50_us for each in self.passes) / self.p50_us - 1

    @property
    def calls_per_second(self) -> float:
        """Calls ÷ time of the fastest pass."""
        return max(each.calls / each.seconds for each in self.passes)


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operation. `closed` calls one after another; `open` calls at `open_per_second`, each timed from
    when it was due. `records_per_call` is what one call handles, in bulk ones. `stall_ms` is the
    longest stretch in which the event loop did not turn while the calls were made, in the best pass;
    the watch itself takes 0.5.
    """

    name: str
    writes: bool
    records_per_call: int
    closed: Timing
    stall_ms: float
    open: Timing | None = None
    open_per_second: float | None = None


class LoadPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mix of calls, for a while: either from `clients` that each call again as soon as they are
    answered, or arriving at `offered_per_second`. Latencies count from when a call was due.
    """

    mix: str
    processes: int
    clients: int | None
    offered_per_second: float | None
    calls: int
    per_second: float
    p50_us: float
    p99_us: float
    max_us: float


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is measured once a run; what only a durable backend has is null for others.

    `rss_bytes_per_record` is what the process grew by while it was filled, garbage collected and freed memory
    given back; `reopened_rss_bytes_per_record` the same in a process that has only reopened the store.
    `open_seconds` is how long `create_store()` took on the filled store, `collection_ms` a full garbage
    collection beside it, `idle_stall_ms` the longest stretch that the loop's watch saw in an idle loop.
    """

    load_seconds: float
    load_per_second: float
    idle_stall_ms: float
    collection_ms: float
    load_average: float
    rss_bytes_per_record: float
    reopened_rss_bytes_per_record: float | None = None
    file_bytes: int | None = None
    open_seconds: float | None = None
    close_seconds: float | None = None


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One section of one backend at one size; `floors` are the machine's, measured beside it."""

    backend: str
    section: str
    size: int
    durable: bool
    facts: Facts
    floors: dict[str, Timing]
    operations: list[Measured]
    load: list[LoadPoint]

    def floor_of(self, operation: Measured) -> str:
        """The name of the floor that an operation stands on: no backend of its kind can be faster."""
        if not self.durable:
            return "dict_get"
        return "fdatasync" if operation.writes else "thread_hop"


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it ran; `file_system` is that of the folder with the databases."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    sqlite: str
    file_system: str


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it was measured."""

    passes: int
    most_calls: int
    seconds_per_pass: float
    seed: int
    open_loop: str
    synchronous: str
    collector: str = "collected before each pass, held during it"


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a `kpstore bench`."""

    format: int
    kpstore: str
    started: str
    machine: Machine
    method: Method
    runs: list[Run]

    def operations(self) -> Iterator[tuple[Run, Measured]]:
        """Every operation with its run."""
        for run in self.runs:
            for operation in run.operations:
                yield run, operation


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered numbers that `share` of them do not exceed (the nearest rank)."""
    return ordered[max(1, ceil(share * len(ordered))) - 1]


def pass_of(latencies_s: Sequence[float], seconds: float) -> Pass:
    """The pass in which calls took so long."""
    ordered = sorted(latencies_s)
    return Pass(
        calls=len(ordered),
        p50_us=median(ordered) * 1e6,
        p99_us=percentile(ordered, 0.99) * 1e6,
        max_us=ordered[-1] * 1e6,
        seconds=seconds,
    )


def write_result(result: Result, path: Path) -> None:
    """Write the JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(path: Path) -> Result:
    """The result in a file; a `ResultError` if there is none of this version."""
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=dict[str, Any]).get("format")
        if version != FORMAT:
            raise ResultError(f"{path}: format {version!r}; this version of kpstore reads {FORMAT}")
        return msgspec.json.decode(content, type=Result)
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ResultError(f"{path}: no result of kpstore bench: {error}") from error


def schema() -> dict[str, Any]:
    """The JSON Schema of a result."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Result)}
