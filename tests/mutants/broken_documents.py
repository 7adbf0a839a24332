"""Mutants of the skill and knowledge stores, and of pages, order and scans."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from kpstore import AllStores, Page, StoredKnowledgeUnit, StoredSkill, ValidationError
from kpstore.backends.sqlite.search import _last_change
from mutants.registry import mutant, patch

# Pages ------------------------------------------------------------------------


async def _everything(search: Any, filters: dict[str, Any]) -> list[Any]:
    """All matches of a correct search, page by page."""
    found: list[Any] = []
    while True:
        page = await search(**filters, offset=len(found), limit=1000)
        found += page.data
        if len(found) >= page.total:
            return found


def _research(store: Any, change: Any) -> None:
    """Let a search return what `change(records, offset, limit)` makes of all its matches."""
    search = store.search

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[Any]:
        await search(**filters, offset=offset, limit=limit)  # bad bounds are refused all the same
        data, total = change(await _everything(search, filters), offset, limit)
        return Page(data, total, offset, limit)

    patch(store, search=mutated)


@mutant("PAGE-1")
def total_counted_after_the_page_is_cut(stores: AllStores) -> None:
    """`total` is the length of the page."""
    _research(
        stores.skills,
        lambda all_, offset, limit: (all_[offset : offset + limit], len(all_[offset : offset + limit])),
    )


@mutant("PAGE-1")
def total_counts_what_is_left(stores: AllStores) -> None:
    """`total` leaves out what the offset passed over."""
    _research(
        stores.knowledge, lambda all_, offset, limit: (all_[offset : offset + limit], len(all_[offset:]))
    )


@mutant("PAGE-1")
def default_limit_of_ten(stores: AllStores) -> None:
    """The default limit is 10."""
    search = stores.skills.search

    async def mutated(*, limit: int = 10, **rest: Any) -> Page[StoredSkill]:
        return await search(limit=limit, **rest)

    patch(stores.skills, search=mutated)


@mutant("PAGE-2")
def negative_offset_slices_from_the_end(stores: AllStores) -> None:
    """A negative offset is Python's slice."""
    search = stores.skills.search

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[StoredSkill]:
        if offset >= 0:
            return await search(offset=offset, limit=limit, **filters)
        found = await _everything(search, filters)
        return Page(found[offset:][:limit], len(found), offset, limit)

    patch(stores.skills, search=mutated)


@mutant("PAGE-2")
def limit_zero_is_no_limit(stores: AllStores) -> None:
    """`limit=0` returns everything, as in many SQL wrappers."""
    _research(
        stores.skills,
        lambda all_, offset, limit: (all_[offset : offset + limit] if limit else all_[offset:], len(all_)),
    )


@mutant("PAGE-2")
def limit_over_1000_is_clamped(stores: AllStores) -> None:
    """A limit over 1000 counts as 1000 instead of being refused."""
    search = stores.knowledge.search

    async def mutated(*, limit: int = 20, **rest: Any) -> Page[StoredKnowledgeUnit]:
        return await search(limit=min(limit, 1000) if isinstance(limit, int) else limit, **rest)

    patch(stores.knowledge, search=mutated)


@mutant("PAGE-2")
def offset_past_the_end_is_an_error(stores: AllStores) -> None:
    """An offset past the end raises."""
    search = stores.skills.search

    async def mutated(*, offset: int = 0, **rest: Any) -> Page[StoredSkill]:
        page = await search(offset=offset, **rest)
        if offset > page.total:
            raise ValidationError("offset", "is past the end")
        return page

    patch(stores.skills, search=mutated)


@mutant("PAGE-3")
def ties_newest_first(stores: AllStores) -> None:
    """Equal qualities are ordered by the latest insertion."""
    _research(
        stores.skills,
        lambda all_, offset, limit: (
            sorted(all_, key=lambda skill: skill.quality_score)[::-1][offset : offset + limit],
            len(all_),
        ),
    )


@mutant("PAGE-3")
def ties_by_id(stores: AllStores) -> None:
    """Equal qualities are ordered by id."""
    _research(
        stores.knowledge,
        lambda all_, offset, limit: (
            sorted(all_, key=lambda e: (-e.unit["metadata"]["quality_score"], e.id))[offset : offset + limit],
            len(all_),
        ),
    )


@mutant("PAGE-3")
def offset_applied_twice(stores: AllStores) -> None:
    """The offset is applied in the query and once more on its result."""
    _research(stores.skills, lambda all_, offset, limit: (all_[2 * offset : 2 * offset + limit], len(all_)))


@mutant("PAGE-3")
def pages_of_an_unstable_order(stores: AllStores) -> None:
    """A page is sorted, not the whole result."""
    _research(
        stores.skills,
        lambda all_, offset, limit: (
            sorted(
                sorted(all_, key=lambda skill: skill.id)[offset : offset + limit],
                key=lambda s: -s.quality_score,
            ),
            len(all_),
        ),
    )


# Scans ------------------------------------------------------------------------


@mutant("PAGE-4")
def scan_by_offset_skips_on_delete(stores: AllStores) -> None:
    """The scan goes on at an offset, so a deletion behind it moves one record out of its sight."""
    scan = stores.skills.scan

    async def mutated(batch_size: int = 500) -> AsyncIterator[StoredSkill]:
        offset = 0
        while batch := [skill async for skill in scan()][offset : offset + batch_size]:
            for skill in batch:
                yield skill
            offset += len(batch)

    patch(stores.skills, scan=mutated)


@mutant("PAGE-4")
def scan_by_quality(stores: AllStores) -> None:
    """The scan is in the order of a search."""
    scan = stores.knowledge.scan

    async def mutated(batch_size: int = 500) -> AsyncIterator[StoredKnowledgeUnit]:
        found = [entry async for entry in scan(batch_size)]
        for entry in sorted(found, key=lambda e: -e.unit["metadata"]["quality_score"]):
            yield entry

    patch(stores.knowledge, scan=mutated)


@mutant("PAGE-4")
def scan_drops_the_last_batch(stores: AllStores) -> None:
    """A last batch that is not full is dropped."""
    scan = stores.skills.scan

    async def mutated(batch_size: int = 500) -> AsyncIterator[StoredSkill]:
        batch = []
        async for skill in scan(batch_size):
            batch.append(skill)
            if len(batch) == batch_size:
                for each in batch:
                    yield each
                batch = []

    patch(stores.skills, scan=mutated)


@mutant("PAGE-4")
def scan_repeats_what_was_replaced(stores: AllStores) -> None:
    """A replaced record is seen again, as if it were new."""
    create, scan = stores.skills.create, stores.skills.scan
    replaced: list[str] = []

    async def mutated_create(skill: StoredSkill) -> StoredSkill:
        known = await stores.skills.get_by_id(skill.id)
        stored = await create(skill)
        if known:
            replaced.append(skill.id)
        return stored

    async def mutated(batch_size: int = 500) -> AsyncIterator[StoredSkill]:
        replaced.clear()
        async for skill in scan(batch_size):
            yield skill
        for id in replaced:
            again = await stores.skills.get_by_id(id)
            if again:
                yield again

    patch(stores.skills, create=mutated_create, scan=mutated)


# Skills -----------------------------------------------------------------------


@mutant("SKILL-1")
def replace_moves_to_the_end(stores: AllStores) -> None:
    """A replace is a delete and an insert: the skill loses its place among its ties."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        if await stores.skills.get_by_id(skill.id):
            await stores.skills.delete(skill.id)
        return await create(skill)

    patch(stores.skills, create=mutated)


@mutant("SKILL-1")
def replace_merges_with_the_old(stores: AllStores) -> None:
    """A replace keeps the old version and files where the new one has none."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        old = await stores.skills.get_by_id(skill.id)
        if old is not None:
            skill = replace(skill, version=skill.version or old.version, files=skill.files or old.files)
        return await create(skill)

    patch(stores.skills, create=mutated)


@mutant("SKILL-1")
def first_write_wins(stores: AllStores) -> None:
    """INSERT OR IGNORE: a second skill of the same id is dropped."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        return await stores.skills.get_by_id(skill.id) or await create(skill)

    patch(stores.skills, create=mutated)


@mutant("SKILL-2")
def files_are_dropped(stores: AllStores) -> None:
    """The bundled files have no column."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        return await create(replace(skill, files={}))

    patch(stores.skills, create=mutated)


@mutant("SKILL-2")
def ids_are_matched_without_case(stores: AllStores) -> None:
    """COLLATE NOCASE: `get_by_id` finds an id in other capitals."""
    get = stores.skills.get_by_id

    async def mutated(id: str) -> StoredSkill | None:
        found = await get(id)
        if found is None and isinstance(id, str):
            async for skill in stores.skills.scan():
                if skill.id.lower() == id.lower():
                    return skill
        return found

    patch(stores.skills, get_by_id=mutated)


@mutant("SKILL-3")
def skill_filters_joined_with_or(stores: AllStores) -> None:
    """Filters combine with OR."""
    search = stores.skills.search

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[StoredSkill]:
        await search(offset=offset, limit=limit, **filters)
        given = {name: value for name, value in filters.items() if value not in (None, "", [], ())}
        if not given:
            return await search(offset=offset, limit=limit)
        ids = {skill.id for each in given.items() for skill in await _everything(search, dict([each]))}
        found = [skill for skill in await _everything(search, {}) if skill.id in ids]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.skills, search=mutated)


@mutant("SKILL-3")
def worst_skills_first(stores: AllStores) -> None:
    """ORDER BY quality without DESC."""
    _research(
        stores.skills,
        lambda all_, offset, limit: (
            sorted(all_, key=lambda skill: skill.quality_score)[offset : offset + limit],
            len(all_),
        ),
    )


def _skill_query(stores: AllStores, matches: Any) -> None:
    """Let `matches(query, skill)` decide what a query finds."""
    search = stores.skills.search

    async def mutated(
        *, query: str | None = None, offset: int = 0, limit: int = 20, **filters: Any
    ) -> Page[StoredSkill]:
        await search(query=query, offset=offset, limit=limit, **filters)
        found = await _everything(search, filters)
        if query:
            found = [skill for skill in found if matches(query, skill)]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.skills, search=mutated)


def _texts(skill: StoredSkill) -> list[str]:
    return [skill.name, skill.description, *skill.tags]


@mutant("SKILL-4")
def percent_and_underscore_are_wildcards(stores: AllStores) -> None:
    """LIKE without ESCAPE."""

    def matches(query: str, skill: StoredSkill) -> bool:
        pattern = re.escape(query.casefold()).replace("%", ".*").replace("_", ".")
        return any(re.search(pattern, text.casefold(), re.DOTALL) for text in _texts(skill))

    _skill_query(stores, matches)


@mutant("SKILL-4")
def star_is_a_wildcard(stores: AllStores) -> None:
    """GLOB: `*` matches anything."""

    def matches(query: str, skill: StoredSkill) -> bool:
        pattern = ".*".join(re.escape(part) for part in query.casefold().split("*"))
        return any(re.search(pattern, text.casefold(), re.DOTALL) for text in _texts(skill))

    _skill_query(stores, matches)


@mutant("SKILL-4")
def query_is_not_folded(stores: AllStores) -> None:
    """Only the stored side is folded."""
    _skill_query(stores, lambda query, skill: any(query in text.casefold() for text in _texts(skill)))


@mutant("SKILL-4")
def lower_instead_of_casefold(stores: AllStores) -> None:
    """`lower()` does not know that ß is ss."""
    _skill_query(stores, lambda query, skill: any(query.lower() in text.lower() for text in _texts(skill)))


@mutant("SKILL-4")
def casefold_without_normalization(stores: AllStores) -> None:
    """A letter with a combining mark differs from the same letter in one piece."""
    _skill_query(
        stores, lambda query, skill: any(query.casefold() in text.casefold() for text in _texts(skill))
    )


@mutant("SKILL-4")
def ascii_only_lower_case(stores: AllStores) -> None:
    """SQLite's own lower(): ASCII only."""

    def lower(text: str) -> str:
        return "".join(character.lower() if character.isascii() else character for character in text)

    _skill_query(stores, lambda query, skill: any(lower(query) in lower(text) for text in _texts(skill)))


def _correctly(query: str, text: str) -> bool:
    import unicodedata

    def folded(value: str) -> str:
        return unicodedata.normalize("NFC", value).casefold()

    return folded(query) in folded(text)


@mutant("SKILL-4")
def content_is_searched_too(stores: AllStores) -> None:
    """A query also looks into the content."""
    _skill_query(
        stores, lambda q, skill: any(_correctly(q, text) for text in [*_texts(skill), skill.content])
    )


@mutant("SKILL-4")
def tags_are_not_searched(stores: AllStores) -> None:
    """A query forgets the tags."""
    _skill_query(
        stores, lambda q, skill: any(_correctly(q, text) for text in (skill.name, skill.description))
    )


@mutant("SKILL-4")
def query_is_trimmed(stores: AllStores) -> None:
    """White space around the query is dropped."""
    _skill_query(stores, lambda q, skill: any(_correctly(q.strip(), text) for text in _texts(skill)))


@mutant("SKILL-4")
def query_matches_the_json_of_the_tags(stores: AllStores) -> None:
    """The tags are searched as the JSON text that they are stored as."""
    _skill_query(
        stores,
        lambda q, skill: any(
            _correctly(q, text)
            for text in (skill.name, skill.description, json.dumps(list(skill.tags), ensure_ascii=False))
        ),
    )


@mutant("SKILL-4")
def query_matches_whole_words_only(stores: AllStores) -> None:
    """A full-text index finds words, not substrings."""
    _skill_query(
        stores,
        lambda q, skill: any(
            _correctly(q, text) and re.search(rf"\b{re.escape(q.casefold())}\b", text.casefold())
            for text in _texts(skill)
        ),
    )


@mutant("SKILL-4")
def long_queries_are_cut(stores: AllStores) -> None:
    """Only the first 1,000 characters of a query count."""
    _skill_query(stores, lambda q, skill: any(_correctly(q[:1000], text) for text in _texts(skill)))


@mutant("SKILL-5")
def every_tag_is_required(stores: AllStores) -> None:
    """`tags` asks for all of them."""
    search = stores.skills.search

    async def mutated(
        *, tags: Any = None, offset: int = 0, limit: int = 20, **rest: Any
    ) -> Page[StoredSkill]:
        await search(tags=tags, offset=offset, limit=limit, **rest)
        found = await _everything(search, {"tags": tags, **rest})
        wanted = {tag.casefold() for tag in tags or ()}
        found = [skill for skill in found if wanted <= {tag.casefold() for tag in skill.tags}]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.skills, search=mutated)


def _with_filter(stores: AllStores, name: str, matches: Any) -> None:
    """Let `matches(value, skill)` stand for one filter of the skill search."""
    search = stores.skills.search

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[StoredSkill]:
        await search(offset=offset, limit=limit, **filters)
        value = filters.pop(name, None)
        found = await _everything(search, filters)
        if value not in (None, "", [], ()):
            found = [skill for skill in found if matches(value, skill)]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.skills, search=mutated)


@mutant("SKILL-5")
def skill_domain_is_ignored(stores: AllStores) -> None:
    """The domain filter does nothing."""
    _with_filter(stores, "domain", lambda value, skill: True)


@mutant("SKILL-5")
def skill_domain_is_a_substring(stores: AllStores) -> None:
    """The domain filter matches a part of the domain."""
    _with_filter(stores, "domain", lambda value, skill: value.casefold() in (skill.domain or "").casefold())


@mutant("SKILL-5")
def skill_domain_keeps_its_case(stores: AllStores) -> None:
    """The domain filter is not folded."""
    _with_filter(stores, "domain", lambda value, skill: skill.domain == value)


@mutant("SKILL-5")
def tags_keep_their_case(stores: AllStores) -> None:
    """The tag filter is not folded."""
    _with_filter(stores, "tags", lambda value, skill: bool(set(value) & set(skill.tags)))


@mutant("SKILL-5")
def tags_match_substrings(stores: AllStores) -> None:
    """The tag filter matches a part of a tag."""
    _with_filter(
        stores,
        "tags",
        lambda value, skill: any(v.casefold() in tag.casefold() for v in value for tag in skill.tags),
    )


@mutant("SKILL-5")
def min_quality_is_exclusive(stores: AllStores) -> None:
    """`>` instead of `>=`."""
    _with_filter(stores, "min_quality", lambda value, skill: skill.quality_score > value)


@mutant("SKILL-5")
def no_tags_match_nothing(stores: AllStores) -> None:
    """A filter of no tags at all matches nothing."""
    search = stores.skills.search

    async def mutated(
        *, tags: Any = None, offset: int = 0, limit: int = 20, **rest: Any
    ) -> Page[StoredSkill]:
        page = await search(tags=tags, offset=offset, limit=limit, **rest)
        return page if tags or tags is None else Page([], 0, offset, limit)

    patch(stores.skills, search=mutated)


@mutant("SKILL-6")
def delete_always_says_true(stores: AllStores) -> None:
    """The answer does not depend on whether there was a record."""
    delete = stores.skills.delete

    async def mutated(id: str) -> bool:
        await delete(id)
        return True

    patch(stores.skills, delete=mutated)


@mutant("SKILL-6")
def deleted_skills_are_still_found(stores: AllStores) -> None:
    """`delete` forgets the search index."""
    search, delete = stores.skills.search, stores.skills.delete
    ghosts: dict[str, StoredSkill] = {}

    async def mutated_delete(id: str) -> bool:
        known = await stores.skills.get_by_id(id)
        if known:
            ghosts[id] = known
        return await delete(id)

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[StoredSkill]:
        page = await search(offset=offset, limit=limit, **filters)
        found = [ghost for id, ghost in ghosts.items() if await stores.skills.get_by_id(id) is None]
        return Page([*page.data, *found][:limit], page.total + len(found), offset, limit)

    patch(stores.skills, delete=mutated_delete, search=mutated)


@mutant("SKILL-7")
def create_many_keeps_what_came_before_the_bad_one(stores: AllStores) -> None:
    """Skills are stored one by one, until one is refused."""

    async def mutated(skills: Any) -> int:
        given = list(skills)
        for skill in given:
            await stores.skills.create(skill)
        return len(given)

    patch(stores.skills, create_many=mutated)


@mutant("SKILL-7")
def create_many_counts_distinct_ids(stores: AllStores) -> None:
    """The count is that of the rows, not of what was given."""
    create_many = stores.skills.create_many

    async def mutated(skills: Any) -> int:
        given = list(skills)
        await create_many(given)
        return len({skill.id for skill in given})

    patch(stores.skills, create_many=mutated)


@mutant("SKILL-7")
def create_many_keeps_the_first_of_two(stores: AllStores) -> None:
    """Of two skills with one id the first stays."""
    create_many = stores.skills.create_many

    async def mutated(skills: Any) -> int:
        given = list(skills)
        seen: dict[str, StoredSkill] = {}
        for skill in given:
            seen.setdefault(getattr(skill, "id", ""), skill)
        await create_many(seen.values())
        return len(given)

    patch(stores.skills, create_many=mutated)


# Knowledge --------------------------------------------------------------------


def _create_unit(stores: AllStores, change: Any) -> None:
    """Let `change(unit)`, on a deep copy, stand for the unit that is stored."""
    create, create_many = stores.knowledge.create, stores.knowledge.create_many

    def changed(entry: Any) -> Any:
        try:
            unit = change(json.loads(json.dumps(entry.unit)))
            return replace(entry, unit=unit)
        except Exception:  # what is no unit at all is refused by the store itself
            return entry

    async def mutated(entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        return await create(changed(entry))

    async def mutated_many(entries: Any) -> int:
        return await create_many([changed(entry) for entry in entries])

    patch(stores.knowledge, create=mutated, create_many=mutated_many)


@mutant("KNOW-1")
def unknown_keys_are_dropped(stores: AllStores) -> None:
    """Only what the schema knows is kept."""
    common = "@context @type id metadata name description domain"
    own = "source_skill task steps outcome knowledge_graph_delta trigger_conditions tool_sequence performance"
    known = {*common.split(), *own.split(), "source", "decision_tree", "validation"}
    _create_unit(stores, lambda unit: {key: value for key, value in unit.items() if key in known})


@mutant("KNOW-1")
def missing_outcome_is_filled_in(stores: AllStores) -> None:
    """A trace without an outcome gets one instead of being refused."""
    _create_unit(
        stores,
        lambda unit: (
            unit
            if unit["@type"] != "ReasoningTrace"
            else {"outcome": {"result_summary": "", "confidence": 0}} | unit
        ),
    )


@mutant("KNOW-1")
def quality_is_clamped(stores: AllStores) -> None:
    """A quality over 1 counts as 1."""

    def change(unit: dict[str, Any]) -> dict[str, Any]:
        unit["metadata"]["quality_score"] = min(1, max(0, unit["metadata"]["quality_score"]))
        return unit

    _create_unit(stores, change)


@mutant("KNOW-1")
def id_of_the_entry_wins(stores: AllStores) -> None:
    """An entry whose id is not its unit's is stored under its own."""
    create = stores.knowledge.create

    async def mutated(entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        if isinstance(entry, StoredKnowledgeUnit) and isinstance(entry.unit, dict) and "id" in entry.unit:
            entry = replace(entry, id=entry.unit["id"])
        return await create(entry)

    patch(stores.knowledge, create=mutated)


@mutant("KNOW-1")
def unknown_privacy_level_is_private(stores: AllStores) -> None:
    """An unknown privacy level counts as private."""

    def change(unit: dict[str, Any]) -> dict[str, Any]:
        if unit["metadata"].get("privacy_level") not in ("aggregated", "federated", "private"):
            unit["metadata"]["privacy_level"] = "private"
        return unit

    _create_unit(stores, change)


@mutant("KNOW-1")
def null_counts_as_absent(stores: AllStores) -> None:
    """An optional key that is null is dropped instead of refused."""

    def change(unit: dict[str, Any]) -> dict[str, Any]:
        for key in ("agent_id", "framework", "validated_by"):
            if unit["metadata"].get(key, 0) is None:
                del unit["metadata"][key]
        return unit

    _create_unit(stores, change)


@mutant("KNOW-2")
def old_texts_are_still_found(stores: AllStores) -> None:
    """A replaced unit is found by its old text too."""
    create, search = stores.knowledge.create, stores.knowledge.search
    old: dict[str, list[StoredKnowledgeUnit]] = {}

    async def mutated_create(entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        known = await stores.knowledge.get_by_id(entry.id)
        if known:
            old.setdefault(entry.id, []).append(known)
        return await create(entry)

    async def mutated(*, query: str | None = None, offset: int = 0, limit: int = 20, **rest: Any) -> Any:
        page = await search(query=query, offset=offset, limit=limit, **rest)
        if not query:
            return page
        seen = {entry.id for entry in page.data}
        stale = [
            await stores.knowledge.get_by_id(id)
            for id, versions in old.items()
            if id not in seen
            and any(_correctly(query, json.dumps(version.unit, ensure_ascii=False)) for version in versions)
        ]
        found = [entry for entry in stale if entry is not None]
        return Page([*page.data, *found], page.total + len(found), offset, limit)

    patch(stores.knowledge, create=mutated_create, search=mutated)


@mutant("KNOW-2")
def unit_delete_leaves_the_agent_index(stores: AllStores) -> None:
    """A deleted unit still belongs to its agent."""
    delete, by_agent = stores.knowledge.delete, stores.knowledge.get_by_agent_id
    ghosts: list[StoredKnowledgeUnit] = []

    async def mutated_delete(id: str) -> bool:
        known = await stores.knowledge.get_by_id(id)
        if known:
            ghosts.append(known)
        return await delete(id)

    async def mutated(agent_id: str) -> list[StoredKnowledgeUnit]:
        own = [ghost for ghost in ghosts if ghost.unit["metadata"].get("agent_id") == agent_id]
        return await by_agent(agent_id) + own

    patch(stores.knowledge, delete=mutated_delete, get_by_agent_id=mutated)


@mutant("KNOW-3")
def newest_units_first(stores: AllStores) -> None:
    """Units are ordered by `updated_at`."""
    _research(
        stores.knowledge,
        lambda all_, offset, limit: (
            sorted(all_, key=lambda entry: entry.updated_at, reverse=True)[offset : offset + limit],
            len(all_),
        ),
    )


@mutant("KNOW-3")
def unit_filters_joined_with_or(stores: AllStores) -> None:
    """Filters combine with OR."""
    search = stores.knowledge.search

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Any:
        await search(offset=offset, limit=limit, **filters)
        given = {name: value for name, value in filters.items() if value not in (None, "", [], ())}
        if not given:
            return await search(offset=offset, limit=limit)
        ids = {entry.id for each in given.items() for entry in await _everything(search, dict([each]))}
        found = [entry for entry in await _everything(search, {}) if entry.id in ids]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.knowledge, search=mutated)


def _unit_query(stores: AllStores, texts: Any) -> None:
    """Let `texts(unit)` be what a query looks into."""
    search = stores.knowledge.search

    async def mutated(*, query: str | None = None, offset: int = 0, limit: int = 20, **rest: Any) -> Any:
        await search(query=query, offset=offset, limit=limit, **rest)
        found = await _everything(search, rest)
        if query:
            found = [e for e in found if any(_correctly(query, text) for text in texts(e.unit) if text)]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.knowledge, search=mutated)


def _unit_texts(unit: dict[str, Any]) -> list[str]:
    match unit["@type"]:
        case "ReasoningTrace":
            return [unit["task"]["objective"], *(step.get("content", "") for step in unit["steps"])]
        case "ToolCallPattern":
            return [unit["name"], unit["description"]]
        case _:
            return [unit["name"], unit["domain"]]


@mutant("KNOW-4")
def a_match_spans_two_fields(stores: AllStores) -> None:
    """The texts are joined with a space before they are searched."""
    _unit_query(stores, lambda unit: [" ".join(_unit_texts(unit))])


@mutant("KNOW-4")
def steps_are_not_searched(stores: AllStores) -> None:
    """A query looks at a trace's objective only."""
    _unit_query(stores, lambda unit: _unit_texts(unit)[: 1 if unit["@type"] == "ReasoningTrace" else None])


@mutant("KNOW-4")
def only_the_first_step_is_searched(stores: AllStores) -> None:
    """A query looks at a trace's first step only."""
    _unit_query(stores, lambda unit: _unit_texts(unit)[:2])


@mutant("KNOW-4")
def the_domain_of_an_sop_is_not_searched(stores: AllStores) -> None:
    """A query looks at an SOP's name only."""
    _unit_query(stores, lambda unit: _unit_texts(unit)[: 1 if unit["@type"] == "ExpertSOP" else None])


@mutant("KNOW-4")
def the_whole_document_is_searched(stores: AllStores) -> None:
    """A query looks into the JSON of the unit."""
    _unit_query(stores, lambda unit: [json.dumps(unit, ensure_ascii=False)])


@mutant("KNOW-4")
def the_description_of_a_pattern_is_not_searched(stores: AllStores) -> None:
    """A query looks at a pattern's name only."""
    _unit_query(stores, lambda unit: _unit_texts(unit)[: 1 if unit["@type"] == "ToolCallPattern" else None])


@mutant("KNOW-5")
def only_the_first_type_counts(stores: AllStores) -> None:
    """Of several types the first one is asked for."""
    search = stores.knowledge.search

    async def mutated(*, types: Any = None, **rest: Any) -> Any:
        await search(types=types, **rest)
        return await search(types=list(types)[:1] if types else types, **rest)

    patch(stores.knowledge, search=mutated)


@mutant("KNOW-5")
def unit_domain_keeps_its_case(stores: AllStores) -> None:
    """The domain filter is not folded."""
    search = stores.knowledge.search

    async def mutated(*, domain: Any = None, offset: int = 0, limit: int = 20, **rest: Any) -> Any:
        await search(domain=domain, offset=offset, limit=limit, **rest)
        found = await _everything(search, {"domain": domain, **rest})
        if domain:
            found = [entry for entry in found if entry.unit["metadata"]["task_domain"] == domain]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.knowledge, search=mutated)


@mutant("KNOW-5")
def unit_min_quality_is_exclusive(stores: AllStores) -> None:
    """`>` instead of `>=`."""
    search = stores.knowledge.search

    async def mutated(*, min_quality: Any = None, offset: int = 0, limit: int = 20, **rest: Any) -> Any:
        await search(min_quality=min_quality, offset=offset, limit=limit, **rest)
        found = await _everything(search, {"min_quality": min_quality, **rest})
        if min_quality is not None:
            found = [entry for entry in found if entry.unit["metadata"]["quality_score"] > min_quality]
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.knowledge, search=mutated)


@mutant("KNOW-6")
def agents_are_matched_without_case(stores: AllStores) -> None:
    """`get_by_agent_id` folds."""

    async def mutated(agent_id: str) -> list[StoredKnowledgeUnit]:
        return [
            entry
            async for entry in stores.knowledge.scan()
            if entry.unit["metadata"].get("agent_id", "").casefold() == agent_id.casefold()
        ]

    patch(stores.knowledge, get_by_agent_id=mutated)


@mutant("KNOW-6")
def an_agents_best_units_first(stores: AllStores) -> None:
    """`get_by_agent_id` is in the order of a search."""
    by_agent = stores.knowledge.get_by_agent_id

    async def mutated(agent_id: str) -> list[StoredKnowledgeUnit]:
        return sorted(await by_agent(agent_id), key=lambda e: -e.unit["metadata"]["quality_score"])

    patch(stores.knowledge, get_by_agent_id=mutated)


@mutant("KNOW-6")
def an_agent_has_twenty_units_at_most(stores: AllStores) -> None:
    """`get_by_agent_id` is a page."""
    by_agent = stores.knowledge.get_by_agent_id

    async def mutated(agent_id: str) -> list[StoredKnowledgeUnit]:
        return (await by_agent(agent_id))[:20]

    patch(stores.knowledge, get_by_agent_id=mutated)


@mutant("KNOW-6")
def a_unit_stays_with_its_first_agent(stores: AllStores) -> None:
    """A replaced unit is still found under the agent that it no longer has."""
    create, by_agent = stores.knowledge.create, stores.knowledge.get_by_agent_id
    first: dict[str, str | None] = {}

    async def mutated_create(entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        stored = await create(entry)
        first.setdefault(stored.id, stored.unit["metadata"].get("agent_id"))
        return stored

    async def mutated(agent_id: str) -> list[StoredKnowledgeUnit]:
        await by_agent(agent_id)
        return [e async for e in stores.knowledge.scan() if first.get(e.id) == agent_id]

    patch(stores.knowledge, create=mutated_create, get_by_agent_id=mutated)


# Indexes ------------------------------------------------------------------------


@mutant("KNOW-4")
def replaced_units_stay_under_their_old_words(stores: AllStores) -> None:
    """The search index is told of new units, and not of new texts of old ones."""
    index: Any = stores.knowledge._index._grams  # type: ignore[attr-defined]
    put = index.put

    def mutated(position: int, text: bytes) -> None:
        if position not in index._in_trie and position not in index._new:
            put(position, text)

    patch(index, put=mutated)


@mutant("KNOW-4")
def a_frequent_string_is_looked_for_where_it_was_found_first(stores: AllStores) -> None:
    """A string whose documents are known as a set is not added to when more documents come."""
    index: Any = stores.knowledge._index._grams  # type: ignore[attr-defined]
    extend = index._extend

    def forgetful(node: int) -> Any:
        yield from extend(node)
        frozen.add(node)

    frozen: set[int] = set()
    post = index._post

    def posting(nodes: Any, documents: Any, **how: Any) -> Any:
        kept = {node: index._postings.get(node).copy() for node in frozen}
        yield from post(nodes, documents, **how)
        for node, members in kept.items():
            index._postings[node] = members

    patch(index, _extend=forgetful, _post=posting)


@mutant("PAGE-3")
def a_replaced_unit_is_ranked_by_its_old_quality(stores: AllStores) -> None:
    """The order of pages is not told when a unit comes with another quality."""
    order: Any = stores.knowledge._index._order  # type: ignore[attr-defined]
    add = order.add
    first: dict[int, int] = {}

    def mutated(position: int, key: int) -> None:
        add(position, first.setdefault(position, key))

    patch(order, add=mutated)


@mutant("KNOW-3", base="sqlite")
def the_index_of_a_handle_follows_only_a_few_changes(stores: AllStores) -> None:
    """A search brings the index up to date with the first 20 of the changes since the last one."""
    index: Any = stores.knowledge._index  # type: ignore[attr-defined]
    apply = index._apply_changes

    def mutated(db: Any, limit: int) -> bool:
        apply(db, 20)
        index._seen = _last_change(db)
        return True

    patch(index, _apply_changes=mutated)


@mutant("KNOW-3", base="sqlite")
def a_stored_index_passes_for_one_of_today(stores: AllStores) -> None:
    """A handle begins with the index that it finds in the file, and misses what has changed since."""
    index: Any = stores.knowledge._index  # type: ignore[attr-defined]
    readable = index._readable

    def mutated(db: Any) -> Any:
        found = readable(db)
        if found is not None:
            found.seen = _last_change(db)
        return found

    patch(index, _readable=mutated)


@mutant("KNOW-4", base="sqlite")
def a_stored_index_lacks_what_was_waiting(stores: AllStores) -> None:
    """Units that the index had not yet taken in when it was stored are not put into it when it is loaded."""
    index: Any = stores.knowledge._index  # type: ignore[attr-defined]
    load = index._load

    def mutated() -> None:
        load()
        if index._again:
            index._again = [0]

    patch(index, _load=mutated)
