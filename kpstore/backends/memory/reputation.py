"""The reputation store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from time import perf_counter
from typing import NamedTuple

from sortedcontainers import SortedDict

from kpstore.backends.memory.slices import SLICE_S
from kpstore.records import HistoryEntry, ReputationRecord, ValidationVote
from kpstore.stores import ReputationStore, Standing, StandingChange, StoreContext
from kpstore.stores.reputation import RECENT_HISTORY


class _Agent(NamedTuple):
    """An agent as of one moment; the history beyond `length` came later."""

    agent_id: str
    position: int
    standing: Standing
    history: list[HistoryEntry]  # append-only, shared by all states of the agent
    length: int

    def record(self) -> ReputationRecord:
        return ReputationRecord(
            agent_id=self.agent_id,
            score=self.standing.score,
            contributions=self.standing.contributions,
            validations=self.standing.validations,
            history=self.history[max(0, self.length - RECENT_HISTORY) : self.length],
            updated_at=self.standing.updated_at,
        )

    @property
    def rank(self) -> tuple[float, int]:
        return (-self.standing.score, self.position)


class MemoryReputationStore(ReputationStore):
    """The hooks of `ReputationStore` on dictionaries."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._agents: dict[str, _Agent] = {}  # agents are never removed: its order is that of first sight
        self._order: list[str] = []
        self._board: SortedDict[tuple[float, int], str] = SortedDict()
        self._all_votes: list[ValidationVote] = []
        self._unit_votes: dict[str, list[ValidationVote]] = {}

    async def _update(self, agent_id: str, change: StandingChange) -> ReputationRecord:
        old = self._agents.get(agent_id)
        standing, entry = change(old.standing if old else None)
        if old is None:
            agent = _Agent(agent_id, len(self._order), standing, [entry], 1)
            self._order.append(agent_id)
        else:
            del self._board[old.rank]
            old.history.append(entry)
            agent = old._replace(standing=standing, length=old.length + 1)
        self._agents[agent_id] = agent
        self._board[agent.rank] = agent_id
        return agent.record()

    async def _get(self, agent_id: str) -> ReputationRecord | None:
        agent = self._agents.get(agent_id)
        return None if agent is None else agent.record()

    async def _first_seen(self, agent_id: str) -> datetime | None:
        agent = self._agents.get(agent_id)
        return None if agent is None else agent.standing.first_seen

    async def _history(self, agent_id: str, offset: int, limit: int) -> tuple[list[HistoryEntry], int]:
        agent = self._agents.get(agent_id)
        if agent is None:
            return [], 0
        return agent.history[offset : offset + limit], agent.length

    async def _leaderboard(self, offset: int, limit: int) -> tuple[list[ReputationRecord], int]:
        ranks = self._board.keys()[offset : offset + limit]
        agents = [self._agents[self._board[rank]] for rank in ranks]
        return await _records(agents), len(self._order)

    async def _all(self) -> list[ReputationRecord]:
        return await _records(list(self._agents.values()))

    async def _last_position(self) -> int:
        return len(self._order) - 1

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ReputationRecord]]:
        ids = islice(self._order, after + 1, min(until + 1, after + 1 + limit))
        agents = [self._agents[agent_id] for agent_id in ids]
        records = await _records(agents)
        return [(agent.position, record) for agent, record in zip(agents, records, strict=True)]

    async def _append_vote(self, vote: ValidationVote) -> None:
        self._all_votes.append(vote)
        self._unit_votes.setdefault(vote.unit_id, []).append(vote)

    async def _votes(self, unit_id: str | None) -> list[ValidationVote]:
        return list(self._all_votes if unit_id is None else self._unit_votes.get(unit_id, ()))


async def _records(agents: Iterable[_Agent]) -> list[ReputationRecord]:
    records = []
    until = perf_counter() + SLICE_S
    for agent in agents:
        records.append(agent.record())
        if perf_counter() > until:
            await asyncio.sleep(0)
            until = perf_counter() + SLICE_S
    return records
