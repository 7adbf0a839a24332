"""What is acknowledged is on the disk, not only on its way (clauses SQL-1, GEN-10, AUDIT-1).

A kill leaves the system's memory alone, so that only a power cut tells a write that waited for the disk
from one that did not. This looks at what the cut would take: pages in memory that are newer than those on
the disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import pattern, skill, vote

__all__: list[str] = []


@check(
    clauses=["SQL-1", "GEN-10", "AUDIT-1"],
    requires=["durable", "inspector.unsynced"],
    name="an acknowledged write is on the disk, whichever it is",
)
async def acknowledged_is_synced(lab: Lab) -> None:
    """After each writing method of each store has returned, no page of the files waits to be written."""
    stores = await lab.open()
    key = await stores.api_keys.create("agent", ["read"], "free")
    writes: dict[str, Callable[[], Awaitable[object]]] = {
        "skills.create": lambda: stores.skills.create(skill("s")),
        "skills.create_many": lambda: stores.skills.create_many([skill("t"), skill("u")]),
        "skills.delete": lambda: stores.skills.delete("s"),
        "knowledge.create": lambda: stores.knowledge.create(pattern("p")),
        "knowledge.create_many": lambda: stores.knowledge.create_many([pattern("q"), pattern("r")]),
        "knowledge.delete": lambda: stores.knowledge.delete("kp:pattern:p"),
        "reputation.upsert": lambda: stores.reputation.upsert("agent", 1, "made"),
        "reputation.record_vote": lambda: stores.reputation.record_vote(vote("kp:pattern:q")),
        "api_keys.create": lambda: stores.api_keys.create("agent", ["read"], "free"),
        "api_keys.revoke": lambda: stores.api_keys.revoke(key.record.key_prefix),
        "rate_limit.consume": lambda: stores.rate_limit.consume("agent", "free", "GET"),
        "rate_limit.record_429": lambda: stores.rate_limit.record_429("agent"),
        "audit_log.log": lambda: stores.audit_log.log("act", "agent", "skill", "t", "::1"),
    }
    for name, write in writes.items():
        await write()
        pages = await lab.inspect_unsynced()
        assert pages == 0, f"{name} returned while {pages} pages were not on the disk"
