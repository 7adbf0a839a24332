"""A history written as a scenario gives stores what the history gave them, whatever is in it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from kpstore_conformance.checks._samples import MOMENT, pattern, skill
from kpstore_conformance.checks.stateful import Finding, Search, write_counterexample
from kpstore_conformance.counterexample import Unwritable, scenario_text
from kpstore_conformance.history import Call, Observation, Player, Raised, Ref, Returned, Step
from kpstore_conformance.scenario import load_file, run_case
from kpstore_conformance.strategies import IDS, NUMBERS, QUALITIES, TEXTS
from kpstore_conformance.target import CaseTarget, adapter_for

from kpstore import Page

YAML_WORDS = [
    written
    for word in ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf")
    for written in (word, word.capitalize(), word.upper(), word[0] + word[1:].upper())
]
"""What YAML 1.2 or 1.1 takes for something else than text, in some of its spellings."""


async def outcome(file: Path, steps: list[Step]) -> str:
    """The verdict on the memory backend of the scenario that says: the model answers so to these steps."""
    player = Player(MOMENT, frozenset())
    expected = [player.perform(step) for step in steps]
    text = scenario_text(MOMENT, steps, expected, failing=0, title="a", why="a")
    file.write_text(text, encoding="utf-8")
    target = CaseTarget(adapter_for("memory"))
    try:
        result = await run_case(load_file(file).scenarios[0].cases()[0], target)
    finally:
        await target.dispose()
    return f"{result.outcome}: {result.failure.summary}" if result.failure else result.outcome


@pytest.mark.parametrize("text", dict.fromkeys([*TEXTS, *YAML_WORDS]))
async def test_a_text_is_the_same_text(text: str, tmp_path: Path) -> None:
    made = skill("a", name=text, author=text, tags=(text,), files={text: text})
    steps: list[Step] = [
        Call("skills", "create", {"skill": made}),
        Call("skills", "search", {"query": text, "domain": text}),
        Call("skills", "get_by_id", {"id": "a"}),
    ]
    assert await outcome(tmp_path / "one.yaml", steps) == "passed"


@pytest.mark.parametrize("id", IDS)
async def test_an_id_is_the_same_id(id: str, tmp_path: Path) -> None:
    steps: list[Step] = [
        Call("skills", "create", {"skill": skill(id)}),
        Call("skills", "get_by_id", {"id": id}),
    ]
    assert await outcome(tmp_path / "one.yaml", steps) == "passed"


@pytest.mark.parametrize("number", [*NUMBERS, *QUALITIES], ids=repr)
async def test_a_number_is_the_same_number(number: float, tmp_path: Path) -> None:
    steps: list[Step] = [
        Call("knowledge", "create", {"entry": pattern("a", number=number)}),
        Call("knowledge", "get_by_id", {"id": "kp:pattern:a"}),
    ]
    assert await outcome(tmp_path / "one.yaml", steps) == "passed"


KEY = {"agent_id": "a", "scopes": ["read"], "tier": "free"}
ENTRY = {"action": "a", "agent_id": "a", "resource_type": "a", "resource_id": "a", "ip": ""}


async def test_what_was_made_during_a_scan_has_its_name(tmp_path: Path) -> None:
    create, log = partial(Call, "api_keys", "create", KEY), Call("audit_log", "log", ENTRY)
    steps: list[Step] = [
        create(),
        log,
        Call("api_keys", "scan", {}, after=1, changes=(create(save="second"), create(save="third"))),
        Call("audit_log", "scan", {}, after=1, changes=(log, log)),
        create(save="fourth"),
        log,
        Call("api_keys", "verify", {"raw_key": Ref("third", "raw_key")}),
        Call("api_keys", "revoke", {"key_prefix": Ref("fourth", "record.key_prefix")}),
        Call("api_keys", "get_by_agent_id", {"agent_id": "a"}),
        Call("audit_log", "query", {}),
    ]
    for count in range(3, len(steps) + 1):
        assert await outcome(tmp_path / "one.yaml", steps[:count]) == "passed"


def wide_and_deep() -> object:
    value: object = 1
    for _ in range(600):
        value = [value, 1]
    return value


@pytest.mark.parametrize("value", [{"$a": (1,)}, {"$a": {"b": b""}}, wide_and_deep()])
def test_what_no_scenario_can_say_is_refused(value: object) -> None:
    step = Call("audit_log", "log", ENTRY | {"details": value})
    with pytest.raises(Unwritable):
        scenario_text(MOMENT, [step], [[Raised("ValidationError")]], failing=0, title="a", why="a")


def test_a_file_that_fails_before_its_last_step_is_told_from_one_that_reproduces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_STATEFUL_OUT", str(tmp_path))
    steps: list[Step] = [Call("audit_log", "log", ENTRY), Call("audit_log", "query", {})]
    refused, nothing = Raised("ValidationError"), Returned(Page([], 0, 0, 20))
    with asyncio.Runner() as runner:
        search = Search(adapter_for("memory"), frozenset(), runner)

        def written(first: Observation) -> str:
            finding = Finding(MOMENT, steps, [[first], [nothing]], 0, ["a"])
            return write_counterexample(search, finding, "a")[1]

        assert written(Player(MOMENT).perform(steps[0])[0]) == ""
        assert written(refused) == "run as a scenario, line 10 already fails"
