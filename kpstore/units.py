"""The three knowledge-unit schemas, JSON-LD documents (clause KNOW-1, "The documents").

The types here only check a document: stores keep and return the plain dict, so
that keys the schemas do not know survive. An optional key is absent or of its
type, never `null`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from kpstore.errors import ValidationError

CONTEXT = "https://openknowledgepulse.org/schema/v1"
ID_PREFIXES = {
    "ReasoningTrace": "kp:trace:",
    "ToolCallPattern": "kp:pattern:",
    "ExpertSOP": "kp:sop:",
}

Text = str
FilledText = Annotated[str, Meta(min_length=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
JsonObject = dict[str, Any]


class Metadata(Struct):
    """What every unit says of itself."""

    created_at: Text
    task_domain: FilledText
    success: bool
    quality_score: Share
    visibility: Literal["private", "org", "network"]
    privacy_level: Literal["aggregated", "federated", "private"]
    agent_id: Text | UnsetType = UNSET
    framework: Text | UnsetType = UNSET
    validated_by: list[Text] | UnsetType = UNSET


class _Unit(Struct, tag_field="@type"):
    context: Literal["https://openknowledgepulse.org/schema/v1"] = field(name="@context")
    id: Text
    metadata: Metadata


class Task(Struct):
    """What a trace was about."""

    objective: FilledText
    input_schema: JsonObject | UnsetType = UNSET


class Tool(Struct):
    """The tool that a step called."""

    name: Text
    mcp_server: Text | UnsetType = UNSET


class Step(Struct):
    """One step of a trace."""

    step_id: Count
    type: Literal["thought", "tool_call", "observation", "error_recovery"]
    content: Text | UnsetType = UNSET
    tool: Tool | UnsetType = UNSET
    input: JsonObject | UnsetType = UNSET
    output_summary: Text | UnsetType = UNSET
    latency_ms: Amount | UnsetType = UNSET


class Outcome(Struct):
    """How a trace ended."""

    result_summary: Text
    confidence: Share


class Entity(Struct):
    """A node that a trace adds to the knowledge graph."""

    name: Text
    type: Text


class Relationship(Struct):
    """An edge that a trace adds to the knowledge graph."""

    fact: Text
    valid_from: Text


class GraphDelta(Struct):
    """What a trace adds to the knowledge graph."""

    entities: list[Entity]
    relationships: list[Relationship]


class ReasoningTrace(_Unit, tag="ReasoningTrace"):
    """How an agent solved a task, step by step."""

    task: Task
    steps: Annotated[list[Step], Meta(min_length=1)]
    outcome: Outcome
    source_skill: Text | UnsetType = UNSET
    knowledge_graph_delta: GraphDelta | UnsetType = UNSET


class Trigger(Struct):
    """When a pattern applies."""

    task_types: Annotated[list[Text], Meta(min_length=1)]
    required_tools: list[Text] | UnsetType = UNSET


class PatternTool(Struct):
    """A tool that a pattern's step uses."""

    name: Text
    query_template: Text | UnsetType = UNSET
    input_template: JsonObject | UnsetType = UNSET


class PatternStep(Struct):
    """One step of a pattern."""

    step: Text
    execution: Literal["parallel", "sequential"]
    tools: list[PatternTool]
    condition: Text | UnsetType = UNSET


class Performance(Struct):
    """How a pattern did so far."""

    avg_ms: Amount
    success_rate: Share
    uses: Count


class ToolCallPattern(_Unit, tag="ToolCallPattern"):
    """A sequence of tool calls that works."""

    name: FilledText
    description: Text
    trigger_conditions: Trigger
    tool_sequence: Annotated[list[PatternStep], Meta(min_length=1)]
    performance: Performance


class Source(Struct):
    """Who an SOP comes from."""

    type: Literal["human_expert"]
    expert_id: Text
    credentials: list[Text]


class Condition(Struct):
    """What to do on one answer."""

    action: Text
    sla_min: float | UnsetType = UNSET


class ToolSuggestion(Struct):
    """A tool that helps with a decision."""

    name: Text
    when: Text


class Decision(Struct):
    """One step of an SOP's decision tree."""

    step: Text
    instruction: Text
    criteria: dict[str, Text] | UnsetType = UNSET
    conditions: dict[str, Condition] | UnsetType = UNSET
    tool_suggestions: list[ToolSuggestion] | UnsetType = UNSET


class TestCase(Struct):
    """One example by which an SOP is checked."""

    input: JsonObject
    expected_output: JsonObject


class Validation(Struct):
    """How an SOP is checked."""

    test_cases: list[TestCase]


class ExpertSOP(_Unit, tag="ExpertSOP"):
    """A human expert's standard operating procedure."""

    name: FilledText
    domain: FilledText
    source: Source
    decision_tree: Annotated[list[Decision], Meta(min_length=1)]
    validation: Validation | UnsetType = UNSET


Unit = ReasoningTrace | ToolCallPattern | ExpertSOP

_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]+)`")
_PATH = re.compile(r"(?P<rule>.*) - at `(?:key in )?\$(?P<path>.*)`$", re.DOTALL)


def check_unit(unit: dict[str, Any], field: str) -> None:
    """Raise `ValidationError` unless `unit` is one of the three documents.

    Args:
        unit: the document; plain JSON values.
        field: the name under which errors speak of it, such as `entry.unit`.
    """
    try:
        msgspec.convert(unit, Unit)
    except msgspec.ValidationError as error:
        raise _translated(str(error), field) from None
    kind, id = unit["@type"], unit["id"]
    prefix = ID_PREFIXES[kind]
    if not id.startswith(prefix) or id == prefix:
        raise ValidationError(f"{field}.id", f"must start with {prefix} and go on, as every {kind}'s does")
    if not _is_offset_time(unit["metadata"]["created_at"]):
        raise ValidationError(
            f"{field}.metadata.created_at",
            "must be a time in ISO 8601 with an offset, such as 2026-01-31T12:00:00Z",
        )


def _is_offset_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).utcoffset() is not None
    except ValueError:
        return False


def _translated(message: str, field: str) -> ValidationError:
    """msgspec's message, with the path as the field, and without the value."""
    match = _PATH.match(message)
    rule, path = (match["rule"], match["path"]) if match else (message, "")
    missing = _MISSING.match(rule)
    if missing:
        return ValidationError(f"{field}{path}.{missing['key']}", "is required")
    if rule.startswith("Invalid value"):  # the tag, which is quoted in the message
        return ValidationError(f"{field}{path}", f"must be one of {', '.join(ID_PREFIXES)}")
    if rule.startswith("Invalid enum value"):
        return ValidationError(f"{field}{path}", "must be one of the values that the schema lists")
    return ValidationError(f"{field}{path}", rule[:1].lower() + rule[1:])
