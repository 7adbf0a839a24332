"""The random calls reach what hurts: of a few thousand, some are at each corner."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kpstore_conformance import strategies
from kpstore_conformance.history import Call
from kpstore_conformance.model import MAX_DEPTH, Model, fold

from kpstore import StoredSkill

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
STORED = "Straße"
LISTED = frozenset("".join((*strategies.TEXTS, *strategies.KEYS, *strategies.IDS)))


def a_model() -> Model:
    """A model with a skill and an agent in it."""
    model = Model(NOON)
    model.skills.create(
        StoredSkill(
            id=STORED,
            name="a",
            description="",
            content="",
            quality_score=0.3,
            created_at=NOON,
            updated_at=NOON,
        )
    )
    model.reputation.upsert("a", 1.0, "a")
    return model


@cache
def drawn(what: str) -> list[Any]:
    """The same 2,500 examples every time."""
    model = a_model()
    strategy: st.SearchStrategy[Any] = {
        "skills": strategies.skill_calls(model),
        "knowledge": strategies.knowledge_calls(model),
        "reputation": strategies.reputation_calls(model),
        "audit_log": strategies.audit_calls(model),
        "clock": strategies.clock_moves(model),
    }[what]
    found: list[Any] = []

    @settings(
        max_examples=2500,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: Any) -> None:
        found.append(example)

    draw()
    return found


def parts(value: Any) -> Iterator[Any]:
    """Everything in a value, keys included; without recursion, since some of it is deep."""
    left = [value]
    while left:
        one = left.pop()
        yield one
        if is_dataclass(one) and not isinstance(one, type):
            left += [getattr(one, field.name) for field in fields(one)]
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            left += one


def all_parts(store: str) -> Iterator[Any]:
    for call in drawn(store):
        yield from parts(dict(call.arguments))


def argument(call: Call, name: str, field: str) -> Any:
    """A field of the record that a call is given."""
    return getattr(call.arguments.get(name), field, None)


def depth(value: Any) -> int:
    """How deep the dicts and lists of a value are nested."""
    found, level = 0, [value]
    while containers := [one for one in level if isinstance(one, (dict, list))]:
        found += 1
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
    return found


@pytest.mark.parametrize("store", ["skills", "knowledge", "audit_log"])
@pytest.mark.parametrize(("first", "last"), [(0x80, 0x7FF), (0x800, 0xFFFF), (0x1_0000, 0x10_FFFF)])
def test_texts_are_of_all_of_unicode(store: str, first: int, last: int) -> None:
    strange = {c for part in all_parts(store) if isinstance(part, str) for c in part} - LISTED
    assert len([c for c in strange if first <= ord(c) <= last]) > 5


def test_unassigned_and_combining_characters_come_too() -> None:
    strange = {c for part in all_parts("skills") if isinstance(part, str) for c in part} - LISTED
    assert {"Cn", "Mn", "Co", "Lo", "So"} <= {unicodedata.category(c) for c in strange}


@pytest.mark.parametrize(
    "almost",
    [
        lambda id: id != STORED and fold(id) == fold(STORED),
        lambda id: id.strip() == STORED != id,
        lambda id: id == STORED[:-1],
    ],
)
def test_ids_are_almost_those_that_are_stored(almost: Callable[[str], bool]) -> None:
    written = [argument(call, "skill", "id") for call in drawn("skills") if call.method == "create"]
    read = [call.arguments["id"] for call in drawn("skills") if call.method in ("get_by_id", "delete")]
    assert any(almost(id) for id in written + read if isinstance(id, str))


def test_numbers_are_extreme_beyond_those_listed() -> None:
    numbers = {
        part
        for store in ("knowledge", "audit_log")
        for part in all_parts(store)
        if type(part) in (int, float)
    }
    strange = [one for one in numbers if one not in strategies.NUMBERS and math.isfinite(one)]
    assert any(type(one) is int and 2**53 < abs(one) < 2**63 for one in strange)
    assert any(type(one) is float and abs(one) > 1e100 for one in strange)
    assert any(type(one) is float and 0 < abs(one) < 1e-100 for one in strange)


def test_documents_are_as_deep_as_they_may_be_and_one_deeper() -> None:
    depths = {depth(call.arguments.get("details")) for call in drawn("audit_log")}
    assert {MAX_DEPTH, MAX_DEPTH + 1} <= depths


def test_a_filter_is_next_to_a_stored_quality() -> None:
    limits = [call.arguments.get("min_quality") for call in drawn("skills")]
    assert {0.3, math.nextafter(0.3, 0.0), math.nextafter(0.3, 1.0)} <= {
        one for one in limits if type(one) is float
    }


def test_qualities_and_deltas_are_any_number() -> None:
    qualities = [argument(call, "skill", "quality_score") for call in drawn("skills")]
    assert any(
        type(one) is float and 0 < one < 1 and one not in strategies.QUALITIES
        for one in qualities
        if one not in strategies.ILLEGAL_QUALITIES
    )
    deltas = [call.arguments.get("delta") for call in drawn("reputation")]
    strange = {one for one in deltas if type(one) is float and math.isfinite(one)} - {*strategies.DELTAS}
    assert len(strange) > 5


def test_qualities_tie() -> None:
    batches = [call.arguments.get("skills") for call in drawn("skills")]
    alike = [
        len({argument.quality_score for argument in batch})
        for batch in batches
        if isinstance(batch, list) and len(batch) > 20
    ]
    assert alike.count(1) > 5


def test_the_clock_goes_back_and_to_every_edge() -> None:
    moves = {to for to, _ in drawn("clock")}
    may_vote = NOON + timedelta(days=30)
    assert {may_vote, may_vote + timedelta(microseconds=1), may_vote - timedelta(microseconds=1)} <= moves
    assert any(to < NOON for to in moves)
