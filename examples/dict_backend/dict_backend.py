"""A complete kpstore backend on plain dicts and lists: the hooks of the six stores, and nothing else."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import wraps
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
from kpstore.stores.rate_limit import CLEANED_PER_CALL as BUCKETS_PER_CALL
from kpstore.stores.reputation import RECENT_HISTORY

P = ParamSpec("P")
R = TypeVar("R")

THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dict-backend")


def on_thread(hook: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a hook of a plain method: it runs on the one thread that does everything here.

    So hooks run one after another, each whole (GEN-8); one that was started goes on to its end when its caller
    is cancelled (GEN-7); and the event loop turns meanwhile, however many records there are (GEN-2).
    """

    @wraps(hook)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(THREAD, lambda: hook(*args, **kwargs))

    return call


class Documents(DocumentStore[R]):
    """Skills and knowledge units alike. A dict remembers its order, and a replaced value keeps its place."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.rows: dict[str, tuple[int, Document]] = {}
        self.ranked: list[tuple[float, int, str]] = []  # best quality first, then by position
        self.next_position = 0

    @on_thread
    def _put(self, documents: Sequence[Document]) -> None:
        for document in documents:
            position = self.remove(document.id)
            if position is None:
                position = self.next_position
                self.next_position += 1
            self.rows[document.id] = (position, document)
            insort(self.ranked, (-document.quality, position, document.id))

    def remove(self, id: str) -> int | None:
        """Take a document out of the ranking; its position, if it is there."""
        if id not in self.rows:
            return None
        position, document = self.rows[id]
        del self.ranked[bisect_left(self.ranked, (-document.quality, position, id))]
        return position

    @on_thread
    def _get(self, id: str) -> bytes | None:
        return self.rows[id][1].body if id in self.rows else None

    @on_thread
    def _delete(self, id: str) -> bool:
        self.remove(id)
        return self.rows.pop(id, None) is not None

    @on_thread
    def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        best_first = (self.rows[id][1] for _, _, id in self.ranked)
        found = [document.body for document in best_first if query.matches(document)]
        return found[offset : offset + limit], len(found)

    @on_thread
    def _last_position(self) -> int:
        return self.next_position - 1

    @on_thread
    def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
        rows = ((at, document.body) for at, document in self.rows.values() if after < at <= until)
        return list(islice(rows, limit))


class Skills(Documents[StoredSkill], SkillStore):
    """The hooks of `SkillStore`."""


class Knowledge(Documents[StoredKnowledgeUnit], KnowledgeStore):
    """The hooks of `KnowledgeStore`."""

    @on_thread
    def _by_agent(self, agent_id: str) -> list[bytes]:
        return [document.body for _, document in self.rows.values() if document.agent_id == agent_id]


class Reputation(ReputationStore):
    """Agents are numbered by first sight: the place of their key in the dict."""

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
        return [vote for vote in self.votes if unit_id in (None, vote.unit_id)]


class ApiKeys(ApiKeyStore):
    """Records by prefix. Nothing is ever removed, so the place in the dict is the position."""

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
    """Buckets and refusals, each call clearing away a few that are no longer needed."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.buckets: dict[tuple[str, str], Bucket] = {}
        self.violations: list[tuple[int, str]] = []

    @on_thread
    def _update_bucket(self, identifier: str, kind: str, change: BucketChange, now: int) -> RateLimitDecision:
        bucket, decision = change(self.buckets.get((identifier, kind)))
        if bucket is not None:
            self.buckets[identifier, kind] = bucket
        full = (key for key, bucket in self.buckets.items() if bucket.full_at <= now)
        for key in list(islice(full, BUCKETS_PER_CALL)):
            del self.buckets[key]
        return decision

    @on_thread
    def _add_violation(self, identifier: str, at: int, forget_before: int) -> None:
        self.violations.append((at, identifier))
        old = (violation for violation in self.violations if violation[0] < forget_before)
        for violation in list(islice(old, BUCKETS_PER_CALL)):
            self.violations.remove(violation)

    @on_thread
    def _count_violations(self, identifier: str, since: int, until: int) -> int:
        return sum(whose == identifier and since <= at <= until for at, whose in self.violations)


class AuditLog(AuditLogStore):
    """Entries by position."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self.entries: dict[int, AuditDocument] = {}
        self.next_position = 0

    @on_thread
    def _append(self, entry: AuditDocument, expired_before: int) -> None:
        self.entries[self.next_position] = entry
        self.next_position += 1
        expired = (position for position, entry in self.entries.items() if entry.at < expired_before)
        for position in list(islice(expired, ENTRIES_PER_CALL)):
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
        rows = (
            (position, entry.body)
            for position, entry in self.entries.items()
            if after < position <= until and entry.at >= since
        )
        return list(islice(rows, limit))


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
