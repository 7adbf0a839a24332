"""What a store keeps of a record is the record, whatever is in it; on both backends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpstore import (
    AllStores,
    DataCorruptionError,
    Settings,
    StoredKnowledgeUnit,
    StoredSkill,
    create_store,
)
from kpstore.stores.base import Codec, StoreContext, encode

TEXT = st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)
FILLED = TEXT.filter(bool)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-11, minutes=-30))])
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=ZONES)
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e16, 2.0**53 + 2, 1e22, 1e-7]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
SKILLS = st.builds(
    StoredSkill,
    id=FILLED,
    name=TEXT,
    description=TEXT,
    content=TEXT,
    version=st.none() | TEXT,
    author=st.none() | TEXT,
    domain=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=4).map(tuple),
    files=st.dictionaries(TEXT, TEXT, max_size=3),
    visibility=st.sampled_from(["private", "org", "network"]),
    quality_score=st.floats(0, 1),
    created_at=MOMENTS,
    updated_at=MOMENTS,
)
EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Run = Callable[[Callable[[AllStores], Awaitable[Any]]], Any]


@pytest.fixture(params=["memory", "sqlite"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Runs an async function with stores that stay open for the whole test."""
    loop = asyncio.new_event_loop()
    where = Settings(sqlite_path=str(tmp_path / "x.db"), sqlite_synchronous="normal")

    async def opening() -> AllStores:
        return await create_store(request.param, settings=where)

    stores = loop.run_until_complete(opening())

    async def calling(function: Callable[[AllStores], Awaitable[Any]]) -> Any:
        return await function(stores)

    yield lambda function: loop.run_until_complete(calling(function))
    loop.run_until_complete(stores.close())
    loop.close()


def exact(value: Any) -> Any:
    """A form that tells 1 from 1.0 and True, 0.0 from -0.0, and one order of keys from another."""
    if isinstance(value, dict):
        return ("dict", [(key, exact(item)) for key, item in value.items()])
    if isinstance(value, list):
        return ("list", [exact(item) for item in value])
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value).__name__, value)


@EXAMPLES
@given(skill=SKILLS)
def test_a_skill_comes_back_as_it_was(run: Run, skill: StoredSkill) -> None:
    async def go(stores: AllStores) -> None:
        created = await stores.skills.create(skill)
        found = await stores.skills.get_by_id(skill.id)
        assert found is not None
        assert found == created == skill
        assert found.created_at.tzinfo is UTC
        assert list(found.files.items()) == list(skill.files.items())
        # -0.0 and 0.0 are equal, and so told apart here.
        assert found.quality_score.hex() == skill.quality_score.hex()

    run(go)


@EXAMPLES
@given(extra=st.dictionaries(TEXT, JSON, max_size=4), inside=JSON)
def test_whatever_a_unit_holds_comes_back(run: Run, extra: dict[str, Any], inside: Any) -> None:
    unit: dict[str, Any] = {
        "z": inside,
        "@context": "https://openknowledgepulse.org/schema/v1",
        "@type": "ExpertSOP",
        "id": "kp:sop:1",
        "domain": "d",
        "name": "n",
        "source": {"credentials": [], "type": "human_expert", "expert_id": "", "x": inside},
        "decision_tree": [{"instruction": "", "step": "", "y": [inside]}],
        "metadata": {
            "created_at": "2026-01-31T12:00:00Z",
            "task_domain": "d",
            "success": False,
            "quality_score": 0,
            "visibility": "org",
            "privacy_level": "private",
        },
    }
    unit = {**{key: value for key, value in extra.items() if key not in unit and key != "validation"}, **unit}
    now = datetime(2026, 1, 15, tzinfo=UTC)

    async def go(stores: AllStores) -> None:
        created = await stores.knowledge.create(
            StoredKnowledgeUnit("kp:sop:1", unit, created_at=now, updated_at=now)
        )
        found = await stores.knowledge.get_by_id("kp:sop:1")
        assert found is not None
        assert exact(found.unit) == exact(created.unit) == exact(unit)

    run(go)


@EXAMPLES
@given(delta=NUMBERS, reason=TEXT, agent_id=FILLED)
def test_a_history_entry_comes_back(run: Run, delta: float, reason: str, agent_id: str) -> None:
    async def go(stores: AllStores) -> None:
        if abs(delta) > 1e300:  # the sum of two would not be finite
            return
        before = (await stores.reputation.get_history(agent_id, limit=0)).total
        record = await stores.reputation.upsert(agent_id, delta, reason)
        page = await stores.reputation.get_history(agent_id, offset=before)
        assert page.data == record.history[-1:]
        assert float(page.data[0].delta).hex() == float(delta).hex()
        assert page.data[0].reason == reason

    run(go)


@EXAMPLES
@given(details=st.none() | st.dictionaries(TEXT, JSON, max_size=4), action=TEXT)
def test_audit_details_come_back(run: Run, details: dict[str, Any] | None, action: str) -> None:
    async def go(stores: AllStores) -> None:
        logged = await stores.audit_log.log(action, "agent", "", "r", "", details)
        total = (await stores.audit_log.query(limit=0)).total
        (found,) = (await stores.audit_log.query(offset=total - 1)).data
        assert found == logged
        assert found.action == action
        assert exact(found.details) == exact(details)

    run(go)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"{}",
        b"\xff",
        b'{"id":"\xff"}',
        b'{"id":"a","unit":{"k":' + b"[" * 100_000,
        b'{"id":1,"unit":{}}',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_record_names_the_place(body: bytes) -> None:
    codec = Codec(StoredKnowledgeUnit, StoreContext(location="/the/place.db"))
    with pytest.raises(DataCorruptionError, match=r"/the/place\.db") as caught:
        codec.decode(body)
    assert caught.value.__cause__ is not None


def test_what_other_writers_wrote_is_read_leniently() -> None:
    body = b"""{ "updated_at" : "2026-01-15T12:00:00Z", "created_at":"2026-01-15T12:00:00+02:00", "more": [1],
        "unit": {"nan": NaN, "lone": "\\ud800", "huge": 1e999}, "id": "i" }"""
    found = Codec(StoredKnowledgeUnit, StoreContext()).decode(body)
    assert found.id == "i"
    assert found.unit["lone"] == "\ud800"
    assert found.created_at == datetime(2026, 1, 15, 10, tzinfo=UTC)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(is_enabled: bool) -> None:
    codec = Codec(StoredSkill, StoreContext())
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    skill = StoredSkill("a", "n", "d", "x" * 1_000_000, created_at=moment, updated_at=moment)
    was_enabled = gc.isenabled()
    try:
        (gc.enable if is_enabled else gc.disable)()
        assert codec.decode(encode(skill)) == skill
        assert gc.isenabled() is is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
