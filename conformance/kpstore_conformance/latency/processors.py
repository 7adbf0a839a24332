"""Keeps all threads of this process on one processor for a while.

What it takes to wake another thread depends on where that sleeps: on the same processor it is a switch, on
another one a call to an idle or a busy one, which takes half or twice as much for seconds on end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["on_one_processor"]

_TASKS = "/proc/self/task"


@contextmanager
def on_one_processor(turn: int) -> Iterator[int | None]:
    """Keep all threads, and those that they start, on one processor: on another one each turn.

    Gives the number of the processor, or None where the system (only Linux does) or its rights do not let
    threads be kept, which are then where they were.
    """
    try:
        allowed = os.sched_getaffinity(0)
        chosen = sorted(allowed)[turn % len(allowed)]
        before = {thread: os.sched_getaffinity(thread) for thread in _threads()}
    except (AttributeError, OSError):
        yield None
        return
    try:
        kept = _move({thread: {chosen} for thread in before})
        yield chosen if kept else None
    finally:
        _move({thread: before.get(thread, allowed) for thread in _threads()})


def _threads() -> list[int]:
    return [int(name) for name in os.listdir(_TASKS)]  # noqa: PTH208  # names are all that is wanted


def _move(threads: dict[int, set[int]]) -> bool:
    """Whether all that are still there could be moved."""
    moved = True
    for thread, processors in threads.items():
        try:
            os.sched_setaffinity(thread, processors)
        except ProcessLookupError:  # it has just ended
            continue
        except OSError:
            moved = False
    return moved
