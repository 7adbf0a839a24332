"""Keeping threads on one processor: all of them, only for a while, and never at the price of a failure."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kpstore_conformance.latency.processors import on_one_processor

if not hasattr(os, "sched_setaffinity"):
    pytest.skip("this system does not let threads be kept on a processor", allow_module_level=True)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        made.submit(int).result()
        yield made


def processors() -> dict[str, set[int]]:
    """Of each thread of this process."""
    return {task.name: os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}


def test_all_threads_are_on_it_and_then_where_they_were(pool: ThreadPoolExecutor) -> None:
    before = processors()
    assert len(before) >= 2
    with on_one_processor(0) as chosen:
        assert chosen is not None
        assert processors() == {thread: {chosen} for thread in before}
        assert pool.submit(os.sched_getaffinity, 0).result() == {chosen}
    assert processors() == before


def test_a_thread_that_starts_meanwhile_is_on_it_and_then_where_all_are(pool: ThreadPoolExecutor) -> None:
    allowed = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    has_looked, go_on = threading.Event(), threading.Event()

    def look() -> None:
        seen.append(os.sched_getaffinity(0))
        has_looked.set()
        go_on.wait()

    with on_one_processor(0) as chosen:
        thread = threading.Thread(target=look)
        thread.start()
        has_looked.wait()
    try:
        assert seen == [{chosen}]
        assert processors()[str(thread.native_id)] == allowed
    finally:
        go_on.set()
        thread.join()


def test_a_thread_with_a_processor_of_its_own_gets_it_back(pool: ThreadPoolExecutor) -> None:
    own = {max(os.sched_getaffinity(0))}
    pool.submit(os.sched_setaffinity, 0, own).result()
    with on_one_processor(0) as chosen:
        assert pool.submit(os.sched_getaffinity, 0).result() == {chosen}
    assert pool.submit(os.sched_getaffinity, 0).result() == own


def test_they_are_where_they_were_after_an_error(pool: ThreadPoolExecutor) -> None:
    before = processors()
    with pytest.raises(ZeroDivisionError), on_one_processor(0):
        raise ZeroDivisionError
    assert processors() == before


def test_each_turn_is_on_another_one() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    chosen = []
    for turn in range(len(allowed) + 1):
        with on_one_processor(turn) as processor:
            chosen.append(processor)
    assert chosen == [*allowed, allowed[0]]


def test_a_system_that_does_not_know_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    with on_one_processor(0) as chosen:
        assert chosen is None


def test_a_system_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: int, processors: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with on_one_processor(0) as chosen:
        assert chosen is None
