"""The reputation store in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from datetime import datetime

import msgspec

from kpstore.backends.memory.atoms import Line, NumberedShards, Shards
from kpstore.backends.memory.slices import decode_all, map_in_slices
from kpstore.clock import from_micros, to_micros
from kpstore.index import Order, quality_key
from kpstore.records import HistoryEntry, ReputationRecord, ValidationVote
from kpstore.stores import ReputationStore, Standing, StandingChange, StoreContext
from kpstore.stores.reputation import RECENT_HISTORY

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(ReputationRecord).decode
_decode_entry = msgspec.msgpack.Decoder(HistoryEntry).decode
_decode_vote = msgspec.msgpack.Decoder(ValidationVote).decode
# A record in MessagePack is a map of six pairs: this, the five that are kept together, and the history, a
# list whose length is in two bytes.
_MAP_OF_SIX = b"\x86"
_HISTORY = _encode("history") + b"\xdc"
# Entries of one agent's history that lie together.
_RUN = 64


class _Listing:
    """A walk over all agents, as they were at its start, while they go on changing."""

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._done = 0
        self._before: dict[int, bytes] = {}  # those that changed before the walk came to them

    def keep(self, position: int, records: Line[bytes]) -> None:
        """The agent is about to change."""
        if self._done <= position < self._agents:
            self._before.setdefault(position, records[position])

    def walk(self, records: Line[bytes]) -> Iterator[bytes]:
        """Every agent's record."""
        for position in range(self._agents):
            self._done = position + 1
            yield self._before.pop(position) if position in self._before else records[position]


class MemoryReputationStore(ReputationStore):
    """The hooks of `ReputationStore` on dictionaries of encoded records and arrays of numbers."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._positions: Shards[int] = Shards()  # by agent; in the order of first sight, and never removed
        # Each with its recent history: reading them is what most calls do. By position, as is what follows.
        self._records: Line[bytes] = Line()
        self._scores = array("d")
        self._contributions = array("q")
        self._validations = array("q")
        self._seen = array("q")
        self._updated = array("q")
        self._lengths = array("q")  # of the histories
        self._entries: NumberedShards[bytes] = NumberedShards()
        self._board = Order()
        self._listings: list[_Listing] = []
        self._all_votes: Line[bytes] = Line()
        self._newest_vote: Shards[int] = Shards()  # by unit
        self._older_vote = array("q")  # by vote: the one before it on the same unit, or -1

    async def _update(self, agent_id: str, change: StandingChange) -> ReputationRecord:
        positions = self._positions.of(agent_id)
        position = positions.get(agent_id)
        if position is None:
            new, entry = change(None)
            position = positions[agent_id] = len(self._records)
            self._records.append(b"")
            for column in (self._contributions, self._validations, self._seen, self._updated, self._lengths):
                column.append(0)
            self._scores.append(0.0)
            self._seen[position] = to_micros(new.first_seen)
        else:
            new, entry = change(self._standing(position))
            for listing in self._listings:
                listing.keep(position, self._records)
            self._board.remove(position)
        number = self._lengths[position]
        self._run(position, number)[_entry_key(position, number)] = _encode(entry)
        self._scores[position] = new.score
        self._contributions[position] = new.contributions
        self._validations[position] = new.validations
        self._updated[position] = to_micros(new.updated_at)
        self._lengths[position] = number + 1
        self._board.add(position, quality_key(new.score))
        recent = self._history_of(position, max(0, number + 1 - RECENT_HISTORY), number + 1)
        head = _encode(
            {
                "agent_id": agent_id,
                "score": new.score,
                "contributions": new.contributions,
                "validations": new.validations,
                "updated_at": new.updated_at,
            }
        )
        record = b"".join((_MAP_OF_SIX, head[1:], _HISTORY, len(recent).to_bytes(2, "big"), *recent))
        self._records[position] = record
        return _decode_record(record)

    def _standing(self, position: int) -> Standing:
        return Standing(
            self._scores[position],
            self._contributions[position],
            self._validations[position],
            from_micros(self._seen[position]),
            from_micros(self._updated[position]),
        )

    def _history_of(self, position: int, start: int, end: int) -> list[bytes]:
        """The entries from one number up to another, encoded."""
        entries: list[bytes] = []
        while start < end:
            run = self._run(position, start)
            stop = min(end, (start // _RUN + 1) * _RUN)
            entries.extend([run[_entry_key(position, number)] for number in range(start, stop)])
            start = stop
        return entries

    def _run(self, position: int, number: int) -> dict[int, bytes]:
        """Where an entry of the agent is, and its neighbours."""
        return self._entries.of(_entry_key(position, number // _RUN))

    async def _get(self, agent_id: str) -> ReputationRecord | None:
        position = self._positions.of(agent_id).get(agent_id)
        return None if position is None else _decode_record(self._records[position])

    async def _first_seen(self, agent_id: str) -> datetime | None:
        position = self._positions.of(agent_id).get(agent_id)
        return None if position is None else from_micros(self._seen[position])

    async def _history(self, agent_id: str, offset: int, limit: int) -> tuple[list[HistoryEntry], int]:
        position = self._positions.of(agent_id).get(agent_id)
        if position is None:
            return [], 0
        length = self._lengths[position]
        entries = self._history_of(position, offset, min(offset + limit, length))
        return await decode_all(_decode_entry, entries), length

    async def _leaderboard(self, offset: int, limit: int) -> tuple[list[ReputationRecord], int]:
        # The records are picked up in one go, so that they are of one moment.
        records = [self._records[position] for position in self._board.page(None, offset, offset + limit)]
        return await decode_all(_decode_record, records), len(self._records)

    async def _all(self) -> list[ReputationRecord]:
        listing = _Listing(len(self._records))
        self._listings.append(listing)
        try:
            return await map_in_slices(_decode_record, listing.walk(self._records))
        finally:
            self._listings.remove(listing)

    async def _last_position(self) -> int:
        return len(self._records) - 1

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ReputationRecord]]:
        positions = range(after + 1, min(until + 1, after + 1 + limit))
        records = await map_in_slices(lambda position: _decode_record(self._records[position]), positions)
        return list(zip(positions, records, strict=True))

    async def _append_vote(self, vote: ValidationVote) -> None:
        newest = self._newest_vote.of(vote.unit_id)
        self._older_vote.append(newest.get(vote.unit_id, -1))
        newest[vote.unit_id] = len(self._all_votes)
        self._all_votes.append(_encode(vote))

    async def _votes(self, unit_id: str | None) -> list[ValidationVote]:
        def decoded(vote: int) -> ValidationVote:
            return _decode_vote(self._all_votes[vote])

        if unit_id is None:  # votes only get more: those up to here are those of this moment
            return await map_in_slices(decoded, range(len(self._all_votes)))
        newest = self._newest_vote.of(unit_id).get(unit_id, -1)
        return (await map_in_slices(decoded, self._chain(newest)))[::-1]

    def _chain(self, vote: int) -> Iterator[int]:
        """The vote and those before it on the same unit."""
        while vote >= 0:
            yield vote
            vote = self._older_vote[vote]


def _entry_key(position: int, number: int) -> int:
    return number << 40 | position
