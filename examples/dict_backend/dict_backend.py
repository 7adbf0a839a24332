"""A complete kpstore backend on plain dicts and lists: the hooks of the six stores, and nothing else."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import wraps
from heapq import heappop, heappush
from itertools import islice
from typing import Any, ParamSpec, TypeVar

from kpstore import (
    ApiKeyRecord,
    Capability,
    Clock,
    HistoryEntry,
    RateLimitDecision,
    ReputationRecord,
    Settings,
    StoredKnowledgeUnit,
    StoredSkill,
    ValidationVote,
)
from kpstore.stores import (
    AllStores,
    ApiKeyStore,
    AuditDocument,
    AuditLogStore,
    AuditQuery,
    Bucket,
    BucketChange,
    Document,
    DocumentQuery,
    KnowledgeStore,
    RateLimitStore,
    ReputationStore,
    SkillStore,
    Standing,
    StandingChange,
    StoreContext,
)
from kpstore.stores.audit_log import CLEANED_PER_CALL as ENTRIES_PER_CALL
from kpstore.stores.documents import DocumentStore
from kpstore.stores.rate_limit import CLEANED_PER_CALL as ROWS_PER_CALL
from kpstore.stores.rate_limit import VIOLATION_MEMORY_US
from kpstore.stores.reputation import RECENT_HISTORY

P = ParamSpec("P")
R = TypeVar("R")

THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dict-backend")


def on_thread(hook: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a hook of a plain method: it runs on the one thread that does everything here.

    So hooks run one after another, each whole (GEN-8); one that was started goes on to its end when its
    caller is cancelled (GEN-7); and the event loop turns meanwhile, however many records there are (GEN-2).
    """

    @wraps(hook)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(THREAD, lambda: hook(*args, **kwargs))

    return call


def pop_before(heap: list[tuple[int, R]], moment: int, most: int) -> list[R]:
    """Take what is earlier than `moment` off a heap of (time, item), `most` items at a time."""
    popped: list[R] = []
    while heap and heap[0][0] < moment and len(popped) < most:
        popped.append(heappop(heap)[1])
    return popped


class Documents(DocumentStore[R]):
    """Skills and knowledge units alike. A document's position is its index in `rows`, for ever."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.rows: list[Document | None] = []
        self.positions: dict[str, int] = {}
        self.ranked: list[tuple[float, int]] = []  # (-quality, position), sorted

    @on_thread
    def _put(self, documents: Sequence[Document]) -> None:
        for document in documents:
            position = self.take(document.id)
            if position is None:
                position = len(self.rows)
                self.rows.append(None)
            self.rows[position] = document
            self.positions[document.id] = position
            insort(self.ranked, (-document.quality, position))

    def take(self, id: str) -> int | None:
        """Empty the place of a document; its position, if it was there."""
        position = self.positions.pop(id, None)
        document = None if position is None else self.rows[position]
        if position is None or document is None:
            return None
        del self.ranked[bisect_left(self.ranked, (-document.quality, position))]
        self.rows[position] = None
        return position

    @on_thread
    def _get(self, id: str) -> bytes | None:
        position = self.positions.get(id)
        document = None if position is None else self.rows[position]
        return document.body if document else None

    @on_thread
    def _delete(self, id: str) -> bool:
        return self.take(id) is not None

    @on_thread
    def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        best_first = (self.rows[position] for _, position in self.ranked)
        found = [document.body for document in best_first if document and query.matches(document)]
        return found[offset : offset + limit], len(found)

    @on_thread
    def _last_position(self) -> int:
        return len(self.rows) - 1

    @on_thread
    def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
        rows = ((position, self.rows[position]) for position in range(after + 1, until + 1))
        return list(islice(((position, row.body) for position, row in rows if row), limit))


class Skills(Documents[StoredSkill], SkillStore):
    """The hooks of `SkillStore`."""


class Knowledge(Documents[StoredKnowledgeUnit], KnowledgeStore):
    """The hooks of `KnowledgeStore`."""

    @on_thread
    def _by_agent(self, agent_id: str) -> list[bytes]:
        return [document.body for document in self.rows if document and document.agent_id == agent_id]


class Reputation(ReputationStore):
    """Agents are never removed, so that an agent's position is the place of its key in the dict."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.agents: dict[str, tuple[Standing, list[HistoryEntry]]] = {}
        self.votes: list[ValidationVote] = []

    def record(self, agent_id: str) -> ReputationRecord:
        """The record of an agent who is there."""
        standing, history = self.agents[agent_id]
        return ReputationRecord(
            agent_id=agent_id,
            score=standing.score,
            contributions=standing.contributions,
            validations=standing.validations,
            history=history[-RECENT_HISTORY:],
            updated_at=standing.updated_at,
        )

    @on_thread
    def _update(self, agent_id: str, change: StandingChange) -> ReputationRecord:
        old, history = self.agents.get(agent_id, (None, []))
        standing, entry = change(old)  # may raise, and then nothing has changed
        history.append(entry)
        self.agents[agent_id] = (standing, history)
        return self.record(agent_id)

    @on_thread
    def _get(self, agent_id: str) -> ReputationRecord | None:
        return self.record(agent_id) if agent_id in self.agents else None

    @on_thread
    def _first_seen(self, agent_id: str) -> datetime | None:
        return self.agents[agent_id][0].first_seen if agent_id in self.agents else None

    @on_thread
    def _history(self, agent_id: str, offset: int, limit: int) -> tuple[list[HistoryEntry], int]:
        _, history = self.agents.get(agent_id, (None, []))
        return history[offset : offset + limit], len(history)

    @on_thread
    def _leaderboard(self, offset: int, limit: int) -> tuple[list[ReputationRecord], int]:
        ranked = sorted(self.agents, key=lambda agent_id: -self.agents[agent_id][0].score)
        return [self.record(agent_id) for agent_id in ranked[offset : offset + limit]], len(ranked)

    @on_thread
    def _all(self) -> list[ReputationRecord]:
        return [self.record(agent_id) for agent_id in self.agents]

    @on_thread
    def _last_position(self) -> int:
        return len(self.agents) - 1

    @on_thread
    def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ReputationRecord]]:
        numbered = islice(enumerate(self.agents), after + 1, min(until, after + limit) + 1)
        return [(position, self.record(agent_id)) for position, agent_id in numbered]

    @on_thread
    def _append_vote(self, vote: ValidationVote) -> None:
        self.votes.append(vote)

    @on_thread
    def _votes(self, unit_id: str | None) -> list[ValidationVote]:
        return [vote for vote in self.votes if unit_id is None or vote.unit_id == unit_id]


class ApiKeys(ApiKeyStore):
    """Keys are never removed, so that a key's position is the place of its prefix in the dict."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.by_prefix: dict[str, ApiKeyRecord] = {}
        self.prefixes: dict[str, str] = {}  # by hash

    @on_thread
    def _insert(self, record: ApiKeyRecord) -> bool:
        if record.key_prefix in self.by_prefix or record.key_hash in self.prefixes:
            return False
        self.by_prefix[record.key_prefix] = record
        self.prefixes[record.key_hash] = record.key_prefix
        return True

    @on_thread
    def _by_hash(self, key_hash: str) -> ApiKeyRecord | None:
        return self.by_prefix[self.prefixes[key_hash]] if key_hash in self.prefixes else None

    @on_thread
    def _revoke(self, key_prefix: str, at: datetime) -> bool:
        record = self.by_prefix.get(key_prefix)
        if record is None or record.revoked:
            return False
        self.by_prefix[key_prefix] = replace(record, revoked=True, revoked_at=at)
        return True

    @on_thread
    def _by_agent(self, agent_id: str) -> list[ApiKeyRecord]:
        return [record for record in self.by_prefix.values() if record.agent_id == agent_id]

    @on_thread
    def _last_position(self) -> int:
        return len(self.by_prefix) - 1

    @on_thread
    def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ApiKeyRecord]]:
        return list(islice(enumerate(self.by_prefix.values()), after + 1, min(until, after + limit) + 1))


class RateLimits(RateLimitStore):
    """Buckets and refusals; each call clears away a few that are no longer needed (RATE-6)."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.buckets: dict[tuple[str, str], Bucket] = {}
        self.filling: list[tuple[int, tuple[str, str]]] = []  # a heap of when buckets are full
        self.violations: dict[str, list[int]] = {}  # sorted
        self.oldest: list[tuple[int, str]] = []  # a heap of all violations

    @on_thread
    def _update_bucket(self, identifier: str, kind: str, change: BucketChange, now: int) -> RateLimitDecision:
        key = (identifier, kind)
        bucket, decision = change(self.buckets.get(key))
        if bucket is not None:
            self.buckets[key] = bucket
            heappush(self.filling, (bucket.full_at, key))
        self.clean(now)
        return decision

    def clean(self, now: int) -> None:
        """Forget a few full buckets and a few violations from more than an hour ago."""
        for key in pop_before(self.filling, now + 1, ROWS_PER_CALL):
            if key in self.buckets and self.buckets[key].full_at <= now:  # not used again since
                del self.buckets[key]
        for identifier in pop_before(self.oldest, now - VIOLATION_MEMORY_US, ROWS_PER_CALL):
            self.violations[identifier].pop(0)
            if not self.violations[identifier]:
                del self.violations[identifier]

    @on_thread
    def _add_violation(self, identifier: str, now: int) -> None:
        insort(self.violations.setdefault(identifier, []), now)
        heappush(self.oldest, (now, identifier))
        self.clean(now)

    @on_thread
    def _count_violations(self, identifier: str, since: int, until: int) -> int:
        times = self.violations.get(identifier, [])
        return max(0, bisect_right(times, until) - bisect_left(times, since))


class AuditLog(AuditLogStore):
    """Entries by position; each call clears away a few that have expired (AUDIT-3)."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.entries: dict[int, AuditDocument] = {}
        self.oldest: list[tuple[int, int]] = []  # a heap of (at, position)
        self.next_position = 0

    @on_thread
    def _append(self, entry: AuditDocument, expired_before: int) -> None:
        self.entries[self.next_position] = entry
        heappush(self.oldest, (entry.at, self.next_position))
        self.next_position += 1
        for position in pop_before(self.oldest, expired_before, ENTRIES_PER_CALL):
            del self.entries[position]

    @on_thread
    def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        found = [entry.body for entry in self.entries.values() if query.matches(entry)]
        return found[offset : offset + limit], len(found)

    @on_thread
    def _last_position(self) -> int:
        return self.next_position - 1

    @on_thread
    def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        rows = ((position, self.entries.get(position)) for position in range(after + 1, until + 1))
        return list(
            islice(((position, row.body) for position, row in rows if row and row.at >= since), limit)
        )


async def open_store(settings: Settings, clock: Clock) -> AllStores:
    """Six empty stores that share nothing with any others."""
    context = StoreContext(clock, settings.max_record_bytes, "dict_backend")

    async def close() -> None:
        context.closed = True

    return AllStores(
        skills=Skills(context),
        knowledge=Knowledge(context),
        reputation=Reputation(context),
        api_keys=ApiKeys(context),
        rate_limit=RateLimits(context),
        audit_log=AuditLog(context),
        backend="dict",
        capabilities=frozenset({Capability.CONTROLLABLE_CLOCK}),
        close=close,
    )
