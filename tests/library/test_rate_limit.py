"""`take` against a model in fractions, which knows nothing of units, full_at or integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from kpstore.records import RateLimitDecision
from kpstore.stores.rate_limit import Bucket, take

START = 1_768_478_400_000_000  # microseconds; any moment will do


@dataclass
class Model:
    """A bucket by the contract's words: tokens, as of a moment that never goes back."""

    tokens: Fraction | None = None  # None: untouched, or full again
    at: int = 0
    capacity: int = 0  # by which it was last used

    def take(self, limit: int, now: int) -> RateLimitDecision:
        now_s = now // 1_000_000
        if limit == 0:
            return RateLimitDecision(False, 0, 0, now_s + 60, 60)
        tokens, at = self.tokens, self.at
        rate = Fraction(limit, 60_000_000)  # tokens of a microsecond
        if tokens is not None:
            # Full by the capacity it was last used with: as good as absent. It is full at the first
            # whole microsecond at which nothing is missing.
            missing = self.capacity - tokens
            full_at = at + math.ceil(missing / Fraction(self.capacity, 60_000_000))
            if now >= full_at:
                tokens = None
        if tokens is None:
            tokens, at = Fraction(limit), now
        else:
            since = max(0, now - at)
            at = max(at, now)
            tokens = min(Fraction(limit), tokens + since * rate)
        behind = at - now
        if tokens < 1:
            wait = math.ceil(Fraction(behind + math.ceil((1 - tokens) / rate), 1_000_000))
            return RateLimitDecision(False, 0, limit, now_s + wait, wait)
        tokens -= 1
        self.tokens, self.at, self.capacity = tokens, at, limit
        fill = math.ceil((limit - tokens) / rate)
        reset = now_s + math.ceil(Fraction(behind + fill, 1_000_000))
        return RateLimitDecision(True, math.floor(tokens), limit, reset, None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 7, 30, 60, 300, 1000]),
        st.one_of(
            st.integers(-3_000_000, 3_000_000),
            st.sampled_from([0, 1, 999_999, 1_000_000, 2_000_000, 60_000_000, 8_571_428, -60_000_000]),
        ),
        st.integers(1, 12),
    ),
    max_size=30,
)


@given(STEPS)
@example([(7, 0, 12), (7, 8_571_428, 1), (7, 1, 1), (7, 1, 2)])
@example([(30, 0, 12), (60, 1_000_000, 3), (7, 1_000_000, 12), (300, 500_000, 12)])
@example([(30, 0, 12), (300, 24_000_000, 1)])  # at the very moment that it is full
@example([(60, 0, 12), (60, -60_000_000, 12), (60, 30_000_000, 12), (60, 30_000_001, 2)])
def test_every_decision_is_the_models(steps: list[tuple[int, int, int]]) -> None:
    model, bucket, now = Model(), None, START
    for limit, passed, times in steps:
        now += passed
        for _ in range(times):
            change, decision = take(bucket, limit, now)
            assert decision == model.take(limit, now)
            if change is not None:
                assert decision.allowed
                bucket = change


@given(st.sampled_from([7, 60, 300]), st.integers(0, 200), st.integers(0, 59_999_999))
def test_nothing_is_gained_or_lost_in_a_minute(limit: int, used: int, offset: int) -> None:
    """However often it is asked in between, a minute gives exactly its tokens."""
    bucket: Bucket | None = None
    for _ in range(limit):
        bucket, decision = take(bucket, limit, START)
        assert decision.allowed
    allowed = 0
    moments = sorted({START + offset, *(START + n * 60_000_000 // (used + 1) for n in range(used + 2))})
    for now in moments:
        while True:
            change, decision = take(bucket, limit, now)
            if not decision.allowed:
                assert change is None
                break
            bucket = change
            allowed += 1
            assert allowed <= limit
    assert allowed == limit


@given(st.sampled_from([1, 7, 60, 300]), st.integers(0, 2_000_000), st.integers(0, 10))
def test_retry_after_is_the_first_second_that_helps(limit: int, passed: int, extra: int) -> None:
    bucket: Bucket | None = None
    for _ in range(limit):
        bucket, _ = take(bucket, limit, START)
    now = START + passed
    _, decision = take(bucket, limit, now)
    if decision.allowed:
        return
    assert decision.retry_after is not None
    assert decision.retry_after >= 1
    assert take(bucket, limit, now + (decision.retry_after + extra) * 1_000_000)[1].allowed
    assert not take(bucket, limit, now + (decision.retry_after - 1) * 1_000_000)[1].allowed
    assert decision.reset == now // 1_000_000 + decision.retry_after
