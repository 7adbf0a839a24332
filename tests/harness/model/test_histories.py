"""Observations are compared exactly: each kind of difference is seen, and equal ones are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from kpstore_conformance.history import (
    Advance,
    Bounds,
    Call,
    Close,
    Observation,
    Open,
    Player,
    Raised,
    Ref,
    Reopen,
    Returned,
    SetClock,
    StorePlayer,
    Symbol,
    Unplayable,
    compare,
    differences,
    disagreement,
    unlike,
)

from kpstore import ManualClock, Page, Settings, StoredSkill, create_store

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def skill(id: str, name: str = "a") -> StoredSkill:
    return StoredSkill(id=id, name=name, description="", content="", created_at=NOON, updated_at=NOON)


@pytest.mark.parametrize(
    ("expected", "came"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (None, ""),
        ([], ()),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": None}, {}),
        ([1], [1, 1]),
        ("é", "e\u0301"),
        (NOON, NOON.replace(tzinfo=None)),
        (NOON, NOON.astimezone(timezone(timedelta(hours=1)))),
        (NOON, NOON + timedelta(microseconds=1)),
        (Symbol("a"), "a"),
        (Symbol("a"), Symbol("b")),
        (frozenset({"read"}), {"read"}),
        (skill("a"), skill("b")),
        (Page([], 0, 0, 20), Page([], 1, 0, 20)),
        (2**53, 2**53 + 1),
        ([[{"a": [1]}]], [[{"a": [1.0]}]]),
    ],
)
def test_every_difference_is_seen(expected: Any, came: Any) -> None:
    assert differences(expected, came)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -0.0,
        5e-324,
        None,
        "",
        [],
        {"a": [None, {}]},
        NOON,
        skill("a"),
        Page([1], 1, 0, 20),
        Symbol("a"),
        True,
    ],
)
def test_a_value_is_equal_to_itself(value: Any) -> None:
    assert differences(value, value) == []


def test_utc_is_utc_whatever_its_class() -> None:
    assert differences(NOON, NOON.replace(tzinfo=timezone(timedelta(0)))) == []


@pytest.mark.parametrize(
    ("expected", "came", "agree"),
    [
        (Returned(1), Returned(1), True),
        (Returned(1), Raised("ValidationError", frozenset({"limit"})), False),
        (Raised("ValidationError", frozenset({"limit"})), Returned(1), False),
        (Raised("StoreClosedError"), Raised("StoreClosedError"), True),
        (Raised("StoreClosedError"), Raised("ValidationError"), False),
        (Raised("ValidationError", frozenset({"a.b"})), Raised("ValidationError", frozenset({"a.b"})), True),
        (
            Raised("ValidationError", frozenset({"a.b"})),
            Raised("ValidationError", frozenset({"a.b[0]"})),
            True,
        ),
        (
            Raised("ValidationError", frozenset({"a.b"})),
            Raised("ValidationError", frozenset({"a.bc"})),
            False,
        ),
        (Raised("ValidationError", frozenset({"a.b"})), Raised("ValidationError", frozenset({"a"})), False),
        (Raised("ValidationError", frozenset({"a", "b"})), Raised("ValidationError", frozenset({"b"})), True),
    ],
)
def test_results_and_errors(expected: Observation, came: Observation, agree: bool) -> None:
    assert (compare(expected, came) == []) is agree


@pytest.mark.parametrize(
    ("ids", "inside"),
    [
        (["a", "b"], True),
        (["a", "x", "b"], True),
        (["a", "b", "new"], True),
        (["a"], False),
        (["b", "a"], False),
        (["a", "b", "b"], False),
        (["a", "b", "stranger"], False),
    ],
)
def test_the_bounds_of_a_scan_during_changes(ids: list[str], inside: bool) -> None:
    versions: dict[Any, list[Any]] = {id: [skill(id)] for id in ("a", "b", "x", "new")}
    bounds = Bounds("skills", ["a", "b"], versions)
    assert (differences(bounds, [skill(id) for id in ids]) == []) is inside
    assert differences(bounds, [skill("a", "other"), skill("b")])


def test_which_observation_of_many_differs() -> None:
    assert disagreement([Returned(1), Returned(2)], [Returned(1), Returned(3)]) == (
        1,
        ["result: must be 2, but came as 3"],
    )
    assert disagreement([], [Raised("OSError", text="gone")]) == (
        0,
        ["must succeed, but raised OSError: gone"],
    )


def test_two_backends_may_name_different_fields_but_not_raise_different_errors() -> None:
    expected = [Raised("ValidationError", frozenset({"a", "b"}))]
    one: list[Observation] = [Raised("ValidationError", frozenset({"a"}))]
    assert unlike(expected, one, [Raised("ValidationError", frozenset({"b"}))]) is None
    assert unlike(expected, one, [Raised("OSError")]) is not None
    assert unlike(expected, one, [Returned(None)]) is not None


async def play(steps: list[Any], backend: str, path: str) -> list[tuple[int, list[str]] | None]:
    clock = ManualClock(NOON)
    settings = Settings(store_backend=backend, sqlite_path=path)

    async def open_handle() -> Any:
        return await create_store(backend, settings=settings, clock=clock)

    stores = StorePlayer(open_handle, clock)
    player = Player(NOON, frozenset())
    await stores.start()
    try:
        return [disagreement(player.perform(step), await stores.perform(step)) for step in steps]
    finally:
        await stores.stop()


async def test_every_kind_of_step_is_played_on_both(tmp_path: Any) -> None:
    steps = [
        Call("skills", "create", {"skill": skill("a")}, scribble=True),
        Call("skills", "create_many", {"skills": [skill("b"), skill("c")]}),
        Call(
            "skills",
            "scan",
            {"batch_size": 1},
            after=1,
            changes=(Call("skills", "delete", {"id": "b"}), Call("skills", "create", {"skill": skill("d")})),
        ),
        Call("api_keys", "create", {"agent_id": "a", "scopes": ["read"], "tier": "free"}, save="key1"),
        Call("api_keys", "verify", {"raw_key": Ref("key1", "raw_key")}),
        Call("api_keys", "verify", {"raw_key": Ref("key1", "raw_key", after=" ")}),
        Call("api_keys", "revoke", {"key_prefix": Ref("key1", "record.key_prefix")}),
        SetClock(NOON + timedelta(days=30)),
        Advance(timedelta(days=-1)),
        Call("rate_limit", "consume", {"identifier": "a", "tier": "free", "method": "POST"}, times=31),
        Call(
            "audit_log",
            "log",
            {"action": "", "agent_id": "a", "resource_type": "", "resource_id": "a", "ip": ""},
        ),
        Call("audit_log", "query"),
        Call("audit_log", "query", {"limit": -1}),
        Open("second"),
        Call("skills", "search", handle="second"),
        Reopen("main"),
        Close("main"),
        Call("skills", "search"),
        Open("main"),
        Call("api_keys", "scan"),
    ]
    assert await play(steps, "sqlite", str(tmp_path / "kp.db")) == [None] * len(steps)


async def test_a_wrong_answer_is_seen(tmp_path: Any) -> None:
    late = [Call("skills", "create", {"skill": skill("a")}), Call("skills", "get_by_id", {"id": "a"})]
    clock = ManualClock(NOON)

    async def open_handle() -> Any:
        return await create_store("memory", clock=clock)

    stores = StorePlayer(open_handle, clock)
    await stores.start()
    try:
        player = Player(NOON)
        player.perform(late[0])
        assert disagreement(player.perform(late[1]), await stores.perform(late[1])) is not None
    finally:
        await stores.stop()


def test_what_cannot_be_played() -> None:
    player = Player(NOON)
    with pytest.raises(Unplayable):
        player.perform(Call("api_keys", "verify", {"raw_key": Ref("key1", "raw_key")}))
    with pytest.raises(Unplayable):
        player.perform(Call("skills", "scan", handle="second"))
    with pytest.raises(Unplayable):
        player.perform(Open("main"))
    player.perform(Call("rate_limit", "record_429", {"identifier": "a"}))
    player.perform(Advance(timedelta(hours=2)))
    with pytest.raises(Unplayable):
        player.perform(Advance(timedelta(hours=-2)))
