"""Every name of the contract is importable from kpstore, with the contract's parameters, and nothing else
is public.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import MISSING, fields
from typing import Any

import kpstore
from kpstore_conformance.check import Lab, check

ERRORS = frozenset(
    {
        "KpStoreError",
        "ConfigurationError",
        "ValidationError",
        "StoreClosedError",
        "BackendUnavailableError",
        "DataCorruptionError",
        "SchemaVersionError",
    }
)

# Each record with its fields as the contract writes them: `=` and the default where it gives one.
RECORDS: dict[str, str] = {
    "Page": "data, total, offset, limit",
    "StoredSkill": "id, name, description, content, version=None, author=None, domain=None, tags=(),"
    " files={}, visibility='network', quality_score=0.0, created_at, updated_at",
    "StoredKnowledgeUnit": "id, unit, visibility='network', created_at, updated_at",
    "ReputationRecord": "agent_id, score, contributions, validations, history, updated_at",
    "HistoryEntry": "timestamp, delta, reason",
    "ValidationVote": "validator_id, target_id, unit_id, valid, timestamp",
    "ApiKeyRecord": "key_hash, key_prefix, agent_id, scopes, tier, created_at, revoked=False,"
    " revoked_at=None",
    "NewApiKey": "raw_key, record",
    "RateLimitDecision": "allowed, remaining, limit, reset, retry_after",
    "AuditLogEntry": "id, action, agent_id, resource_type, resource_id, timestamp, ip, details=None",
}

OTHER_NAMES = frozenset(
    {"create_store", "AllStores", "Capability", "Settings", "Clock", "ManualClock", "Embedder", "ScoredUnit"}
)

# Each method with its parameters as the contract writes them.
METHODS: dict[str, dict[str, str]] = {
    "skills": {
        "create": "skill",
        "get_by_id": "id",
        "search": "*, query=None, domain=None, tags=None, min_quality=None, offset=0, limit=20",
        "delete": "id",
        "create_many": "skills, *, progress=None",
        "scan": "batch_size=500",
    },
    "knowledge": {
        "create": "entry",
        "get_by_id": "id",
        "delete": "id",
        "create_many": "entries, *, progress=None",
        "search": "*, query=None, types=None, domain=None, min_quality=None, offset=0, limit=20",
        "get_by_agent_id": "agent_id",
        "search_similar": "*, text=None, vector=None, types=None, domain=None, min_quality=None, limit=10",
        "scan": "batch_size=500",
    },
    "reputation": {
        "upsert": "agent_id, delta, reason",
        "get": "agent_id",
        "get_history": "agent_id, *, offset=0, limit=20",
        "get_leaderboard": "*, offset=0, limit=20",
        "get_all": "",
        "record_vote": "vote",
        "get_votes": "unit_id=None",
        "can_vote": "agent_id",
        "scan": "batch_size=500",
    },
    "api_keys": {
        "create": "agent_id, scopes, tier",
        "verify": "raw_key",
        "revoke": "key_prefix",
        "get_by_agent_id": "agent_id",
        "scan": "batch_size=500",
    },
    "rate_limit": {
        "consume": "identifier, tier, method",
        "record_429": "identifier",
        "get_429_count": "identifier, window",
    },
    "audit_log": {
        "log": "action, agent_id, resource_type, resource_id, ip, details=None",
        "query": "*, agent_id=None, action=None, since=None, until=None, offset=0, limit=20",
        "scan": "batch_size=500",
    },
}


def _written(function: Any) -> str:
    """The parameters of a bound method as the contract writes them: names, `*`, defaults; no annotations."""
    parts: list[str] = []
    keyword_only = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            parts.append("*")
            keyword_only = True
        prefix = "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (
            parameter.kind is parameter.VAR_KEYWORD
        )
        has_default = parameter.default is not parameter.empty
        parts.append(f"{prefix}{parameter.name}{f'={parameter.default!r}' if has_default else ''}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parts.append("/")
    return ", ".join(parts)


def _fields(record: Any, required: frozenset[str]) -> str:
    parts = []
    for field in fields(record):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        has_default = default is not MISSING and field.name not in required
        parts.append(f"{field.name}={default!r}" if has_default else field.name)
    return ", ".join(parts)


@check(clauses=["GEN-12"], name="every name of the contract is importable from kpstore")
async def names_are_importable(lab: Lab) -> None:
    """kpstore has every name of the contract; the errors are also in kpstore.errors, ManualClock in
    kpstore.clock.
    """
    names = ERRORS | RECORDS.keys() | OTHER_NAMES
    absent = sorted(name for name in names if not hasattr(kpstore, name))
    assert not absent, f"not importable from kpstore: {', '.join(absent)}"
    errors = importlib.import_module("kpstore.errors")
    for name in sorted(ERRORS):
        assert getattr(errors, name, None) is getattr(kpstore, name), (
            f"kpstore.errors.{name} is not kpstore.{name}"
        )
    clock = importlib.import_module("kpstore.clock")
    assert clock.ManualClock is kpstore.ManualClock, "kpstore.clock.ManualClock is not kpstore.ManualClock"


@check(clauses=["GEN-12"], name="nothing beside the contract is public")
async def nothing_else_is_public(lab: Lab) -> None:
    """`kpstore.__all__` lists the names of the contract and no other; so does a star import."""
    contract = ERRORS | RECORDS.keys() | OTHER_NAMES
    listed = {name for name in kpstore.__all__ if not name.startswith("__")}
    assert sorted(listed - contract) == [], (
        f"public beside the contract: {', '.join(sorted(listed - contract))}"
    )
    assert sorted(contract - listed) == [], f"missing in __all__: {', '.join(sorted(contract - listed))}"
    assert len(kpstore.__all__) == len(set(kpstore.__all__)), "a name is in __all__ twice"


@check(clauses=["GEN-12"], name="the methods of the stores have the contract's parameters")
async def methods_have_the_parameters(lab: Lab) -> None:
    """Each store has each method of the contract with its parameters' names, order, defaults and `*`."""
    stores = await lab.open()
    wrong = []
    for store_name, methods in METHODS.items():
        store = getattr(stores, store_name)
        for name, parameters in methods.items():
            method = getattr(store, name, None)
            written = "not there" if method is None else f"({_written(method)})"
            if written != f"({parameters})":
                wrong.append(f"{store_name}.{name}: {written}, not ({parameters})")
    assert not wrong, "\n".join(wrong)


@check(
    clauses=["GEN-12"],
    backends=["memory", "qdrant", "sqlite"],
    name="the stores have no other public methods",
)
async def no_other_methods(lab: Lab) -> None:
    """The stores of kpstore's own backends have the methods of the contract and no other public one."""
    stores = await lab.open()
    wrong = []
    for store_name, methods in METHODS.items():
        store = getattr(stores, store_name)
        public = {name for name in dir(store) if not name.startswith("_") and callable(getattr(store, name))}
        extra = sorted(public - methods.keys())
        if extra:
            wrong.append(f"{store_name} also has {', '.join(extra)}")
    assert not wrong, "; ".join(wrong)


@check(clauses=["GEN-12"], name="the records have the contract's fields")
async def records_have_the_fields(lab: Lab) -> None:
    """Each record has the contract's fields in its order, and its defaults."""
    wrong = []
    for name, written in RECORDS.items():
        parts = [part.strip() for part in written.split(", ")]
        required = frozenset(part for part in parts if "=" not in part)
        found = _fields(getattr(kpstore, name), required)
        if found != written:
            wrong.append(f"{name}({found}), not ({written})")
    assert not wrong, "\n".join(wrong)


@check(clauses=["GEN-12", "CFG-1"], name="create_store has the contract's parameters")
async def create_store_has_the_parameters(lab: Lab) -> None:
    """`create_store(backend=None, *, settings=None, clock=None)`."""
    assert _written(kpstore.create_store) == "backend=None, *, settings=None, clock=None"
