"""The six stores: their rules, and the hooks that a backend fills in.

This is the surface for backend authors: subclass the six stores, implement
their hooks (the abstract methods), and give them to `AllStores`.
"""

from kpstore.stores.all_stores import AllStores
from kpstore.stores.api_keys import ApiKeyStore
from kpstore.stores.audit_log import AuditDocument, AuditLogStore, AuditQuery
from kpstore.stores.base import StoreContext
from kpstore.stores.documents import Document, DocumentQuery, DocumentStore
from kpstore.stores.knowledge import KnowledgeStore
from kpstore.stores.rate_limit import Bucket, BucketChange, RateLimitStore
from kpstore.stores.reputation import ReputationStore, Standing, StandingChange
from kpstore.stores.skills import SkillStore

__all__ = [
    "AllStores",
    "ApiKeyStore",
    "AuditDocument",
    "AuditLogStore",
    "AuditQuery",
    "Bucket",
    "BucketChange",
    "Document",
    "DocumentQuery",
    "DocumentStore",
    "KnowledgeStore",
    "RateLimitStore",
    "ReputationStore",
    "SkillStore",
    "Standing",
    "StandingChange",
    "StoreContext",
]
