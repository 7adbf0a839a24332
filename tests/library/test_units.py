"""`check_unit` against an independent reading of the contract's section "The documents".

`SCHEMA` is that section, key by key. Each document below is taken apart: every key of it is removed,
nulled, and given a value of every kind in turn; what the table says about the result is what the
library must say.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from kpstore import ValidationError
from kpstore.units import check_unit

Rule = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str)


def filled(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def amount(value: Any) -> bool:
    return number(value) and bool(value >= 0)


def share(value: Any) -> bool:
    return number(value) and 0 <= value <= 1


def count(value: Any) -> bool:
    # JSON knows one kind of number: 3.0 is the integer 3 to some readers; both answers are right for it.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def boolean(value: Any) -> bool:
    return isinstance(value, bool)


def anything(value: Any) -> bool:
    return isinstance(value, dict)


def one_of(*names: str) -> Rule:
    return lambda value: isinstance(value, str) and value in names


def many(rule: Rule, least: int = 0) -> Rule:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(rule, value))


def mapping(rule: Rule) -> Rule:
    return lambda value: isinstance(value, dict) and all(map(rule, value.values()))


def shape(**keys: Rule) -> Rule:
    """An object; a trailing underscore marks an optional key. Other keys are allowed."""

    def check(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        for key, rule in keys.items():
            name = key.rstrip("_")
            if name not in value:
                if not key.endswith("_"):
                    return False
            elif not rule(value[name]):
                return False
        return True

    return check


def instant(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def id_of(prefix: str) -> Rule:
    return lambda value: isinstance(value, str) and re.fullmatch(f"{prefix}.+", value, re.DOTALL) is not None


METADATA = shape(
    created_at=instant,
    agent_id_=text,
    framework_=text,
    task_domain=filled,
    success=boolean,
    quality_score=share,
    visibility=one_of("private", "org", "network"),
    privacy_level=one_of("aggregated", "federated", "private"),
    validated_by_=many(text),
)
SCHEMA: dict[str, dict[str, Rule]] = {
    "ReasoningTrace": {
        "id": id_of("kp:trace:"),
        "source_skill_": text,
        "task": shape(objective=filled, input_schema_=anything),
        "steps": many(
            shape(
                step_id=count,
                type=one_of("thought", "tool_call", "observation", "error_recovery"),
                content_=text,
                tool_=shape(name=text, mcp_server_=text),
                input_=anything,
                output_summary_=text,
                latency_ms_=amount,
            ),
            1,
        ),
        "outcome": shape(result_summary=text, confidence=share),
        "knowledge_graph_delta_": shape(
            entities=many(shape(name=text, type=text)),
            relationships=many(shape(fact=text, valid_from=text)),
        ),
    },
    "ToolCallPattern": {
        "id": id_of("kp:pattern:"),
        "name": filled,
        "description": text,
        "trigger_conditions": shape(task_types=many(text, 1), required_tools_=many(text)),
        "tool_sequence": many(
            shape(
                step=text,
                execution=one_of("parallel", "sequential"),
                tools=many(shape(name=text, query_template_=text, input_template_=anything)),
                condition_=text,
            ),
            1,
        ),
        "performance": shape(avg_ms=amount, success_rate=share, uses=count),
    },
    "ExpertSOP": {
        "id": id_of("kp:sop:"),
        "name": filled,
        "domain": filled,
        "source": shape(type=one_of("human_expert"), expert_id=text, credentials=many(text)),
        "decision_tree": many(
            shape(
                step=text,
                instruction=text,
                criteria_=mapping(text),
                conditions_=mapping(shape(action=text, sla_min_=number)),
                tool_suggestions_=many(shape(name=text, when=text)),
            ),
            1,
        ),
        "validation_": shape(test_cases=many(shape(input=anything, expected_output=anything))),
    },
}


def is_valid(unit: Any) -> bool:
    kind = unit.get("@type")
    if not isinstance(kind, str) or kind not in SCHEMA:
        return False
    if unit.get("@context") != "https://openknowledgepulse.org/schema/v1":
        return False
    return shape(metadata=METADATA, **SCHEMA[kind])(unit)


def document(kind: str, prefix: str, **rest: Any) -> dict[str, Any]:
    return {
        "@context": "https://openknowledgepulse.org/schema/v1",
        "@type": kind,
        "id": f"{prefix}1",
        "metadata": {
            "created_at": "2026-01-31T12:00:00.123+02:00",
            "agent_id": "a",
            "framework": "f",
            "task_domain": "d",
            "success": True,
            "quality_score": 0.5,
            "visibility": "network",
            "privacy_level": "private",
            "validated_by": ["v"],
            "x-unknown": None,
        },
        **rest,
    }


DOCUMENTS = [
    document(
        "ReasoningTrace",
        "kp:trace:",
        source_skill="s",
        task={"objective": "o", "input_schema": {"any": [1]}},
        steps=[
            {"step_id": 0, "type": "thought", "content": "c"},
            {
                "step_id": 1,
                "type": "tool_call",
                "tool": {"name": "t", "mcp_server": "m"},
                "input": {},
                "output_summary": "",
                "latency_ms": 1.5,
            },
        ],
        outcome={"result_summary": "", "confidence": 1},
        knowledge_graph_delta={
            "entities": [{"name": "n", "type": "t"}],
            "relationships": [{"fact": "f", "valid_from": "2026"}],
        },
    ),
    document(
        "ToolCallPattern",
        "kp:pattern:",
        name="n",
        description="",
        trigger_conditions={"task_types": ["t"], "required_tools": []},
        tool_sequence=[
            {
                "step": "s",
                "execution": "parallel",
                "tools": [{"name": "t", "query_template": "q", "input_template": {}}],
                "condition": "c",
            }
        ],
        performance={"avg_ms": 0, "success_rate": 0, "uses": 3},
    ),
    document(
        "ExpertSOP",
        "kp:sop:",
        name="n",
        domain="d",
        source={"type": "human_expert", "expert_id": "", "credentials": ["c"]},
        decision_tree=[
            {
                "step": "s",
                "instruction": "",
                "criteria": {"k": "v"},
                "conditions": {"yes": {"action": "a", "sla_min": -5}, "no": {"action": ""}},
                "tool_suggestions": [{"name": "n", "when": "w"}],
            }
        ],
        validation={"test_cases": [{"input": {}, "expected_output": {"a": 1}}]},
    ),
]

VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    7,
    0.5,
    -0.1,
    1.5,
    2**63 - 1,
    "",
    "text",
    "network",
    "private",
    "thought",
    "parallel",
    "human_expert",
    "ReasoningTrace",
    "kp:trace:x",
    "kp:sop:",
    "2026-01-31T12:00:00",
    "2026-01-31T12:00:00Z",
    [],
    ["text"],
    [1],
    [None],
    [[]],
    [{}],
    {},
    {"text": "text"},
    {"text": 1},
    {"action": 5},
]
_REMOVED = object()


def variants(unit: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The document with each place in it removed or changed to each of `VALUES`."""

    def places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            yield from places(item, (*path, key))

    for path in places(unit, ()):
        for value in [_REMOVED, *VALUES]:
            changed = copy.deepcopy(unit)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            if value is _REMOVED:
                del holder[path[-1]]
            else:
                holder[path[-1]] = copy.deepcopy(value)
            name = ".".join(map(str, path))
            yield f"{name} = {'(removed)' if value is _REMOVED else value!r}", changed


def outcome(unit: dict[str, Any]) -> ValidationError | None:
    try:
        check_unit(unit, "unit")
    except ValidationError as error:
        return error
    return None


@pytest.mark.parametrize("unit", DOCUMENTS, ids=lambda unit: str(unit["@type"]))
def test_the_library_says_what_the_table_says(unit: dict[str, Any]) -> None:
    assert is_valid(unit)
    check_unit(unit, "unit")
    disagreements = []
    refused = 0
    for what, changed in variants(unit):
        before = copy.deepcopy(changed)
        error = outcome(changed)
        if error is not None:
            refused += 1
            assert error.field.startswith("unit"), what
            assert error.rule, what
        accepted = error is None
        assert changed == before, f"{what}: the document was changed"
        if accepted != is_valid(changed):
            disagreements.append(f"{what}: {'accepted' if accepted else 'refused'}")
    assert not disagreements, "\n".join(disagreements)
    assert refused > 500


def test_errors_name_the_field_and_not_the_value() -> None:
    unit = copy.deepcopy(DOCUMENTS[0])
    unit["steps"][1]["step_id"] = "secret-value"
    with pytest.raises(ValidationError) as caught:
        check_unit(unit, "entry.unit")
    assert caught.value.field == "entry.unit.steps[1].step_id"
    unit = copy.deepcopy(DOCUMENTS[0])
    unit["metadata"]["visibility"] = "secret-value"
    with pytest.raises(ValidationError) as other:
        check_unit(unit, "entry.unit")
    assert other.value.field == "entry.unit.metadata.visibility"
    unit = copy.deepcopy(DOCUMENTS[0])
    unit["@type"] = "secret-value"
    with pytest.raises(ValidationError) as kind:
        check_unit(unit, "entry.unit")
    assert kind.value.field == "entry.unit.@type"
    for error in (caught, other, kind):
        assert "secret-value" not in str(error.value)
    unit = copy.deepcopy(DOCUMENTS[1])
    del unit["performance"]["uses"]
    with pytest.raises(ValidationError) as missing:
        check_unit(unit, "entry.unit")
    assert missing.value.field == "entry.unit.performance.uses"


@pytest.mark.parametrize(
    ("moment", "is_right"),
    [
        ("2026-01-31T12:00:00Z", True),
        ("2026-01-31T12:00:00.123456+05:30", True),
        ("2026-01-31", False),
        ("2026-01-31T12:00:00", False),
        ("2026-02-30T12:00:00Z", False),
        ("yesterday", False),
        ("", False),
        (" 2026-01-31T12:00:00Z", False),
    ],
)
def test_created_at_is_a_time_with_an_offset(moment: str, is_right: bool) -> None:
    unit = copy.deepcopy(DOCUMENTS[2])
    unit["metadata"]["created_at"] = moment
    if is_right:
        check_unit(unit, "unit")
    else:
        with pytest.raises(ValidationError) as caught:
            check_unit(unit, "unit")
        assert caught.value.field == "unit.metadata.created_at"
