"""The skill store: SKILL.md files, found by text, domain, tags and quality (clauses SKILL-1 to SKILL-7)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from kpstore.errors import ValidationError
from kpstore.records import Page, StoredSkill
from kpstore.stores import rules
from kpstore.stores.base import fold_all, sort_quality
from kpstore.stores.documents import (
    Document,
    DocumentQuery,
    DocumentStore,
    Progress,
    folded_filter,
    quality_filter,
    turn_if_large,
)
from kpstore.text import fold


class SkillStore(DocumentStore[StoredSkill]):
    """Skills by id, and by search."""

    _record = StoredSkill

    async def create(self, skill: StoredSkill) -> StoredSkill:
        """Store a skill; the same id replaces the old one whole and keeps its place in insertion order.

        Returns:
            The record as stored, its datetimes in UTC.

        Raises:
            ValidationError: a field breaks a rule; nothing was written.
        """
        return await self._create(skill, "skill")

    async def create_many(self, skills: Iterable[StoredSkill], *, progress: Progress | None = None) -> int:
        """Store all of them or none, as if created one after another; returns how many were given.

        Args:
            skills: any number of them, from any iterable.
            progress: told how many have been checked, every 1,000 records, and when all are stored.
        """
        return await self._create_many(skills, "skills", progress)

    async def search(
        self,
        *,
        query: str | None = None,
        domain: str | None = None,
        tags: Collection[str] | None = None,
        min_quality: float | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[StoredSkill]:
        """The skills that pass every filter, best quality first.

        Args:
            query: a substring, under folding, of the name, the description or one tag.
            domain: equal under folding.
            tags: at least one of them, equal under folding.
            min_quality: the lowest quality, in 0..1.
            offset: how many matches to pass over.
            limit: how many to return, 0 to 1000; 0 only counts.
        """
        self._check_open()
        bounds = rules.page(offset, limit)
        wanted = DocumentQuery(
            text=await folded_filter(query, "query"),
            domain=await folded_filter(domain, "domain"),
            tags=frozenset(await fold_all(rules.filter_texts(tags, "tags"))),
            min_quality=quality_filter(min_quality),
        )
        return await self._page(wanted, *bounds)

    async def _document(self, record: StoredSkill, name: str) -> Document:
        body = self._encode(record, name)
        await turn_if_large(body)
        texts = await fold_all(skill_texts(record))
        await turn_if_large(body)
        return skill_document(record, body, texts)

    async def _checked(self, given: object, name: str) -> StoredSkill:
        fields = rules.fields_of(given, StoredSkill, name)
        if not issubclass(type(fields["tags"]), (list, tuple)):
            raise ValidationError(f"{name}.tags", "must be a list of texts")
        if type(fields["files"]) is not dict:
            raise ValidationError(f"{name}.files", "must map paths to texts")
        tags = rules.texts(fields["tags"], f"{name}.tags")
        checked = StoredSkill(
            id=rules.identifier(fields["id"], f"{name}.id"),
            name=self._text(fields["name"], f"{name}.name"),
            description=self._text(fields["description"], f"{name}.description"),
            content=self._text(fields["content"], f"{name}.content"),
            version=self._optional_text(fields["version"], f"{name}.version"),
            author=self._optional_text(fields["author"], f"{name}.author"),
            domain=self._optional_text(fields["domain"], f"{name}.domain"),
            tags=tags,
            visibility=rules.choice(fields["visibility"], f"{name}.visibility", rules.VISIBILITIES),
            quality_score=rules.number(fields["quality_score"], f"{name}.quality_score", 0, 1),
            created_at=rules.moment(fields["created_at"], f"{name}.created_at"),
            updated_at=rules.moment(fields["updated_at"], f"{name}.updated_at"),
        )
        files = await rules.json_value(fields["files"], f"{name}.files", self._context.max_record_bytes)
        for path, content in files.items():
            if not isinstance(content, str):
                raise ValidationError(f"{name}.files.{path}", "must be text")
        return replace(checked, files=files)


def skill_texts(skill: StoredSkill) -> tuple[str, ...]:
    """What a query looks into (clause SKILL-4): the name, the description, the tags."""
    return (skill.name, skill.description, *skill.tags)


def skill_document(skill: StoredSkill, body: bytes, texts: tuple[str, ...]) -> Document:
    """What a backend keeps of a skill; `texts` are its `skill_texts`, folded."""
    return Document(
        id=skill.id,
        body=body,
        quality=sort_quality(skill.quality_score),
        texts=texts,
        domain=None if skill.domain is None else fold(skill.domain),
        tags=frozenset(texts[2:]),
    )
