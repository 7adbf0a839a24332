"""A slow, obviously correct reference of the six stores: plain lists, sorted per call, exact fractions.

It is the oracle of the stateful check, so it is written from the contract alone: of kpstore it uses the
records and nothing else, and what it needs (folding, paging, validation, bucket arithmetic) it has anew. Its
methods are named and called as the stores' are, without `await`; `scan` gives a list. Where the contract
refuses a call it raises `Refused`, which lists every argument that breaks a rule.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, TypeVar

from kpstore import (
    ApiKeyRecord,
    AuditLogEntry,
    HistoryEntry,
    NewApiKey,
    Page,
    RateLimitDecision,
    ReputationRecord,
    StoredKnowledgeUnit,
    StoredSkill,
    ValidationVote,
)

__all__ = ["ID_PREFIXES", "LIMITS", "Model", "Refused", "clone", "fold", "unit_texts"]

R = TypeVar("R")
Rule = Callable[[Any, str], Iterator[str]]
"""A rule on a value at a path: gives the path of every part that breaks it."""

MAX_RECORD_BYTES = 2**20
MAX_DEPTH = 500
VISIBILITIES = ("private", "org", "network")
ID_PREFIXES = {"ReasoningTrace": "kp:trace:", "ToolCallPattern": "kp:pattern:", "ExpertSOP": "kp:sop:"}
SCOPES = ("read", "write", "admin")
TIERS = ("free", "pro", "enterprise")
LIMITS = {
    "anonymous": {"GET": 60, "POST": 0},
    "free": {"GET": 300, "POST": 30},
    "pro": {"GET": 1000, "POST": 200},
    "enterprise": {"GET": 10000, "POST": 2000},
}
AUDIT_LIFE = timedelta(days=90)
VIOLATION_LIFE = timedelta(hours=1)
VOTING_AGE = timedelta(days=30)
HISTORY_SHOWN = 50
TICK = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refused(Exception):  # noqa: N818 - the contract's word for it
    """The contract refuses the call with a ValidationError that names one of `paths`."""

    def __init__(self, paths: Collection[str]) -> None:
        super().__init__(", ".join(sorted(paths)))
        self.paths = frozenset(paths)


def fold(text: str) -> str:
    """The contract's Fold."""
    return unicodedata.normalize("NFC", text).casefold()


def clone(value: Any) -> Any:
    """A copy that shares no dict, list or record with the original."""
    if is_dataclass(value) and not isinstance(value, type):
        copy = object.__new__(type(value))
        for field in fields(value):
            object.__setattr__(copy, field.name, clone(getattr(value, field.name)))
        return copy
    if isinstance(value, dict):
        made = {}
        for key, item in value.items():
            made[key] = clone(item)
        return made
    if isinstance(value, (set, frozenset)):
        return type(value)(value)
    if isinstance(value, (list, tuple)):
        items = []
        for item in value:  # a loop, not a comprehension: half the frames of a deep document
            items.append(clone(item))  # noqa: PERF401
        return type(value)(items)
    return value


# --- rules on values -------------------------------------------------------------------------------


def _is_text(value: object) -> bool:
    return type(value) is str and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def _is_number(value: object) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and math.isfinite(value)


def _is_moment(value: object) -> bool:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        return False
    try:
        value.astimezone(UTC)
    except OverflowError:
        return False
    return True


def _holds(condition: Callable[[Any], bool]) -> Rule:
    def rule(value: Any, path: str) -> Iterator[str]:
        if not condition(value):
            yield path

    return rule


def _text(least: int = 0, most: float = math.inf) -> Rule:
    return _holds(lambda value: _is_text(value) and least <= len(value) <= most)


def _one_of(*known: str) -> Rule:
    return _holds(lambda value: type(value) is str and value in known)


def _number(least: float = -math.inf, most: float = math.inf) -> Rule:
    return _holds(lambda value: _is_number(value) and least <= value <= most)


def _integer(least: int, most: int = 2**63 - 1) -> Rule:
    return _holds(lambda value: type(value) is int and least <= value <= most)


def _optional(rule: Rule) -> Rule:
    return lambda value, path: iter(()) if value is None else rule(value, path)


def _list_of(rule: Rule, least: int = 0, kinds: tuple[type, ...] = (list,)) -> Rule:
    def check(value: Any, path: str) -> Iterator[str]:
        if type(value) not in kinds or len(value) < least:
            yield path
            return
        for index, item in enumerate(value):
            yield from rule(item, f"{path}[{index}]")

    return check


def _mapping_of(rule: Rule) -> Rule:
    def check(value: Any, path: str) -> Iterator[str]:
        if type(value) is not dict:
            yield path
            return
        for key, item in value.items():
            # The keys are data: how a path goes on after one is nowhere said.
            if not _is_text(key) or any(True for _ in rule(item, path)):
                yield path

    return check


def _shape(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    def check(value: Any, path: str) -> Iterator[str]:
        if type(value) is not dict:
            yield path
            return
        for key, rule in required.items():
            if key in value:
                yield from rule(value[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
        for key, rule in (optional or {}).items():
            if key in value:
                yield from rule(value[key], f"{path}.{key}")

    return check


def _json(value: Any, path: str, depth: int = 1) -> Iterator[str]:
    if value is None or type(value) is bool:
        return
    if type(value) is str:
        if not _is_text(value):
            yield path
    elif type(value) in (int, float):
        if not _is_number(value):
            yield path
    elif type(value) not in (dict, list):
        yield path
    elif depth > MAX_DEPTH:
        # No one part is to blame, and the path of the deepest would be as deep.
        yield re.split(r"[.\[]", path, maxsplit=1)[0]
    elif type(value) is list:
        for index, item in enumerate(value):
            yield from _json(item, f"{path}[{index}]", depth + 1)
    else:
        for key, item in value.items():
            if not _is_text(key):
                yield path
            elif re.fullmatch(r"[A-Za-z_@][A-Za-z0-9_@]*", key):
                yield from _json(item, f"{path}.{key}", depth + 1)
            else:
                # How a path goes on after an odd key is nowhere said.
                wrong = _json(item, path, depth + 1)
                yield from {path if one.startswith(path) else one for one in wrong}


_ID = _text(1, 512)
_MOMENT = _holds(_is_moment)
_BOOLEAN = _holds(lambda value: type(value) is bool)
_SHARE = _number(0, 1)
_ANY_OBJECT = _holds(lambda value: type(value) is dict)


def _is_iso_with_offset(value: object) -> bool:
    if not _is_text(value):
        return False
    try:
        return datetime.fromisoformat(str(value)).utcoffset() is not None
    except ValueError:
        return False


_UNIT_COMMON: dict[str, Rule] = {
    "@context": _one_of("https://openknowledgepulse.org/schema/v1"),
    "@type": _one_of(*ID_PREFIXES),
    "id": _ID,
    "metadata": _shape(
        {
            "created_at": _holds(_is_iso_with_offset),
            "task_domain": _text(1),
            "success": _BOOLEAN,
            "quality_score": _SHARE,
            "visibility": _one_of(*VISIBILITIES),
            "privacy_level": _one_of("aggregated", "federated", "private"),
        },
        {"agent_id": _text(0, 512), "framework": _text(), "validated_by": _list_of(_text())},
    ),
}

_UNIT_RULES: dict[str, Rule] = {
    "ReasoningTrace": _shape(
        {
            "task": _shape({"objective": _text(1)}, {"input_schema": _ANY_OBJECT}),
            "steps": _list_of(
                _shape(
                    {
                        "step_id": _integer(0),
                        "type": _one_of("thought", "tool_call", "observation", "error_recovery"),
                    },
                    {
                        "content": _text(),
                        "tool": _shape({"name": _text()}, {"mcp_server": _text()}),
                        "input": _ANY_OBJECT,
                        "output_summary": _text(),
                        "latency_ms": _number(0),
                    },
                ),
                least=1,
            ),
            "outcome": _shape({"result_summary": _text(), "confidence": _SHARE}),
        },
        {
            "source_skill": _text(),
            "knowledge_graph_delta": _shape(
                {
                    "entities": _list_of(_shape({"name": _text(), "type": _text()})),
                    "relationships": _list_of(_shape({"fact": _text(), "valid_from": _text()})),
                }
            ),
        },
    ),
    "ToolCallPattern": _shape(
        {
            "name": _text(1),
            "description": _text(),
            "trigger_conditions": _shape(
                {"task_types": _list_of(_text(), least=1)}, {"required_tools": _list_of(_text())}
            ),
            "tool_sequence": _list_of(
                _shape(
                    {
                        "step": _text(),
                        "execution": _one_of("parallel", "sequential"),
                        "tools": _list_of(
                            _shape(
                                {"name": _text()},
                                {"query_template": _text(), "input_template": _ANY_OBJECT},
                            )
                        ),
                    },
                    {"condition": _text()},
                ),
                least=1,
            ),
            "performance": _shape({"avg_ms": _number(0), "success_rate": _SHARE, "uses": _integer(0)}),
        }
    ),
    "ExpertSOP": _shape(
        {
            "name": _text(1),
            "domain": _text(1),
            "source": _shape(
                {
                    "type": _one_of("human_expert"),
                    "expert_id": _text(),
                    "credentials": _list_of(_text()),
                }
            ),
            "decision_tree": _list_of(
                _shape(
                    {"step": _text(), "instruction": _text()},
                    {
                        "criteria": _mapping_of(_text()),
                        "conditions": _mapping_of(_shape({"action": _text()}, {"sla_min": _number()})),
                        "tool_suggestions": _list_of(_shape({"name": _text(), "when": _text()})),
                    },
                ),
                least=1,
            ),
        },
        {
            "validation": _shape(
                {"test_cases": _list_of(_shape({"input": _ANY_OBJECT, "expected_output": _ANY_OBJECT}))}
            )
        },
    ),
}


def _unit(value: Any, path: str) -> Iterator[str]:
    yield from _shape(_UNIT_COMMON)(value, path)
    if type(value) is not dict:
        return
    yield from _json(value, path)
    kind, unit_id = value.get("@type"), value.get("id")
    if type(kind) is str and kind in _UNIT_RULES:
        yield from _UNIT_RULES[kind](value, path)
        prefix = ID_PREFIXES[kind]
        if type(unit_id) is str and not (unit_id.startswith(prefix) and len(unit_id) > len(prefix)):
            yield f"{path}.id"


_SKILL_RULES: dict[str, Rule] = {
    "id": _ID,
    "name": _text(),
    "description": _text(),
    "content": _text(),
    "version": _optional(_text()),
    "author": _optional(_text()),
    "domain": _optional(_text()),
    "tags": _list_of(_text(), kinds=(list, tuple)),
    "files": _mapping_of(_text()),
    "visibility": _one_of(*VISIBILITIES),
    "quality_score": _SHARE,
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
}
_ENTRY_RULES: dict[str, Rule] = {
    "id": _ID,
    "unit": _unit,
    "visibility": _one_of(*VISIBILITIES),
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
}
_VOTE_RULES: dict[str, Rule] = {
    "validator_id": _ID,
    "target_id": _ID,
    "unit_id": _ID,
    "valid": _BOOLEAN,
    "timestamp": _MOMENT,
}


def _size_bytes(record: Any) -> int:
    plain = {field.name: getattr(record, field.name) for field in fields(record)}
    return len(json.dumps(plain, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))


def _record(kind: type, rules: Mapping[str, Rule]) -> Rule:
    def check(value: Any, path: str) -> Iterator[str]:
        if type(value) is not kind:
            yield path
            return
        wrong = [bad for name, rule in rules.items() for bad in rule(getattr(value, name), f"{path}.{name}")]
        yield from wrong
        if not wrong and _size_bytes(value) > MAX_RECORD_BYTES:
            yield path

    return check


_SKILL = _record(StoredSkill, _SKILL_RULES)
_VOTE = _record(ValidationVote, _VOTE_RULES)


def _entry(value: Any, path: str) -> Iterator[str]:
    wrong = list(_record(StoredKnowledgeUnit, _ENTRY_RULES)(value, path))
    yield from wrong
    if type(value) is StoredKnowledgeUnit and type(value.unit) is dict:
        inner = value.unit.get("id")
        if type(inner) is str and type(value.id) is str and inner != value.id:
            # The two disagree, and either may be called the wrong one.
            yield from (f"{path}.id", f"{path}.unit.id")


def _details_fit(value: Any, path: str) -> Iterator[str]:
    if type(value) is not dict:
        yield path
        return
    wrong = list(_json(value, path))
    yield from wrong
    if not wrong and len(json.dumps(value, ensure_ascii=False).encode()) > MAX_RECORD_BYTES:
        yield path


def _small(rule: Rule) -> Rule:
    """The rule on a text that is part of a record which must stay under the limit."""

    def check(value: Any, path: str) -> Iterator[str]:
        wrong = list(rule(value, path))
        yield from wrong
        if not wrong and len(value.encode()) > MAX_RECORD_BYTES:
            yield path

    return check


def _tag_filter(value: Any, path: str) -> Iterator[str]:
    # None and any empty collection or text is no filter.
    if value is None or (type(value) is str and not value):
        return
    if type(value) not in (list, tuple, set, frozenset) or not all(map(_is_text, value)):
        yield path


def _type_filter(value: Any, path: str) -> Iterator[str]:
    wrong = list(_tag_filter(value, path))
    yield from wrong
    if not wrong and any(item not in ID_PREFIXES for item in value or ()):
        yield path


def _scopes(value: Any, path: str) -> Iterator[str]:
    listed = type(value) in (list, tuple, set, frozenset) and len(value) > 0
    if not listed or not all(type(item) is str and item in SCOPES for item in value):
        yield path


_PAGE: dict[str, Rule] = {"offset": _integer(0), "limit": _integer(0, 1000)}
_BATCH = _integer(1)
_DURATION = _holds(lambda value: isinstance(value, timedelta))


def _require(rules: Mapping[str, Rule], arguments: Mapping[str, Any]) -> None:
    wrong = {bad for name, rule in rules.items() if name in arguments for bad in rule(arguments[name], name)}
    if wrong:
        raise Refused(wrong)


def _page(items: list[R], offset: int, limit: int) -> Page[R]:
    return Page([clone(item) for item in items[offset : offset + limit]], len(items), offset, limit)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _seconds(duration: timedelta) -> Fraction:
    return Fraction(duration // TICK, 10**6)


# --- the stores ------------------------------------------------------------------------------------


class ModelSkills:
    """The reference of `stores.skills`."""

    def __init__(self) -> None:
        self.records: list[StoredSkill] = []

    def create(self, skill: StoredSkill) -> StoredSkill:
        """SKILL-1."""
        _require({"skill": _SKILL}, {"skill": skill})
        return self._put(skill)

    def _put(self, skill: StoredSkill) -> StoredSkill:
        kept = replace(
            clone(skill),
            tags=tuple(skill.tags),
            quality_score=float(skill.quality_score),
            created_at=_utc(skill.created_at),
            updated_at=_utc(skill.updated_at),
        )
        for index, record in enumerate(self.records):
            if record.id == kept.id:
                self.records[index] = kept
                break
        else:
            self.records.append(kept)
        copy: StoredSkill = clone(kept)
        return copy

    def create_many(self, skills: Iterable[StoredSkill]) -> int:
        """SKILL-7."""
        _require({"skills": _list_of(_SKILL, kinds=(list, tuple))}, {"skills": skills})
        return len([self._put(skill) for skill in skills])

    def get_by_id(self, id: str) -> StoredSkill | None:
        """SKILL-2."""
        _require({"id": _ID}, {"id": id})
        return next((clone(record) for record in self.records if record.id == id), None)

    def delete(self, id: str) -> bool:
        """SKILL-6."""
        _require({"id": _ID}, {"id": id})
        before = len(self.records)
        self.records = [record for record in self.records if record.id != id]
        return len(self.records) < before

    def search(
        self,
        *,
        query: str | None = None,
        domain: str | None = None,
        tags: Collection[str] | None = None,
        min_quality: float | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[StoredSkill]:
        """SKILL-3, SKILL-4, SKILL-5."""
        _require(
            {
                "query": _optional(_text()),
                "domain": _optional(_text()),
                "tags": _tag_filter,
                "min_quality": _optional(_SHARE),
                **_PAGE,
            },
            locals(),
        )
        found = []
        for record in self.records:
            texts = [record.name, record.description, *record.tags]
            if query and not any(fold(query) in fold(text) for text in texts):
                continue
            if domain and (record.domain is None or fold(record.domain) != fold(domain)):
                continue
            if tags and not any(fold(tag) == fold(own) for tag in tags for own in record.tags):
                continue
            if min_quality is not None and not record.quality_score >= min_quality:
                continue
            found.append(record)
        found.sort(key=lambda record: -record.quality_score)
        return _page(found, offset, limit)

    def scan(self, batch_size: int = 500) -> list[StoredSkill]:
        """PAGE-4."""
        _require({"batch_size": _BATCH}, {"batch_size": batch_size})
        return [clone(record) for record in self.records]


def unit_texts(unit: Mapping[str, Any]) -> list[str]:
    """The texts of a unit that a query looks into (KNOW-4)."""
    if unit["@type"] == "ReasoningTrace":
        steps = [step["content"] for step in unit["steps"] if "content" in step]
        return [unit["task"]["objective"], *steps]
    if unit["@type"] == "ToolCallPattern":
        return [unit["name"], unit["description"]]
    return [unit["name"], unit["domain"]]


class ModelKnowledge:
    """The reference of `stores.knowledge`."""

    def __init__(self) -> None:
        self.records: list[StoredKnowledgeUnit] = []

    def create(self, entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        """KNOW-1."""
        _require({"entry": _entry}, {"entry": entry})
        return self._put(entry)

    def _put(self, entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        kept = replace(clone(entry), created_at=_utc(entry.created_at), updated_at=_utc(entry.updated_at))
        for index, record in enumerate(self.records):
            if record.id == kept.id:
                self.records[index] = kept
                break
        else:
            self.records.append(kept)
        copy: StoredKnowledgeUnit = clone(kept)
        return copy

    def create_many(self, entries: Iterable[StoredKnowledgeUnit]) -> int:
        """KNOW-2."""
        _require({"entries": _list_of(_entry, kinds=(list, tuple))}, {"entries": entries})
        return len([self._put(entry) for entry in entries])

    def get_by_id(self, id: str) -> StoredKnowledgeUnit | None:
        """KNOW-2."""
        _require({"id": _ID}, {"id": id})
        return next((clone(record) for record in self.records if record.id == id), None)

    def delete(self, id: str) -> bool:
        """KNOW-2."""
        _require({"id": _ID}, {"id": id})
        before = len(self.records)
        self.records = [record for record in self.records if record.id != id]
        return len(self.records) < before

    def search(
        self,
        *,
        query: str | None = None,
        types: Collection[str] | None = None,
        domain: str | None = None,
        min_quality: float | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[StoredKnowledgeUnit]:
        """KNOW-3, KNOW-4, KNOW-5."""
        _require(
            {
                "query": _optional(_text()),
                "types": _type_filter,
                "domain": _optional(_text()),
                "min_quality": _optional(_SHARE),
                **_PAGE,
            },
            locals(),
        )
        found = []
        for record in self.records:
            metadata = record.unit["metadata"]
            if query and not any(fold(query) in fold(text) for text in unit_texts(record.unit)):
                continue
            if types and record.unit["@type"] not in types:
                continue
            if domain and fold(metadata["task_domain"]) != fold(domain):
                continue
            if min_quality is not None and not metadata["quality_score"] >= min_quality:
                continue
            found.append(record)
        found.sort(key=lambda record: -record.unit["metadata"]["quality_score"])
        return _page(found, offset, limit)

    def get_by_agent_id(self, agent_id: str) -> list[StoredKnowledgeUnit]:
        """KNOW-6."""
        _require({"agent_id": _ID}, {"agent_id": agent_id})
        return [clone(r) for r in self.records if r.unit["metadata"].get("agent_id") == agent_id]

    def scan(self, batch_size: int = 500) -> list[StoredKnowledgeUnit]:
        """PAGE-4."""
        _require({"batch_size": _BATCH}, {"batch_size": batch_size})
        return [clone(record) for record in self.records]


@dataclass
class ModelAgent:
    """What the reference knows of one agent."""

    agent_id: str
    first_seen: datetime
    updated_at: datetime
    score: float = 0.0
    contributions: int = 0
    validations: int = 0


class ModelReputation:
    """The reference of `stores.reputation`."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.agents: list[ModelAgent] = []
        self.history: list[tuple[str, HistoryEntry]] = []
        self.votes: list[ValidationVote] = []

    def _agent(self, agent_id: str) -> ModelAgent | None:
        return next((agent for agent in self.agents if agent.agent_id == agent_id), None)

    def _history(self, agent_id: str) -> list[HistoryEntry]:
        return [entry for owner, entry in self.history if owner == agent_id]

    def _shown(self, agent: ModelAgent) -> ReputationRecord:
        return ReputationRecord(
            agent_id=agent.agent_id,
            score=agent.score,
            contributions=agent.contributions,
            validations=agent.validations,
            history=self._history(agent.agent_id)[-HISTORY_SHOWN:],
            updated_at=agent.updated_at,
        )

    def upsert(self, agent_id: str, delta: float, reason: str) -> ReputationRecord:
        """REP-1."""
        _require({"agent_id": _ID, "delta": _number(), "reason": _small(_text())}, locals())
        now, agent = self._now(), self._agent(agent_id)
        total = (agent.score if agent else 0.0) + float(delta)
        if not math.isfinite(total):
            raise Refused({"delta"})
        if agent is None:
            agent = ModelAgent(agent_id, now, now)
            self.agents.append(agent)
        agent.score = total if total > 0 else 0.0
        agent.contributions += 1 if delta > 0 else 0
        agent.validations += 1 if "Validated" in reason else 0
        agent.updated_at = now
        self.history.append((agent_id, HistoryEntry(now, float(delta), reason)))
        return self._shown(agent)

    def get(self, agent_id: str) -> ReputationRecord | None:
        """REP-2."""
        _require({"agent_id": _ID}, {"agent_id": agent_id})
        agent = self._agent(agent_id)
        return None if agent is None else self._shown(agent)

    def get_history(self, agent_id: str, *, offset: int = 0, limit: int = 20) -> Page[HistoryEntry]:
        """REP-2."""
        _require({"agent_id": _ID, **_PAGE}, locals())
        return _page(self._history(agent_id), offset, limit)

    def get_leaderboard(self, *, offset: int = 0, limit: int = 20) -> Page[ReputationRecord]:
        """REP-3."""
        _require(_PAGE, locals())
        best_first = sorted(self.agents, key=lambda agent: -agent.score)
        return _page([self._shown(agent) for agent in best_first], offset, limit)

    def get_all(self) -> list[ReputationRecord]:
        """REP-3."""
        return [self._shown(agent) for agent in self.agents]

    def record_vote(self, vote: ValidationVote) -> None:
        """REP-4."""
        _require({"vote": _VOTE}, {"vote": vote})
        self.votes.append(replace(vote, timestamp=_utc(vote.timestamp)))

    def get_votes(self, unit_id: str | None = None) -> list[ValidationVote]:
        """REP-4."""
        _require({"unit_id": _optional(_ID)}, {"unit_id": unit_id})
        return [clone(vote) for vote in self.votes if unit_id is None or vote.unit_id == unit_id]

    def can_vote(self, agent_id: str) -> bool:
        """REP-5."""
        _require({"agent_id": _ID}, {"agent_id": agent_id})
        agent = self._agent(agent_id)
        return agent is not None and self._now() - agent.first_seen >= VOTING_AGE

    def scan(self, batch_size: int = 500) -> list[ReputationRecord]:
        """PAGE-4."""
        _require({"batch_size": _BATCH}, {"batch_size": batch_size})
        return self.get_all()


class ModelApiKeys:
    """The reference of `stores.api_keys`; its raw keys are made up, and no secret."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.keys: list[NewApiKey] = []

    def create(self, agent_id: str, scopes: Collection[str], tier: str) -> NewApiKey:
        """KEY-1, KEY-2."""
        _require({"agent_id": _ID, "scopes": _scopes, "tier": _one_of(*TIERS)}, locals())
        raw_key = "kp_" + hashlib.sha256(f"key {len(self.keys)} of the model".encode()).hexdigest()
        record = ApiKeyRecord(
            key_hash=hashlib.sha256(raw_key.encode()).hexdigest(),
            key_prefix=raw_key[:11],
            agent_id=agent_id,
            scopes=frozenset(scopes),
            tier=tier,
            created_at=self._now(),
        )
        self.keys.append(NewApiKey(raw_key, record))
        return self.keys[-1]

    def verify(self, raw_key: str) -> ApiKeyRecord | None:
        """KEY-3."""
        if not isinstance(raw_key, str):
            raise Refused({"raw_key"})
        return next((k.record for k in self.keys if k.raw_key == raw_key and not k.record.revoked), None)

    def revoke(self, key_prefix: str) -> bool:
        """KEY-4."""
        _require({"key_prefix": _ID}, {"key_prefix": key_prefix})
        for index, key in enumerate(self.keys):
            if key.record.key_prefix == key_prefix and not key.record.revoked:
                revoked = replace(key.record, revoked=True, revoked_at=self._now())
                self.keys[index] = NewApiKey(key.raw_key, revoked)
                return True
        return False

    def get_by_agent_id(self, agent_id: str) -> list[ApiKeyRecord]:
        """KEY-5."""
        _require({"agent_id": _ID}, {"agent_id": agent_id})
        return [key.record for key in self.keys if key.record.agent_id == agent_id]

    def scan(self, batch_size: int = 500) -> list[ApiKeyRecord]:
        """PAGE-4."""
        _require({"batch_size": _BATCH}, {"batch_size": batch_size})
        return [key.record for key in self.keys]


@dataclass(frozen=True)
class ModelBucket:
    """`tokens` at the instant `since`, last used with `capacity`."""

    tokens: Fraction
    since: datetime
    capacity: int

    def full_after(self, tokens: int | None = None) -> timedelta:
        """How long after `since` it holds `tokens` (all, by default), rounded up to a microsecond."""
        missing = max(Fraction(0), (self.capacity if tokens is None else tokens) - self.tokens)
        return timedelta(microseconds=math.ceil(missing * 60 * 10**6 / self.capacity))


class ModelRateLimit:
    """The reference of `stores.rate_limit`."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.buckets: dict[tuple[str, str], ModelBucket] = {}
        self.violations: list[tuple[str, datetime]] = []

    def consume(self, identifier: str, tier: str, method: str) -> RateLimitDecision:
        """RATE-1, RATE-2, RATE-3."""
        _require({"identifier": _ID, "tier": _text(), "method": _one_of("GET", "POST")}, locals())
        limit = LIMITS.get(tier, LIMITS["anonymous"])[method]
        now = self._now()
        unix_s = (now - EPOCH) // timedelta(seconds=1)
        if limit == 0:
            return RateLimitDecision(False, 0, 0, unix_s + 60, 60)
        tokens, since = Fraction(limit), now
        bucket = self.buckets.get((identifier, method))
        if bucket is not None:
            elapsed_s = max(Fraction(0), _seconds(now - bucket.since))
            if bucket.tokens + elapsed_s * bucket.capacity / 60 < bucket.capacity:
                tokens = min(Fraction(limit), bucket.tokens + elapsed_s * limit / 60)
                since = max(now, bucket.since)
        # A clock that went back has this far to go until the bucket fills on.
        behind_s = _seconds(since - now)
        if tokens < 1:
            retry_after = math.ceil(behind_s + (1 - tokens) * 60 / limit)
            return RateLimitDecision(False, 0, limit, unix_s + retry_after, retry_after)
        tokens -= 1
        self.buckets[identifier, method] = ModelBucket(tokens, since, limit)
        reset = unix_s + math.ceil(behind_s + (limit - tokens) * 60 / limit)
        return RateLimitDecision(True, math.floor(tokens), limit, reset, None)

    def record_429(self, identifier: str) -> None:
        """RATE-5."""
        _require({"identifier": _ID}, {"identifier": identifier})
        self.violations.append((identifier, self._now()))

    def get_429_count(self, identifier: str, window: timedelta) -> int:
        """RATE-5."""
        _require({"identifier": _ID, "window": _DURATION}, locals())
        # Ages, not instants: `now - window` may lie outside the years that a datetime has.
        ages = [self._now() - moment for owner, moment in self.violations if owner == identifier]
        return len([age for age in ages if timedelta(0) <= age < window and age <= VIOLATION_LIFE])


class ModelAuditLog:
    """The reference of `stores.audit_log`; its ids are made up."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.entries: list[AuditLogEntry] = []

    def log(
        self,
        action: str,
        agent_id: str,
        resource_type: str,
        resource_id: str,
        ip: str,
        details: dict[str, Any] | None = None,
    ) -> AuditLogEntry:
        """AUDIT-1."""
        _require(
            {
                "action": _small(_text()),
                "agent_id": _ID,
                "resource_type": _small(_text()),
                "resource_id": _ID,
                "ip": _small(_text()),
                "details": _optional(_details_fit),
            },
            locals(),
        )
        entry = AuditLogEntry(
            id=str(uuid.UUID(int=len(self.entries) + 1, version=4)),
            action=action,
            agent_id=agent_id,
            resource_type=resource_type,
            resource_id=resource_id,
            timestamp=self._now(),
            ip=ip,
            details=clone(details),
        )
        self.entries.append(entry)
        copy: AuditLogEntry = clone(entry)
        return copy

    def _live(self) -> list[AuditLogEntry]:
        return [entry for entry in self.entries if self._now() - entry.timestamp <= AUDIT_LIFE]

    def query(
        self,
        *,
        agent_id: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[AuditLogEntry]:
        """AUDIT-2, AUDIT-3."""
        _require(
            {
                "agent_id": _optional(_text(0, 512)),
                "action": _optional(_text()),
                "since": _optional(_MOMENT),
                "until": _optional(_MOMENT),
                **_PAGE,
            },
            locals(),
        )
        found = [
            entry
            for entry in self._live()
            if (agent_id is None or entry.agent_id == agent_id)
            and (action is None or entry.action == action)
            and (since is None or since <= entry.timestamp)
            and (until is None or entry.timestamp <= until)
        ]
        return _page(found, offset, limit)

    def scan(self, batch_size: int = 500) -> list[AuditLogEntry]:
        """PAGE-4."""
        _require({"batch_size": _BATCH}, {"batch_size": batch_size})
        return [clone(entry) for entry in self._live()]


class Model:
    """The six stores on one clock of their own.

    Args:
        start: what the clock shows at first; an aware `datetime`.
    """

    def __init__(self, start: datetime) -> None:
        self.now = _utc(start)
        self.latest = self.now
        self.skills = ModelSkills()
        self.knowledge = ModelKnowledge()
        self.reputation = ModelReputation(self._clock)
        self.api_keys = ModelApiKeys(self._clock)
        self.rate_limit = ModelRateLimit(self._clock)
        self.audit_log = ModelAuditLog(self._clock)

    def _clock(self) -> datetime:
        return self.now

    def set_clock(self, to: datetime) -> None:
        """Show `to`, earlier or later."""
        self.now = _utc(to)
        self.latest = max(self.latest, self.now)

    def earliest(self) -> datetime:
        """How far back the clock may be set: what has expired, or filled up, may be gone for good, so whether
        it is there again on an earlier clock is nowhere said.
        """
        lives = [(entry.timestamp, AUDIT_LIFE) for entry in self.audit_log.entries]
        lives += [(moment, VIOLATION_LIFE) for _, moment in self.rate_limit.violations]
        gone = [moment + life + TICK for moment, life in lives if self.latest - moment > life]
        full = [bucket.since + bucket.full_after() for bucket in self.rate_limit.buckets.values()]
        gone += [moment for moment in full if self.latest >= moment]
        return max(gone, default=datetime.min.replace(tzinfo=UTC))
