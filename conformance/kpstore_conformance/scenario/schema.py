"""The JSON Schema of scenario files, made of the same definitions that read them.

`python -m kpstore_conformance.scenario.schema` writes `scenario.schema.json` beside this module. It is
draft 7, which editors' YAML support knows best; what a schema cannot say (names, paths, durations),
loading says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kpstore_conformance.scenario.budget import BUDGET_KEYS, BUDGET_REQUIRED, STATISTICS
from kpstore_conformance.scenario.builders import BUILDERS
from kpstore_conformance.scenario.catalogue import CAPABILITIES, DATA_SETS, ERRORS, INSPECTORS, STORES, Method
from kpstore_conformance.scenario.clauses import CLAUSES
from kpstore_conformance.scenario.document import DEFAULT_CLOCK, FILE_KEYS, FORMAT, SCENARIO_KEYS
from kpstore_conformance.scenario.matchers import MATCHERS
from kpstore_conformance.scenario.steps import (
    CALL_MODIFIERS,
    CONCURRENT_MODIFIERS,
    GIVEN,
    GIVEN_MODIFIERS,
    MODIFIERS,
    OUTCOME_KEYS,
    STEPS,
)
from kpstore_conformance.scenario.values import CONSTRUCTORS

__all__ = ["SCHEMA_FILE", "make_schema", "schema_text"]

SCHEMA_FILE = Path(__file__).with_name("scenario.schema.json")

_TEXT = {"type": "string"}
_COUNT = {"anyOf": [{"type": "integer", "minimum": 0}, {"$ref": "#/definitions/reference"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


def _described(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    # Beside `$ref`, draft 7 ignores everything else.
    if not text:
        return dict(schema)
    return (
        {"description": text, "allOf": [dict(schema)]}
        if "$ref" in schema
        else {"description": text, **schema}
    )


def _words(known: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"anyOf": [_described({"const": word}, text) for word, text in known.items()]},
    }


def _object(properties: Mapping[str, Any], required: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    needed = list(required)
    return {**schema, **({"required": needed} if needed else {}), **more}


def _made(*, but: str = "") -> dict[str, Any]:
    """A mapping of one constructor."""
    kinds = [kind for kind in CONSTRUCTORS.values() if kind.name != but]
    keys = {kind.name: _described(kind.schema, kind.summary) for kind in kinds}
    return _object(keys, minProperties=1, maxProperties=1)


def _value() -> dict[str, Any]:
    """Data: scalars, lists, plain mappings, and mappings of one constructor."""
    known = {kind.name: _described(kind.schema, kind.summary) for kind in CONSTRUCTORS.values()}
    return {
        "anyOf": [
            {"type": ["string", "number", "boolean", "null"]},
            {"type": "array", "items": _ref("value")},
            _object(known, patternProperties={r"^([^$]|\$\{|$)": _ref("value")}),
        ]
    }


def _matcher() -> dict[str, Any]:
    known = {kind.name: _described(kind.schema, kind.summary) for kind in CONSTRUCTORS.values()}
    known["$list"] = _described(
        _object({"times": _COUNT, "as": _TEXT, "item": _ref("matcher")}, ["times", "item"]),
        "so many matchers, each with the variable `as` at its number",
    )
    known |= {kind.name: _described(kind.schema, kind.summary) for kind in MATCHERS.values()}
    return {
        "anyOf": [
            {"type": ["string", "number", "boolean", "null"]},
            {"type": "array", "items": _ref("matcher")},
            _object(known, patternProperties={"^([^$]|$)": _ref("matcher")}),
        ]
    }


def _record(name: str) -> dict[str, Any]:
    """A builder's mapping, or something raw."""
    keys = {key: _described(_ref("value"), text) for key, text in BUILDERS[name].keys.items()}
    if name == "entry":
        keys["type"] = _described(_TEXT, BUILDERS[name].keys["type"])
        keys["unit"] = _described({"type": "object"}, BUILDERS[name].keys["unit"])
    return {"anyOf": [_object(keys), _ref("made"), _ref("reference")]}


def _records(name: str) -> dict[str, Any]:
    item = _ref(name)
    made = _object({"times": _COUNT, "as": _TEXT, "item": item}, ["times", "item"])
    kinds = [_object({"$list": made}, ["$list"]), _made(but="$list"), _ref("reference")]
    return {"anyOf": [{"type": "array", "items": item}, *kinds]}


def _arguments(method: Method) -> dict[str, Any]:
    properties = {}
    for parameter in method.parameters.values():
        if parameter.record is None:
            properties[parameter.name] = _ref("value")
        else:
            properties[parameter.name] = _ref(parameter.record + ("s" if parameter.many else ""))
    return _object(properties, (p.name for p in method.parameters.values() if p.required))


def _methods() -> dict[str, Method]:
    return {
        f"{store}.{name}": method for store, methods in STORES.items() for name, method in methods.items()
    }


def _calls() -> dict[str, Any]:
    return {name: _ref(name) for name in _methods()}


def _modifiers() -> dict[str, Any]:
    during = _object({"after": _COUNT, "steps": _ref("steps")}, ["after", "steps"])
    scribble = {"type": "array", "items": {"enum": ["arguments", "result"]}, "minItems": 1}
    schemas: dict[str, Any] = {
        "expect": _ref("matcher"),
        "error": _ref("error"),
        "save": {"anyOf": [_TEXT, {"type": "object", "additionalProperties": _TEXT}]},
        "on": _TEXT,
        "cancel_at": {"anyOf": [{"type": "integer", "minimum": 1}, _ref("reference")]},
        "scribble": scribble,
        "during": during,
        "outcomes": {"type": "array", "items": _ref("outcome")},
    }
    return {name: _described(schemas[name], text) for name, text in MODIFIERS.items()}


def _step() -> dict[str, Any]:
    calls, modifiers = _calls(), _modifiers()
    actions = {kind.name: _described(kind.schema, kind.summary) for kind in STEPS.values()}
    by_modifiers = [
        {"if": {"required": [kind.name]}, "then": {"propertyNames": {"enum": [kind.name, *kind.modifiers]}}}
        for kind in STEPS.values()
    ]
    names = [*actions, *calls]
    call = {
        "if": {"propertyNames": {"not": {"enum": list(actions)}}},
        "then": {"propertyNames": {"enum": [*calls, *CALL_MODIFIERS]}},
    }
    one_action = {
        "propertyNames": {"enum": [*names, *modifiers]},
        "anyOf": [{"required": [name]} for name in names],
    }
    return _object({**actions, **calls, **modifiers}, allOf=[*by_modifiers, call, one_action])


def _given() -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for kind in GIVEN.values():
        if kind.name in ("skill", "unit", "vote"):
            schema: dict[str, Any] = _ref({"unit": "entry"}.get(kind.name, kind.name))
        elif kind.keys is None:
            schema = _TEXT
        else:
            schema = _object({key: _described(_ref("value"), text) for key, text in kind.keys.items()})
        keys[kind.name] = _described(schema, kind.summary)
    more = {
        "times": _described(_COUNT, GIVEN_MODIFIERS["times"]),
        "as": _described(_TEXT, GIVEN_MODIFIERS["as"]),
        "defaults": _described({"type": "object"}, GIVEN["skills_from"].modifiers["defaults"]),
    }
    return _object({**keys, **more}, anyOf=[{"required": [name]} for name in keys])


def _concurrent_call() -> dict[str, Any]:
    calls = _calls()
    schemas: dict[str, Any] = {"times": _COUNT, "as": _TEXT, "on": _TEXT, "cancel_at": _COUNT}
    more = {name: _described(schemas[name], text) for name, text in CONCURRENT_MODIFIERS.items()}
    return _object({**calls, **more}, anyOf=[{"required": [name]} for name in calls])


def _outcome() -> dict[str, Any]:
    schemas: dict[str, Any] = {"count": _ref("matcher"), "result": _ref("matcher"), "error": _ref("error")}
    keys = {name: _described(schemas[name], text) for name, text in OUTCOME_KEYS.items()}
    return _object(keys, anyOf=[{"required": ["result"]}, {"required": ["error"]}])


def _error() -> dict[str, Any]:
    name = {"anyOf": [_described({"const": word}, text) for word, text in ERRORS.items()]}
    parts = {"class": name, "field": _ref("matcher"), "message": _ref("matcher")}
    return {"anyOf": [name, _object(parts, ["class"])]}


def _by_backend(limit: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [limit, {"type": "object", "minProperties": 1, "additionalProperties": limit}]}


def _budget_call(more: Mapping[str, Any]) -> dict[str, Any]:
    calls = _calls()
    return _object({**calls, **more}, anyOf=[{"required": [name]} for name in calls])


def _budget() -> dict[str, Any]:
    size = {"type": "integer", "minimum": 1}
    saving = _budget_call({"save": _described(_modifiers()["save"], MODIFIERS["save"])})
    expecting = _budget_call({"expect": _described(_ref("matcher"), MODIFIERS["expect"])})
    schemas: dict[str, Any] = {
        "name": {"type": "string", "minLength": 1},
        "why": _TEXT,
        "requires": _common()["requires"],
        "tags": _common()["tags"],
        "data": {"anyOf": [_described({"const": name}, data.summary) for name, data in DATA_SETS.items()]},
        "records": {"anyOf": [size, {"type": "array", "minItems": 1, "items": size}]},
        "before": {"type": "array", "minItems": 1, "items": saving},
        "measure": {"type": "array", "minItems": 1, "items": expecting},
        "after": {"type": "array", "minItems": 1, "items": expecting},
        "statistic": {"enum": list(STATISTICS), "default": STATISTICS[0]},
        "at_most": _by_backend(_TEXT),
        "growth": _by_backend({"type": "number", "minimum": 1}),
    }
    keys = {name: _described(schemas[name], text) for name, text in BUDGET_KEYS.items()}
    stated = [{"required": ["at_most"]}, {"required": ["growth"]}]
    return _object(keys, BUDGET_REQUIRED, anyOf=stated)


def _common() -> dict[str, Any]:
    return {
        "clauses": _words(CLAUSES),
        "requires": _words({**CAPABILITIES, **INSPECTORS}),
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9-]+$"}},
        "clock": {"type": "string", "default": DEFAULT_CLOCK},
    }


def _scenario() -> dict[str, Any]:
    schemas: dict[str, Any] = {
        **_common(),
        "name": {"type": "string", "minLength": 1},
        "why": _TEXT,
        "matrix": {
            "type": "object",
            "additionalProperties": {"type": "array", "minItems": 1, "items": _ref("value")},
        },
        "cases": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "additionalProperties": _ref("value")},
        },
        "given": {"type": "array", "items": _ref("given")},
        "steps": _ref("steps"),
    }
    keys = {name: _described(schemas[name], text) for name, text in SCENARIO_KEYS.items()}
    return _object(keys, ["name", "steps"])


def make_schema() -> dict[str, Any]:
    """The schema as data."""
    top: dict[str, Any] = {
        **_common(),
        "format": {"const": FORMAT},
        "title": {"type": "string", "minLength": 1},
        "scenarios": {"type": "array", "minItems": 1, "items": _ref("scenario")},
        "latency": {"type": "array", "minItems": 1, "items": _ref("budget")},
    }
    root = _object(
        {name: _described(top[name], text) for name, text in FILE_KEYS.items()},
        ["format", "title"],
        anyOf=[{"required": ["scenarios"]}, {"required": ["latency"]}],
    )
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "kpstore scenarios, format 1",
        **root,
        "definitions": {
            "reference": {"type": "string", "pattern": r"\$\{"},
            "value": _value(),
            "made": _made(),
            "matcher": _matcher(),
            "error": _error(),
            "outcome": _outcome(),
            **{name: _record(name) for name in BUILDERS},
            **{f"{name}s": _records(name) for name in BUILDERS},
            "scenario": _scenario(),
            "given": _given(),
            "steps": {"type": "array", "minItems": 1, "items": _ref("step")},
            "step": _step(),
            "concurrentCall": _concurrent_call(),
            "budget": _budget(),
            **{name: _arguments(method) for name, method in _methods().items()},
        },
    }


def schema_text() -> str:
    """The text of `scenario.schema.json`."""
    return json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    sys.stdout.write(f"wrote {SCHEMA_FILE}\n")
