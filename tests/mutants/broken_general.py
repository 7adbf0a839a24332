"""Mutants of the clauses that hold for every store."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kpstore import (
    AllStores,
    AuditLogEntry,
    NewApiKey,
    Page,
    StoredKnowledgeUnit,
    StoredSkill,
    ValidationError,
    create_store,
)
from mutants.registry import mutant, mutant_opening, patch

# GEN-1 ------------------------------------------------------------------------


@mutant("GEN-1")
def capabilities_are_a_list(stores: AllStores) -> None:
    """`capabilities` is a list."""
    stores.capabilities = list(stores.capabilities)  # type: ignore[assignment]


@mutant("GEN-1")
def no_audit_log(stores: AllStores) -> None:
    """One of the six stores is missing."""
    del stores.audit_log


# GEN-2 ------------------------------------------------------------------------


@mutant("GEN-2")
def search_stops_the_event_loop(stores: AllStores) -> None:
    """A search works without a pause."""
    search = stores.knowledge.search

    async def mutated(**arguments: Any) -> Page[StoredKnowledgeUnit]:
        time.sleep(0.08)  # the bug
        return await search(**arguments)

    patch(stores.knowledge, search=mutated)


# GEN-3 ------------------------------------------------------------------------


@mutant("GEN-3")
def records_are_cached(stores: AllStores) -> None:
    """Two reads of a skill return the same object."""
    get = stores.skills.get_by_id
    cache: dict[str, StoredSkill] = {}

    async def mutated(id: str) -> StoredSkill | None:
        found = await get(id)
        if found is None:
            return None
        known = cache.get(id)
        if known is None or known.updated_at != found.updated_at:
            cache[id] = found
        return cache[id]

    patch(stores.skills, get_by_id=mutated)


@mutant("GEN-3")
def unit_is_kept_by_reference(stores: AllStores) -> None:
    """The store keeps the caller's dict."""
    create, get = stores.knowledge.create, stores.knowledge.get_by_id
    kept: dict[str, StoredKnowledgeUnit] = {}

    async def mutated_create(entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        stored = await create(entry)
        kept[entry.id] = replace(stored, unit=entry.unit)
        return stored

    async def mutated(id: str) -> StoredKnowledgeUnit | None:
        found = await get(id)
        return kept.get(id) if found is not None else None

    patch(stores.knowledge, create=mutated_create, get_by_id=mutated)


@mutant("GEN-3")
def details_are_kept_by_reference(stores: AllStores) -> None:
    """The audit log keeps the caller's details."""
    log, query = stores.audit_log.log, stores.audit_log.query
    kept: dict[str, Any] = {}

    async def mutated_log(
        action: str, agent_id: str, resource_type: str, resource_id: str, ip: str, details: Any = None
    ) -> AuditLogEntry:
        entry = await log(action, agent_id, resource_type, resource_id, ip, details)
        kept[entry.id] = details
        return entry

    async def mutated(**arguments: Any) -> Page[AuditLogEntry]:
        page = await query(**arguments)
        return replace(page, data=[replace(entry, details=kept[entry.id]) for entry in page.data])

    patch(stores.audit_log, log=mutated_log, query=mutated)


@mutant("GEN-3")
def history_is_shared(stores: AllStores) -> None:
    """All records of an agent share one history list."""
    get = stores.reputation.get
    shared: dict[str, list[Any]] = {}

    async def mutated(agent_id: str) -> Any:
        record = await get(agent_id)
        if record is None:
            return None
        history = shared.setdefault(agent_id, [])
        if len(history) < len(record.history):
            history[:] = record.history
        return replace(record, history=history)

    patch(stores.reputation, get=mutated)


# GEN-4 ------------------------------------------------------------------------


def _units(stores: AllStores, change: Callable[[Any], Any]) -> None:
    """Let `change(unit)` be what is stored of a unit that passes the rules."""
    create = stores.knowledge.create

    async def mutated(entry: StoredKnowledgeUnit) -> StoredKnowledgeUnit:
        try:
            entry = replace(entry, unit=change(copy.deepcopy(entry.unit)))
        except Exception:  # what is no unit is refused by the store itself
            return await create(entry)
        return await create(entry)

    patch(stores.knowledge, create=mutated)


def _deeply(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`change` on every value inside a document."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return change(value)

    return walk


@mutant("GEN-4")
def nulls_are_dropped(stores: AllStores) -> None:
    """A key whose value is null is left out."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items() if item is not None}
        return [walk(item) for item in value] if isinstance(value, list) else value

    _units(stores, walk)


@mutant("GEN-4")
def keys_are_sorted(stores: AllStores) -> None:
    """`json.dumps(sort_keys=True)`."""
    _units(stores, lambda unit: json.loads(json.dumps(unit, sort_keys=True)))


@mutant("GEN-4")
def integers_go_through_a_float(stores: AllStores) -> None:
    """Integers beyond 2**53 lose digits."""
    _units(
        stores,
        _deeply(
            lambda value: max(-(2**63), min(2**63 - 1, int(float(value)))) if type(value) is int else value
        ),
    )


@mutant("GEN-4")
def whole_floats_become_integers(stores: AllStores) -> None:
    """1.0 comes back as 1, as from JavaScript."""
    _units(
        stores,
        _deeply(
            lambda v: (
                int(v) if type(v) is float and v.is_integer() and abs(v) < 2**53 and str(v) != "-0.0" else v
            )
        ),
    )


@mutant("GEN-4")
def minus_zero_loses_its_sign(stores: AllStores) -> None:
    """-0.0 comes back as 0.0."""
    _units(stores, _deeply(lambda value: value + 0.0 if type(value) is float else value))


@mutant("GEN-4")
def text_is_normalized(stores: AllStores) -> None:
    """Text is stored in NFC."""
    import unicodedata

    _units(stores, _deeply(lambda v: unicodedata.normalize("NFC", v) if isinstance(v, str) else v))


@mutant("GEN-4")
def empty_lists_are_dropped(stores: AllStores) -> None:
    """An empty list or object inside a unit is left out."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items() if item not in ([], {})}
        return [walk(item) for item in value] if isinstance(value, list) else value

    _units(stores, walk)


@mutant("GEN-4")
def astral_characters_are_lost(stores: AllStores) -> None:
    """Characters beyond the BMP become question marks, as in MySQL's utf8."""
    _units(
        stores,
        _deeply(lambda v: "".join(c if ord(c) < 0x10000 else "?" for c in v) if isinstance(v, str) else v),
    )


def _skills(stores: AllStores, change: Callable[[StoredSkill], StoredSkill]) -> None:
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        return await create(change(skill) if isinstance(skill, StoredSkill) else skill)

    patch(stores.skills, create=mutated)


@mutant("GEN-4")
def milliseconds_only(stores: AllStores) -> None:
    """Times are cut to milliseconds, as JavaScript's are."""

    def cut(moment: Any) -> Any:
        if not isinstance(moment, datetime):
            return moment
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    _skills(
        stores,
        lambda skill: replace(skill, created_at=cut(skill.created_at), updated_at=cut(skill.updated_at)),
    )


@mutant("GEN-4")
def empty_text_becomes_none(stores: AllStores) -> None:
    """`""` and `None` are the same, as in Oracle."""
    _skills(
        stores,
        lambda skill: replace(
            skill, version=skill.version or None, author=skill.author or None, domain=skill.domain or None
        ),
    )


@mutant("GEN-4")
def offsets_are_dropped(stores: AllStores) -> None:
    """A time's offset is thrown away, not converted."""

    def drop(moment: Any) -> Any:
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            return moment.replace(tzinfo=UTC)
        return moment

    _skills(
        stores,
        lambda skill: replace(skill, created_at=drop(skill.created_at), updated_at=drop(skill.updated_at)),
    )


# GEN-5 ------------------------------------------------------------------------


@mutant("GEN-5")
def nan_becomes_zero(stores: AllStores) -> None:
    """A quality that is no number counts as 0."""

    def change(skill: StoredSkill) -> StoredSkill:
        quality: Any = skill.quality_score
        return replace(skill, quality_score=0.0) if quality != quality else skill

    _skills(stores, change)


@mutant("GEN-5")
def naive_times_count_as_utc(stores: AllStores) -> None:
    """A naive time is taken to be in UTC."""

    def aware(moment: Any) -> Any:
        if isinstance(moment, datetime) and moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        return moment

    _skills(
        stores,
        lambda skill: replace(skill, created_at=aware(skill.created_at), updated_at=aware(skill.updated_at)),
    )


@mutant("GEN-5")
def long_ids_are_cut(stores: AllStores) -> None:
    """An id of over 512 characters is cut, as by VARCHAR(512)."""
    _skills(stores, lambda skill: replace(skill, id=skill.id[:512]) if isinstance(skill.id, str) else skill)


@mutant("GEN-5")
def ids_are_512_bytes(stores: AllStores) -> None:
    """The length of an id is counted in bytes."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        id = getattr(skill, "id", None)
        if isinstance(id, str) and len(id.encode("utf-8", "surrogatepass")) > 512:
            raise ValidationError("skill.id", "must be at most 512 characters long")
        return await create(skill)

    patch(stores.skills, create=mutated)


@mutant("GEN-5")
def lone_surrogates_are_replaced(stores: AllStores) -> None:
    """A lone surrogate becomes U+FFFD."""

    def mend(text: Any) -> Any:
        return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text

    _skills(stores, lambda skill: replace(skill, name=mend(skill.name), description=mend(skill.description)))


@mutant("GEN-5")
def text_ends_at_nul(stores: AllStores) -> None:
    """Text after U+0000 is cut off, as in C."""

    def cut(text: Any) -> Any:
        return text.split("\0")[0] if isinstance(text, str) else text

    _skills(stores, lambda skill: replace(skill, name=cut(skill.name), content=cut(skill.content)))


@mutant("GEN-5")
def big_integers_wrap(stores: AllStores) -> None:
    """An integer beyond 64 bits wraps around."""
    _units(
        stores,
        _deeply(lambda value: (value + 2**63) % 2**64 - 2**63 if type(value) is int else value),
    )


@mutant("GEN-5")
def no_size_limit(stores: AllStores) -> None:
    """`KP_MAX_RECORD_BYTES` is not looked at."""
    stores.skills._context.max_record_bytes = 2**40


@mutant("GEN-5")
def size_counts_characters(stores: AllStores) -> None:
    """A record's size is counted in characters."""
    store = stores.skills
    limit = store._context.max_record_bytes

    def encode(record: Any, field: str) -> bytes:
        import msgspec

        body = msgspec.json.encode(record)
        if len(body.decode()) > limit:
            raise ValidationError(field, "must not be larger")
        return body

    patch(store, _encode=encode)


@mutant("GEN-5")
def the_field_is_not_named(stores: AllStores) -> None:
    """A refusal does not say which field it is about."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        try:
            return await create(skill)
        except ValidationError as error:
            raise ValidationError("skill", "is not valid") from error

    patch(stores.skills, create=mutated)


@mutant("GEN-5")
def true_counts_as_one(stores: AllStores) -> None:
    """A bool is a number."""
    search = stores.skills.search

    async def mutated(**arguments: Any) -> Page[StoredSkill]:
        numbers = {n: int(v) if isinstance(v, bool) else v for n, v in arguments.items()}
        return await search(**numbers)  # type: ignore[arg-type]

    patch(stores.skills, search=mutated)


@mutant("GEN-5")
def refused_after_it_was_written(stores: AllStores) -> None:
    """The visibility is looked at when the record is already there."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        try:
            return await create(skill)
        except ValidationError as error:
            if error.field == "skill.visibility":
                await create(replace(skill, visibility="network"))
            raise

    patch(stores.skills, create=mutated)


# GEN-6 ------------------------------------------------------------------------


@mutant("GEN-6")
def refusals_are_value_errors(stores: AllStores) -> None:
    """Bad input raises a ValueError."""
    for store, method in (
        (stores.skills, "get_by_id"),
        (stores.reputation, "get"),
        (stores.skills, "create"),
    ):
        sound = getattr(store, method)

        def make(sound: Any) -> Any:
            async def mutated(*arguments: Any, **named: Any) -> Any:
                try:
                    return await sound(*arguments, **named)
                except ValidationError as error:
                    raise ValueError(str(error)) from error

            return mutated

        patch(store, **{method: make(sound)})


@mutant("GEN-6")
def a_closed_store_answers(stores: AllStores) -> None:
    """Calls after `close()` go on as if nothing had happened."""

    async def close() -> None:
        return None

    patch(stores, close=close)


@mutant("GEN-6")
def a_closed_store_has_nothing(stores: AllStores) -> None:
    """A read after `close()` returns `None`."""
    get = stores.skills.get_by_id

    async def mutated(id: str) -> StoredSkill | None:
        return None if stores.skills._context.closed else await get(id)

    patch(stores.skills, get_by_id=mutated)


# GEN-7 ------------------------------------------------------------------------


@mutant("GEN-7")
def cancellation_leaks_a_lock(stores: AllStores) -> None:
    """A cancelled call leaves its lock taken."""
    lock = asyncio.Lock()
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        await lock.acquire()
        await asyncio.sleep(0)
        try:
            stored = await create(skill)
        except Exception:
            lock.release()
            raise
        lock.release()
        return stored

    patch(stores.skills, create=mutated)


@mutant("GEN-7")
def cancellation_leaves_a_part(stores: AllStores) -> None:
    """A cancelled batch is stored in part."""
    create_many = stores.skills.create_many

    async def mutated(skills: Any) -> int:
        given = list(skills)
        for skill in given:
            if not isinstance(skill, StoredSkill):
                return await create_many(given)
        for skill in given:
            await create_many([skill])
            await asyncio.sleep(0)
        return len(given)

    patch(stores.skills, create_many=mutated)


@mutant("GEN-7")
def cancellation_between_score_and_history(stores: AllStores) -> None:
    """A cancelled upsert has changed the score, and counts for nothing else."""
    upsert = stores.reputation.upsert

    async def mutated(agent_id: str, delta: float, reason: str) -> Any:
        if isinstance(delta, float | int) and delta == delta and abs(delta) < 1e300 and reason:
            await upsert(agent_id, delta / 2, reason)
            await asyncio.sleep(0)
            return await upsert(agent_id, delta / 2, reason)
        return await upsert(agent_id, delta, reason)

    patch(stores.reputation, upsert=mutated)


# GEN-8 ------------------------------------------------------------------------


@mutant("GEN-8")
def a_replace_is_seen_as_a_gap(stores: AllStores) -> None:
    """A replace deletes first: a reader in between finds nothing."""
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        if any([known.id == getattr(skill, "id", None) async for known in stores.skills.scan()]):
            await stores.skills.delete(skill.id)
            await asyncio.sleep(0)
        return await create(skill)

    patch(stores.skills, create=mutated)


@mutant("GEN-8")
def two_deletes_both_say_true(stores: AllStores) -> None:
    """`delete` looks first and deletes later."""
    delete = stores.skills.delete

    async def mutated(id: str) -> bool:
        known = await stores.skills.get_by_id(id) is not None
        await asyncio.sleep(0)
        await delete(id)
        return known

    patch(stores.skills, delete=mutated)


@mutant("GEN-8")
def a_batch_is_seen_in_parts(stores: AllStores) -> None:
    """Other calls see a part of a batch."""
    create = stores.knowledge.create

    async def mutated(entries: Any) -> int:
        given = list(entries)
        for entry in given:
            await create(entry)
            await asyncio.sleep(0)
        return len(given)

    patch(stores.knowledge, create_many=mutated)


@mutant("GEN-8")
def a_batch_is_read_in_parts(stores: AllStores) -> None:
    """A read by id does not wait for a batch that is going in."""
    store: Any = stores.knowledge

    async def mutated(id: str) -> StoredKnowledgeUnit | None:
        position = store._ids.of(id).get(id)
        return None if position is None else store._codec.decode(store._bodies[position])

    patch(stores.knowledge, get_by_id=mutated)


# GEN-9 ------------------------------------------------------------------------


@mutant_opening("GEN-9", base="memory")
async def the_systems_clock(settings: Any, clock: Any) -> AllStores:
    """The clock that was given is not used."""
    return await create_store("memory", settings=settings)


# GEN-10 -----------------------------------------------------------------------


@mutant("GEN-10")
def closing_twice_raises(stores: AllStores) -> None:
    """The second `close()` is an error."""
    close = stores.close
    closed: list[bool] = []

    async def mutated() -> None:
        if closed:
            raise RuntimeError("closed already")
        closed.append(True)
        await close()

    patch(stores, close=mutated)


@mutant("GEN-10", base="sqlite")
def the_last_write_is_lost_at_close(stores: AllStores) -> None:
    """A write is acknowledged when it is queued, and the queue is dropped at `close()`."""
    create = stores.skills.create
    queued: list[StoredSkill] = []

    async def mutated(skill: StoredSkill) -> StoredSkill:
        while queued:
            await create(queued.pop(0))
        memory = await create_store("memory")
        stored = await memory.skills.create(skill)  # for its rules
        queued.append(skill)
        return stored

    patch(stores.skills, create=mutated)


# GEN-11 -----------------------------------------------------------------------


@mutant("GEN-11")
def raw_key_is_logged(stores: AllStores) -> None:
    """A debug line has the key."""
    create = stores.api_keys.create

    async def mutated(agent_id: str, scopes: Any, tier: str) -> NewApiKey:
        new = await create(agent_id, scopes, tier)
        logging.getLogger("kpstore").debug("made %s", new.raw_key)
        return new

    patch(stores.api_keys, create=mutated)


@mutant("GEN-11")
def raw_key_in_the_repr(stores: AllStores) -> None:
    """The `repr` of a new key shows it."""
    create = stores.api_keys.create

    class Shown(NewApiKey):
        def __repr__(self) -> str:
            return f"NewApiKey(raw_key={self.raw_key!r}, record={self.record!r})"

    async def mutated(agent_id: str, scopes: Any, tier: str) -> NewApiKey:
        new = await create(agent_id, scopes, tier)
        return Shown(new.raw_key, new.record)

    patch(stores.api_keys, create=mutated)


@mutant("GEN-11", base="sqlite")
def raw_key_in_the_file(stores: AllStores) -> None:
    """The key itself is stored, for convenience."""
    create = stores.api_keys.create

    async def mutated(agent_id: str, scopes: Any, tier: str) -> NewApiKey:
        new = await create(agent_id, scopes, tier)
        await stores.audit_log.log("key.created", agent_id, "api_key", new.raw_key, "::1")
        return new

    patch(stores.api_keys, create=mutated)


@mutant("GEN-11")
def raw_key_in_an_error(stores: AllStores) -> None:
    """A refused prefix is quoted in the error."""
    revoke = stores.api_keys.revoke

    async def mutated(key_prefix: str) -> bool:
        if isinstance(key_prefix, str) and len(key_prefix) > 11:
            raise ValidationError("key_prefix", f"{key_prefix!r} is not a prefix")
        return await revoke(key_prefix)

    patch(stores.api_keys, revoke=mutated)


# GEN-12 -----------------------------------------------------------------------


@mutant("GEN-12")
def another_parameter_name(stores: AllStores) -> None:
    """`get_by_id(key)` instead of `get_by_id(id)`."""
    get = stores.skills.get_by_id

    async def mutated(key: str) -> StoredSkill | None:
        return await get(key)

    patch(stores.skills, get_by_id=mutated)


@mutant("GEN-12")
def query_is_called_text(stores: AllStores) -> None:
    """`search(text=…)` instead of `search(query=…)`."""
    search = stores.skills.search

    async def mutated(*, text: str | None = None, **rest: Any) -> Page[StoredSkill]:
        return await search(query=text, **{name: value for name, value in rest.items() if name != "query"})

    patch(stores.skills, search=mutated)


# MEM-1 ------------------------------------------------------------------------

_SHARED: dict[str, AllStores] = {}


@mutant_opening("MEM-1", base="memory")
async def one_memory_for_all(settings: Any, clock: Any) -> AllStores:
    """Every memory store of a process has the same content."""
    if "stores" not in _SHARED or _SHARED["stores"].skills._context.closed:
        _SHARED["stores"] = await create_store("memory", settings=settings, clock=clock)
    return _SHARED["stores"]


@mutant_opening("MEM-1", base="memory")
async def memory_is_written_to_disk(settings: Any, clock: Any) -> AllStores:
    """Every skill is also written to a file beside `KP_SQLITE_PATH`."""
    stores = await create_store("memory", settings=settings, clock=clock)
    create = stores.skills.create

    async def mutated(skill: StoredSkill) -> StoredSkill:
        stored = await create(skill)
        Path(settings.sqlite_path).with_suffix(".snapshot").write_text(stored.content, encoding="utf-8")
        return stored

    patch(stores.skills, create=mutated)
    return stores
