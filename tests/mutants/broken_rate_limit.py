"""Mutants of the rate-limit store."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from kpstore import AllStores, RateLimitDecision
from kpstore.stores import Bucket
from mutants.registry import mutant, patch

_READS = {"anonymous": 60, "free": 300, "pro": 1000, "enterprise": 10000}
_WRITES = {"anonymous": 0, "free": 30, "pro": 200, "enterprise": 2000}


def _decided(stores: AllStores, change: Callable[[RateLimitDecision, int], RateLimitDecision]) -> None:
    """Let `change(decision, now in microseconds)` stand for every decision."""
    consume = stores.rate_limit.consume
    now = stores.rate_limit._context.now_micros

    async def mutated(identifier: str, tier: str, method: str) -> RateLimitDecision:
        return change(await consume(identifier, tier, method), now())

    patch(stores.rate_limit, consume=mutated)


def _float_buckets(stores: AllStores, take: Callable[[list[float], int, float], bool]) -> None:
    """Buckets in floating point: `take([tokens, time in s], limit, now)` says whether a call is allowed."""
    consume = stores.rate_limit.consume
    now = stores.rate_limit._context.now
    buckets: dict[tuple[str, str], list[float]] = {}

    async def mutated(identifier: str, tier: str, method: str) -> RateLimitDecision:
        sound = await consume(identifier, tier, method)
        if sound.limit == 0:
            return sound
        moment = now().timestamp()
        bucket = buckets.setdefault((identifier, method), [float(sound.limit), moment])
        allowed = take(bucket, sound.limit, moment)
        rate = sound.limit / 60
        if allowed:
            reset = math.floor(moment) + math.ceil(round((sound.limit - bucket[0]) / rate, 6))
            return RateLimitDecision(True, math.floor(bucket[0] + 1e-9), sound.limit, reset, None)
        wait = math.ceil(round((1 - bucket[0]) / rate, 6))
        return RateLimitDecision(False, 0, sound.limit, math.floor(moment) + wait, wait)

    patch(stores.rate_limit, consume=mutated)


@mutant("RATE-1")
def reads_and_writes_share_a_bucket(stores: AllStores) -> None:
    """A bucket is per identifier only."""
    update = stores.rate_limit._update_bucket

    async def mutated(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        return await update(identifier, "read", change, now)

    patch(stores.rate_limit, _update_bucket=mutated)


@mutant("RATE-1")
def identifiers_are_folded(stores: AllStores) -> None:
    """Two identifiers that differ in case share a bucket."""
    update = stores.rate_limit._update_bucket

    async def mutated(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        return await update(identifier.casefold(), kind, change, now)

    patch(stores.rate_limit, _update_bucket=mutated)


@mutant("RATE-1")
def identifier_and_kind_are_joined(stores: AllStores) -> None:
    """The bucket's key is `identifier:kind` cut at its first colon."""
    update = stores.rate_limit._update_bucket

    async def mutated(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        return await update(identifier.split(":")[0], kind, change, now)

    patch(stores.rate_limit, _update_bucket=mutated)


@mutant("RATE-1")
def float_drift(stores: AllStores) -> None:
    """Tokens are a float that is cut to whole milliseconds of refill."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        elapsed = math.floor(max(0.0, now - bucket[1]) * 1000) / 1000
        bucket[0] = min(limit, bucket[0] + elapsed * limit / 60)
        bucket[1] = max(bucket[1], now)
        if bucket[0] < 1:
            return False
        bucket[0] -= 1
        return True

    _float_buckets(stores, take)


@mutant("RATE-1")
def fixed_window(stores: AllStores) -> None:
    """The bucket is filled at once, every 60 seconds."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        if now - bucket[1] >= 60:
            bucket[:] = [float(limit), now]
        if bucket[0] < 1:
            return False
        bucket[0] -= 1
        return True

    _float_buckets(stores, take)


@mutant("RATE-1")
def refill_in_whole_seconds(stores: AllStores) -> None:
    """Elapsed time is counted in whole seconds."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        elapsed = math.floor(now - bucket[1])
        if elapsed > 0:
            bucket[0] = min(limit, bucket[0] + elapsed * limit / 60)
            bucket[1] += elapsed
        if bucket[0] < 1:
            return False
        bucket[0] -= 1
        return True

    _float_buckets(stores, take)


@mutant("RATE-1")
def tokens_pile_up(stores: AllStores) -> None:
    """An idle bucket grows beyond its capacity."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        bucket[0] += max(0.0, now - bucket[1]) * limit / 60
        bucket[1] = max(bucket[1], now)
        if bucket[0] < 1 - 1e-9:
            return False
        bucket[0] -= 1
        return True

    _float_buckets(stores, take)


@mutant("RATE-1")
def starts_one_short(stores: AllStores) -> None:
    """A new bucket has one token less than its capacity."""
    update = stores.rate_limit._update_bucket

    async def mutated(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        def short(bucket: Bucket | None) -> Any:
            if bucket is None:
                first, decision = change(None)
                if first is None or decision.remaining == 0:
                    return first, decision
                return change(first)
            return change(bucket)

        return await update(identifier, kind, short, now)

    patch(stores.rate_limit, _update_bucket=mutated)


def _tiers(stores: AllStores, tier_of: Callable[[str, str], str]) -> None:
    consume = stores.rate_limit.consume

    async def mutated(identifier: str, tier: str, method: str) -> RateLimitDecision:
        return await consume(identifier, tier_of(tier, method) if isinstance(tier, str) else tier, method)

    patch(stores.rate_limit, consume=mutated)


@mutant("RATE-2")
def unknown_tier_counts_as_free(stores: AllStores) -> None:
    """An unknown tier is given the free limits."""
    _tiers(stores, lambda tier, method: tier if tier in _READS else "free")


@mutant("RATE-2")
def tiers_in_any_case(stores: AllStores) -> None:
    """`PRO` counts as `pro`."""
    _tiers(stores, lambda tier, method: tier.lower())


@mutant("RATE-2")
def pro_writes_like_free(stores: AllStores) -> None:
    """A row of the table was copied wrong."""
    _tiers(stores, lambda tier, method: "free" if (tier, method) == ("pro", "POST") else tier)


@mutant("RATE-2")
def anonymous_may_write(stores: AllStores) -> None:
    """The anonymous tier has the free tier's writes."""
    _tiers(
        stores,
        lambda tier, method: (
            "free" if tier not in _READS or (tier == "anonymous" and method == "POST") else tier
        ),
    )


@mutant("RATE-2")
def other_methods_are_reads(stores: AllStores) -> None:
    """Any method but POST is a read."""
    consume = stores.rate_limit.consume

    async def mutated(identifier: str, tier: str, method: str) -> RateLimitDecision:
        return await consume(identifier, tier, "POST" if method == "POST" else "GET")

    patch(stores.rate_limit, consume=mutated)


@mutant("RATE-2")
def methods_in_any_case(stores: AllStores) -> None:
    """`get` counts as `GET`."""
    consume = stores.rate_limit.consume

    async def mutated(identifier: str, tier: str, method: str) -> RateLimitDecision:
        return await consume(identifier, tier, method.upper() if isinstance(method, str) else method)

    patch(stores.rate_limit, consume=mutated)


@mutant("RATE-3")
def reset_in_milliseconds(stores: AllStores) -> None:
    """`reset` is in milliseconds."""
    _decided(stores, lambda decision, now: replace(decision, reset=decision.reset * 1000))


@mutant("RATE-3")
def reset_is_the_next_token(stores: AllStores) -> None:
    """An allowed call's `reset` is when one more token is there."""
    _decided(
        stores,
        lambda decision, now: (
            replace(decision, reset=now // 1_000_000 + math.ceil(60 / decision.limit))
            if decision.allowed
            else decision
        ),
    )


@mutant("RATE-3")
def reset_rounds_the_sum(stores: AllStores) -> None:
    """`reset` rounds now plus the wait, instead of each by its own rule."""
    _decided(
        stores,
        lambda decision, now: replace(decision, reset=decision.reset + (1 if now % 1_000_000 else 0)),
    )


@mutant("RATE-3")
def remaining_before_the_token_is_taken(stores: AllStores) -> None:
    """`remaining` counts the token just taken."""
    _decided(
        stores,
        lambda decision, now: (
            replace(decision, remaining=decision.remaining + 1) if decision.allowed else decision
        ),
    )


@mutant("RATE-3")
def retry_after_zero_when_allowed(stores: AllStores) -> None:
    """`retry_after` is 0 instead of `None` when allowed."""
    _decided(stores, lambda decision, now: replace(decision, retry_after=decision.retry_after or 0))


@mutant("RATE-3")
def retry_after_is_rounded_down(stores: AllStores) -> None:
    """`retry_after` is one second too early."""
    _decided(
        stores,
        lambda decision, now: (
            replace(decision, retry_after=max(0, decision.retry_after - 1))
            if decision.retry_after and decision.limit
            else decision
        ),
    )


@mutant("RATE-3")
def a_limit_of_zero_has_no_retry(stores: AllStores) -> None:
    """A limit of 0 says `retry_after=None`."""
    _decided(stores, lambda d, now: d if d.limit else replace(d, retry_after=None))


@mutant("RATE-3")
def a_refused_call_takes_what_is_left(stores: AllStores) -> None:
    """A refusal empties the fraction of a token that is there."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        bucket[0] = min(limit, bucket[0] + max(0.0, now - bucket[1]) * limit / 60)
        bucket[1] = max(bucket[1], now)
        allowed = bucket[0] >= 1 - 1e-9
        bucket[0] = bucket[0] - 1 if allowed else 0.0
        return allowed

    _float_buckets(stores, take)


@mutant("RATE-4")
def check_then_act(stores: AllStores) -> None:
    """The bucket is read, and written after another turn of the event loop."""
    update = stores.rate_limit._update_bucket

    async def mutated(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        seen: list[Any] = []

        def look(current: Any) -> tuple[None, RateLimitDecision]:
            seen.append(current)
            return None, change(current)[1]

        await update(identifier, kind, look, now)
        await asyncio.sleep(0)
        return await update(identifier, kind, lambda current: change(seen[0]), now)

    patch(stores.rate_limit, _update_bucket=mutated)


@mutant("GEN-9")
def a_clock_gone_back_fills_the_bucket(stores: AllStores) -> None:
    """The distance in time is taken without its sign."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        bucket[0] = min(limit, bucket[0] + abs(now - bucket[1]) * limit / 60)
        bucket[1] = now
        if bucket[0] < 1 - 1e-9:
            return False
        bucket[0] -= 1
        return True

    _float_buckets(stores, take)


@mutant("GEN-9")
def the_same_minute_twice(stores: AllStores) -> None:
    """A clock gone back takes the bucket's time along, so that the way forward fills it again."""

    def take(bucket: list[float], limit: int, now: float) -> bool:
        bucket[0] = min(limit, bucket[0] + max(0.0, now - bucket[1]) * limit / 60)
        bucket[1] = now
        if bucket[0] < 1 - 1e-9:
            return False
        bucket[0] -= 1
        return True

    _float_buckets(stores, take)


def _violations(stores: AllStores, counts: Callable[[str, int, str, int, int], bool]) -> None:
    """Let `counts(asked, window in us, whose, at, now)` say which violations count."""
    record, count = stores.rate_limit.record_429, stores.rate_limit.get_429_count
    now = stores.rate_limit._context.now_micros
    all_violations: list[tuple[str, int]] = []

    async def mutated_record(identifier: str) -> None:
        await record(identifier)
        all_violations.append((identifier, now()))

    async def mutated(identifier: str, window: timedelta) -> int:
        await count(identifier, window)
        width = window // timedelta(microseconds=1)
        return sum(counts(identifier, width, whose, at, now()) for whose, at in all_violations)

    patch(stores.rate_limit, record_429=mutated_record, get_429_count=mutated)


_HOUR = 3_600_000_000


@mutant("RATE-5")
def the_start_of_the_window_counts(stores: AllStores) -> None:
    """`<=` at the window's start."""
    _violations(
        stores, lambda asked, width, whose, at, now: asked == whose and now - min(width, _HOUR) <= at <= now
    )


@mutant("RATE-5")
def nothing_is_forgotten(stores: AllStores) -> None:
    """A window of two hours sees two hours."""
    _violations(stores, lambda asked, width, whose, at, now: asked == whose and now - width < at <= now)


@mutant("RATE-5")
def forgotten_after_59_minutes(stores: AllStores) -> None:
    """An hour has 59 minutes."""
    _violations(
        stores,
        lambda asked, width, whose, at, now: asked == whose and now - min(width, 59 * 60_000_000) < at <= now,
    )


@mutant("RATE-5")
def violations_of_the_future_count(stores: AllStores) -> None:
    """What is later than now counts."""
    _violations(
        stores, lambda asked, width, whose, at, now: asked == whose and at > now - width and at >= now - _HOUR
    )


@mutant("RATE-5")
def everyones_violations_count(stores: AllStores) -> None:
    """The identifier is not looked at."""
    _violations(stores, lambda asked, width, whose, at, now: now - width < at <= now and at >= now - _HOUR)


@mutant("RATE-5")
def violations_of_one_instant_are_one(stores: AllStores) -> None:
    """Violations are kept in a set of times."""
    record = stores.rate_limit.record_429
    now = stores.rate_limit._context.now_micros
    seen: set[tuple[str, int]] = set()

    async def mutated(identifier: str) -> None:
        if (identifier, now()) in seen:
            return
        await record(identifier)
        seen.add((identifier, now()))

    patch(stores.rate_limit, record_429=mutated)


@mutant("RATE-6", base="sqlite")
def buckets_stay_for_ever(stores: AllStores) -> None:
    """Nothing removes idle buckets."""
    update = stores.rate_limit._update_bucket

    async def mutated(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        return await update(identifier, kind, change, -(2**62))

    patch(stores.rate_limit, _update_bucket=mutated)


@mutant("RATE-6", base="sqlite")
def violations_stay_for_ever(stores: AllStores) -> None:
    """Forgotten violations are not counted, but stay on disk."""
    from kpstore.backends.sqlite.rate_limit import SqliteRateLimitStore

    store = stores.rate_limit
    assert isinstance(store, SqliteRateLimitStore)

    async def add(identifier: str, now: int) -> None:
        await store._database.write(
            lambda db: db.execute(
                "INSERT INTO rate_limit_violations (identifier, at) VALUES (?, ?)", (identifier, now)
            )
        )

    async def update(identifier: str, kind: str, change: Any, now: int) -> RateLimitDecision:
        return await sound(identifier, kind, change, -(2**62))

    sound = store._update_bucket
    patch(store, _add_violation=add, _update_bucket=update)
