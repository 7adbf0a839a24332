"""What the reference answers, worked out by hand from the contract."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kpstore_conformance.model import Model, Refused, clone, fold, unit_texts

from kpstore import StoredKnowledgeUnit, StoredSkill

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
UNIX = 1768478400


def skill(id: str, quality: float = 0.5, **fields: Any) -> StoredSkill:
    given = {"name": id, "description": "", "content": "", "created_at": NOON, "updated_at": NOON, **fields}
    return StoredSkill(id=id, quality_score=quality, **given)


def pattern(id: str = "kp:pattern:a") -> dict[str, Any]:
    return {
        "@context": "https://openknowledgepulse.org/schema/v1",
        "@type": "ToolCallPattern",
        "id": id,
        "metadata": {
            "created_at": "2026-01-15T12:00:00Z",
            "task_domain": "a",
            "success": True,
            "quality_score": 0.5,
            "visibility": "network",
            "privacy_level": "private",
        },
        "name": "a",
        "description": "",
        "trigger_conditions": {"task_types": ["a"]},
        "tool_sequence": [{"step": "a", "execution": "parallel", "tools": []}],
        "performance": {"avg_ms": 0, "success_rate": 1, "uses": 0},
    }


def entry(unit: dict[str, Any], id: str = "kp:pattern:a") -> StoredKnowledgeUnit:
    return StoredKnowledgeUnit(id=id, unit=unit, created_at=NOON, updated_at=NOON)


def refused(call: Any, *args: Any, **arguments: Any) -> frozenset[str]:
    with pytest.raises(Refused) as caught:
        call(*args, **arguments)
    return caught.value.paths


@pytest.mark.parametrize(
    ("one", "other"), [("STRASSE", "straße"), ("e\u0301", "É"), ("\u212b", "å"), ("ΣΑΣ", "σας")]
)
def test_fold_makes_equal(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_fold_keeps_apart_what_only_looks_alike() -> None:
    assert fold("ﬁ") == fold("fi")
    assert fold("ı") != fold("i")
    assert fold("é") != fold("e")


def test_ties_stand_in_the_order_of_first_insertion_after_a_replace() -> None:
    skills = Model(NOON).skills
    for id in ("c", "a", "b"):
        skills.create(skill(id))
    skills.create(skill("a", 0.9))
    skills.create(skill("a", 0.5))
    assert [one.id for one in skills.search().data] == ["c", "a", "b"]
    skills.delete("c")
    skills.create(skill("c"))
    assert [one.id for one in skills.search().data] == ["a", "b", "c"]


def test_search_folds_and_never_spans_two_texts() -> None:
    skills = Model(NOON).skills
    skills.create(skill("a", name="Große", description="über", tags=("100%",)))
    found = [skills.search(query=query).total for query in ("GROSSE", "ÜBER", "0%", "eü", "e ü", "_", "")]
    assert found == [1, 1, 1, 0, 0, 0, 1]


def test_a_list_with_one_bad_record_stores_nothing() -> None:
    skills = Model(NOON).skills
    bad = [skill("a"), skill("b", float("nan"))]
    assert refused(skills.create_many, bad) == {"skills[1].quality_score"}
    assert skills.scan() == []


def test_what_is_given_back_is_not_what_is_kept() -> None:
    knowledge = Model(NOON).knowledge
    unit = pattern()
    knowledge.create(entry(unit)).unit["name"] = "changed"
    unit["name"] = "changed"
    kept = knowledge.get_by_id("kp:pattern:a")
    assert kept is not None
    assert kept.unit["name"] == "a"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": ""}, "entry.unit.name"),
        ({"name": "\0"}, "entry.unit.name"),
        ({"@type": "Pattern"}, "entry.unit.@type"),
        ({"@context": "http://openknowledgepulse.org/schema/v1"}, "entry.unit.@context"),
        ({"tool_sequence": []}, "entry.unit.tool_sequence"),
        ({"description": None}, "entry.unit.description"),
        ({"performance": {"avg_ms": -1, "success_rate": 1, "uses": 0}}, "entry.unit.performance.avg_ms"),
        ({"performance": {"avg_ms": 0, "success_rate": 1, "uses": True}}, "entry.unit.performance.uses"),
        ({"trigger_conditions": {"task_types": ["a", 1]}}, "entry.unit.trigger_conditions.task_types[1]"),
        ({"extra": {"deep": [2**63]}}, "entry.unit.extra.deep[0]"),
        ({"extra": (1,)}, "entry.unit.extra"),
        ({"extra": {1: 1}}, "entry.unit.extra"),
        ({"id": "kp:pattern:"}, "entry.unit.id"),
    ],
)
def test_a_bad_unit_is_refused_for_its_part(change: dict[str, Any], path: str) -> None:
    assert path in refused(Model(NOON).knowledge.create, entry(pattern() | change))


def test_a_missing_key_is_named_and_an_unknown_one_kept() -> None:
    knowledge = Model(NOON).knowledge
    without = pattern()
    del without["metadata"]["success"]
    assert refused(knowledge.create, entry(without)) == {"entry.unit.metadata.success"}
    kept = knowledge.create(entry({"first": None, **pattern()}))
    assert next(iter(kept.unit.items())) == ("first", None)


def test_the_texts_of_each_type() -> None:
    trace = {"@type": "ReasoningTrace", "task": {"objective": "o"}, "steps": [{"content": "c"}, {}]}
    sop = {"@type": "ExpertSOP", "name": "n", "domain": "d", "decision_tree": [{"instruction": "i"}]}
    assert unit_texts(trace) == ["o", "c"]
    assert unit_texts(sop) == ["n", "d"]
    assert unit_texts(pattern() | {"description": "d"}) == ["a", "d"]


def test_reputation_counts() -> None:
    reputation = Model(NOON).reputation
    reputation.upsert("a", 0.5, "")
    reputation.upsert("a", 0, "Validated")
    record = reputation.upsert("a", -2, "so inValidated")
    assert (record.score, record.contributions, record.validations) == (0.0, 1, 2)
    assert str(record.score) == "0.0"
    assert [one.delta for one in record.history] == [0.5, 0.0, -2.0]


def test_reputation_shows_the_last_50_and_keeps_all() -> None:
    reputation = Model(NOON).reputation
    for index in range(51):
        reputation.upsert("a", index, "")
    record = reputation.get("a")
    assert record is not None
    assert [one.delta for one in record.history] == [float(index) for index in range(1, 51)]
    assert reputation.get_history("a").total == 51


def test_a_score_that_is_not_finite_is_refused_and_leaves_all_as_it_was() -> None:
    reputation = Model(NOON).reputation
    reputation.upsert("a", 1.7e308, "")
    assert refused(reputation.upsert, "a", 1.7e308, "") == {"delta"}
    assert reputation.get_history("a").total == 1


@pytest.mark.parametrize(("age_us", "allowed"), [(-1, False), (0, True), (1, True)])
def test_voting_begins_at_exactly_30_days(age_us: int, allowed: bool) -> None:
    model = Model(NOON)
    model.reputation.upsert("a", 1, "")
    model.set_clock(NOON + timedelta(days=30, microseconds=age_us))
    assert model.reputation.can_vote("a") is allowed
    assert not model.reputation.can_vote("b")


@pytest.mark.parametrize(("age_us", "total"), [(-1, 1), (0, 1), (1, 0)])
def test_an_entry_lives_for_exactly_90_days(age_us: int, total: int) -> None:
    model = Model(NOON)
    model.audit_log.log("a", "a", "", "a", "")
    model.set_clock(NOON + timedelta(days=90, microseconds=age_us))
    assert model.audit_log.query().total == total
    assert len(model.audit_log.scan()) == total


def test_a_bucket_from_full_to_empty_and_back() -> None:
    model = Model(NOON)
    consume = model.rate_limit.consume
    first = consume("a", "free", "POST")
    assert (first.allowed, first.remaining, first.limit, first.reset) == (True, 29, 30, UNIX + 2)
    for _ in range(29):
        last = consume("a", "free", "POST")
    assert (last.remaining, last.reset) == (0, UNIX + 60)
    refusal = consume("a", "free", "POST")
    assert (refusal.allowed, refusal.retry_after, refusal.reset) == (False, 2, UNIX + 2)
    model.set_clock(NOON + timedelta(seconds=1.5))
    assert consume("a", "free", "POST").retry_after == 1
    model.set_clock(NOON + timedelta(seconds=2))
    assert consume("a", "free", "POST").allowed


def test_a_limit_of_zero_refuses_for_a_minute() -> None:
    decision = Model(NOON).rate_limit.consume("a", "gold", "POST")
    assert (decision.allowed, decision.limit, decision.retry_after, decision.reset) == (
        False,
        0,
        60,
        UNIX + 60,
    )


def test_another_tier_takes_the_tokens_over() -> None:
    model = Model(NOON)
    model.rate_limit.consume("a", "pro", "GET")
    assert model.rate_limit.consume("a", "anonymous", "GET").remaining == 59
    assert model.rate_limit.consume("a", "pro", "GET").remaining == 58


def test_a_clock_gone_back_refills_nothing_and_loses_nothing() -> None:
    model = Model(NOON)
    for _ in range(60):
        model.rate_limit.consume("a", "anonymous", "GET")
    model.set_clock(NOON - timedelta(seconds=10))
    refusal = model.rate_limit.consume("a", "anonymous", "GET")
    assert (refusal.allowed, refusal.retry_after, refusal.reset) == (False, 11, UNIX + 1)
    model.set_clock(NOON + timedelta(seconds=1))
    assert model.rate_limit.consume("a", "anonymous", "GET").allowed


def test_seconds_before_1970_are_rounded_down() -> None:
    model = Model(datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC))
    assert model.rate_limit.consume("a", "gold", "POST").reset == -2 + 60


@pytest.mark.parametrize(
    ("age", "window", "count"),
    [
        (timedelta(0), timedelta(microseconds=1), 1),
        (timedelta(0), timedelta(0), 0),
        (timedelta(seconds=60), timedelta(seconds=60), 0),
        (timedelta(seconds=60), timedelta(seconds=60, microseconds=1), 1),
        (timedelta(hours=1), timedelta.max, 1),
        (timedelta(hours=1, microseconds=1), timedelta.max, 0),
        (timedelta(seconds=-1), timedelta.max, 0),
        (timedelta(0), timedelta.min, 0),
    ],
)
def test_the_window_of_refusals(age: timedelta, window: timedelta, count: int) -> None:
    model = Model(NOON)
    model.rate_limit.record_429("a")
    model.set_clock(NOON + age)
    assert model.rate_limit.get_429_count("a", window) == count
    assert model.rate_limit.get_429_count("A", window) == 0


def test_a_key_verifies_until_it_is_revoked() -> None:
    keys = Model(NOON).api_keys
    made = keys.create("a", {"read"}, "free")
    assert keys.verify(made.raw_key) == made.record
    assert keys.verify(made.raw_key + "0") is None
    assert [keys.revoke(made.record.key_prefix) for _ in range(2)] == [True, False]
    assert keys.verify(made.raw_key) is None
    assert keys.get_by_agent_id("a")[0].revoked_at == NOON


@pytest.mark.parametrize("scopes", [[], "read", ["Read"], None, {"read": 1}, [["read"]]])
def test_bad_scopes_are_refused(scopes: Any) -> None:
    assert refused(Model(NOON).api_keys.create, "a", scopes, "free") == {"scopes"}


@pytest.mark.parametrize(
    "arguments",
    [{"offset": -1}, {"offset": True}, {"offset": 2**63}, {"limit": 1001}, {"limit": 1.0}, {"limit": None}],
)
def test_bad_pages_are_refused(arguments: dict[str, Any]) -> None:
    assert refused(Model(NOON).skills.search, **arguments) == set(arguments)


def test_how_far_back_the_clock_may_go() -> None:
    model = Model(NOON)
    model.rate_limit.record_429("a")
    model.set_clock(NOON + timedelta(minutes=59))
    assert model.earliest() < NOON
    model.set_clock(NOON + timedelta(hours=2))
    assert model.earliest() == NOON + timedelta(hours=1, microseconds=1)
    model.set_clock(NOON + timedelta(hours=1, minutes=1))
    assert model.earliest() == NOON + timedelta(hours=1, microseconds=1)


def test_a_clone_shares_nothing_however_deep() -> None:
    deep: Any = []
    for _ in range(450):
        deep = [deep]
    copy = clone({"a": deep, "b": {1}})
    copy["b"].add(2)
    copy["a"].append(0)
    assert len(deep) == 1
