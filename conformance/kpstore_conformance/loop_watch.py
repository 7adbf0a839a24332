"""How long an event loop went without turning."""

from __future__ import annotations

import asyncio
import ctypes
import os
from contextlib import suppress
from time import perf_counter

__all__ = ["LoopWatch"]

# What it sees of an idle loop is this long, and a little longer.
_TICK_S = 0.0005

# Not `os.pread`, which lets the interpreter's lock go: where another thread computes, that comes back 5 ms
# later, and the watch would see nothing but itself.
_pread = getattr(ctypes.PyDLL(None), "pread", None) if os.name == "posix" else None
if _pread is not None:
    _pread.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
    _pread.restype = ctypes.c_ssize_t


class LoopWatch:
    """Notes the longest stretch in which the event loop did not turn, while it is entered. Time for which the
    loop's thread stood ready without a processor does not count, where the system tells it (Linux).
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._last = (0.0, 0.0)
        self._file: int | None = None
        self._buffer = ctypes.create_string_buffer(64)

    async def __aenter__(self) -> LoopWatch:
        with suppress(OSError):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._last = (perf_counter(), self._waited_for_processor_s())
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        # The call may have ended in the stretch that is to be seen: the clock is read before anything else.
        self._look()
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._file is not None:
            os.close(self._file)

    async def _tick(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_TICK_S)

    def _look(self) -> None:
        now, waited = perf_counter(), self._waited_for_processor_s()
        stretch = (now - self._last[0]) - (waited - self._last[1])
        self.longest_s = max(self.longest_s, stretch)
        self._last = (now, waited)

    def _waited_for_processor_s(self) -> float:
        """How long this thread has stood ready without a processor since it began; 0 where nobody tells."""
        if self._file is None or _pread is None:
            return 0.0
        length = _pread(self._file, self._buffer, len(self._buffer), 0)
        parts = self._buffer.raw[: max(length, 0)].split()
        return int(parts[1]) / 1e9 if len(parts) > 1 else 0.0
