"""What a store takes of its process it gives back, however often it is used, opened and closed.

Threads, file descriptors, tasks and memory, measured in a process of their own, after each of several equal
amounts of work; so is what has expired, in memory and on disk. What the least of these amounts has added is
a leak: a cache fills up, and a pool of threads comes to its size, in one or two of them. A store that keeps
taking cannot be opened or written in the end, so that the clause on closing stands for those that the
contract does not have.

Memory is what Python has allocated (`tracemalloc`), and what the C library has (`mallinfo2`, on glibc), in
which databases and bitmaps are; not the size of the process, which depends on what else the machine does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._processes import in_processes

__all__: list[str] = []

_TIMEOUT_S = 300.0
"""Ten times what the longest takes on a machine of two cores that does nothing else."""

_CALLS, _TIMES = 2000, 6
"""12,000 calls, and five differences."""

_OPENINGS = 34
"""204 openings."""

_CALL_BYTES = 2
"""The least that 2000 calls left was between -20,000 and 2,700 bytes in each run; a call of one method of 28
that leaves one small object is 3,500.
"""
_CALL_NATIVE_BYTES = 40
"""The least that 2000 calls left beside Python's memory was 9,500 to 16,000 bytes: the books that
`tracemalloc` keeps, most of it.
"""
_OPENING_BYTES = 250
"""The least was 80 an opening, and falling: objects that Python keeps for the next time. A store is 4,000."""

_OPENING_NATIVE_BYTES = 2000
"""The least was up to 280 an opening, all of it books of `tracemalloc`: without it, none. A connection to a
database is 50,000.
"""

_ENTRIES = 400
_ENTRY_BYTES = 20
"""The least was 2.5 for a bucket, a refusal and an audit entry together; the smallest of them is 100."""
_ENTRY_NATIVE_BYTES = 100
"""The least was up to 34, books of `tracemalloc` again; a row of the smallest with its index is 150."""


def _assert_flat(usages: list[dict[str, int]], what: str, **allowed: float) -> None:
    """Fail where each of the times has added more than is allowed: 0 of all that is not named."""
    for resource in usages[0]:
        added = [after[resource] - before[resource] for before, after in pairwise(usages)]
        assert min(added) <= allowed.get(resource, 0), f"{what} adds {resource} each time: {added}"


async def _measured(lab: Lab, job: str, **arguments: Any) -> list[dict[str, int]]:
    (found,) = await in_processes(lab, job, [arguments], opened_first=False, answer_s=_TIMEOUT_S - 10)
    usages: list[dict[str, int]] = found
    return usages


@check(
    clauses=["GEN-10"],
    requires=["controllable_clock"],
    name="12,000 calls leave no thread, descriptor, task or memory in use",
    timeout_s=_TIMEOUT_S,
)
async def calls_leave_nothing(lab: Lab) -> None:
    """Calls of all methods, many at once, some refused, some cancelled and some scans left half-way: none
    leaves anything in use, but for what it was asked to store.
    """
    usages = await _measured(lab, "use_again_and_again", calls=_CALLS, times=_TIMES, is_keeping=False)
    _assert_flat(usages, f"{_CALLS} calls", bytes=_CALLS * _CALL_BYTES, native=_CALLS * _CALL_NATIVE_BYTES)
    usages = await _measured(lab, "use_again_and_again", calls=300, times=4, is_keeping=True)
    _assert_flat(usages, "300 calls of all methods", bytes=float("inf"), native=float("inf"))


@check(
    clauses=["GEN-10"],
    requires=["controllable_clock"],
    name="204 openings and closings leave no thread, descriptor, task or memory in use",
    timeout_s=_TIMEOUT_S,
)
async def openings_leave_nothing(lab: Lab) -> None:
    """Opening, writing, reading and closing, with openings that are given up half-way in between, leaves
    nothing in use.
    """
    usages = await _measured(lab, "open_again_and_again", openings=_OPENINGS, times=_TIMES)
    _assert_flat(
        usages,
        f"{_OPENINGS} openings",
        bytes=_OPENINGS * _OPENING_BYTES,
        native=_OPENINGS * _OPENING_NATIVE_BYTES,
    )


@check(
    clauses=["RATE-6", "AUDIT-3"],
    requires=["controllable_clock"],
    name="what has expired takes no memory for ever",
    timeout_s=_TIMEOUT_S,
)
async def expired_leaves_memory(lab: Lab) -> None:
    """Buckets that are full again, refusals and audit entries of callers that are never seen again leave the
    memory as others come.
    """
    usages = await _measured(lab, "forget_again_and_again", entries=_ENTRIES, times=_TIMES, is_reopened=False)
    _assert_flat(
        usages, f"{_ENTRIES} callers", bytes=_ENTRIES * _ENTRY_BYTES, native=_ENTRIES * _ENTRY_NATIVE_BYTES
    )


@check(
    clauses=["RATE-6", "AUDIT-3"],
    requires=["durable", "inspector.raw", "controllable_clock"],
    name="what has expired takes no space on the disk for ever",
    timeout_s=_TIMEOUT_S,
)
async def expired_leaves_the_disk(lab: Lab) -> None:
    """The same of the size of the files, once they are closed."""
    usages = await _measured(lab, "forget_again_and_again", entries=_ENTRIES, times=_TIMES, is_reopened=True)
    assert usages[0]["disk"] > 0, "nothing was on the disk"
    _assert_flat(
        usages,
        f"{_ENTRIES} callers",
        bytes=_ENTRIES * _ENTRY_BYTES,
        native=_ENTRIES * _ENTRY_NATIVE_BYTES,
        disk=_ENTRIES * _ENTRY_BYTES,
    )
