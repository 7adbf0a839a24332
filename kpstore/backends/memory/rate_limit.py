"""The rate-limit store in memory."""

from __future__ import annotations

from heapq import heappop, heappush

from sortedcontainers import SortedList

from kpstore.records import RateLimitDecision
from kpstore.stores import Bucket, BucketChange, RateLimitStore, StoreContext
from kpstore.stores.rate_limit import CLEANED_PER_CALL, VIOLATION_MEMORY_US


class MemoryRateLimitStore(RateLimitStore):
    """The hooks of `RateLimitStore` on dictionaries."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._buckets: dict[tuple[str, str], Bucket] = {}
        # One entry per bucket, with a time at or before which it is not yet full.
        self._filling: list[tuple[int, tuple[str, str]]] = []
        self._violations: dict[str, SortedList[int]] = {}
        self._oldest: list[tuple[int, str]] = []  # a heap of all violations

    async def _update_bucket(
        self, identifier: str, kind: str, change: BucketChange, now: int
    ) -> RateLimitDecision:
        key = (identifier, kind)
        old = self._buckets.get(key)
        new, decision = change(old)
        if new is not None:
            self._buckets[key] = new
            if old is None:
                heappush(self._filling, (new.full_at, key))
        self._clean(now)
        return decision

    def _clean(self, now: int) -> None:
        self._clean_buckets(now)
        self._clean_violations(now - VIOLATION_MEMORY_US)

    def _clean_buckets(self, now: int) -> None:
        for _ in range(CLEANED_PER_CALL):
            if not self._filling or self._filling[0][0] > now:
                return
            _, key = heappop(self._filling)
            full_at = self._buckets[key].full_at
            if full_at <= now:
                del self._buckets[key]
            else:  # used again since
                heappush(self._filling, (full_at, key))

    async def _add_violation(self, identifier: str, now: int) -> None:
        self._violations.setdefault(identifier, SortedList()).add(now)
        heappush(self._oldest, (now, identifier))
        self._clean(now)

    def _clean_violations(self, forget_before: int) -> None:
        for _ in range(CLEANED_PER_CALL):
            if not self._oldest or self._oldest[0][0] >= forget_before:
                return
            forgotten, whose = heappop(self._oldest)
            times = self._violations[whose]
            times.remove(forgotten)
            if not times:
                del self._violations[whose]

    async def _count_violations(self, identifier: str, since: int, until: int) -> int:
        times = self._violations.get(identifier)
        if times is None:
            return 0
        return max(0, times.bisect_right(until) - times.bisect_left(since))
