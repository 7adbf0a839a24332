"""Work for a stated time, and a machine that is busy with other things; what only some systems tell of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_waiting_times = pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(),
    reason="this system does not tell how long a thread waited",
)


def work(seconds: float) -> None:
    """Use so much of a processor's time, however long that takes."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    hogs = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
