"""`rules.json_value` copies every JSON value exactly, and refuses all else with the path of the culprit."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from collections import OrderedDict
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kpstore_conformance.checks.errors import OfEqualType

from kpstore import ValidationError
from kpstore.stores import rules

MIB = 1024 * 1024

TEXT = st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)


def checked(value: object, max_bytes: int = MIB) -> Any:
    return asyncio.run(rules.json_value(value, "v", max_bytes))


def exact(value: Any) -> Any:
    """A form that tells 1 from 1.0 and True, 0.0 from -0.0, and one order of keys from another."""
    if isinstance(value, dict):
        return ("dict", [(key, exact(item)) for key, item in value.items()])
    if isinstance(value, list):
        return ("list", [exact(item) for item in value])
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value).__name__, value)


def containers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [id(value), *(one for item in value.values() for one in containers(item))]
    if isinstance(value, list):
        return [id(value), *(one for item in value for one in containers(item))]
    return []


@given(JSON)
def test_the_copy_is_equal_and_shares_nothing(value: Any) -> None:
    before = copy.deepcopy(value)
    found = checked(value)
    assert exact(found) == exact(value) == exact(before)
    assert set(containers(found)).isdisjoint(containers(value))


def nested(levels: int, leaf: object = 1) -> object:
    value: object = leaf
    for number in range(levels):
        value = [value] if number % 2 else {"k": value}
    return value


def test_500_levels_are_the_most() -> None:
    assert checked(nested(500)) == nested(500)
    with pytest.raises(ValidationError) as caught:
        checked(nested(501))
    assert caught.value.field.startswith("v")
    assert "500" in caught.value.rule
    with pytest.raises(ValidationError):
        checked(nested(100_000))


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[object] = [1]
    circle.append({"again": circle})
    with pytest.raises(ValidationError):
        checked(circle)
    wide: dict[str, object] = {}
    for name in "abcdef":
        wide[name] = wide
    with pytest.raises(ValidationError):
        checked(wide)


class Number(IntEnum):
    ONE = 1


class Name(StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


REFUSED: list[tuple[object, str]] = [
    (OfEqualType(), "v.a"),
    ([OfEqualType()], "v.a[0]"),
    (math.nan, "v.a"),
    (math.inf, "v.a"),
    (-math.inf, "v.a"),
    (2**63, "v.a"),
    (-(2**63) - 1, "v.a"),
    ("a\0b", "v.a"),
    ("\ud800", "v.a"),
    ((1, 2), "v.a"),
    ({1, 2}, "v.a"),
    (b"bytes", "v.a"),
    (datetime(2026, 1, 1, tzinfo=UTC), "v.a"),
    (Number.ONE, "v.a"),
    (Name.A, "v.a"),
    (Text("a"), "v.a"),
    (1j, "v.a"),
    (len, "v.a"),
    (OrderedDict(a=1), "v.a"),
    ({1: 2}, "v.a"),
    ({"k": [0, {"l": math.nan}]}, "v.a.k[1].l"),
    ([[], ["x", "\0"]], "v.a[1][1]"),
]


@pytest.mark.parametrize(("value", "field"), REFUSED, ids=[f"{n}" for n in range(len(REFUSED))])
def test_what_is_no_json_is_refused_by_its_path(value: object, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        checked({"ok": 1, "a": value})
    assert caught.value.field.startswith(field)
    assert caught.value.rule


@pytest.mark.parametrize("key", ["\0", "a\0", "\ud800"])
def test_keys_are_texts_like_others(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        checked({key: 1})
    str(caught.value).encode()  # an error can always be printed


def size_of(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


@given(JSON)
def test_nothing_that_fits_is_refused(value: Any) -> None:
    assert exact(checked(value, size_of(value))) == exact(value)


@pytest.mark.parametrize(
    "value", [None, True, 1, 0.5, "", "ab", [], [""], [None, True], {}, {"": []}, {"a": 0.5}]
)
def test_the_smallest_values_fit_into_their_size(value: object) -> None:
    checked([value], size_of([value]))


@given(JSON, st.integers(1, 200))
def test_nothing_far_too_large_is_taken(value: Any, max_bytes: int) -> None:
    try:
        checked(value, max_bytes)
    except ValidationError as error:
        is_too_large = "KP_MAX_RECORD_BYTES" in error.rule
        assert is_too_large
    else:
        # Its lower bound counts a character as a byte, and a number as one to three.
        assert size_of(value) <= 24 * max_bytes + 2


def test_the_ends_of_64_bits_are_numbers() -> None:
    ends = [-(2**63), 2**63 - 1]
    assert checked(ends) == ends
    assert [rules.number(end, "n") for end in ends] == [-(2.0**63), 2.0**63]


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "change", [0, 55, object(), "\ud800", CIRCLE], ids=["less", "more", "no JSON", "no text", "a circle"]
)
async def test_a_value_that_changes_while_it_is_copied_is_refused(change: object) -> None:
    value: list[object] = [5] * 100_000
    copying = asyncio.create_task(rules.json_value(value, "v", MIB))
    await asyncio.sleep(0)
    assert not copying.done()
    value[0] = change
    with pytest.raises(ValidationError, match="must not change"):
        await copying


async def test_the_loop_turns_while_a_large_value_is_copied() -> None:
    turns = 0

    async def spin() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin())
    large: list[object] = [[0] * 100_000, [[] for _ in range(100_000)], {str(n): {} for n in range(50_000)}]
    for value in large:
        turns = 0
        await rules.json_value(value, "v", MIB)
        assert turns >= 40, type(value)
    spinning.cancel()
