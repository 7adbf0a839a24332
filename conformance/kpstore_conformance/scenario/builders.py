"""Records from a mapping of only what matters (skills, entries, votes), with valid defaults for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kpstore
from kpstore_conformance.scenario.scope import CaseError, Context, Scope, describe, nearest
from kpstore_conformance.scenario.show import clip
from kpstore_conformance.scenario.values import (
    CONSTRUCTORS,
    Computed,
    Constant,
    Value,
    compile_list,
    compile_path,
    compile_times_list,
    compile_value,
    constructor_of,
    read_text,
)
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, Problem, ScalarNode, parse, plain

__all__ = ["BUILDERS", "Builder", "compile_record", "compile_records", "default_document", "skill_from_file"]

UNIT_TYPES = {
    "ReasoningTrace": "kp:trace:",
    "ToolCallPattern": "kp:pattern:",
    "ExpertSOP": "kp:sop:",
}

_NO_FILE = Path("SKILL.md")  # front matter has no file of its own
_REMOVED = object()  # stands for `{$absent: true}` in a unit until the merge


@dataclass(frozen=True, slots=True)
class Builder:
    """How one kind of record is written: its keys with their meaning, and how the mapping compiles."""

    name: str
    keys: Mapping[str, str]
    compile: Callable[[MapNode, Scope], Value]


def compile_record(node: Node, scope: Scope, name: str) -> Value:
    """An argument that is a record: a builder's mapping, or something raw made by a constructor or saved."""
    if isinstance(node, MapNode) and not _is_raw(node):
        return BUILDERS[name].compile(node, scope)
    if isinstance(node, MapNode) or _is_reference(node):
        return compile_value(node, scope)
    hint = f"{{$literal: {plain(node)!r}}}" if isinstance(node, ScalarNode) else "{$literal: …}"
    scope.report(
        node,
        f"`{name}` must be a mapping, not {describe(node)}; to pass something else write {clip(hint, 60)}",
    )
    return Constant(node, None)


def compile_records(node: Node, scope: Scope, name: str) -> Value:
    """An argument that is a list of records."""

    def item(child: Node, inner: Scope) -> Value:
        return compile_record(child, inner, name)

    if isinstance(node, ListNode):
        return compile_list(node, item, scope)
    special = constructor_of(node)
    if special and special[0].value == "$list":
        return compile_times_list(special[1], scope, item) or Constant(node, None)
    if special and special[0].value == "$tuple" and isinstance(special[1], ListNode):
        records = compile_list(special[1], item, scope)
        return Computed(node, lambda context: tuple(records.build(context)))
    if special or _is_reference(node):
        return compile_value(node, scope)
    scope.report(
        node,
        f"a list of `{name}` mappings is needed, not {describe(node)}; to pass it raw write {{$literal: …}}",
    )
    return Constant(node, None)


def _is_raw(node: MapNode) -> bool:
    return any(isinstance(key.value, str) and key.value.startswith("$") for key, _ in node)


def _is_reference(node: Node) -> bool:
    return isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.startswith("${")


def _values(node: MapNode, scope: Scope, name: str, keys: Mapping[str, str]) -> dict[str, Value]:
    found = scope.fields(node, f"`{name}`", keys) or {}
    return {key: compile_value(value, scope) for key, value in found.items()}


# --- skills ----------------------------------------------------------------------------------------

SKILL_KEYS = {
    "id": "default skill-<n>",
    "name": "default the id",
    "description": "default A skill.",
    "content": "default # A skill",
    "version": "",
    "author": "",
    "domain": "",
    "tags": "",
    "files": "bundled files: relative path to text",
    "visibility": "private, org or network",
    "quality_score": "0 to 1",
    "created_at": "default now",
    "updated_at": "default now",
    "from": "a SKILL.md file that gives name, description and content",
}


def _skill(node: MapNode, scope: Scope) -> Value:
    source_node = node.get("from")
    source = compile_path(source_node, scope, "from") if source_node is not None else None
    keys = {key: summary for key, summary in SKILL_KEYS.items() if key != "from"}
    own = MapNode(node.line, node.column, node.last_line, [(k, v) for k, v in node if k.value != "from"])
    values = _values(own, scope, "skill", keys)

    def build(context: Context) -> object:
        given = skill_from_file(read_text(source.build(context))) if source else {}
        given.update({key: value.build(context) for key, value in values.items()})
        return make_skill(given, context)

    return Computed(node, build)


def make_skill(given: dict[str, Any], context: Context) -> object:
    """A `StoredSkill` of the given fields and the defaults."""
    if "id" not in given:
        given["id"] = f"skill-{context.count('skill')}"
    now = context.now()
    defaults = {
        "name": given["id"],
        "description": "A skill.",
        "content": "# A skill\n",
        "created_at": now,
        "updated_at": now,
    }
    return kpstore.StoredSkill(**{**defaults, **given})


def skill_from_file(text: str) -> dict[str, Any]:
    """Name, description and content of a SKILL.md file with YAML front matter."""
    lines = text.split("\n")
    problems: list[Problem] = []
    front: object = None
    if lines[0].rstrip() == "---" and "---" in [line.rstrip() for line in lines[1:]]:
        end = next(index for index, line in enumerate(lines) if index and line.rstrip() == "---")
        root = parse("\n".join(lines[1:end]).encode(), _NO_FILE, problems.append)
        front = plain(root) if root else None
    if problems or not isinstance(front, dict) or not {"name", "description"} <= front.keys():
        why = f" ({problems[0].message})" if problems else ""
        raise CaseError(f"a SKILL.md file starts with `---`, name, description, `---`{why}")
    return {"name": front["name"], "description": front["description"], "content": text}


# --- knowledge entries -----------------------------------------------------------------------------

ENTRY_KEYS = {
    "type": "ReasoningTrace (default), ToolCallPattern or ExpertSOP",
    "id": "default kp:trace:<n>, kp:pattern:<n> or kp:sop:<n>",
    "visibility": "of the entry",
    "created_at": "default now",
    "updated_at": "default now",
    "text": "a trace's task.objective, a pattern's or SOP's name",
    "description": "a pattern's description",
    "steps": "the contents of a trace's steps",
    "domain": "metadata.task_domain",
    "quality": "metadata.quality_score",
    "agent": "metadata.agent_id",
    "unit": "merged deeply over the default document; {$absent: true} removes a key",
    "document": "the whole unit, as given",
}
_SHORT_HANDS = ("text", "description", "steps", "domain", "quality", "agent")
_RECORD_FIELDS = ("visibility", "created_at", "updated_at")


def default_document(type_name: str, unit_id: Any, created_at: str) -> dict[str, Any]:
    """A valid unit of the type."""
    document: dict[str, Any] = {
        "@context": "https://openknowledgepulse.org/schema/v1",
        "@type": type_name,
        "id": unit_id,
        "metadata": {
            "created_at": created_at,
            "task_domain": "general",
            "success": True,
            "quality_score": 0.5,
            "visibility": "network",
            "privacy_level": "aggregated",
        },
    }
    if type_name == "ReasoningTrace":
        document["task"] = {"objective": "An objective."}
        document["steps"] = [{"step_id": 0, "type": "thought", "content": "A thought."}]
        document["outcome"] = {"result_summary": "Done.", "confidence": 0.5}
    elif type_name == "ToolCallPattern":
        document["name"] = "A pattern."
        document["description"] = "A description."
        document["trigger_conditions"] = {"task_types": ["general"]}
        document["tool_sequence"] = [{"step": "1", "execution": "sequential", "tools": [{"name": "tool"}]}]
        document["performance"] = {"avg_ms": 10, "success_rate": 0.5, "uses": 1}
    else:
        document["name"] = "A procedure."
        document["domain"] = "general"
        document["source"] = {"type": "human_expert", "expert_id": "expert", "credentials": []}
        document["decision_tree"] = [{"step": "1", "instruction": "An instruction."}]
    return document


def _entry(node: MapNode, scope: Scope) -> Value:
    type_name = _entry_type(node, scope)
    unit_node, document_node = node.get("unit"), node.get("document")
    own = [(k, v) for k, v in node if k.value not in ("type", "unit", "document")]
    keys = {key: text for key, text in ENTRY_KEYS.items() if key not in ("type", "unit", "document")}
    values = _values(MapNode(node.line, node.column, node.last_line, own), scope, "entry", keys)
    for key, only in (("description", "ToolCallPattern"), ("steps", "ReasoningTrace")):
        if key in values and type_name != only:
            scope.report(node.key(key), f"`{key}` is a short-hand of {only}, not of {type_name}; use `unit`")
    document = None
    if document_node is not None:
        for key in ("unit", "type", *_SHORT_HANDS):
            if node.get(key) is not None:
                scope.report(
                    node.key(key), f"`{key}` cannot stand beside `document`, which is the whole unit"
                )
        document = compile_value(document_node, scope)
    unit = None
    if unit_node is not None:
        if isinstance(unit_node, MapNode) and not _is_raw(unit_node):
            unit = _compile_unit(unit_node, scope)
        else:
            scope.report(
                unit_node, f"`unit` must be a mapping, not {describe(unit_node)}; a raw unit is `document: …`"
            )

    def build(context: Context) -> object:
        made = {key: value.build(context) for key, value in values.items()}
        if document is not None:
            whole = document.build(context)
            inner = whole.get("id") if isinstance(whole, dict) else None
            entry_id = (
                made["id"] if "id" in made else inner if isinstance(inner, str) else "kp:trace:document"
            )
            return make_entry(entry_id, whole, made, context)
        entry_id = made["id"] if "id" in made else f"{UNIT_TYPES[type_name]}{context.count('entry')}"
        whole = default_document(type_name, entry_id, context.now().isoformat().replace("+00:00", "Z"))
        _apply_short_hands(whole, made)
        if unit is not None:
            _merge(whole, unit.build(context))
        return make_entry(entry_id, whole, made, context)

    return Computed(node, build)


def _entry_type(node: MapNode, scope: Scope) -> str:
    type_node = node.get("type")
    if type_node is None:
        return "ReasoningTrace"
    text = scope.text(type_node, "type")
    if text is not None and text not in UNIT_TYPES:
        hint = nearest(text, list(UNIT_TYPES))
        scope.report(
            type_node, f"unknown unit type `{clip(text, 40)}`{hint} (a wrong one is `unit: {{'@type': …}}`)"
        )
    return text if text in UNIT_TYPES else "ReasoningTrace"


def make_entry(entry_id: Any, unit: Any, given: Mapping[str, Any], context: Context) -> object:
    """A `StoredKnowledgeUnit` of the given fields and the defaults."""
    now = context.now()
    fields = {"created_at": now, "updated_at": now, **{k: given[k] for k in _RECORD_FIELDS if k in given}}
    return kpstore.StoredKnowledgeUnit(id=entry_id, unit=unit, **fields)


def _apply_short_hands(document: dict[str, Any], made: Mapping[str, Any]) -> None:
    trace = document["@type"] == "ReasoningTrace"
    if "text" in made:
        if trace:
            document["task"]["objective"] = made["text"]
        else:
            document["name"] = made["text"]
    if "description" in made:
        document["description"] = made["description"]
    if "steps" in made:
        contents = made["steps"]
        if not isinstance(contents, list):
            raise CaseError("`steps` must be a list of texts; a raw value is `unit: {steps: …}`")
        document["steps"] = [
            {"step_id": index, "type": "thought", "content": content}
            for index, content in enumerate(contents)
        ]
    for key, name in (("domain", "task_domain"), ("quality", "quality_score"), ("agent", "agent_id")):
        if key in made:
            document["metadata"][name] = made[key]


def _compile_unit(node: MapNode, scope: Scope) -> Value:
    entries: list[tuple[object, Value]] = []
    for key, value in node:
        if isinstance(value, MapNode) and len(value.entries) == 1 and value.entries[0][0].value == "$absent":
            if scope.flag(value.entries[0][1], "$absent") is False:
                scope.report(value, "write {$absent: true} to remove the key, or leave it out")
            entries.append((key.value, Constant(value, _REMOVED)))
        elif isinstance(value, MapNode) and not _is_raw(value):
            entries.append((key.value, _compile_unit(value, scope)))
        elif isinstance(key.value, str) and key.value.startswith("$") and key.value in CONSTRUCTORS:
            scope.report(key, f"`{key.value}` must be the only key of its mapping")
        else:
            entries.append((key.value, compile_value(value, scope)))
    return Computed(node, lambda context: _Overlay((key, value.build(context)) for key, value in entries))


class _Overlay(dict[Any, Any]):
    """A mapping that was written out in `unit`: merged, where one from a constructor replaces."""


def _merge(base: dict[str, Any], over: _Overlay) -> None:
    for key, value in over.items():
        if value is _REMOVED:
            base.pop(key, None)
        elif isinstance(value, _Overlay):
            inner = base.get(key)
            if not isinstance(inner, dict):
                inner = base[key] = {}
            _merge(inner, value)
        else:
            base[key] = value


# --- votes -----------------------------------------------------------------------------------------

VOTE_KEYS = {
    "validator_id": "default kp:agent:validator",
    "target_id": "default kp:agent:target",
    "unit_id": "default kp:trace:voted",
    "valid": "default true",
    "timestamp": "default now",
}


def _vote(node: MapNode, scope: Scope) -> Value:
    values = _values(node, scope, "vote", VOTE_KEYS)

    def build(context: Context) -> object:
        fields: dict[str, Any] = {
            "validator_id": "kp:agent:validator",
            "target_id": "kp:agent:target",
            "unit_id": "kp:trace:voted",
            "valid": True,
            "timestamp": context.now(),
        }
        fields.update({key: value.build(context) for key, value in values.items()})
        return kpstore.ValidationVote(**fields)

    return Computed(node, build)


BUILDERS: dict[str, Builder] = {
    "skill": Builder("skill", SKILL_KEYS, _skill),
    "entry": Builder("entry", ENTRY_KEYS, _entry),
    "vote": Builder("vote", VOTE_KEYS, _vote),
}
