"""The memory backend: needs no service and leaves nothing on disk (clause MEM-1)."""

from __future__ import annotations

from kpstore.backends.memory.api_keys import MemoryApiKeyStore
from kpstore.backends.memory.audit_log import MemoryAuditLogStore
from kpstore.backends.memory.knowledge import MemoryKnowledgeStore
from kpstore.backends.memory.rate_limit import MemoryRateLimitStore
from kpstore.backends.memory.reputation import MemoryReputationStore
from kpstore.backends.memory.skills import MemorySkillStore
from kpstore.clock import Clock
from kpstore.records import Capability
from kpstore.settings import Settings
from kpstore.stores import AllStores, StoreContext


async def open_store(settings: Settings, clock: Clock) -> AllStores:
    """Six empty stores that share nothing with any others."""
    context = StoreContext(clock, settings.max_record_bytes, "memory")
    skills = MemorySkillStore(context)
    knowledge = MemoryKnowledgeStore(context)

    async def close() -> None:
        context.closed = True
        # A large batch that is still going in ends first.
        await skills._stop()
        await knowledge._stop()

    return AllStores(
        skills=skills,
        knowledge=knowledge,
        reputation=MemoryReputationStore(context),
        api_keys=MemoryApiKeyStore(context),
        rate_limit=MemoryRateLimitStore(context),
        audit_log=MemoryAuditLogStore(context),
        backend="memory",
        capabilities=frozenset({Capability.CONTROLLABLE_CLOCK}),
        close=close,
    )
