"""The skills store in memory."""

from __future__ import annotations

from kpstore.backends.memory.documents import MemoryDocuments
from kpstore.records import StoredSkill
from kpstore.stores import SkillStore


class MemorySkillStore(MemoryDocuments[StoredSkill], SkillStore):
    """The hooks of `SkillStore` on dictionaries."""
