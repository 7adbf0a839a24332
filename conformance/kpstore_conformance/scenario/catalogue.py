"""What a scenario can call: the six stores' methods with their parameters, and what else the format names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["CAPABILITIES", "DATA_SETS", "ERRORS", "INSPECTORS", "STORES", "DataSet", "Method", "Parameter"]

CAPABILITIES: dict[str, str] = {
    "durable": "what was acknowledged survives close, kill and power loss",
    "multi_process": "several handles and processes share one set of data",
    "vector_search": "knowledge.search_similar works",
    "controllable_clock": "time comes from the clock given to create_store",
}

INSPECTORS: dict[str, str] = {
    "inspector.sql": "the data can be queried with SQL behind the store's back",
    "inspector.raw": "the bytes that the backend keeps on disk can be searched",
}

ERRORS: dict[str, str] = {
    "KpStoreError": "any error of kpstore",
    "ConfigurationError": "an unknown backend or a bad setting",
    "ValidationError": "the caller's input breaks a rule",
    "StoreClosedError": "used after close()",
    "BackendUnavailableError": "cannot be reached, busy, full or read-only",
    "DataCorruptionError": "the file or a row in it cannot be read",
    "SchemaVersionError": "written by a newer version",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; `record` names the builder of a record (`skill`, `entry`, `vote`), `many` says a list."""

    name: str
    required: bool = True
    record: str | None = None
    many: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a store; `iterates` is set for an async iterator, which a step collects into a list."""

    store: str
    name: str
    parameters: dict[str, Parameter]
    iterates: bool = False

    @property
    def writes(self) -> bool:
        """Whether it changes the store."""
        return self.name in _WRITING


_WRITING = frozenset(
    {
        *("create", "create_many", "delete", "upsert", "record_vote", "revoke"),
        *("consume", "record_429", "log"),
    }
)


def _method(
    name: str, *parameters: str | Parameter, iterates: bool = False
) -> tuple[str, tuple[dict[str, Parameter], bool]]:
    # A name with `?` is optional.
    made = [
        p if isinstance(p, Parameter) else Parameter(p.rstrip("?"), not p.endswith("?")) for p in parameters
    ]
    return name, ({p.name: p for p in made}, iterates)


_PAGED = ("offset?", "limit?")
_SCAN = _method("scan", "batch_size?", iterates=True)


def _store(
    store: str, methods: Iterable[tuple[str, tuple[dict[str, Parameter], bool]]]
) -> tuple[str, dict[str, Method]]:
    return store, {name: Method(store, name, parameters, it) for name, (parameters, it) in methods}


STORES: dict[str, dict[str, Method]] = dict(
    [
        _store(
            "skills",
            [
                _method("create", Parameter("skill", record="skill")),
                _method("get_by_id", "id"),
                _method("search", "query?", "domain?", "tags?", "min_quality?", *_PAGED),
                _method("delete", "id"),
                _method("create_many", Parameter("skills", record="skill", many=True)),
                _SCAN,
            ],
        ),
        _store(
            "knowledge",
            [
                _method("create", Parameter("entry", record="entry")),
                _method("get_by_id", "id"),
                _method("delete", "id"),
                _method("create_many", Parameter("entries", record="entry", many=True)),
                _method("search", "query?", "types?", "domain?", "min_quality?", *_PAGED),
                _method("get_by_agent_id", "agent_id"),
                _method("search_similar", "text?", "vector?", "types?", "domain?", "min_quality?", "limit?"),
                _SCAN,
            ],
        ),
        _store(
            "reputation",
            [
                _method("upsert", "agent_id", "delta", "reason"),
                _method("get", "agent_id"),
                _method("get_history", "agent_id", *_PAGED),
                _method("get_leaderboard", *_PAGED),
                _method("get_all"),
                _method("record_vote", Parameter("vote", record="vote")),
                _method("get_votes", "unit_id?"),
                _method("can_vote", "agent_id"),
                _SCAN,
            ],
        ),
        _store(
            "api_keys",
            [
                _method("create", "agent_id", "scopes", "tier"),
                _method("verify", "raw_key"),
                _method("revoke", "key_prefix"),
                _method("get_by_agent_id", "agent_id"),
                _SCAN,
            ],
        ),
        _store(
            "rate_limit",
            [
                _method("consume", "identifier", "tier", "method"),
                _method("record_429", "identifier"),
                _method("get_429_count", "identifier", "window"),
            ],
        ),
        _store(
            "audit_log",
            [
                _method("log", "action", "agent_id", "resource_type", "resource_id", "ip", "details?"),
                _method("query", "agent_id?", "action?", "since?", "until?", *_PAGED),
                _SCAN,
            ],
        ),
    ]
)


@dataclass(frozen=True, slots=True)
class DataSet:
    """What latencies are measured on: so many records of one store. `record` and `new` say what the names
    `${record}` and `${new}` stand for.
    """

    store: str
    summary: str
    record: str
    new: str


# The first of a store is the one that its methods are measured on by default.
DATA_SETS: dict[str, DataSet] = {
    "skills": DataSet("skills", "skills of about 1 kB", "a `StoredSkill`", "another `StoredSkill`"),
    "units": DataSet(
        "knowledge",
        "knowledge units of 400 to 800 bytes, from 500 agents in 24 domains",
        "a `StoredKnowledgeUnit`",
        "another `StoredKnowledgeUnit`",
    ),
    "agents": DataSet(
        "reputation", "agents with a reputation and one entry of history each", "an agent's id", "another id"
    ),
    "history": DataSet(
        "reputation", "changes of one agent's reputation", "the agent's id", "another agent's id"
    ),
    "votes": DataSet(
        "reputation", "votes, ten on each unit", "a `ValidationVote`", "another `ValidationVote`"
    ),
    "keys": DataSet("api_keys", "API keys, ten of each agent", "a `NewApiKey`", "the id of another agent"),
    "buckets": DataSet(
        "rate_limit", "callers that have taken a token and were refused once", "a caller", "another caller"
    ),
    "entries": DataSet(
        "audit_log",
        "entries of 500 agents and seven actions",
        "an `AuditLogEntry`",
        "the id of another agent",
    ),
}
