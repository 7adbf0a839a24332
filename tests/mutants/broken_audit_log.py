"""Mutants of the audit log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from kpstore import AllStores, AuditLogEntry, Page
from mutants.registry import mutant, mutant_opening, patch

_RETENTION = timedelta(days=90)


def _logged(stores: AllStores, change: Callable[[AuditLogEntry], AuditLogEntry]) -> list[AuditLogEntry]:
    """Keep a copy of all that is logged, and let `change(entry)` stand for what `log` returns."""
    log = stores.audit_log.log
    entries: list[AuditLogEntry] = []

    async def mutated(*arguments: Any, **named: Any) -> AuditLogEntry:
        entry = change(await log(*arguments, **named))
        entries.append(entry)
        return entry

    patch(stores.audit_log, log=mutated)
    return entries


def _queried(
    stores: AllStores,
    matches: Callable[[AuditLogEntry, dict[str, Any], datetime], bool],
    order: Callable[[list[AuditLogEntry]], list[AuditLogEntry]] = lambda entries: entries,
    change: Callable[[AuditLogEntry], AuditLogEntry] = lambda entry: entry,
) -> None:
    """Let `matches(entry, filters, now)` and `order` stand for a query."""
    query = stores.audit_log.query
    now = stores.audit_log._context.now
    entries = _logged(stores, change)

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[AuditLogEntry]:
        await query(offset=offset, limit=limit, **filters)
        given = {name: value for name, value in filters.items() if value not in (None, "")}
        found = order([entry for entry in entries if matches(entry, given, now())])
        return Page(found[offset : offset + limit], len(found), offset, limit)

    patch(stores.audit_log, query=mutated)


def _sound(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
    return (
        now - entry.timestamp <= _RETENTION
        and entry.agent_id == given.get("agent_id", entry.agent_id)
        and entry.action == given.get("action", entry.action)
        and given.get("since", entry.timestamp) <= entry.timestamp <= given.get("until", entry.timestamp)
    )


@mutant("AUDIT-1")
def ids_are_numbers(stores: AllStores) -> None:
    """An entry's id is its number."""
    numbers = count(1)
    _logged(stores, lambda entry: replace(entry, id=str(next(numbers))))


@mutant("AUDIT-1")
def the_same_id_for_all(stores: AllStores) -> None:
    """The UUID is made once."""
    first: list[str] = []

    def change(entry: AuditLogEntry) -> AuditLogEntry:
        first.append(entry.id)
        return replace(entry, id=first[0])

    _logged(stores, change)


@mutant("AUDIT-1")
def log_takes_the_systems_time(stores: AllStores) -> None:
    """The timestamp is not the clock's."""
    _logged(stores, lambda entry: replace(entry, timestamp=datetime.now(UTC)))


@mutant("AUDIT-1")
def no_details_are_empty_details(stores: AllStores) -> None:
    """`details=None` becomes `{}`."""
    _logged(stores, lambda entry: replace(entry, details=entry.details or {}))


@mutant_opening("AUDIT-1", base="sqlite")
async def audit_log_in_memory(settings: Any, clock: Any) -> AllStores:
    """The audit log is lost when the store is closed, as the TypeScript registry's is."""
    from kpstore import create_store

    stores = await create_store("sqlite", settings=settings, clock=clock)
    stores.audit_log = (await create_store("memory", settings=settings, clock=clock)).audit_log
    return stores


@mutant("AUDIT-2")
def newest_entries_first(stores: AllStores) -> None:
    """A query is newest first."""
    _queried(stores, _sound, lambda entries: entries[::-1])


@mutant("AUDIT-2")
def entries_by_time(stores: AllStores) -> None:
    """A query is in the order of the timestamps, not of logging."""
    _queried(stores, _sound, lambda entries: sorted(entries, key=lambda entry: entry.timestamp))


@mutant("AUDIT-2")
def until_is_exclusive(stores: AllStores) -> None:
    """`<` instead of `<=` at `until`."""
    _queried(stores, lambda e, given, now: _sound(e, given, now) and e.timestamp != given.get("until"))


@mutant("AUDIT-2")
def since_is_exclusive(stores: AllStores) -> None:
    """`>` instead of `>=` at `since`."""
    _queried(stores, lambda e, given, now: _sound(e, given, now) and e.timestamp != given.get("since"))


@mutant("AUDIT-2")
def times_are_compared_as_text(stores: AllStores) -> None:
    """The offset of `since` and `until` is dropped."""

    def matches(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
        naive = {
            name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
            for name, value in given.items()
        }
        return _sound(entry, naive, now)

    _queried(stores, matches)


@mutant("AUDIT-2")
def since_in_whole_seconds(stores: AllStores) -> None:
    """`since` and `until` are cut to seconds."""

    def matches(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
        cut = {
            name: value.replace(microsecond=0) if isinstance(value, datetime) else value
            for name, value in given.items()
        }
        return _sound(entry, cut, now)

    _queried(stores, matches)


@mutant("AUDIT-2")
def action_is_ignored(stores: AllStores) -> None:
    """The action filter does nothing."""
    _queried(stores, lambda e, given, now: _sound(e, {k: v for k, v in given.items() if k != "action"}, now))


@mutant("AUDIT-2")
def action_in_any_case(stores: AllStores) -> None:
    """The action filter folds."""

    def matches(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
        rest = {name: value for name, value in given.items() if name != "action"}
        return _sound(entry, rest, now) and given.get("action", entry.action).lower() == entry.action.lower()

    _queried(stores, matches)


@mutant("AUDIT-2")
def audit_filters_joined_with_or(stores: AllStores) -> None:
    """Agent and action combine with OR."""

    def matches(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
        texts = {name: given[name] for name in ("agent_id", "action") if name in given}
        rest = {name: value for name, value in given.items() if name not in texts}
        return _sound(entry, rest, now) and (
            not texts or any(getattr(entry, name) == value for name, value in texts.items())
        )

    _queried(stores, matches)


@mutant("AUDIT-3")
def expired_at_exactly_90_days(stores: AllStores) -> None:
    """An entry of exactly 90 days is gone."""
    _queried(stores, lambda e, given, now: _sound(e, given, now) and now - e.timestamp < _RETENTION)


@mutant("AUDIT-3")
def retention_in_whole_days(stores: AllStores) -> None:
    """An entry is returned until the end of its 90th day."""

    def matches(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
        return _sound(entry, given, entry.timestamp) and (now - entry.timestamp).days <= 90

    _queried(stores, matches)


@mutant("AUDIT-3")
def expired_entries_until_the_next_write(stores: AllStores) -> None:
    """Only a write removes what has expired; until then a query returns it."""
    log = stores.audit_log.log
    now = stores.audit_log._context.now
    cut: list[datetime] = [datetime.min.replace(tzinfo=UTC)]

    async def mutated(*arguments: Any, **named: Any) -> AuditLogEntry:
        entry = await log(*arguments, **named)
        cut[0] = now() - _RETENTION
        return entry

    patch(stores.audit_log, log=mutated)
    _queried(stores, lambda e, given, now: _sound(e, given, e.timestamp) and e.timestamp >= cut[0])


@mutant("AUDIT-3")
def retention_of_three_months(stores: AllStores) -> None:
    """90 days are taken as 91."""

    def matches(entry: AuditLogEntry, given: dict[str, Any], now: datetime) -> bool:
        return _sound(entry, given, entry.timestamp) and now - entry.timestamp <= timedelta(days=91)

    _queried(stores, matches)


@mutant("AUDIT-3", base="sqlite")
def expired_entries_stay_on_disk(stores: AllStores) -> None:
    """Nothing removes expired entries from the file."""
    append = stores.audit_log._append

    async def mutated(entry: Any, expired_before: int) -> None:
        await append(entry, -(2**62))

    patch(stores.audit_log, _append=mutated)


@mutant("AUDIT-4")
def the_same_entry_is_logged_once(stores: AllStores) -> None:
    """An entry that says the same as the last one takes its place."""
    query = stores.audit_log.query

    async def mutated(*, offset: int = 0, limit: int = 20, **filters: Any) -> Page[AuditLogEntry]:
        await query(offset=offset, limit=limit, **filters)
        found: dict[tuple[str, ...], AuditLogEntry] = {}
        for entry in (await query(limit=1000, **filters)).data:
            found[entry.agent_id, entry.action, entry.resource_type, entry.resource_id] = entry
        data = list(found.values())
        return Page(data[offset : offset + limit], len(data), offset, limit)

    patch(stores.audit_log, query=mutated)


@mutant("AUDIT-4")
def a_query_takes_what_it_returns(stores: AllStores) -> None:
    """The log is a queue: what was returned once is not returned again."""
    query = stores.audit_log.query
    taken: set[str] = set()

    async def mutated(**arguments: Any) -> Page[AuditLogEntry]:
        page = await query(**arguments)
        fresh = [entry for entry in page.data if entry.id not in taken]
        taken.update(entry.id for entry in fresh)
        return replace(page, data=fresh)

    patch(stores.audit_log, query=mutated)
