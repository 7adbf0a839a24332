"""The skill store in SQLite."""

from __future__ import annotations

import sqlite3
from typing import ClassVar

from kpstore.backends.sqlite.columns import text_column
from kpstore.backends.sqlite.documents import Column, SqliteDocuments
from kpstore.records import StoredSkill
from kpstore.stores import Document, SkillStore


class SqliteSkillStore(SqliteDocuments[StoredSkill], SkillStore):
    """The hooks of `SkillStore` on the tables `skills` and `skill_tags`."""

    table: ClassVar[str] = "skills"
    columns: ClassVar[dict[str, Column]] = {"domain": lambda skill: text_column(skill.domain)}

    @staticmethod
    def _stored(db: sqlite3.Connection, document: Document, position: int) -> None:
        """Write the skill's tags."""
        SqliteSkillStore._removed(db, position)
        db.executemany(
            "INSERT INTO skill_tags (skill, tag) VALUES (?, ?)",
            [(position, text_column(tag)) for tag in document.tags],
        )

    @staticmethod
    def _removed(db: sqlite3.Connection, position: int) -> None:
        """Remove the skill's tags."""
        db.execute("DELETE FROM skill_tags WHERE skill = ?", (position,))
