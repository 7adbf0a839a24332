"""The steps of a scenario as typed objects, and how they are read: one action key each, plus modifiers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kpstore_conformance.scenario.builders import (
    ENTRY_KEYS,
    SKILL_KEYS,
    VOTE_KEYS,
    compile_record,
    compile_records,
    make_entry,
    make_skill,
    skill_from_file,
)
from kpstore_conformance.scenario.catalogue import ERRORS, STORES, Method
from kpstore_conformance.scenario.matchers import Matcher, compile_matcher
from kpstore_conformance.scenario.scope import CaseError, Context, Scope, describe, nearest
from kpstore_conformance.scenario.show import clip
from kpstore_conformance.scenario.values import (
    NAME,
    Constant,
    Value,
    compile_duration,
    compile_integer,
    compile_path,
    compile_time,
    compile_typed,
    compile_value,
    compile_variable,
    constructor_of,
    parse_path,
    parse_time,
    read_text,
)
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, ScalarNode

__all__ = [
    "GIVEN",
    "MODIFIERS",
    "STEPS",
    "AdvanceStep",
    "CallStep",
    "CloseStep",
    "CompareStep",
    "ConcurrentlyStep",
    "ErrorExpectation",
    "ForEachStep",
    "GivenStep",
    "InspectStep",
    "OpenStep",
    "Outcome",
    "ReopenStep",
    "RepeatStep",
    "Save",
    "SetClockStep",
    "Step",
    "checks_something",
    "compile_given",
    "compile_steps",
]


@dataclass(frozen=True, slots=True)
class ErrorExpectation:
    """The error that a call must raise."""

    node: Node
    name: str
    parts: tuple[tuple[str, Matcher], ...] = ()  # ("field", …), ("message", …)


@dataclass(frozen=True, slots=True)
class Save:
    """`name` becomes the part of the result at `path`; `()` is the whole."""

    name: str
    path: tuple[str | int, ...]
    node: Node


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Step:
    """What all steps have: their place in the file (`node`), and the action as it is written."""

    node: Node
    action: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CallStep(Step):
    """A call of a store's method."""

    method: Method
    arguments: tuple[tuple[str, Value], ...]
    handle: str = "main"
    expect: Matcher | None = None
    error: ErrorExpectation | None = None
    saves: tuple[Save, ...] = ()
    cancel_at: Value | None = None
    scribble_arguments: bool = False
    scribble_result: bool = False
    during_after: Value | None = None
    during_steps: tuple[Step, ...] = ()
    times: Value | None = None  # within `concurrently`
    variable: str = "i"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AdvanceStep(Step):
    """Moves the clock by a duration."""

    duration: Value


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SetClockStep(Step):
    """Sets the clock to an instant."""

    time: Value


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpenStep(Step):
    """Opens a handle on the same data."""

    handle: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CloseStep(Step):
    """Closes a handle."""

    handle: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReopenStep(Step):
    """Closes a handle and opens it again."""

    handle: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InspectStep(Step):
    """Looks behind the store's back: an SQL query, or a count of bytes on disk."""

    sql: Value | None
    parameters: tuple[Value, ...]
    raw: Value | None
    expect: Matcher | None
    saves: tuple[Save, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RepeatStep(Step):
    """Steps, so many times over."""

    times: Value
    variable: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ForEachStep(Step):
    """Steps, once per element."""

    values: Value
    variable: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outcome:
    """A class of outcomes of concurrent calls, and how many there must be."""

    node: Node
    count: Matcher | None
    result: Matcher | None
    error: ErrorExpectation | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConcurrentlyStep(Step):
    """Calls that are started together."""

    calls: tuple[CallStep, ...]
    outcomes: tuple[Outcome, ...]
    saves: tuple[Save, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CompareStep(Step):
    """Checks saved values."""

    value: Value
    expect: Matcher


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GivenStep(Step):
    """An item of `given`: `times` records, made one by one or, with `many`, stored in batches of one call."""

    method: Method
    build: Callable[
        [Context], dict[str, Any]
    ]  # the arguments of one call, or with `many` {"record": one record}
    times: Value
    variable: str | None  # with `times`
    many: str | None = None  # the parameter that takes the batch
    listed: Callable[[Context], list[Any]] | None = None  # all records at once: skills_from, units_from
    saves: tuple[Save, ...] = ()


def checks_something(step: Step) -> bool:
    """Whether a step can fail for what the store answers."""
    if isinstance(step, CallStep):
        return bool(step.expect or step.error or any(map(checks_something, step.during_steps)))
    if isinstance(step, (RepeatStep, ForEachStep)):
        return any(map(checks_something, step.steps))
    if isinstance(step, InspectStep):
        return step.expect is not None
    if isinstance(step, ConcurrentlyStep):
        return bool(step.outcomes)
    return isinstance(step, CompareStep)


# --- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepKind:
    """An action: its meaning in one line, its modifiers, the JSON Schema of its argument, its compiler."""

    name: str
    summary: str
    modifiers: Mapping[str, str]
    schema: Mapping[str, Any]
    compile: Callable[[MapNode, Node, Mapping[str, Node], Scope], Step | None]


STEPS: dict[str, StepKind] = {}
MODIFIERS = {
    "expect": "what the result must match",
    "error": "the error that the call must raise",
    "save": "a name for the result, or names for parts of it",
    "on": "which handle; `main` by default",
    "cancel_at": "cancel the call at its n-th suspension",
    "scribble": "after the call change every dict and list of the arguments, the result or both",
    "during": "for scan: steps to run after the n-th item",
    "outcomes": "for concurrently: the outcomes there must be, with their counts",
}
CALL_MODIFIERS = ("expect", "error", "save", "on", "cancel_at", "scribble", "during")

_Compile = Callable[[MapNode, Node, Mapping[str, Node], Scope], Step | None]


def _step(
    name: str, summary: str, schema: Mapping[str, Any], modifiers: Sequence[str] = ()
) -> Callable[[_Compile], _Compile]:
    def register(compile_: _Compile) -> _Compile:
        STEPS[name] = StepKind(name, summary, {key: MODIFIERS[key] for key in modifiers}, schema, compile_)
        return compile_

    return register


def compile_steps(node: Node, scope: Scope, what: str) -> list[Step]:
    """A list of steps; every problem in it is reported to the scope."""
    items = scope.items(node, what)
    if not items and isinstance(node, ListNode):
        scope.report(node, f"there is no step in `{what}`")
    steps = [compile_step(item, scope) for item in items]
    return [step for step in steps if step is not None]


def compile_step(node: Node, scope: Scope) -> Step | None:
    """One step."""
    if not isinstance(node, MapNode):
        hint = (
            f"; write `{node.value}: {{}}`" if isinstance(node, ScalarNode) and _is_call(node.value) else ""
        )
        scope.report(node, f"a step must be a mapping with one action, not {describe(node)}{hint}")
        return None
    actions = [
        key for key, _ in node if key.value in STEPS or (isinstance(key.value, str) and "." in key.value)
    ]
    unknown = [key for key, _ in node if key not in actions and key.value not in MODIFIERS]
    if len(actions) != 1:
        for key in unknown:
            scope.report(
                key, f"unknown key `{clip(str(key.value), 60)}` in a step{_nearest_action(str(key.value))}"
            )
        if len(actions) > 1:
            first = actions[0].value
            beside = f"a second action, `{actions[1].value}`, beside `{first}`"
            message = f"{beside}: one action per step, each with its `-`"
            scope.report(actions[1], message)
        elif not unknown:
            scope.report(node, f"the step has no action: `store.method`, or one of {', '.join(STEPS)}")
        return None
    action = actions[0]
    argument = node.get(action.value)
    assert argument is not None
    kind = STEPS.get(action.value)
    allowed = kind.modifiers if kind else CALL_MODIFIERS
    modifiers: dict[str, Node] = {}
    for key, value in node:
        if key is action:
            continue
        if key.value in allowed:
            modifiers[key.value] = value
        elif key.value in MODIFIERS:
            scope.report(key, f"`{key.value}` does not go with `{action.value}`")
        else:
            hint = nearest(str(key.value), list(allowed))
            scope.report(key, f"unknown key `{clip(str(key.value), 60)}` in a step{hint}")
    if kind:
        return kind.compile(node, argument, modifiers, scope)
    return _compile_call(node, action, argument, modifiers, scope)


def _is_call(text: object) -> bool:
    store, _, method = str(text).partition(".")
    return method in STORES.get(store, {})


def _nearest_action(word: str) -> str:
    calls = [f"{store}.{method}" for store, methods in STORES.items() for method in methods]
    return nearest(word, [*STEPS, *MODIFIERS, *calls])


def compile_method(text: str, node: Node, scope: Scope) -> Method | None:
    """The method that `store.method` names."""
    store, _, name = text.partition(".")
    if store not in STORES:
        scope.report(node, f"unknown store `{clip(store, 40)}`{nearest(store, STORES)}")
        return None
    method = STORES[store].get(name)
    if method is None:
        scope.report(node, f"unknown method `{clip(name, 40)}` of `{store}`{nearest(name, STORES[store])}")
    return method


def compile_arguments(node: Node, method: Method, scope: Scope) -> tuple[tuple[str, Value], ...]:
    """The arguments of a call."""
    what = f"the arguments of {method.store}.{method.name}"
    if isinstance(node, ScalarNode) and node.value is None:
        scope.report(node, f"{what} are missing; none at all is written `{{}}`")
        return ()
    required = [parameter.name for parameter in method.parameters.values() if parameter.required]
    found = scope.fields(node, what, method.parameters, required=required) or {}
    arguments: list[tuple[str, Value]] = []
    for name, value in found.items():
        parameter = method.parameters[name]
        if parameter.record is None:
            arguments.append((name, compile_value(value, scope)))
        elif parameter.many:
            arguments.append((name, compile_records(value, scope, parameter.record)))
        else:
            arguments.append((name, compile_record(value, scope, parameter.record)))
    return tuple(arguments)


def _compile_call(
    node: MapNode, action: ScalarNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope
) -> CallStep | None:
    method = compile_method(action.value, action, scope)
    if method is None:
        # The rest is still read, so that its mistakes are told in the same go.
        _expectation(modifiers, scope)
        _saves(modifiers.get("save"), scope)
        return None
    arguments = compile_arguments(argument, method, scope)
    handle = _handle(modifiers["on"], scope) if "on" in modifiers else "main"
    cancel_at = (
        compile_integer(modifiers["cancel_at"], scope, "cancel_at", least=1)
        if "cancel_at" in modifiers
        else None
    )
    scribble = _scribble(modifiers["scribble"], scope) if "scribble" in modifiers else frozenset()
    during_after, during_steps = None, []
    if "during" in modifiers:
        if not method.iterates:
            scope.report(node.key("during"), f"`during` goes with `scan` alone, not with `{action.value}`")
        found = scope.fields(modifiers["during"], "during", ("after", "steps"), required=("after", "steps"))
        if found is not None and len(found) == 2:
            during_after = compile_integer(found["after"], scope, "after")
            during_steps = compile_steps(found["steps"], scope, "steps")
    expect, error = _expectation(modifiers, scope)
    saves = _saves(modifiers.get("save"), scope)
    if error is not None and saves:
        scope.report(modifiers["save"], "a call that must raise has no result to save")
    return CallStep(
        node=node,
        action=action.value,
        method=method,
        arguments=arguments,
        handle=handle,
        expect=expect,
        error=error,
        saves=saves,
        cancel_at=cancel_at,
        scribble_arguments="arguments" in scribble,
        scribble_result="result" in scribble,
        during_after=during_after,
        during_steps=tuple(during_steps),
    )


def _expectation(
    modifiers: Mapping[str, Node], scope: Scope
) -> tuple[Matcher | None, ErrorExpectation | None]:
    expect = compile_matcher(modifiers["expect"], scope) if "expect" in modifiers else None
    error = _error(modifiers["error"], scope) if "error" in modifiers else None
    if expect is not None and error is not None:
        scope.report(
            modifiers["error"],
            "a call either raises or has a result: `expect` and `error` exclude each other",
        )
    return expect, error


def _error(node: Node, scope: Scope) -> ErrorExpectation | None:
    if isinstance(node, ScalarNode):
        name = scope.word(node, "error", ERRORS)
        return ErrorExpectation(node, name) if name else None
    found = scope.fields(node, "error", ("class", "field", "message"), required=("class",))
    if found is None:
        return None
    name = scope.word(found["class"], "error", ERRORS) if "class" in found else None
    if "field" in found and name not in (None, "ValidationError"):
        scope.report(found["field"], f"only a ValidationError has a `field`, not {name}")
    parts = tuple((key, compile_matcher(found[key], scope)) for key in ("field", "message") if key in found)
    return ErrorExpectation(node, name, parts) if name else None


def _saves(node: Node | None, scope: Scope) -> tuple[Save, ...]:
    if node is None:
        return ()
    if isinstance(node, MapNode):
        saves: list[Save] = []
        for key, value in node:
            name = _saved_name(key, scope)
            text = scope.text(value, f"the path of `{key.value}`")
            parts = parse_path(text) if text is not None else None
            if text is not None and parts is None:
                scope.report(value, f"`{clip(text, 60)}` is no path such as `raw_key` or `data[0].id`")
            if name is not None and parts is not None:
                saves.append(Save(name, tuple(parts), value))
        return tuple(saves)
    name = _saved_name(node, scope)
    return (Save(name, (), node),) if name is not None else ()


def _saved_name(node: Node, scope: Scope) -> str | None:
    name = scope.text(node, "save")
    if name is None:
        return None
    if not NAME.match(name):
        scope.report(node, f"`{clip(name, 40)}` is no name: letters, digits and `_`")
        return None
    scope.save(name, node)
    return name


def _scribble(node: Node, scope: Scope) -> frozenset[str]:
    words = [
        scope.word(item, "target of scribble", ("arguments", "result"))
        for item in scope.items(node, "scribble")
    ]
    if isinstance(node, ListNode) and not words:
        scope.report(node, "scribble on what? [arguments, result]")
    return frozenset(word for word in words if word)


def _handle(node: Node, scope: Scope, *, new: bool = False) -> str:
    name = scope.text(node, "a handle")
    if name is None:
        return "main"
    if new:
        if not NAME.match(name):
            scope.report(node, f"`{clip(name, 40)}` is no name of a handle: letters, digits and `_`")
        elif scope.handles.get(name):
            scope.report(node, f"the handle `{name}` is open already")
    elif name not in scope.handles:
        hint = nearest(name, list(scope.handles))
        scope.report(node, f"unknown handle `{clip(name, 40)}`{hint}; `open: {clip(name, 40)}` opens one")
    return name


# --- the actions -----------------------------------------------------------------------------------

_TEXT = {"type": "string"}
_COUNT = {"anyOf": [{"type": "integer", "minimum": 0}, {"$ref": "#/definitions/reference"}]}
_VALUE = {"$ref": "#/definitions/value"}
_STEPS = {"$ref": "#/definitions/steps"}


def _mapping(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


@_step("advance", "moves the clock by a duration such as `59.999999 s`; a negative one turns it back", _TEXT)
def _advance(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step:
    scope.implied.add("controllable_clock")
    return AdvanceStep(node=node, action="advance", duration=compile_duration(argument, scope, "advance"))


@_step("set_clock", "sets the clock to an instant", {"anyOf": [_TEXT, _mapping({"$time": _TEXT})]})
def _set_clock(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step:
    special = constructor_of(argument)
    inner = special[1] if special and special[0].value == "$time" else argument
    return SetClockStep(node=node, action="set_clock", time=compile_time(inner, scope, "set_clock"))


@_step("open", "opens another handle on the same data, or a closed one again", _TEXT)
def _open(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step:
    name = _handle(argument, scope, new=True)
    scope.implied.add("durable" if name in scope.handles else "multi_process")
    scope.handles[name] = True
    return OpenStep(node=node, action="open", handle=name)


@_step("close", "closes a handle; closing a closed one again is allowed (GEN-10)", _TEXT)
def _close(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step:
    name = _handle(argument, scope)
    scope.handles[name] = False
    return CloseStep(node=node, action="close", handle=name)


@_step("reopen", "closes a handle and opens it again on the same data; the clock stays", _TEXT)
def _reopen(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step:
    name = _handle(argument, scope)
    scope.implied.add("durable")
    scope.handles[name] = True
    return ReopenStep(node=node, action="reopen", handle=name)


@_step(
    "inspect",
    "looks behind the store's back: `sql` gives rows, `raw` counts the bytes of a text in what is on disk",
    {
        "type": "object",
        "properties": {"sql": _TEXT, "parameters": {"type": "array", "items": _VALUE}, "raw": _VALUE},
        "additionalProperties": False,
    },
    ("expect", "save"),
)
def _inspect(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step | None:
    found = scope.fields(argument, "inspect", ("sql", "parameters", "raw"))
    sql = raw = None
    parameters: list[Value] = []
    if found is not None:
        misspelt = not found and isinstance(argument, MapNode) and argument.entries
        if ("sql" in found) == ("raw" in found) and not misspelt:
            scope.report(argument, "inspect needs either `sql` or `raw`")
        if "sql" in found:
            scope.implied.add("inspector.sql")
            sql = compile_typed(found["sql"], scope, "a text", "sql")
        if "raw" in found:
            scope.implied.add("inspector.raw")
            raw = compile_typed(found["raw"], scope, "a text", "raw")
        if "parameters" in found:
            if sql is None:
                scope.report(found["parameters"], "`parameters` belong to `sql`")
            parameters = [
                compile_value(item, scope) for item in scope.items(found["parameters"], "parameters")
            ]
    expect, _ = _expectation(modifiers, scope)
    saves = _saves(modifiers.get("save"), scope)
    if expect is None and not saves and "expect" not in modifiers:
        scope.report(node, "inspect needs an `expect` (or a `save`)")
    return InspectStep(
        node=node,
        action="inspect",
        sql=sql,
        parameters=tuple(parameters),
        raw=raw,
        expect=expect,
        saves=saves,
    )


@_step(
    "repeat",
    "runs steps so many times, counting from 0 in `as`",
    _mapping({"times": _COUNT, "steps": _STEPS}, {"as": _TEXT}),
)
def _repeat(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step | None:
    found = scope.fields(argument, "repeat", ("times", "as", "steps"), required=("times", "steps"))
    if found is None or "steps" not in found:
        return None
    times = compile_integer(found["times"], scope, "times") if "times" in found else Constant(node, 0)
    name = compile_variable(found.get("as"), scope)
    with scope.variable(name, found.get("as", node)):
        steps = compile_steps(found["steps"], scope, "steps")
    return RepeatStep(node=node, action="repeat", times=times, variable=name, steps=tuple(steps))


@_step(
    "for_each",
    "runs steps once per element of a list",
    _mapping({"in": _VALUE, "as": _TEXT, "steps": _STEPS}),
)
def _for_each(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step | None:
    names = ("in", "as", "steps")
    found = scope.fields(argument, "for_each", names, required=names)
    if found is None or "steps" not in found:
        return None
    values = compile_typed(found["in"], scope, "a list", "in") if "in" in found else Constant(node, [])
    name = compile_variable(found.get("as"), scope)
    with scope.variable(name, found.get("as", node)):
        steps = compile_steps(found["steps"], scope, "steps")
    return ForEachStep(node=node, action="for_each", values=values, variable=name, steps=tuple(steps))


@_step(
    "concurrently",
    "starts calls together; `outcomes` says how many of each kind there must be",
    {"type": "array", "items": {"$ref": "#/definitions/concurrentCall"}},
    ("outcomes", "save"),
)
def _concurrently(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step:
    calls = [
        call for item in scope.items(argument, "concurrently") if (call := _concurrent_call(item, scope))
    ]
    if isinstance(argument, ListNode) and not argument.items:
        scope.report(argument, "there is no call in `concurrently`")
    outcomes = [
        outcome
        for item in (scope.items(modifiers["outcomes"], "outcomes") if "outcomes" in modifiers else ())
        if (outcome := _outcome(item, scope))
    ]
    saves = _saves(modifiers.get("save"), scope)
    return ConcurrentlyStep(
        node=node, action="concurrently", calls=tuple(calls), outcomes=tuple(outcomes), saves=saves
    )


CONCURRENT_MODIFIERS = {
    "times": "how many such calls",
    "as": "the variable that counts them, from 0",
    "on": "which handle",
    "cancel_at": "cancel each at its n-th suspension",
}


def _concurrent_call(node: Node, scope: Scope) -> CallStep | None:
    if not isinstance(node, MapNode):
        scope.report(node, f"a call must be a mapping, not {describe(node)}")
        return None
    calls = [key for key, _ in node if isinstance(key.value, str) and "." in key.value]
    if len(calls) != 1:
        scope.report(node, "each item of `concurrently` is one call, `store.method: {…}`")
        return None
    times: Value | None = None
    name = "i"
    variable_node: Node = node
    modifiers: dict[str, Node] = {}
    for key, value in node:
        if key is calls[0]:
            argument = value
        elif key.value == "times":
            times = compile_integer(value, scope, "times")
        elif key.value == "as":
            name, variable_node = compile_variable(value, scope), value
        elif key.value in CONCURRENT_MODIFIERS:
            modifiers[str(key.value)] = value
        elif key.value in MODIFIERS:
            scope.report(
                key,
                f"`{key.value}` does not go with a call inside `concurrently`: see `outcomes` and `save`",
            )
        else:
            hint = nearest(str(key.value), list(CONCURRENT_MODIFIERS))
            scope.report(key, f"unknown key `{clip(str(key.value), 60)}` in a concurrent call{hint}")
    if times is None:
        return _compile_call(node, calls[0], argument, modifiers, scope)
    with scope.variable(name, variable_node):
        call = _compile_call(node, calls[0], argument, modifiers, scope)
    if call is None:
        return None
    return replace(call, times=times, variable=name)


OUTCOME_KEYS = {
    "count": "how many: a number or a matcher",
    "result": "what their results match",
    "error": "the error that they raise",
}


def _outcome(node: Node, scope: Scope) -> Outcome | None:
    found = scope.fields(node, "an outcome", OUTCOME_KEYS)
    if found is None:
        return None
    if ("result" in found) == ("error" in found):
        scope.report(node, "an outcome needs either `result` or `error`")
    return Outcome(
        node=node,
        count=compile_matcher(found["count"], scope) if "count" in found else None,
        result=compile_matcher(found["result"], scope) if "result" in found else None,
        error=_error(found["error"], scope) if "error" in found else None,
    )


@_step(
    "compare",
    "checks a saved value",
    _mapping({"value": _VALUE, "expect": {"$ref": "#/definitions/matcher"}}),
)
def _compare(node: MapNode, argument: Node, modifiers: Mapping[str, Node], scope: Scope) -> Step | None:
    found = scope.fields(argument, "compare", ("value", "expect"), required=("value", "expect"))
    if found is None or len(found) < 2:
        return None
    value = compile_value(found["value"], scope)
    return CompareStep(
        node=node, action="compare", value=value, expect=compile_matcher(found["expect"], scope)
    )


# --- given -----------------------------------------------------------------------------------------


GIVEN_MODIFIERS = {"times": "how many", "as": "the variable that counts them, from 0; `i` by default"}


@dataclass(frozen=True, slots=True)
class GivenKind:
    """An item of `given`: its meaning, the keys of its mapping, its compiler; `None` for a path."""

    name: str
    summary: str
    keys: Mapping[str, str] | None
    compile: Callable[[MapNode, Node, Scope], GivenStep | None]
    modifiers: Mapping[str, str] = field(default_factory=lambda: GIVEN_MODIFIERS)


AGENT_KEYS = {"id": "the agent_id", "delta": "default 1.0", "reason": "default Given"}
KEY_KEYS = {
    "agent_id": "default kp:agent:owner",
    "scopes": "default [read]",
    "tier": "default free",
    "save": "a name for the NewApiKey",
}
AUDIT_KEYS = {
    "action": "default skill.create",
    "agent_id": "default kp:agent:actor",
    "resource_type": "default skill",
    "resource_id": "default skill-1",
    "ip": "default 127.0.0.1",
    "details": "default null",
}


def compile_given(node: Node, scope: Scope) -> list[GivenStep]:
    """The items of `given`; every problem is reported to the scope."""
    made = [_given_item(item, scope) for item in scope.items(node, "given")]
    return [step for step in made if step is not None]


def _given_item(node: Node, scope: Scope) -> GivenStep | None:
    if not isinstance(node, MapNode):
        scope.report(node, f"an item of `given` must be a mapping, not {describe(node)}")
        return None
    kinds = [key for key, _ in node if key.value in GIVEN]
    if len(kinds) != 1:
        unknown = [key for key, _ in node if key.value not in GIVEN and key.value not in GIVEN_MODIFIERS]
        for key in unknown:
            scope.report(
                key,
                f"unknown key `{clip(str(key.value), 60)}` in given{nearest(str(key.value), list(GIVEN))}",
            )
        if len(kinds) > 1:
            scope.report(kinds[1], f"a second kind, `{kinds[1].value}`, in one item: each has its own `-`")
        elif not unknown:
            scope.report(node, f"the item has no kind: one of {', '.join(GIVEN)}")
        return None
    kind = GIVEN[kinds[0].value]
    for key, _ in node:
        if key is not kinds[0] and key.value not in kind.modifiers:
            hint = nearest(str(key.value), list(kind.modifiers))
            scope.report(key, f"unknown key `{clip(str(key.value), 60)}` beside `{kind.name}`{hint}")
    argument = node.get(kind.name)
    assert argument is not None
    return kind.compile(node, argument, scope)


def _times(
    node: MapNode, scope: Scope, compile_: Callable[[], Callable[[Context], dict[str, Any]]]
) -> tuple[Callable[[Context], dict[str, Any]], Value, str | None]:
    """The build function of one item, how often, and the variable: with `times` it is known inside."""
    times_node, as_node = node.get("times"), node.get("as")
    name = compile_variable(as_node, scope)
    if times_node is None:
        if as_node is not None:
            scope.report(node.key("as"), "`as` goes with `times`")
        return compile_(), Constant(node, 1), None
    times = compile_integer(times_node, scope, "times")
    with scope.variable(name, as_node or times_node):
        return compile_(), times, name


def _given_record(
    kind: str, builder: str, store: str, many: str
) -> Callable[[MapNode, Node, Scope], GivenStep]:
    def compile_(node: MapNode, argument: Node, scope: Scope) -> GivenStep:
        def inner() -> Callable[[Context], dict[str, Any]]:
            record = compile_record(argument, scope, builder)
            return lambda context: {"record": record.build(context)}

        build, times, name = _times(node, scope, inner)
        single = node.get("times") is None
        method = STORES[store]["create" if single else "create_many"]
        if single:
            parameter = next(iter(method.parameters))
            return GivenStep(
                node=node,
                action=f"given {kind}",
                method=method,
                build=lambda context: {parameter: build(context)["record"]},
                times=times,
                variable=name,
            )
        return GivenStep(
            node=node,
            action=f"given {kind}",
            method=method,
            build=build,
            times=times,
            variable=name,
            many=many,
        )

    return compile_


def _given_call(
    kind: str, keys: Mapping[str, str], store: str, method: str, defaults: Mapping[str, Any]
) -> Callable[[MapNode, Node, Scope], GivenStep]:
    def compile_(node: MapNode, argument: Node, scope: Scope) -> GivenStep:
        saves: tuple[Save, ...] = ()
        save_node: Node | None = None

        def inner() -> Callable[[Context], dict[str, Any]]:
            nonlocal save_node
            required = ("id",) if kind == "agent" else ()
            found = scope.fields(argument, f"`{kind}`", keys, required=required) or {}
            save_node = found.pop("save", None)
            names = {"id": "agent_id"} if kind == "agent" else {}
            values = {names.get(key, key): compile_value(value, scope) for key, value in found.items()}
            return lambda context: {
                **defaults,
                **{key: value.build(context) for key, value in values.items()},
            }

        build, times, name = _times(node, scope, inner)
        saves = _saves(save_node, scope)
        return GivenStep(
            node=node,
            action=f"given {kind}",
            method=STORES[store][method],
            build=build,
            times=times,
            variable=name,
            saves=saves,
        )

    return compile_


def _given_vote(node: MapNode, argument: Node, scope: Scope) -> GivenStep:
    def inner() -> Callable[[Context], dict[str, Any]]:
        vote = compile_record(argument, scope, "vote")
        return lambda context: {"vote": vote.build(context)}

    build, times, name = _times(node, scope, inner)
    method = STORES["reputation"]["record_vote"]
    return GivenStep(node=node, action="given vote", method=method, build=build, times=times, variable=name)


def _skills_from(node: MapNode, argument: Node, scope: Scope) -> GivenStep:
    folder = compile_path(argument, scope, "skills_from", folder=True)
    defaults_node = node.get("defaults")
    defaults: dict[str, Value] = {}
    if defaults_node is not None:
        known = {key: text for key, text in SKILL_KEYS.items() if key not in ("id", "from")}
        found = scope.fields(defaults_node, "`defaults`", known) or {}
        defaults = {key: compile_value(value, scope) for key, value in found.items()}

    def listed(context: Context) -> list[Any]:
        files = sorted(Path(folder.build(context)).glob("*/SKILL.md"))
        if not files:
            raise CaseError("there is no */SKILL.md in the folder", argument)
        records = []
        for file in files:
            given = skill_from_file(read_text(file))
            given["id"] = f"kp:skill:{file.parent.name}"
            given.update({key: value.build(context) for key, value in defaults.items()})
            records.append(make_skill(given, context))
        return records

    return _listed(node, "skills_from", "skills", "skills", listed)


def _units_from(node: MapNode, argument: Node, scope: Scope) -> GivenStep:
    path = compile_path(argument, scope, "units_from")

    def listed(context: Context) -> list[Any]:
        try:
            units = json.loads(read_text(path.build(context)))
        except ValueError as error:
            raise CaseError(f"the file is no JSON: {error}", argument) from None
        if not isinstance(units, list) or not all(isinstance(unit, dict) for unit in units):
            raise CaseError("the file must be a JSON list of units or entries", argument)
        return [_unit_from(unit, context) for unit in units]

    return _listed(node, "units_from", "knowledge", "entries", listed)


def _unit_from(unit: dict[str, Any], context: Context) -> object:
    if "unit" not in unit:
        return make_entry(unit.get("id"), unit, {}, context)
    given: dict[str, Any] = {
        key: unit[key] for key in ("visibility", "created_at", "updated_at") if key in unit
    }
    for key in ("created_at", "updated_at"):  # JSON has no datetimes
        if isinstance(given.get(key), str):
            given[key] = parse_time(given[key], context.now())
    return make_entry(unit.get("id"), unit["unit"], given, context)


def _listed(
    node: MapNode, kind: str, store: str, parameter: str, listed: Callable[[Context], list[Any]]
) -> GivenStep:
    return GivenStep(
        node=node,
        action=f"given {kind}",
        method=STORES[store]["create_many"],
        build=lambda context: {},
        times=Constant(node, 1),
        variable=None,
        many=parameter,
        listed=listed,
    )


GIVEN: dict[str, GivenKind] = {
    kind.name: kind
    for kind in [
        GivenKind("skill", "a skill", SKILL_KEYS, _given_record("skill", "skill", "skills", "skills")),
        GivenKind(
            "unit", "a knowledge unit", ENTRY_KEYS, _given_record("unit", "entry", "knowledge", "entries")
        ),
        GivenKind(
            "agent",
            "an agent with a reputation",
            AGENT_KEYS,
            _given_call("agent", AGENT_KEYS, "reputation", "upsert", {"delta": 1.0, "reason": "Given"}),
        ),
        GivenKind(
            "key",
            "an API key",
            KEY_KEYS,
            _given_call(
                "key",
                KEY_KEYS,
                "api_keys",
                "create",
                {"agent_id": "kp:agent:owner", "scopes": ["read"], "tier": "free"},
            ),
        ),
        GivenKind("vote", "a vote", VOTE_KEYS, _given_vote),
        GivenKind(
            "audit",
            "an entry of the audit log",
            AUDIT_KEYS,
            _given_call(
                "audit",
                AUDIT_KEYS,
                "audit_log",
                "log",
                {
                    "action": "skill.create",
                    "agent_id": "kp:agent:actor",
                    "resource_type": "skill",
                    "resource_id": "skill-1",
                    "ip": "127.0.0.1",
                    "details": None,
                },
            ),
        ),
        GivenKind(
            "skills_from",
            "the skills of a folder of */SKILL.md files",
            None,
            _skills_from,
            {"defaults": "fields that all of them get"},
        ),
        GivenKind("units_from", "the units of a JSON file", None, _units_from, {}),
    ]
}
