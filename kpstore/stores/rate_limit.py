"""The rate-limit store: token buckets and a count of refusals (clauses RATE-1 to RATE-6).

Tokens are counted in whole units of 1/60,000,000: with a capacity of N tokens a
minute, N units trickle in each microsecond. The arithmetic is exact, so that
no sequence of calls gains or loses a fraction of a token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from kpstore.records import RateLimitDecision
from kpstore.stores import rules
from kpstore.stores.base import Store

LIMITS = {  # tier: (reads, writes) per minute; RATE-2
    "anonymous": (60, 0),
    "free": (300, 30),
    "pro": (1000, 200),
    "enterprise": (10000, 2000),
}
KINDS = {"GET": "read", "POST": "write"}
TOKEN = 60_000_000  # units of one token
_SECOND = 1_000_000  # microseconds
_NO_TOKENS_RETRY_S = 60  # what a limit of 0 says, RATE-3
VIOLATION_MEMORY_US = 3600 * _SECOND  # RATE-5
# Stale rows that one call clears away. It adds at most one row itself, so a backlog shrinks.
CLEANED_PER_CALL = 8


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket as a backend keeps it.

    Attributes:
        level: units in it, as of `at`.
        at: microseconds since 1970; never goes back.
        full_at: when it is full again, in microseconds since 1970. From then on
            it is as good as absent, and may be removed.
    """

    level: int
    at: int
    full_at: int


BucketChange: TypeAlias = Callable[[Bucket | None], tuple[Bucket | None, RateLimitDecision]]
"""From the bucket (`None` if there is none) to the one to store (`None`: leave it) and the decision."""


class RateLimitStore(Store):
    """Who may call now, and who was refused how often."""

    # Hooks ----------------------------------------------------------------

    @abstractmethod
    async def _update_bucket(
        self, identifier: str, kind: str, change: BucketChange, now: int
    ) -> RateLimitDecision:
        """Apply `change` to the bucket of (identifier, kind) as one atomic step.

        `change` has no side effects: it may be called more than once, and on any
        thread. On the way, up to `CLEANED_PER_CALL` buckets with `full_at <= now`
        are removed, and as many violations older than an hour before `now`.
        """

    @abstractmethod
    async def _add_violation(self, identifier: str, now: int) -> None:
        """Note a refusal at `now`; on the way, remove what `_update_bucket` removes."""

    @abstractmethod
    async def _count_violations(self, identifier: str, since: int, until: int) -> int:
        """How many of the identifier's refusals have `since <= at <= until`, in microseconds."""

    # Rules ----------------------------------------------------------------

    async def consume(self, identifier: str, tier: str, method: str) -> RateLimitDecision:
        """Take one token for a call, if there is one.

        Args:
            identifier: who calls: an agent, an address, a key's prefix (never the key, since it is stored).
            tier: `anonymous`, `free`, `pro`, `enterprise`; any other counts as `anonymous`.
            method: `GET` (reads) or `POST` (writes).
        """
        self._check_open()
        identifier = rules.identifier(identifier, "identifier")
        reads, writes = LIMITS.get(rules.text(tier, "tier"), LIMITS["anonymous"])
        kind = KINDS[rules.choice(method, "method", KINDS)]
        limit = reads if kind == "read" else writes
        now = self._context.now_micros()
        return await self._update_bucket(identifier, kind, lambda bucket: take(bucket, limit, now), now)

    async def record_429(self, identifier: str) -> None:
        """Note that a call was refused."""
        self._check_open()
        identifier = rules.identifier(identifier, "identifier")
        await self._add_violation(identifier, self._context.now_micros())

    async def get_429_count(self, identifier: str, window: timedelta) -> int:
        """How many calls were refused with `now - window < t <= now`, at most an hour ago."""
        self._check_open()
        identifier = rules.identifier(identifier, "identifier")
        width = rules.micros(window, "window")
        if width <= 0:
            return 0
        now = self._context.now_micros()
        since = max(now - width + 1, now - VIOLATION_MEMORY_US)
        return await self._count_violations(identifier, since, now)


def take(bucket: Bucket | None, limit: int, now: int) -> tuple[Bucket | None, RateLimitDecision]:
    """Take a token from a bucket of `limit` tokens, at `now` microseconds since 1970.

    Returns:
        The bucket to store (`None`: leave what there is) and the decision.
    """
    now_s = now // _SECOND
    if limit == 0:
        return None, RateLimitDecision(
            allowed=False,
            remaining=0,
            limit=0,
            reset=now_s + _NO_TOKENS_RETRY_S,
            retry_after=_NO_TOKENS_RETRY_S,
        )
    capacity = limit * TOKEN
    if bucket is None or now >= bucket.full_at:
        level, at = capacity, now
    else:
        # A clock gone back neither fills the bucket nor moves its time back, so
        # that the same stretch of time is never credited twice.
        at = max(bucket.at, now)
        level = min(capacity, bucket.level + (at - bucket.at) * limit)
    behind = at - now  # how far the clock has to go before the bucket fills again
    if level < TOKEN:
        wait_s = _ceil_div(behind + _ceil_div(TOKEN - level, limit), _SECOND)
        return None, RateLimitDecision(
            allowed=False, remaining=0, limit=limit, reset=now_s + wait_s, retry_after=wait_s
        )
    level -= TOKEN
    fill_us = _ceil_div(capacity - level, limit)
    return (
        Bucket(level=level, at=at, full_at=at + fill_us),
        RateLimitDecision(
            allowed=True,
            remaining=level // TOKEN,
            limit=limit,
            reset=now_s + _ceil_div(behind + fill_us, _SECOND),
            retry_after=None,
        ),
    )


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
