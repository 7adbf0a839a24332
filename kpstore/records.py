"""What stores return. Records are frozen; a store never keeps a reference to one (clause GEN-3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

__all__ = [
    "ApiKeyRecord",
    "AuditLogEntry",
    "Capability",
    "HistoryEntry",
    "NewApiKey",
    "Page",
    "RateLimitDecision",
    "ReputationRecord",
    "ScoredUnit",
    "StoredKnowledgeUnit",
    "StoredSkill",
    "ValidationVote",
]


R = TypeVar("R")

# Stands for "not given" where the contract lists a required field after optional ones.
_REQUIRED: Any = object()


class Capability(StrEnum):
    """What a backend may promise beyond the clauses that every backend keeps."""

    DURABLE = "durable"
    """What was acknowledged survives close, kill and power loss."""
    MULTI_PROCESS = "multi_process"
    """Several handles and processes share one set of data, atomically per call."""
    VECTOR_SEARCH = "vector_search"
    """`knowledge.search_similar` works."""
    CONTROLLABLE_CLOCK = "controllable_clock"
    """Time comes from the `clock` given to `create_store`, not from a server."""


def _check_required(record: object, *names: str) -> None:
    missing = [name for name in names if getattr(record, name) is _REQUIRED]
    if missing:
        raise TypeError(f"{type(record).__name__}() needs {', '.join(missing)}")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page of an ordered result.

    `total` is the exact number of all matches, whatever `offset` and `limit`.
    """

    data: list[R]
    total: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class StoredSkill:
    """A skill (a SKILL.md file and its bundled files) as the registry keeps it.

    `quality_score` is in 0..1, `files` maps a relative path to the file's
    text, `visibility` is `private`, `org` or `network`, `created_at` and
    `updated_at` are required, aware, and come back in UTC.
    """

    id: str
    name: str
    description: str
    content: str
    version: str | None = None
    author: str | None = None
    domain: str | None = None
    tags: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    visibility: str = "network"
    quality_score: float = 0.0
    created_at: datetime = _REQUIRED
    updated_at: datetime = _REQUIRED

    def __post_init__(self) -> None:
        _check_required(self, "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class StoredKnowledgeUnit:
    """A knowledge unit as the registry keeps it; `unit` is the JSON-LD document, a plain dict."""

    id: str
    unit: dict[str, Any]
    visibility: str = "network"
    created_at: datetime = _REQUIRED
    updated_at: datetime = _REQUIRED

    def __post_init__(self) -> None:
        _check_required(self, "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class ScoredUnit:
    """A unit found by similarity; `score` is the cosine, in -1..1."""

    unit: StoredKnowledgeUnit
    score: float


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of an agent's reputation."""

    timestamp: datetime
    delta: float
    reason: str


@dataclass(frozen=True, slots=True)
class ReputationRecord:
    """An agent's standing; `history` holds its latest 50 changes, oldest first."""

    agent_id: str
    score: float
    contributions: int
    validations: int
    history: list[HistoryEntry]
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ValidationVote:
    """One agent's verdict on another's unit."""

    validator_id: str
    target_id: str
    unit_id: str
    valid: bool
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """What is known of an API key; the key itself is not."""

    key_hash: str
    key_prefix: str
    agent_id: str
    scopes: frozenset[str]
    tier: str
    created_at: datetime
    revoked: bool = False
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key just made: the only time that `raw_key` is seen. Its `repr` masks it (clause GEN-11)."""

    raw_key: str = field(repr=False)
    record: ApiKeyRecord

    def __repr__(self) -> str:
        return f"NewApiKey(raw_key='{self.record.key_prefix}…', record={self.record!r})"


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """Whether a call may go on. `reset` is in unix seconds, `retry_after` in seconds."""

    allowed: bool
    remaining: int
    limit: int
    reset: int
    retry_after: int | None


@dataclass(frozen=True, slots=True)
class AuditLogEntry:
    """One line of the audit log; `details` is any JSON object."""

    id: str
    action: str
    agent_id: str
    resource_type: str
    resource_id: str
    timestamp: datetime
    ip: str
    details: dict[str, Any] | None = None
