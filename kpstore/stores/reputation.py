"""The reputation store: scores, their history, and validation votes (clauses REP-1 to REP-6)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from kpstore.errors import ValidationError
from kpstore.records import HistoryEntry, Page, ReputationRecord, ValidationVote
from kpstore.stores import rules
from kpstore.stores.base import SCAN_BATCH, Store, walk

RECENT_HISTORY = 50  # entries in a record's `history`
VOTING_AGE = timedelta(days=30)  # REP-5
# The most that a character takes as JSON, and a history entry beside its reason: what is sure to fit is not
# encoded just to be measured.
_JSON_BYTES = 6
_ENTRY_BYTES = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """An agent's standing as a backend keeps it, beside the history."""

    score: float
    contributions: int
    validations: int
    first_seen: datetime
    updated_at: datetime


StandingChange: TypeAlias = Callable[[Standing | None], tuple[Standing, HistoryEntry]]
"""From an agent's standing (`None` for a new agent) to the next one, and the entry to add to its history."""


class ReputationStore(Store):
    """Agents' scores and votes."""

    # Hooks ----------------------------------------------------------------

    @abstractmethod
    async def _update(self, agent_id: str, change: StandingChange) -> ReputationRecord:
        """Apply `change` as one atomic step and add its entry to the history.

        `change` has no side effects: it may be called more than once, and on any
        thread; what it raises leaves everything as it was. A new agent's place
        in the order of first sight is after all others'.
        """

    @abstractmethod
    async def _get(self, agent_id: str) -> ReputationRecord | None:
        """The agent's record with its latest 50 history entries."""

    @abstractmethod
    async def _first_seen(self, agent_id: str) -> datetime | None:
        """When the agent was first seen, or `None`."""

    @abstractmethod
    async def _history(self, agent_id: str, offset: int, limit: int) -> tuple[list[HistoryEntry], int]:
        """A page of the agent's history, oldest first, and its length; empty for an unknown agent."""

    @abstractmethod
    async def _leaderboard(self, offset: int, limit: int) -> tuple[list[ReputationRecord], int]:
        """A page of the records by score descending, then first sight; and how many agents there are."""

    @abstractmethod
    async def _all(self) -> list[ReputationRecord]:
        """Every record in the order of first sight, as of one moment."""

    @abstractmethod
    async def _last_position(self) -> int:
        """The highest position in use, or -1; a new agent's position is higher than all before it."""

    @abstractmethod
    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ReputationRecord]]:
        """The first `limit` (position, record) with `after < position <= until`, by position."""

    @abstractmethod
    async def _append_vote(self, vote: ValidationVote) -> None:
        """Add a vote after all others."""

    @abstractmethod
    async def _votes(self, unit_id: str | None) -> list[ValidationVote]:
        """The votes on a unit, or all of them, in order, as of one moment."""

    # Rules ----------------------------------------------------------------

    async def upsert(self, agent_id: str, delta: float, reason: str) -> ReputationRecord:
        """Add `delta` to the agent's score, which never falls below 0, and note it in the history.

        `contributions` grows by one when `delta > 0`, `validations` when the
        reason contains `Validated`.

        Raises:
            ValidationError: a bad argument, or a score that would not be finite.
        """
        self._check_open()
        agent_id = rules.identifier(agent_id, "agent_id")
        delta = rules.number(delta, "delta")
        reason = self._text(reason, "reason")
        now = self._context.now()
        entry = HistoryEntry(now, delta, reason)
        if _JSON_BYTES * len(reason) + _ENTRY_BYTES > self._context.max_record_bytes:
            self._encode(entry, "reason")  # for its size

        def change(old: Standing | None) -> tuple[Standing, HistoryEntry]:
            score = max(0.0, (old.score if old else 0.0) + delta)
            if not math.isfinite(score):
                raise ValidationError("delta", "must leave the score finite")
            return (
                Standing(
                    score=score,
                    contributions=(old.contributions if old else 0) + (delta > 0),
                    validations=(old.validations if old else 0) + ("Validated" in reason),
                    first_seen=old.first_seen if old else now,
                    updated_at=now,
                ),
                entry,
            )

        return await self._update(agent_id, change)

    async def get(self, agent_id: str) -> ReputationRecord | None:
        """The agent's record, or `None`."""
        self._check_open()
        return await self._get(rules.identifier(agent_id, "agent_id"))

    async def get_history(self, agent_id: str, *, offset: int = 0, limit: int = 20) -> Page[HistoryEntry]:
        """A page of everything that ever changed the agent's score, oldest first."""
        self._check_open()
        agent_id = rules.identifier(agent_id, "agent_id")
        offset, limit = rules.page(offset, limit)
        entries, total = await self._history(agent_id, offset, limit)
        return Page(entries, total, offset, limit)

    async def get_leaderboard(self, *, offset: int = 0, limit: int = 20) -> Page[ReputationRecord]:
        """A page of the agents, highest score first, those with equal scores by first sight."""
        self._check_open()
        offset, limit = rules.page(offset, limit)
        records, total = await self._leaderboard(offset, limit)
        return Page(records, total, offset, limit)

    async def get_all(self) -> list[ReputationRecord]:
        """Every agent's record in the order of first sight. For many agents, `scan()` needs less memory."""
        self._check_open()
        return await self._all()

    def scan(self, batch_size: int = 500) -> AsyncIterator[ReputationRecord]:
        """Every agent's record in the order of first sight, `batch_size` of them in memory at a time."""
        return walk(self._context, batch_size, self._last_position, self._scan, at_most=SCAN_BATCH)

    async def record_vote(self, vote: ValidationVote) -> None:
        """Add a vote; votes are never changed or removed."""
        self._check_open()
        given = rules.fields_of(vote, ValidationVote, "vote")
        await self._append_vote(
            ValidationVote(
                validator_id=rules.identifier(given["validator_id"], "vote.validator_id"),
                target_id=rules.identifier(given["target_id"], "vote.target_id"),
                unit_id=rules.identifier(given["unit_id"], "vote.unit_id"),
                valid=rules.boolean(given["valid"], "vote.valid"),
                timestamp=rules.moment(given["timestamp"], "vote.timestamp"),
            )
        )

    async def get_votes(self, unit_id: str | None = None) -> list[ValidationVote]:
        """The votes on a unit, or all of them, in the order in which they were recorded."""
        self._check_open()
        return await self._votes(None if unit_id is None else rules.identifier(unit_id, "unit_id"))

    async def can_vote(self, agent_id: str) -> bool:
        """Whether the agent was first seen at least 30 days ago."""
        self._check_open()
        first_seen = await self._first_seen(rules.identifier(agent_id, "agent_id"))
        return first_seen is not None and self._context.now() - first_seen >= VOTING_AGE
