from __future__ import annotations

from collections import Counter
from itertools import islice

import msgspec
import pytest
from kpstore_conformance import dataset

from kpstore import create_store


def test_a_record_is_the_same_whatever_was_generated_before_it() -> None:
    assert list(dataset.units(3, start=7)) == list(dataset.units(10))[7:]
    assert list(dataset.skills(3, start=7)) == list(dataset.skills(10))[7:]


def test_another_seed_gives_other_records() -> None:
    ours, theirs = (next(dataset.units(1, seed=seed)) for seed in (0, 1))
    assert ours.id != theirs.id
    assert ours.unit != theirs.unit


def test_the_id_of_a_unit_is_known_without_making_it() -> None:
    assert [unit.id for unit in dataset.units(50)] == [dataset.unit_id(number) for number in range(50)]


@pytest.mark.parametrize("store", ["knowledge", "skills"])
async def test_stores_take_the_records(store: str) -> None:
    records = dataset.units(300) if store == "knowledge" else dataset.skills(300)
    async with create_store("memory") as stores:
        assert await getattr(stores, store).create_many(records) == 300  # so their ids differ


def test_units_are_as_large_and_as_varied_as_promised() -> None:
    units = list(dataset.units(3000))
    sizes = sorted(len(msgspec.json.encode(unit.unit)) for unit in units)
    assert sizes[30] >= 400
    assert sizes[-30] <= 800
    assert len({unit.unit["metadata"]["task_domain"] for unit in units}) == len(dataset.DOMAINS)
    assert len({unit.unit["metadata"]["agent_id"] for unit in units}) > 0.9 * dataset.AGENTS
    assert len({unit.unit["@type"] for unit in units}) == 3


def test_words_are_as_frequent_as_in_prose() -> None:
    words: Counter[str] = Counter()
    for unit in islice(dataset.units(2000), 2000):
        words.update(set(str(unit.unit).lower().split()))
    # "the" in half of the texts or more, most words in one or two.
    assert words["the"] > 700
    assert sum(count <= 2 for count in words.values()) > len(words) / 2
