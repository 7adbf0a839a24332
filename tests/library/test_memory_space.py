"""What is over takes no space in the memory backend, and a listing keeps no more than it needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kpstore import ManualClock, create_store
from kpstore.backends.memory.atoms import Line
from kpstore.backends.memory.audit_log import MemoryAuditLogStore
from kpstore.backends.memory.rate_limit import MemoryRateLimitStore
from kpstore.backends.memory.reputation import _Listing

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


async def test_later_calls_clear_away_what_is_over() -> None:
    clock = ManualClock(NOW)
    async with create_store("memory", clock=clock) as stores:
        rate, log = stores.rate_limit, stores.audit_log
        assert isinstance(rate, MemoryRateLimitStore)
        assert isinstance(log, MemoryAuditLogStore)
        for n in range(40):
            await rate.consume(f"old{n}", "free", "GET")
            await rate.record_429(f"old{n}")
            await log.log("a", "b", "c", "d", "e")
        clock.advance(timedelta(days=91))
        for _ in range(10):
            await rate.consume("new", "free", "GET")
            await rate.record_429("new")
            await log.log("a", "b", "c", "d", "e")
        assert sum(map(len, rate._buckets._shards)) == 1
        assert sum(map(len, rate._violations._shards)) == 1
        assert len(list(log._bodies.between(-1, 1000))) == 10


def test_a_listing_keeps_what_it_will_come_to_and_nothing_else() -> None:
    records: Line[bytes] = Line()
    for n in range(1000):
        records.append(b"%d old" % n)
    listing = _Listing(998)  # the last two came later
    walk = listing.walk(records)

    def change(position: int) -> None:
        listing.keep(position, records)
        records[position] = b"new"

    for position in range(998):
        assert next(walk) == b"%d old" % position
        change(position)
        change(998)
        change(999)
        assert listing._before == {}
        if position < 997:
            change(position + 1)
            assert listing._before == {position + 1: b"%d old" % (position + 1)}
    assert list(walk) == []
