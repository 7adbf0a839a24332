"""Mutants of the reputation store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from kpstore import AllStores, HistoryEntry, Page, ReputationRecord, ValidationVote
from mutants.registry import mutant, patch


def _records(stores: AllStores, change: Callable[[ReputationRecord], ReputationRecord]) -> None:
    """Let `change(record)` stand for every record that comes out."""
    store = stores.reputation
    upsert, get, board, get_all = store.upsert, store.get, store.get_leaderboard, store.get_all

    async def mutated_upsert(agent_id: str, delta: float, reason: str) -> ReputationRecord:
        return change(await upsert(agent_id, delta, reason))

    async def mutated_get(agent_id: str) -> ReputationRecord | None:
        record = await get(agent_id)
        return None if record is None else change(record)

    async def mutated_board(**page: Any) -> Page[ReputationRecord]:
        found = await board(**page)
        return replace(found, data=[change(record) for record in found.data])

    async def mutated_all() -> list[ReputationRecord]:
        return [change(record) for record in await get_all()]

    patch(store, upsert=mutated_upsert, get=mutated_get, get_leaderboard=mutated_board, get_all=mutated_all)


@mutant("REP-6")
def lost_update(stores: AllStores) -> None:
    """An upsert reads, waits, and writes what it read plus the delta."""
    upsert, get = stores.reputation.upsert, stores.reputation.get

    async def mutated(agent_id: str, delta: float, reason: str) -> ReputationRecord:
        before = await get(agent_id)
        await asyncio.sleep(0)
        now = await get(agent_id)
        lost = (now.score if now else 0) - (before.score if before else 0)
        return await upsert(agent_id, delta - lost, reason)

    patch(stores.reputation, upsert=mutated)


@mutant("REP-1")
def score_falls_below_zero(stores: AllStores) -> None:
    """The score has no floor."""
    totals: dict[str, float] = {}
    upsert = stores.reputation.upsert

    async def mutated(agent_id: str, delta: float, reason: str) -> ReputationRecord:
        record = await upsert(agent_id, delta, reason)
        totals[agent_id] = totals.get(agent_id, 0.0) + delta
        return record

    patch(stores.reputation, upsert=mutated)
    _records(stores, lambda record: replace(record, score=totals.get(record.agent_id, record.score)))


@mutant("REP-1")
def delta_zero_is_a_contribution(stores: AllStores) -> None:
    """`>= 0` instead of `> 0`."""
    _records(
        stores,
        lambda record: replace(record, contributions=sum(entry.delta >= 0 for entry in record.history)),
    )


@mutant("REP-1")
def every_change_is_a_contribution(stores: AllStores) -> None:
    """Losses count as contributions."""
    _records(stores, lambda record: replace(record, contributions=len(record.history)))


@mutant("REP-1")
def validated_only_at_the_start(stores: AllStores) -> None:
    """A reason must begin with `Validated`."""
    _records(
        stores,
        lambda record: replace(
            record, validations=sum(entry.reason.startswith("Validated") for entry in record.history)
        ),
    )


@mutant("REP-1")
def validated_in_any_case(stores: AllStores) -> None:
    """`validated` counts like `Validated`."""
    _records(
        stores,
        lambda record: replace(
            record, validations=sum("validated" in entry.reason.lower() for entry in record.history)
        ),
    )


@mutant("REP-1")
def validations_are_never_counted(stores: AllStores) -> None:
    """`validations` stays 0, as in the TypeScript registry's SQLite store."""
    _records(stores, lambda record: replace(record, validations=0))


@mutant("REP-1")
def scores_are_rounded(stores: AllStores) -> None:
    """A score has two decimals."""
    _records(stores, lambda record: replace(record, score=round(record.score, 2)))


@mutant("REP-1")
def a_score_may_be_infinite(stores: AllStores) -> None:
    """A sum that is not finite becomes the largest number."""
    upsert = stores.reputation.upsert

    async def mutated(agent_id: str, delta: float, reason: str) -> ReputationRecord:
        record = await stores.reputation.get(agent_id)
        if record and isinstance(delta, float) and record.score + delta == float("inf"):
            delta = 0.0
        return await upsert(agent_id, delta, reason)

    patch(stores.reputation, upsert=mutated)


@mutant("REP-1")
def updated_at_is_first_seen(stores: AllStores) -> None:
    """`updated_at` never changes."""
    first: dict[str, Any] = {}
    _records(
        stores,
        lambda record: replace(record, updated_at=first.setdefault(record.agent_id, record.updated_at)),
    )


@mutant("REP-2")
def newest_history_first(stores: AllStores) -> None:
    """The history is newest first."""
    _records(stores, lambda record: replace(record, history=record.history[::-1]))


@mutant("REP-2")
def history_of_49(stores: AllStores) -> None:
    """The record's history is one short."""
    _records(stores, lambda record: replace(record, history=record.history[-49:]))


@mutant("REP-2")
def history_page_forgets_after_50(stores: AllStores) -> None:
    """`get_history` only has what the record has."""
    get = stores.reputation.get
    get_history = stores.reputation.get_history

    async def mutated(agent_id: str, *, offset: int = 0, limit: int = 20) -> Page[HistoryEntry]:
        await get_history(agent_id, offset=offset, limit=limit)
        record = await get(agent_id)
        entries = record.history if record else []
        return Page(entries[offset : offset + limit], len(entries), offset, limit)

    patch(stores.reputation, get_history=mutated)


@mutant("REP-2")
def oldest_fifty(stores: AllStores) -> None:
    """The record keeps the first 50 entries instead of the latest."""
    first: dict[str, list[HistoryEntry]] = {}

    def change(record: ReputationRecord) -> ReputationRecord:
        known = first.setdefault(record.agent_id, [])
        if len(known) < 50:
            known[:] = record.history
        return replace(record, history=known[:50])

    _records(stores, change)


@mutant("REP-3")
def leaderboard_ties_by_name(stores: AllStores) -> None:
    """Equal scores are ordered by agent id."""
    get_all, board = stores.reputation.get_all, stores.reputation.get_leaderboard

    async def mutated(*, offset: int = 0, limit: int = 20) -> Page[ReputationRecord]:
        await board(offset=offset, limit=limit)
        ranked = sorted(await get_all(), key=lambda record: (-record.score, record.agent_id))
        return Page(ranked[offset : offset + limit], len(ranked), offset, limit)

    patch(stores.reputation, get_leaderboard=mutated)


@mutant("REP-3")
def leaderboard_ties_by_latest_change(stores: AllStores) -> None:
    """Equal scores are ordered by who reached it last."""
    upsert = stores.reputation.upsert
    get_all, board = stores.reputation.get_all, stores.reputation.get_leaderboard
    turns: dict[str, int] = {}

    async def mutated_upsert(agent_id: str, delta: float, reason: str) -> ReputationRecord:
        record = await upsert(agent_id, delta, reason)
        turns[agent_id] = sum(turns.values()) + 1
        return record

    async def mutated(*, offset: int = 0, limit: int = 20) -> Page[ReputationRecord]:
        await board(offset=offset, limit=limit)
        ranked = sorted(await get_all(), key=lambda r: (-r.score, turns.get(r.agent_id, 0)))
        return Page(ranked[offset : offset + limit], len(ranked), offset, limit)

    patch(stores.reputation, upsert=mutated_upsert, get_leaderboard=mutated)


@mutant("REP-3")
def get_all_is_the_leaderboard(stores: AllStores) -> None:
    """`get_all` is ordered by score."""
    get_all = stores.reputation.get_all

    async def mutated() -> list[ReputationRecord]:
        return sorted(await get_all(), key=lambda record: -record.score)

    patch(stores.reputation, get_all=mutated)


@mutant("REP-3")
def leaderboard_hides_zero(stores: AllStores) -> None:
    """Agents with a score of 0 are left out."""
    get_all, board = stores.reputation.get_all, stores.reputation.get_leaderboard

    async def mutated(*, offset: int = 0, limit: int = 20) -> Page[ReputationRecord]:
        await board(offset=offset, limit=limit)
        ranked = sorted((r for r in await get_all() if r.score > 0), key=lambda record: -record.score)
        return Page(ranked[offset : offset + limit], len(ranked), offset, limit)

    patch(stores.reputation, get_leaderboard=mutated)


@mutant("REP-4")
def one_vote_per_validator(stores: AllStores) -> None:
    """A second vote of the same validator on a unit is dropped."""
    record_vote, get_votes = stores.reputation.record_vote, stores.reputation.get_votes

    async def mutated(vote: ValidationVote) -> None:
        if isinstance(vote, ValidationVote) and isinstance(vote.unit_id, str) and vote.unit_id:
            try:
                known = await get_votes(vote.unit_id)
            except Exception:  # refused below, in its own words
                known = []
            if any(each.validator_id == vote.validator_id for each in known):
                return
        await record_vote(vote)

    patch(stores.reputation, record_vote=mutated)


@mutant("REP-4")
def votes_are_found_by_target(stores: AllStores) -> None:
    """`get_votes` looks at the target's id."""
    get_votes = stores.reputation.get_votes

    async def mutated(unit_id: str | None = None) -> list[ValidationVote]:
        if unit_id is None:
            return await get_votes()
        await get_votes(unit_id)
        return [vote for vote in await get_votes() if vote.target_id == unit_id]

    patch(stores.reputation, get_votes=mutated)


@mutant("REP-4")
def votes_by_time(stores: AllStores) -> None:
    """Votes are ordered by their timestamp."""
    get_votes = stores.reputation.get_votes

    async def mutated(unit_id: str | None = None) -> list[ValidationVote]:
        return sorted(await get_votes(unit_id), key=lambda vote: vote.timestamp)

    patch(stores.reputation, get_votes=mutated)


@mutant("REP-4")
def every_vote_is_valid(stores: AllStores) -> None:
    """bool(text): a vote against reads as one in favour."""
    get_votes = stores.reputation.get_votes

    async def mutated(unit_id: str | None = None) -> list[ValidationVote]:
        return [replace(vote, valid=True) for vote in await get_votes(unit_id)]

    patch(stores.reputation, get_votes=mutated)


def _voting_age(stores: AllStores, may_vote: Any) -> None:
    """Let `may_vote(age)` decide; `None` for an unknown agent."""
    first: dict[str, Any] = {}
    upsert, can_vote, now = (
        stores.reputation.upsert,
        stores.reputation.can_vote,
        stores.reputation._context.now,
    )

    async def mutated_upsert(agent_id: str, delta: float, reason: str) -> ReputationRecord:
        record = await upsert(agent_id, delta, reason)
        first.setdefault(agent_id, record.updated_at)
        return record

    async def mutated(agent_id: str) -> bool:
        await can_vote(agent_id)
        return bool(may_vote(now() - first[agent_id] if agent_id in first else None))

    patch(stores.reputation, upsert=mutated_upsert, can_vote=mutated)


@mutant("REP-5")
def thirty_days_are_not_enough(stores: AllStores) -> None:
    """`>` instead of `>=` at 30 days."""
    _voting_age(stores, lambda age: age is not None and age > timedelta(days=30))


@mutant("REP-5")
def voting_age_in_whole_days(stores: AllStores) -> None:
    """The age is rounded to days."""
    _voting_age(stores, lambda age: age is not None and round(age / timedelta(days=1)) >= 30)


@mutant("REP-5")
def the_unknown_may_vote(stores: AllStores) -> None:
    """An agent without a record may vote."""
    _voting_age(stores, lambda age: age is None or age >= timedelta(days=30))


@mutant("REP-5")
def voting_age_since_the_last_change(stores: AllStores) -> None:
    """The age counts from `updated_at`."""
    can_vote, now = stores.reputation.can_vote, stores.reputation._context.now

    async def mutated(agent_id: str) -> bool:
        await can_vote(agent_id)
        record = await stores.reputation.get(agent_id)
        return record is not None and now() - record.updated_at >= timedelta(days=30)

    patch(stores.reputation, can_vote=mutated)


@mutant("PAGE-4")
def reputation_scan_by_score(stores: AllStores) -> None:
    """The scan is in the order of the leaderboard."""
    scan = stores.reputation.scan

    async def mutated(batch_size: int = 500) -> AsyncIterator[ReputationRecord]:
        for record in sorted([record async for record in scan(batch_size)], key=lambda r: -r.score):
            yield record

    patch(stores.reputation, scan=mutated)
