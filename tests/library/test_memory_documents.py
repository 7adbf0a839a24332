"""When the memory backend's index takes in new documents: answers are the same before and after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from kpstore import StoredSkill, create_store
from kpstore.backends.memory import documents
from kpstore.backends.memory.documents import _BACKGROUND, _BACKLOG
from kpstore.backends.memory.skills import MemorySkillStore

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def skills(start: int, end: int) -> Iterator[StoredSkill]:
    for n in range(start, end):
        yield StoredSkill(f"s{n}", f"skill {n}", "does this or that", "text", created_at=NOW, updated_at=NOW)


async def turns_until_nothing_is_pending(store: MemorySkillStore) -> int:
    for turn in range(10_000):
        if store._index.pending == 0:
            return turn
        await asyncio.sleep(0)
    raise AssertionError(f"{store._index.pending} documents are still pending")


async def test_once_there_are_many_new_documents_they_are_taken_in_beside_other_work() -> None:
    async with create_store("memory") as stores:
        store = stores.skills
        assert isinstance(store, MemorySkillStore)
        for skill in skills(0, _BACKGROUND - 1):
            await store.create(skill)
        for _ in range(10):
            await asyncio.sleep(0)
        assert store._index.pending == _BACKGROUND - 1
        for skill in skills(_BACKGROUND, _BACKGROUND + 1):
            await store.create(skill)
        await turns_until_nothing_is_pending(store)
        await asyncio.sleep(0)
        assert store._indexing is None


async def test_a_large_batch_is_taken_in_before_its_call_returns() -> None:
    async with create_store("memory") as stores:
        store = stores.skills
        assert isinstance(store, MemorySkillStore)
        await store.create_many(skills(0, 3 * _BACKGROUND))
        assert store._index.pending == 0


async def test_who_stores_more_than_the_index_can_follow_takes_part_in_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(documents, "_BACKGROUND", 10**9)  # as if the loop never turned
    async with create_store("memory") as stores:
        store = stores.skills
        assert isinstance(store, MemorySkillStore)
        for skill in skills(0, _BACKLOG - 1):
            await store.create(skill)
        assert store._index.pending == _BACKLOG - 1
        for skill in skills(_BACKLOG, 4 * _BACKLOG):
            await store.create(skill)
        assert store._index.pending < 2 * _BACKLOG
