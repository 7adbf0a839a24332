"""The SQLite backend: durable, one file, shared by any number of processes (clauses SQL-1 to SQL-6)."""

from __future__ import annotations

from kpstore.backends.sqlite.api_keys import SqliteApiKeyStore
from kpstore.backends.sqlite.audit_log import SqliteAuditLogStore
from kpstore.backends.sqlite.database import Database
from kpstore.backends.sqlite.knowledge import SqliteKnowledgeStore
from kpstore.backends.sqlite.rate_limit import SqliteRateLimitStore
from kpstore.backends.sqlite.reputation import SqliteReputationStore
from kpstore.backends.sqlite.skills import SqliteSkillStore
from kpstore.clock import Clock
from kpstore.records import Capability
from kpstore.settings import Settings
from kpstore.stores import AllStores, StoreContext


async def open_store(settings: Settings, clock: Clock) -> AllStores:
    """The six stores on the file at `settings.sqlite_path`, made or upgraded if need be.

    `:memory:` is a database of this handle alone, gone when it is closed.
    """
    path = settings.sqlite_path
    context = StoreContext(clock, settings.max_record_bytes, path)
    database = Database(path, settings.sqlite_synchronous, context)
    await database.open()
    capabilities = {Capability.CONTROLLABLE_CLOCK}
    if database.is_file:
        capabilities.add(Capability.MULTI_PROCESS)
        if settings.sqlite_synchronous == "full":  # `normal` may lose the last commits to a power cut
            capabilities.add(Capability.DURABLE)
    skills = SqliteSkillStore(context, database)
    knowledge = SqliteKnowledgeStore(context, database)

    async def close() -> None:
        await database.close()
        await skills._stop()
        await knowledge._stop()

    return AllStores(
        skills=skills,
        knowledge=knowledge,
        reputation=SqliteReputationStore(context, database),
        api_keys=SqliteApiKeyStore(context, database),
        rate_limit=SqliteRateLimitStore(context, database),
        audit_log=SqliteAuditLogStore(context, database),
        backend="sqlite",
        capabilities=frozenset(capabilities),
        close=close,
    )
