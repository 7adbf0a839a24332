"""The knowledge store in memory."""

from __future__ import annotations

from kpstore.backends.memory.documents import MemoryDocuments
from kpstore.records import StoredKnowledgeUnit
from kpstore.stores import KnowledgeStore


class MemoryKnowledgeStore(MemoryDocuments[StoredKnowledgeUnit], KnowledgeStore):
    """The hooks of `KnowledgeStore` on dictionaries."""
