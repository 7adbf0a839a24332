"""The rate-limit store in memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from struct import Struct

from kpstore.backends.memory.atoms import Due, Shards
from kpstore.records import RateLimitDecision
from kpstore.stores import Bucket, BucketChange, RateLimitStore, StoreContext
from kpstore.stores.rate_limit import CLEANED_PER_CALL, VIOLATION_MEMORY_US

_BUCKET = Struct("qqq")
_MINUTE_US = 60_000_000


class MemoryRateLimitStore(RateLimitStore):
    """The hooks of `RateLimitStore` on dictionaries."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._buckets: Shards[bytes] = Shards()  # by identifier and kind
        self._filling = (
            Due()
        )  # the buckets, each at a time at which it is full, or was before it was used again
        # An identifier's violations of one minute: their times, sorted.
        self._violations: Shards[bytes] = Shards()
        self._forgettable = Due()  # these minutes

    async def _update_bucket(
        self, identifier: str, kind: str, change: BucketChange, now: int
    ) -> RateLimitDecision:
        key = f"{kind} {identifier}"
        buckets = self._buckets.of(key)
        old = buckets.get(key)
        new, decision = change(None if old is None else Bucket(*_BUCKET.unpack(old)))
        if new is not None:
            buckets[key] = _BUCKET.pack(new.level, new.at, new.full_at)
            if old is None:
                self._filling.add(key, new.full_at)
        self._clean(now)
        return decision

    async def _add_violation(self, identifier: str, now: int) -> None:
        minute = now // _MINUTE_US
        key = f"{minute} {identifier}"
        violations = self._violations.of(key)
        times = array("q", violations.get(key, b""))
        if not times:
            self._forgettable.add(key, (minute + 1) * _MINUTE_US + VIOLATION_MEMORY_US)
        times.insert(bisect_right(times, now), now)
        violations[key] = times.tobytes()
        self._clean(now)

    def _clean(self, now: int) -> None:
        for _ in range(CLEANED_PER_CALL):
            key = self._filling.pop(now)
            if key is None:
                break
            buckets = self._buckets.of(key)
            full_at = _BUCKET.unpack(buckets[key])[2]
            if full_at <= now:
                del buckets[key]
            else:  # used again since
                self._filling.add(key, full_at)
        for _ in range(CLEANED_PER_CALL):
            key = self._forgettable.pop(now)
            if key is None:
                break
            del self._violations.of(key)[key]

    async def _count_violations(self, identifier: str, since: int, until: int) -> int:
        count = 0
        for minute in range(since // _MINUTE_US, until // _MINUTE_US + 1):
            key = f"{minute} {identifier}"
            packed = self._violations.of(key).get(key)
            if packed is not None:
                times = memoryview(packed).cast("q")
                count += bisect_right(times, until) - bisect_left(times, since)
        return count
