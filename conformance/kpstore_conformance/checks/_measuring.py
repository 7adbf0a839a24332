"""What a process takes of the system while it uses stores: jobs of `_worker`, each in a process of its own.

Each job does the same amount of work several times over, and says after each what is in use. What is in use
after one more time, and after one more again, is a leak: caches that fill, and what is loaded once, stop.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from kpstore import AllStores, ManualClock, ValidationError, create_store
from kpstore_conformance.checks._samples import METHODS, MOMENT, fill, skill

Usage = dict[str, int]

_KEEPING = frozenset(
    f"{store}.{name}"
    for store, name in (
        ("reputation", "upsert"),
        ("reputation", "record_vote"),
        ("api_keys", "create"),
        ("rate_limit", "record_429"),
        ("audit_log", "log"),
    )
)
"""What these store is there to stay, for a while at least: memory grows with it where it is kept there."""


class _Allocated(ctypes.Structure):
    """What glibc says of its memory (`mallinfo2`)."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


_mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
if _mallinfo2 is not None:
    _mallinfo2.restype = _Allocated


def _native_bytes() -> int:
    """What libraries have allocated besides Python, SQLite for one; 0 where the C library does not tell.

    Python's own large objects are in it too.
    """
    if _mallinfo2 is None:
        return 0
    allocated: _Allocated = _mallinfo2()
    total: int = allocated.uordblks + allocated.hblkhd
    return total - tracemalloc.get_tracemalloc_memory()  # whose books grow with what it has seen


def _usage(threads: int = 0) -> Usage:
    """What this process has in use. A thread ends a moment after it has said so: for those that there are
    beyond `threads`, it waits.
    """
    until = time.monotonic() + 5
    while threads and threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    gc.collect()
    traced, _ = tracemalloc.get_traced_memory()
    return {
        "threads": threading.active_count(),
        "descriptors": len(list(Path("/dev/fd").iterdir())),
        "tasks": len(asyncio.all_tasks()),
        "bytes": traced,
        "native": _native_bytes(),
    }


async def _ignoring(call: Awaitable[object], *expected: type[BaseException]) -> None:
    with suppress(*expected):
        await call


async def _cancelled(call: Awaitable[object], turns: int) -> None:
    """Begin a call and give it up after some turns of the loop, or later."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        await task


async def _first_of_a_scan(stores: AllStores) -> None:
    async for _ in stores.knowledge.scan(batch_size=1):
        break


async def _round(stores: AllStores, number: int, is_keeping: bool) -> int:
    """Each method once, all at once, some of them in vain; how many calls. Those that store more and more
    only if `is_keeping`.
    """
    calls = [method.call(stores) for method in METHODS if is_keeping or str(method) not in _KEEPING]
    calls += [
        _ignoring(stores.skills.search(limit=-1), ValidationError),
        _ignoring(stores.knowledge.get_by_id(""), ValidationError),
        _cancelled(stores.skills.create(skill("given up")), number % 4),
        _cancelled(stores.knowledge.search(query="name"), number % 4),
        _first_of_a_scan(stores),
    ]
    await asyncio.gather(*calls)
    return len(calls)


async def use_again_and_again(calls: int, times: int, is_keeping: bool) -> list[Usage]:
    """Call every method, `calls` calls at a time; what is in use after each of the times. If `is_keeping`,
    also those that store more and more.
    """
    clock = ManualClock(MOMENT)
    stores = await create_store(clock=clock)
    await fill(stores)
    tracemalloc.start()
    found = []
    for _ in range(times):
        done = number = 0
        while done < calls:
            done += await _round(stores, number, is_keeping)
            number += 1
            clock.advance(timedelta(seconds=1))  # what waits for its time to go may go
        found.append(_usage())
    await stores.close()
    return found


async def open_again_and_again(openings: int, times: int) -> list[Usage]:
    """Open, use and close stores, `openings` at a time, and give up some openings; what is in use after each
    of the times.
    """
    found: list[Usage] = []
    tracemalloc.start()
    for _ in range(times):
        for number in range(openings):
            async with create_store(clock=ManualClock(MOMENT)) as stores:
                await stores.skills.create(skill("kept"))
                await stores.skills.search(query="name")
                await stores.close()
            if number % 4 == 0:
                await _given_up(number)
        # Those that an opening has begun end with it, the first time they may be some more.
        found.append(_usage(min((usage["threads"] for usage in found), default=1)))
    return found


async def _given_up(number: int) -> None:
    async def opening() -> None:
        async with create_store(clock=ManualClock(MOMENT)):
            pass

    task = asyncio.create_task(opening())
    await asyncio.sleep(number * 0.0002)
    task.cancel()
    await asyncio.wait([task])


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


async def forget_again_and_again(entries: int, times: int, is_reopened: bool) -> list[Usage]:
    """Use so many buckets, refusals and audit entries at a time, of callers never seen again, and let them
    expire; what is in use after each of the times. If `is_reopened`, the stores are closed after each, and
    `disk` is how many bytes there are in the folder of the data.
    """
    clock = ManualClock(MOMENT)
    stores = await create_store(clock=clock)
    folder = Path(os.environ["KP_SQLITE_PATH"]).parent
    tracemalloc.start()
    found = []
    for time_number in range(times):
        for first in range(0, entries, 50):
            callers = [f"caller {time_number} {first + n}" for n in range(50)]
            await asyncio.gather(*(stores.rate_limit.consume(each, "free", "GET") for each in callers))
            await asyncio.gather(*(stores.rate_limit.record_429(each) for each in callers))
            await asyncio.gather(*(stores.audit_log.log("act", each, "t", "r", "::1") for each in callers))
        clock.advance(timedelta(days=91))
        usage = _usage()
        if is_reopened:
            await stores.close()
            usage["disk"] = _bytes_in(folder)
            stores = await create_store(clock=clock)
        found.append(usage)
    await stores.close()
    return found
