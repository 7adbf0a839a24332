"""The six KnowledgePulse stores on interchangeable backends.

    async with create_store() as stores:
        await stores.skills.create(StoredSkill(...))

`KP_STORE_BACKEND` picks the backend: `memory` (default), `sqlite` or `qdrant`.
"""

from kpstore._version import __version__ as __version__
from kpstore.clock import Clock, ManualClock
from kpstore.errors import (
    BackendUnavailableError,
    ConfigurationError,
    DataCorruptionError,
    KpStoreError,
    SchemaVersionError,
    StoreClosedError,
    ValidationError,
)
from kpstore.factory import create_store
from kpstore.records import (
    ApiKeyRecord,
    AuditLogEntry,
    Capability,
    HistoryEntry,
    NewApiKey,
    Page,
    RateLimitDecision,
    ReputationRecord,
    ScoredUnit,
    StoredKnowledgeUnit,
    StoredSkill,
    ValidationVote,
)
from kpstore.settings import Settings
from kpstore.stores.all_stores import AllStores
from kpstore.stores.knowledge import Embedder

__all__ = [
    "AllStores",
    "ApiKeyRecord",
    "AuditLogEntry",
    "BackendUnavailableError",
    "Capability",
    "Clock",
    "ConfigurationError",
    "DataCorruptionError",
    "Embedder",
    "HistoryEntry",
    "KpStoreError",
    "ManualClock",
    "NewApiKey",
    "Page",
    "RateLimitDecision",
    "ReputationRecord",
    "SchemaVersionError",
    "ScoredUnit",
    "Settings",
    "StoreClosedError",
    "StoredKnowledgeUnit",
    "StoredSkill",
    "ValidationError",
    "ValidationVote",
    "create_store",
]
