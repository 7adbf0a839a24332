"""The queries: what each kind finds, and that cold ones never come twice."""

from __future__ import annotations

import random

import pytest
from kpstore_conformance import dataset
from kpstore_conformance.bench.documents import Knowledge, Skills, searched_texts
from kpstore_conformance.bench.queries import Queries

from kpstore import create_store

COUNT = 400


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [" / ".join(searched_texts(unit)) for unit in dataset.units(COUNT)]


@pytest.fixture
def queries(texts: list[str]) -> Queries:
    return Queries(texts, random.Random(0))


def found(texts: list[str], query: str) -> int:
    return sum(query.casefold() in text.casefold() for text in texts)


def test_each_kind_finds_what_its_name_says(queries: Queries, texts: list[str]) -> None:
    for _ in range(50):
        assert 0.15 * COUNT <= found(texts, queries.frequent_word()) <= COUNT
        assert 1 <= found(texts, queries.rare_word()) <= 0.02 * COUNT
        assert found(texts, queries.absent()) == 0
        some = queries.characters()
        assert 1 <= len(some) <= 3
        assert found(texts, some)


def test_no_cold_phrase_is_asked_twice(queries: Queries, texts: list[str]) -> None:
    asked = [queries.cold_phrase() for _ in range(400)]
    assert len(set(asked)) == len(asked)
    assert all(" " in phrase and found(texts, phrase) for phrase in asked)


def test_no_infix_is_asked_twice_before_all_have_been(queries: Queries, texts: list[str]) -> None:
    asked = [queries.infix() for _ in range(1000)]
    assert len(set(asked)) == len(asked)
    assert queries.infix() in asked
    # In no order of how wide they are: each pass over a part of them is worth as much as another.
    words = {word for text in texts for word in text.casefold().split()}
    widths = [sum(infix in word for word in words) for infix in asked]
    assert min(widths) >= 1
    assert sum(widths[:500]) == pytest.approx(sum(widths[500:]), rel=0.25)


def test_phrases_that_run_out_come_again() -> None:
    queries = Queries(["of the", "of the"], random.Random(0))
    assert {queries.cold_phrase() for _ in range(5)} == {"of the"}


@pytest.mark.parametrize("section", [Knowledge, Skills])
async def test_the_texts_are_those_that_a_store_searches(section: type[Knowledge] | type[Skills]) -> None:
    made = section(100, 0)
    async with create_store("memory") as stores:
        await made.fill(stores, lambda count: None)
        store = stores.knowledge if section is Knowledge else stores.skills
        async for record in store.scan():
            for text in searched_texts(record):
                page = await store.search(query=text, limit=1000)
                assert record.id in [each.id for each in page.data]
