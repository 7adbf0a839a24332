"""Time comes from the clock given, and only an aware one; going backwards it gives nothing, removes nothing
and breaks no order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

from kpstore import AllStores, Clock, ConfigurationError, ManualClock
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import METHODS, MOMENT, contents, difference, fill, gathered

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@check(
    clauses=["GEN-9", "GEN-6"],
    requires=["controllable_clock"],
    name="a clock that shows no aware time is refused, and nothing is written",
)
async def naive_clocks(lab: Lab) -> None:
    """With a clock that shows a naive datetime, a number, a text or nothing, each method that needs the time
    raises a ConfigurationError, and changes nothing.
    """
    timed = {
        "reputation.upsert",
        "reputation.can_vote",
        "api_keys.create",
        "rate_limit.consume",
        "rate_limit.record_429",
        "rate_limit.get_429_count",
        "audit_log.log",
        "audit_log.query",
    }
    shown: dict[str, Any] = {
        "a naive datetime": MOMENT.replace(tzinfo=None),
        "a number": MOMENT.timestamp(),
        "a text": MOMENT.isoformat(),
        "nothing": None,
        "a date": MOMENT.date(),
    }
    for what, time in shown.items():
        face: list[Any] = [MOMENT]
        stores = await lab.open(lambda face=face: face[0])  # type: ignore[misc]
        await fill(stores)
        before = await contents(stores)
        face[0] = time
        wrong = []
        for method in METHODS:
            if str(method) not in timed:
                continue
            try:
                await method.call(stores)
            except ConfigurationError:
                continue
            except Exception as error:
                wrong.append(f"{method}: {error!r}")
            else:
                wrong.append(f"{method} went on")
        assert not wrong, f"with a clock that shows {what}: {'; '.join(wrong)}"
        face[0] = MOMENT
        changed = difference(before, await contents(stores))
        assert not changed, f"calls with a clock that shows {what} changed {changed}"
        await stores.close()
    try:
        ManualClock(MOMENT.replace(tzinfo=None))
    except ConfigurationError:
        pass
    else:
        raise AssertionError("a ManualClock takes a naive start")


@check(clauses=["GEN-9"], requires=["controllable_clock"], name="every time that a store sets is the clock's")
async def clock_is_asked(lab: Lab) -> None:
    """What a store stamps has the time that the clock shows at the call, in UTC, to the microsecond, whatever
    zone the clock shows it in, centuries from the system's time too.
    """
    for start in (
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 6, 1, 12, 30, 15, 123_457, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(2525, 2, 28, 3, tzinfo=timezone(timedelta(hours=-11))),
    ):
        asked = 0

        def clock(start: datetime = start) -> datetime:
            nonlocal asked
            asked += 1
            return start

        stores = await lab.open(clock)
        name = f"at {start.isoformat()}"
        agent = await stores.reputation.upsert(name, 1, "seen")
        new = await stores.api_keys.create(name, ["read"], "free")
        entry = await stores.audit_log.log("act", name, "type", "resource", "::1")
        await stores.api_keys.revoke(new.record.key_prefix)
        revoked = (await stores.api_keys.get_by_agent_id(name))[0].revoked_at
        logged = (await stores.audit_log.query(agent_id=name)).data[0].timestamp
        kept = await stores.reputation.get(name)
        assert kept is not None
        stamps = {
            "upsert": agent.updated_at,
            "history": kept.history[0].timestamp,
            "key": new.record.created_at,
            "revocation": revoked,
            "audit entry": entry.timestamp,
            "audit entry read": logged,
        }
        for what, stamp in stamps.items():
            assert stamp == start, f"{what}: {stamp}, the clock shows {start}"
            assert stamp is not None
            assert stamp.utcoffset() == timedelta(0), f"{what}: not in UTC: {stamp}"
        decision = await stores.rate_limit.consume(name, "free", "GET")
        expected = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) + 1
        assert decision.reset == expected, f"reset is {decision.reset}, not {expected}"
        assert asked > 0, "the clock was not asked"
        await stores.close()


class _Wanderer:
    """A clock that is moved to and fro at random, and knows the latest time it ever showed."""

    def __init__(self, chance: random.Random, clock: ManualClock) -> None:
        self._chance = chance
        self._clock = clock
        self.start = clock()
        self.latest = self.start

    def move(self, furthest: timedelta) -> None:
        """Forwards or backwards by up to `furthest`; twice as often forwards."""
        by = furthest * self._chance.random()
        self._clock.advance(by if self._chance.random() < 0.66 else -by)
        self.latest = max(self.latest, self._clock())


@check(
    clauses=["GEN-9", "RATE-1"],
    requires=["controllable_clock"],
    name="a clock that goes to and fro never gives a token",
)
async def tokens_to_and_fro(lab: Lab) -> None:
    """However the clock is moved, a bucket has never given more tokens than its capacity and what trickles in
    over the furthest that the clock ever got; and where it stands still or goes back, none at all.
    """
    stores = await lab.open()
    chance = random.Random(9)  # noqa: S311
    wanderer = _Wanderer(chance, lab.clock)
    capacity, allowed = 30, 0
    for step in range(400):
        if chance.random() < 0.5:
            wanderer.move(timedelta(seconds=5))
        decision = await stores.rate_limit.consume("caller", "free", "POST")
        allowed += decision.allowed
        progress = Fraction((wanderer.latest - wanderer.start) // timedelta(microseconds=1), 60_000_000)
        most = capacity + progress * capacity
        assert allowed <= most, f"step {step}: {allowed} tokens were given, there were {float(most):.2f}"
        if not decision.allowed:
            for back in (timedelta(0), timedelta(seconds=1), timedelta(days=400)):
                now = lab.clock()
                lab.clock.set(now - back)
                again = await stores.rate_limit.consume("caller", "free", "POST")
                assert not again.allowed, f"step {step}: the clock went back by {back}, and gave a token"
                lab.clock.set(now)
    assert allowed > capacity, "nothing ever trickled in: the walk proves nothing"


@check(
    clauses=["GEN-9", "AUDIT-4", "RATE-5", "REP-2"],
    requires=["controllable_clock"],
    name="a clock that goes to and fro removes nothing and keeps every order",
)
async def records_to_and_fro(lab: Lab) -> None:
    """However the clock is moved within the time that things are kept, entries, histories, votes, keys and
    refusals stay in the order in which they were made, and none goes.
    """
    stores = await lab.open()
    wanderer = _Wanderer(random.Random(10), lab.clock)  # noqa: S311
    keys = []
    for n in range(120):
        wanderer.move(timedelta(minutes=1))
        await stores.audit_log.log("act", "author", "type", f"{n}", "::1")
        await stores.reputation.upsert("author", 1, f"change {n}")
        await stores.rate_limit.record_429("caller")
        keys.append((await stores.api_keys.create("author", ["read"], "free")).record)
    numbers = [f"{n}" for n in range(120)]
    entries = (await stores.audit_log.query(limit=1000)).data
    assert [entry.resource_id for entry in entries] == numbers, "audit entries moved with the clock"
    scanned = await gathered(stores.audit_log.scan())
    assert scanned == entries, "a scan of the audit log gives another order than a query"
    history = (await stores.reputation.get_history("author", limit=1000)).data
    assert [entry.reason for entry in history] == [f"change {n}" for n in range(120)], "the history moved"
    assert await stores.api_keys.get_by_agent_id("author") == keys, "keys moved with the clock"
    lab.clock.set(wanderer.latest)
    counted = await stores.rate_limit.get_429_count("caller", _HOUR)
    assert counted == await _within_an_hour(history, lab.clock), "refusals went with the clock"


async def _within_an_hour(history: list[Any], clock: Clock) -> int:
    # Each refusal was noted at the time of a change of the history.
    now = clock()
    return sum(now - _HOUR < entry.timestamp <= now for entry in history)


@check(
    clauses=["GEN-9", "AUDIT-3", "REP-5"],
    requires=["controllable_clock"],
    name="what depends on the time follows the clock back",
)
async def there_and_back(lab: Lab) -> None:
    """An entry that is 90 days old, an agent of 30 days and a refusal of one hour are seen or not by the
    clock's time at the call; a clock that goes back before them does not remove them.
    """
    stores = await lab.open()
    start = lab.clock()
    await stores.audit_log.log("act", "author", "type", "resource", "::1")
    await stores.reputation.upsert("author", 1, "seen")
    await stores.rate_limit.record_429("caller")

    async def seen(at: timedelta) -> tuple[int, bool, int]:
        lab.clock.set(start + at)
        return (
            (await stores.audit_log.query()).total,
            await stores.reputation.can_vote("author"),
            await stores.rate_limit.get_429_count("caller", 2 * _HOUR),
        )

    tick = timedelta(microseconds=1)
    moments: list[tuple[timedelta, tuple[int, bool, int]]] = [
        (timedelta(0), (1, False, 1)),
        (_HOUR, (1, False, 1)),
        (_HOUR + tick, (1, False, 0)),
        (30 * _DAY - tick, (1, False, 0)),
        (30 * _DAY, (1, True, 0)),
        (90 * _DAY, (1, True, 0)),
        (90 * _DAY + tick, (0, True, 0)),
    ]
    for at, expected in [*moments, *reversed(moments)]:
        found = await seen(at)
        assert found == expected, f"{at} after the start: {found}, not {expected}"
    assert await seen(-_DAY) == (1, False, 0), (
        "a clock before the entries: they are not there, or count already"
    )
    assert await seen(timedelta(0)) == (1, False, 1), "a clock that went before the entries removed them"


@check(
    clauses=["GEN-9"],
    requires=["multi_process", "controllable_clock"],
    name="handles with different clocks share one order",
)
async def two_clocks(lab: Lab) -> None:
    """Two handles on the same data whose clocks are a day apart: entries, histories and keys are in the order
    in which they were made, and neither handle's bucket gains from the other's clock.
    """
    early, late = ManualClock(MOMENT), ManualClock(MOMENT + _DAY)
    handles: list[AllStores] = [await lab.open(early), await lab.open(late)]
    order: Callable[[int], AllStores] = lambda n: handles[n % 2]  # noqa: E731
    for n in range(20):
        await order(n).audit_log.log("act", "author", "type", f"{n}", "::1")
        await order(n).reputation.upsert("author", 1, f"{n}")
    for handle in handles:
        entries = (await handle.audit_log.query(limit=100)).data
        assert [entry.resource_id for entry in entries] == [f"{n}" for n in range(20)]
        history = (await handle.reputation.get_history("author", limit=100)).data
        assert [entry.reason for entry in history] == [f"{n}" for n in range(20)]
    allowed = 0
    for n in range(100):
        allowed += (await order(n + 1).rate_limit.consume("caller", "free", "POST")).allowed
    assert allowed == 30, f"a bucket of 30 tokens gave {allowed} to two clocks that stand still"
