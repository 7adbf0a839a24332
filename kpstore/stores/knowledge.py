"""The knowledge store: reasoning traces, tool-call patterns and expert SOPs (clauses KNOW-1 to KNOW-7)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from kpstore.errors import ConfigurationError, ValidationError
from kpstore.records import Page, ScoredUnit, StoredKnowledgeUnit
from kpstore.stores import rules
from kpstore.stores.base import fold_all, sort_quality
from kpstore.stores.documents import (
    Document,
    DocumentQuery,
    DocumentStore,
    Progress,
    folded_filter,
    quality_filter,
)
from kpstore.text import fold
from kpstore.units import ID_PREFIXES, check_unit


class Embedder(Protocol):
    """Turns texts into vectors, for backends with the capability `vector_search`."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order."""


class KnowledgeStore(DocumentStore[StoredKnowledgeUnit]):
    """Knowledge units by id, by agent, and by search."""

    _record = StoredKnowledgeUnit

    # Hook -----------------------------------------------------------------

    @abstractmethod
    async def _by_agent(self, agent_id: str) -> list[bytes]:
        """The bodies of all documents with exactly this `agent_id`, by position, as of one moment."""

    # Rules ----------------------------------------------------------------

    async def create(self, entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        """Store a unit; the same id replaces the old one whole and keeps its place in insertion order.

        Returns:
            The record as stored, its datetimes in UTC.

        Raises:
            ValidationError: the unit is none of the three documents, or a field
                breaks a rule; nothing was written.
        """
        return await self._create(entry, "entry")

    async def create_many(
        self, entries: Iterable[StoredKnowledgeUnit], *, progress: Progress | None = None
    ) -> int:
        """Store all of them or none, as if created one after another; returns how many were given.

        Args:
            entries: any number of them, from any iterable.
            progress: told how many have been checked, every 1,000 records, and when all are stored.
        """
        return await self._create_many(entries, "entries", progress)

    async def search(
        self,
        *,
        query: str | None = None,
        types: Collection[str] | None = None,
        domain: str | None = None,
        min_quality: float | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[StoredKnowledgeUnit]:
        """The units that pass every filter, best `metadata.quality_score` first.

        Args:
            query: a substring, under folding, of one of a trace's `task.objective`
                and `steps[].content`, a pattern's `name` and `description`, or an
                SOP's `name` and `domain`.
            types: any of `ReasoningTrace`, `ToolCallPattern`, `ExpertSOP`.
            domain: `metadata.task_domain`, equal under folding.
            min_quality: the lowest quality, in 0..1.
            offset: how many matches to pass over.
            limit: how many to return, 0 to 1000; 0 only counts.
        """
        self._check_open()
        bounds = rules.page(offset, limit)
        wanted = DocumentQuery(
            text=await folded_filter(query, "query"),
            types=_type_filter(types),
            domain=await folded_filter(domain, "domain"),
            min_quality=quality_filter(min_quality),
        )
        return await self._page(wanted, *bounds)

    async def get_by_agent_id(self, agent_id: str) -> list[StoredKnowledgeUnit]:
        """All units whose `metadata.agent_id` is exactly this, in insertion order."""
        self._check_open()
        return await self._codec.decode_all(await self._by_agent(rules.identifier(agent_id, "agent_id")))

    async def search_similar(
        self,
        *,
        text: str | None = None,
        vector: Sequence[float] | None = None,
        types: Collection[str] | None = None,
        domain: str | None = None,
        min_quality: float | None = None,
        limit: int = 10,
    ) -> list[ScoredUnit]:
        """The nearest units by cosine; a `ConfigurationError` without the capability `vector_search`."""
        self._check_open()
        raise ConfigurationError(
            f"the backend at {self._context.location} has no vector_search; "
            "stores.capabilities tells which backend has"
        )

    async def _document(self, record: StoredKnowledgeUnit, name: str) -> Document:
        return unit_document(record, self._encode(record, name), await fold_all(unit_texts(record.unit)))

    async def _checked(self, given: object, name: str) -> StoredKnowledgeUnit:
        fields = rules.fields_of(given, StoredKnowledgeUnit, name)
        id = rules.identifier(fields["id"], f"{name}.id")
        visibility = rules.choice(fields["visibility"], f"{name}.visibility", rules.VISIBILITIES)
        created_at = rules.moment(fields["created_at"], f"{name}.created_at")
        updated_at = rules.moment(fields["updated_at"], f"{name}.updated_at")
        if type(fields["unit"]) is not dict:
            raise ValidationError(f"{name}.unit", "must be an object")
        unit = await rules.json_value(fields["unit"], f"{name}.unit", self._context.max_record_bytes)
        check_unit(unit, f"{name}.unit")
        if unit["id"] != id:
            raise ValidationError(f"{name}.id", "must equal unit.id")
        if len(unit["metadata"].get("agent_id", "")) > rules.MAX_IDENTIFIER:
            raise ValidationError(
                f"{name}.unit.metadata.agent_id", f"must be at most {rules.MAX_IDENTIFIER} characters long"
            )
        return StoredKnowledgeUnit(id, unit, visibility, created_at, updated_at)


def _type_filter(types: object) -> frozenset[str]:
    return frozenset(
        rules.choice(kind, f"types[{index}]", ID_PREFIXES)
        for index, kind in enumerate(rules.filter_texts(types, "types"))
    )


def unit_document(entry: StoredKnowledgeUnit, body: bytes, texts: tuple[str, ...]) -> Document:
    """What a backend keeps of a unit; `texts` are its `unit_texts`, folded.

    Also for a unit that today's rules would refuse, as far as it goes.
    """
    unit = entry.unit
    metadata = _mapping(unit.get("metadata"))
    domain, agent_id = metadata.get("task_domain"), metadata.get("agent_id")
    kind = unit.get("@type")
    return Document(
        id=entry.id,
        body=body,
        quality=sort_quality(metadata.get("quality_score")),
        texts=texts,
        domain=fold(domain) if isinstance(domain, str) else None,
        type=kind if isinstance(kind, str) else "",
        agent_id=agent_id if isinstance(agent_id, str) else None,
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def unit_texts(unit: dict[str, Any]) -> list[str]:
    """What a query looks into (clause KNOW-4)."""
    return [text for text in _searched(unit) if isinstance(text, str)]


def _searched(unit: dict[str, Any]) -> list[object]:
    match unit.get("@type"):
        case "ReasoningTrace":
            steps = unit.get("steps")
            contents = [_mapping(step).get("content") for step in steps] if isinstance(steps, list) else []
            return [_mapping(unit.get("task")).get("objective"), *contents]
        case "ToolCallPattern":
            return [unit.get("name"), unit.get("description")]
        case "ExpertSOP":
            return [unit.get("name"), unit.get("domain")]
        case _:
            return []
