"""Expectations: each compiles once, with its problems, and then says where a value differs from it."""

from __future__ import annotations

import math
import operator
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kpstore_conformance.scenario.scope import CaseError, Context, Scope, describe, nearest
from kpstore_conformance.scenario.show import clip, counted, quote, redact, short, view
from kpstore_conformance.scenario.values import (
    CONSTRUCTORS,
    Constant,
    Value,
    compile_duration,
    compile_integer,
    compile_time,
    compile_typed,
    compile_value,
    compile_variable,
    constructor_of,
    parse_path,
    walk,
)
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, ScalarNode, plain

__all__ = ["ABSENT", "CANCELLED", "MATCHERS", "Matcher", "MatcherKind", "Mismatch", "compile_matcher"]


class _Marker:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


ABSENT = _Marker("absent")
"""Stands for the value of a key that is not there."""
CANCELLED = _Marker("cancelled")
"""Stands for the result of a cancelled call."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One place where a value is not as expected; `node` is the expectation in the file."""

    path: str
    expected: str
    came: str
    node: Node


class Matcher(ABC):
    """An expectation, compiled. `node` is what a failure points at, `whole` the mapping that it stands in."""

    __slots__ = ("node", "whole")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.whole = node

    @abstractmethod
    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        """Where `actual` (a view, or a marker) differs; empty where it matches."""

    def told(self, context: Context) -> str:
        """The expectation on one line: as it is written, unless it has a value."""
        return short(plain(self.whole), 120)

    def differs(self, path: str, expected: str, actual: object) -> list[Mismatch]:
        """One mismatch at this matcher."""
        came = repr(actual) if isinstance(actual, _Marker) else short(actual)
        return [Mismatch(path, expected, came, self.node)]


@dataclass(frozen=True, slots=True)
class MatcherKind:
    """A `$name` that expects: its JSON Schema, its meaning in one line, and how its argument compiles."""

    name: str
    summary: str
    schema: Mapping[str, Any]
    compile: Callable[[Node, Scope], Matcher | None]


MATCHERS: dict[str, MatcherKind] = {}

_Compile = Callable[[Node, Scope], Matcher | None]


def _matcher(name: str, summary: str, schema: Mapping[str, Any]) -> Callable[[_Compile], _Compile]:
    def register(compile_: _Compile) -> _Compile:
        MATCHERS[name] = MatcherKind(name, summary, schema, compile_)
        return compile_

    return register


def compile_matcher(node: Node, scope: Scope) -> Matcher:
    """Compile an expectation; every problem in it is reported to the scope."""
    if isinstance(node, ScalarNode):
        return _Equal(node, compile_value(node, scope))
    if isinstance(node, ListNode):
        items = [compile_matcher(item, scope) for item in node.items]
        return _ListMatcher(node, lambda _: items)
    assert isinstance(node, MapNode)
    special = [key for key, _ in node if isinstance(key.value, str) and key.value.startswith("$")]
    if not special:
        return _MapMatcher(node, [(key.value, compile_matcher(value, scope)) for key, value in node])
    only = constructor_of(node)
    if only and only[0].value == "$list":
        return _ListMatcher(node, _numbered(only[1], scope))
    if only and only[0].value not in MATCHERS:
        return _Equal(node, compile_value(node, scope))
    parts: list[Matcher] = []
    for key, value in node:
        if key not in special:
            beside = f"the key `{key.value}` cannot stand beside `{special[0].value}`"
            message = f"{beside}; use $all_of, or $literal for data"
            scope.report(key, message)
        elif key.value in MATCHERS:
            part = MATCHERS[key.value].compile(value, scope)
            if part is not None:
                parts.append(part)
        elif key.value in CONSTRUCTORS:
            scope.report(key, f"`{key.value}` must be the only key of its mapping")
        else:
            known = [*MATCHERS, *CONSTRUCTORS]
            scope.report(key, f"unknown matcher `{clip(key.value, 40)}`{nearest(key.value, known)}")
    if len(parts) != 1:
        return _AllOf(node, parts)
    parts[0].whole = node
    return parts[0]


def _sub(path: str, key: object) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    text = str(key)
    return f"{path}.{text}" if re.fullmatch(r"[A-Za-z_@][\w@-]*", text) else f"{path}.{quote(text, 40)}"


# --- equality --------------------------------------------------------------------------------------


def _same_scalar(expected: Any, actual: Any) -> bool:
    """Equal as a reader means it: 1 is 1.0, NaN is NaN, true is only true, an ISO text is its instant."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, (int, float)) and isinstance(actual, (int, float)):
        return expected == actual or (expected != expected and actual != actual)
    if isinstance(actual, datetime):
        moment = _moment(expected)
        return moment is not None and (moment.tzinfo is None) == (actual.tzinfo is None) and moment == actual
    if isinstance(expected, str) != isinstance(actual, str):
        return False
    return bool(expected == actual)


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and len(value) >= 10:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None
    return None


def _differences(expected: Any, actual: Any, path: str, node: Node, *, exact: bool) -> list[Mismatch]:
    """Every smallest part in which two views differ."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found: list[Mismatch] = []
        for key, item in expected.items():
            if key in actual:
                found += _differences(item, actual[key], _sub(path, key), node, exact=exact)
            else:
                found.append(Mismatch(_sub(path, key), short(item), "absent", node))
        found += [
            Mismatch(_sub(path, key), "absent", short(item), node)
            for key, item in actual.items()
            if key not in expected
        ]
        if exact and not found and list(expected) != list(actual):
            found.append(
                Mismatch(path, f"keys in the order {short(list(expected))}", short(list(actual)), node)
            )
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        found = []
        for index, (left, right) in enumerate(zip(expected, actual, strict=False)):
            found += _differences(left, right, _sub(path, index), node, exact=exact)
        return found + _length_mismatch(expected, actual, path, node, short)
    if isinstance(expected, str) and isinstance(actual, str):
        return [] if expected == actual else [_text_mismatch(expected, actual, path, node)]
    same = _same_exactly(expected, actual) if exact else _same_scalar(expected, actual)
    if same:
        return []
    left, right = short(expected), short(actual)
    if left == right:
        left, right = f"{left} ({type(expected).__name__})", f"{right} ({type(actual).__name__})"
    return [Mismatch(path, left, right, node)]


def _length_mismatch(
    expected: Sequence[Any], actual: Sequence[Any], path: str, node: Node, tell: Callable[[Any], str]
) -> list[Mismatch]:
    """Tells the first element too many or missing; `tell` says what is expected there."""
    if len(expected) == len(actual):
        return []
    wanted, came = counted(len(expected), "item"), counted(len(actual), "item")
    if len(actual) > len(expected):
        came = f"{came}; the first too many is {short(actual[len(expected)], 120)}"
    else:
        wanted = f"{wanted}; the first missing is {tell(expected[len(actual)])}"
    return [Mismatch(path, wanted, came, node)]


def _same_exactly(expected: Any, actual: Any) -> bool:
    if isinstance(expected, datetime) and isinstance(actual, datetime):
        return _same_scalar(expected, actual)
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, float):
        if math.isnan(expected):
            return math.isnan(actual)
        return expected == actual and math.copysign(1, expected) == math.copysign(1, actual)
    return bool(expected == actual)


def _text_mismatch(expected: str, actual: str, path: str, node: Node) -> Mismatch:
    left, right = redact(expected), redact(actual)
    if left == right:
        return Mismatch(path, quote(left), f"{quote(right)}, which differs within the redacted key", node)
    if len(left) <= 80 and len(right) <= 80:
        return Mismatch(path, quote(left), quote(right), node)
    at = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    start = max(0, at - 20)
    dots = "…" if start else ""
    where = f"at character {at:,}: {dots}"
    return Mismatch(
        path,
        f"{where}{quote(left[start : at + 40])} of {len(expected):,}",
        f"{where}{quote(right[start : at + 40])} of {len(actual):,}",
        node,
    )


class _Equal(Matcher):
    """A plain scalar, a `${name}` or a constructor: equal to the value, deeply."""

    __slots__ = ("exact", "value")

    def __init__(self, node: Node, value: Value, *, exact: bool = False) -> None:
        super().__init__(node)
        self.value = value
        self.exact = exact

    def told(self, context: Context) -> str:
        return short(self.value.build(context), 120)

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        expected = view(self.value.build(context))
        if isinstance(actual, _Marker):
            return self.differs(path, short(expected), actual)
        return _differences(expected, actual, path, self.node, exact=self.exact)


_Items = Callable[[Context], Sequence[Matcher]]


class _ListMatcher(Matcher):
    __slots__ = ("items",)

    def __init__(self, node: Node, items: _Items) -> None:
        super().__init__(node)
        self.items = items

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        items = self.items(context)
        if not isinstance(actual, list):
            hint = (
                " (a set is expected with {$set: …} or $unordered)" if isinstance(actual, frozenset) else ""
            )
            return self.differs(path, f"a list of {len(items)}{hint}", actual)
        found: list[Mismatch] = []
        for index, (item, value) in enumerate(zip(items, actual, strict=False)):
            found += item.match(value, context, _sub(path, index))
        return found + _length_mismatch(items, actual, path, self.node, lambda item: item.told(context))


class _Numbered(Matcher):
    """An item of `$list` in an expectation: the matcher, with the variable at this item's number."""

    __slots__ = ("inner", "name", "number")

    def __init__(self, inner: Matcher, name: str, number: int) -> None:
        super().__init__(inner.node)
        self.inner = inner
        self.name = name
        self.number = number

    def told(self, context: Context) -> str:
        return f"{self.inner.told(self._within(context))} with {self.name} = {self.number}"

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        return self.inner.match(actual, self._within(context), path)

    def _within(self, context: Context) -> Context:
        return replace(context, variables={**context.variables, self.name: self.number})


def _numbered(argument: Node, scope: Scope) -> _Items:
    """The matchers of a `$list` in an expectation."""
    found = scope.fields(argument, "$list", ("times", "as", "item"), required=("times", "item"))
    if found is None or "times" not in found or "item" not in found:
        return lambda _: []
    times = compile_integer(found["times"], scope, "times")
    name = compile_variable(found.get("as"), scope)
    with scope.variable(name, found.get("as", argument)):
        item = compile_matcher(found["item"], scope)
    return lambda context: [_Numbered(item, name, number) for number in range(times.build(context))]


class _MapMatcher(Matcher):
    __slots__ = ("entries",)

    def __init__(self, node: Node, entries: Sequence[tuple[Any, Matcher]]) -> None:
        super().__init__(node)
        self.entries = entries

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        if not isinstance(actual, dict):
            keys = ", ".join(str(key) for key, _ in self.entries)
            return self.differs(path, f"a mapping with {keys}" if keys else "a mapping", actual)
        found: list[Mismatch] = []
        for key, matcher in self.entries:
            found += matcher.match(actual.get(key, ABSENT), context, _sub(path, key))
        return found


class _AllOf(Matcher):
    __slots__ = ("parts",)

    def __init__(self, node: Node, parts: Sequence[Matcher]) -> None:
        super().__init__(node)
        self.parts = parts

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        found: list[Mismatch] = []
        for part in self.parts:
            found += part.match(actual, context, path)
        return found


class _Check(Matcher):
    """A matcher made of a function that gives `None` where it matches, else what was expected.

    What is absent or cancelled is a mismatch, told as `what`; without `what` the function sees it too.
    """

    __slots__ = ("_check", "_what")

    def __init__(self, node: Node, check: Callable[[Any, Context], str | None], *, what: str | None) -> None:
        super().__init__(node)
        self._check = check
        self._what = what

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        if isinstance(actual, _Marker) and self._what is not None:
            return self.differs(path, self._what, actual)
        expected = self._check(actual, context)
        return [] if expected is None else self.differs(path, expected, actual)


def _matchers(node: Node, scope: Scope, name: str) -> _Items:
    """The argument of a matcher that takes a list of matchers: a list, or a saved or made list of values."""
    reference = isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.startswith("${")
    special = constructor_of(node)
    if special and special[0].value == "$list":
        return _numbered(special[1], scope)
    if not reference and special is None:
        items = [compile_matcher(item, scope) for item in scope.items(node, name)]
        return lambda _: items
    value = compile_typed(node, scope, "a list", name)
    return lambda context: [_Equal(node, Constant(node, element)) for element in value.build(context)]


# --- the matchers ----------------------------------------------------------------------------------

_MATCHER = {"$ref": "#/definitions/matcher"}
_VALUE = {"$ref": "#/definitions/value"}
_MATCHERS = {
    "anyOf": [
        {"type": "array", "items": _MATCHER},
        {"$ref": "#/definitions/made"},
        {"$ref": "#/definitions/reference"},
    ]
}


@_matcher("$any", "anything, null included, as long as it is there", {"const": True})
def _any(node: Node, scope: Scope) -> Matcher:
    if scope.flag(node, "$any") is False:
        scope.report(node, "write {$any: true}; for a key that must not be there {$absent: true}")
    return _Check(node, lambda actual, _: None, what="anything")


@_matcher("$absent", "the key must not be there", {"const": True})
def _absent(node: Node, scope: Scope) -> Matcher:
    if scope.flag(node, "$absent") is False:
        scope.report(node, "write {$absent: true}; for a key that must be there {$any: true}")
    return _Check(node, lambda actual, _: None if actual is ABSENT else "absent", what=None)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, float),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "datetime": lambda value: isinstance(value, datetime),
    "mapping": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "set": lambda value: isinstance(value, frozenset),
}


@_matcher("$type", "a value of this type", {"enum": [*_TYPES, None]})
def _type(node: Node, scope: Scope) -> Matcher | None:
    # An unquoted `null` is YAML's null, and plainly meant.
    null = isinstance(node, ScalarNode) and node.value is None
    name = "null" if null else scope.word(node, "type", list(_TYPES))
    if name is None:
        return None
    what = f"of type {name}"
    return _Check(node, lambda actual, _: None if _TYPES[name](actual) else what, what=what)


@_matcher("$regex", "a text in which the regular expression is found", {"type": "string"})
def _regex(node: Node, scope: Scope) -> Matcher | None:
    text = compile_typed(node, scope, "a text", "$regex")
    if isinstance(text, Constant):
        if not isinstance(text.value, str):
            return None
        try:
            re.compile(text.value)
        except re.error as error:
            scope.report(node, f"bad regular expression {quote(text.value, 60)}: {error}")
            return None

    def check(actual: Any, context: Context) -> str | None:
        pattern = text.build(context)
        try:
            found = isinstance(actual, str) and re.search(pattern, actual)
        except re.error as error:
            raise CaseError(f"bad regular expression {quote(pattern, 60)}: {error}", node) from None
        return None if found else f"a text in which {quote(pattern)} is found"

    return _Check(node, check, what="a text in which a regular expression is found")


@_matcher("$eq", "equal to the value, deeply, with no other keys", _VALUE)
def _eq(node: Node, scope: Scope) -> Matcher:
    return _Equal(node, compile_value(node, scope))


@_matcher("$ne", "not equal to the value", _VALUE)
def _ne(node: Node, scope: Scope) -> Matcher:
    value = compile_value(node, scope)

    def check(actual: Any, context: Context) -> str | None:
        unwanted = view(value.build(context))
        return (
            None
            if _differences(unwanted, actual, "", node, exact=False)
            else f"anything but {short(unwanted)}"
        )

    return _Check(node, check, what="another value")


def _ordered(actual: Any, bound: Any) -> tuple[Any, Any] | None:
    """The two made comparable, or `None`."""
    if _TYPES["number"](actual) and _TYPES["number"](bound):
        return actual, bound
    if isinstance(actual, datetime):
        moment = _moment(bound)
        comparable = moment is not None and (moment.tzinfo is None) == (actual.tzinfo is None)
        return (actual, moment) if comparable else None
    if isinstance(actual, str) and isinstance(bound, str):
        return actual, bound
    if isinstance(actual, timedelta) and isinstance(bound, timedelta):
        return actual, bound
    return None


def _comparison(name: str, summary: str, sign: str, compare: Callable[[Any, Any], bool]) -> None:
    @_matcher(name, summary, _VALUE)
    def compile_(node: Node, scope: Scope) -> Matcher:
        value = compile_value(node, scope)

        def check(actual: Any, context: Context) -> str | None:
            bound = value.build(context)
            pair = _ordered(actual, bound)
            return None if pair and compare(*pair) else f"{sign} {short(bound)}"

        return _Check(node, check, what=f"something {sign} another value")


_comparison("$lt", "less than", "<", operator.lt)
_comparison("$le", "at most", "<=", operator.le)
_comparison("$gt", "greater than", ">", operator.gt)
_comparison("$ge", "at least", ">=", operator.ge)


@_matcher(
    "$between", "from the first to the second, both included", {"type": "array", "minItems": 2, "maxItems": 2}
)
def _between(node: Node, scope: Scope) -> Matcher | None:
    items = scope.items(node, "$between")
    if len(items) != 2:
        if isinstance(node, ListNode):
            scope.report(node, "$between needs its two ends: [1, 10]")
        return None
    low_value, high_value = (compile_value(item, scope) for item in items)

    def check(actual: Any, context: Context) -> str | None:
        low, high = low_value.build(context), high_value.build(context)
        left, right = _ordered(actual, low), _ordered(actual, high)
        inside = left and right and left[1] <= left[0] and right[0] <= right[1]
        return None if inside else f"from {short(low)} to {short(high)}"

    return _Check(node, check, what="something in a range")


@_matcher(
    "$approx",
    "a number near this one (relative tolerance 1e-9 unless `abs` or `rel` say otherwise)",
    {
        "anyOf": [
            {"type": ["number", "string"]},
            {
                "type": "object",
                "properties": {"value": _VALUE, "abs": {"type": "number"}, "rel": {"type": "number"}},
                "required": ["value"],
                "additionalProperties": False,
            },
        ]
    },
)
def _approx(node: Node, scope: Scope) -> Matcher | None:
    tolerance = {"rel": 1e-9, "abs": 0.0}
    inner = node
    if isinstance(node, MapNode) and constructor_of(node) is None:
        found = scope.fields(node, "$approx", ("value", "abs", "rel"), required=("value",))
        if not found or "value" not in found:
            return None
        inner = found["value"]
        if "abs" in found or "rel" in found:
            tolerance = {"rel": 0.0, "abs": 0.0}
        for name in ("abs", "rel"):
            if name in found:
                number = plain(found[name])
                if isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0:
                    tolerance[name] = float(number)
                else:
                    scope.report(
                        found[name], f"`{name}` must be a number from 0 up, not {describe(found[name])}"
                    )
    value = compile_typed(inner, scope, "a number", "$approx")

    def check(actual: Any, context: Context) -> str | None:
        wanted = value.build(context)
        near = _TYPES["number"](actual) and math.isclose(
            actual, wanted, rel_tol=tolerance["rel"], abs_tol=tolerance["abs"]
        )
        shown = " or ".join(f"{name} {size:g}" for name, size in tolerance.items() if size)
        return None if near else f"about {short(wanted)} (within {shown or 0})"

    return _Check(node, check, what="a number")


@_matcher("$length", "the length of a text (in code points), list, mapping or set", _MATCHER)
def _length(node: Node, scope: Scope) -> Matcher:
    return _Length(node, compile_matcher(node, scope))


class _Length(Matcher):
    __slots__ = ("length",)

    def __init__(self, node: Node, length: Matcher) -> None:
        super().__init__(node)
        self.length = length

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        if not isinstance(actual, (str, list, dict, frozenset)):
            return self.differs(path, "something with a length", actual)
        found = self.length.match(len(actual), context, f"length of {path}")
        if not found:
            return []
        return [Mismatch(m.path, m.expected, f"{m.came}: {short(actual, 120)}", m.node) for m in found]


def _elements(actual: Any) -> list[Any] | None:
    if isinstance(actual, frozenset):
        return sorted(actual, key=repr)
    return actual if isinstance(actual, list) else None


@_matcher("$contains", "a list with a matching element, or a text with this substring", _MATCHER)
def _contains(node: Node, scope: Scope) -> Matcher:
    part = compile_matcher(node, scope)
    return _Contains(node, lambda _: [part])


@_matcher(
    "$contains_all",
    "a list with an element for each of these, or a text with all these substrings",
    _MATCHERS,
)
def _contains_all(node: Node, scope: Scope) -> Matcher:
    return _Contains(node, _matchers(node, scope, "$contains_all"))


class _Contains(Matcher):
    __slots__ = ("parts",)

    def __init__(self, node: Node, parts: _Items) -> None:
        super().__init__(node)
        self.parts = parts

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        found: list[Mismatch] = []
        for part in self.parts(context):
            node = part.node
            if isinstance(actual, str):
                text = part.value.build(context) if isinstance(part, _Equal) else None
                if not isinstance(text, str):
                    raise CaseError(
                        f"{path} is a text, and what it contains must be a text, not {describe(node)}", node
                    )
                if text not in actual:
                    found += [Mismatch(path, f"a text with {quote(text)}", short(actual), node)]
                continue
            elements = _elements(actual)
            if elements is None:
                return self.differs(path, "a list or a text", actual)
            if not any(not part.match(element, context, path) for element in elements):
                found += [Mismatch(path, f"an element like {part.told(context)}", short(actual), node)]
        return found


@_matcher("$each", "a list whose every element matches", _MATCHER)
def _each(node: Node, scope: Scope) -> Matcher:
    return _Each(node, compile_matcher(node, scope))


class _Each(Matcher):
    __slots__ = ("item",)

    def __init__(self, node: Node, item: Matcher) -> None:
        super().__init__(node)
        self.item = item

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        elements = _elements(actual)
        if elements is None:
            return self.differs(path, "a list", actual)
        found: list[Mismatch] = []
        for index, element in enumerate(elements):
            found += self.item.match(element, context, _sub(path, index))
        return found


@_matcher("$unordered", "these elements and no others, in any order", _MATCHERS)
def _unordered(node: Node, scope: Scope) -> Matcher:
    return _Unordered(node, _matchers(node, scope, "$unordered"))


class _Unordered(Matcher):
    __slots__ = ("items",)

    def __init__(self, node: Node, items: _Items) -> None:
        super().__init__(node)
        self.items = items

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        items = self.items(context)
        elements = _elements(actual)
        if elements is None:
            return self.differs(path, f"a list of {len(items)}, in any order", actual)
        fits = [
            [not item.match(element, context, path) for element in elements] for item in items
        ]  # fits[expected][element]
        owner: dict[int, int] = {}  # element -> expected

        def place(expected: int, tried: set[int]) -> bool:
            for element, fit in enumerate(fits[expected]):
                if fit and element not in tried:
                    tried.add(element)
                    if element not in owner or place(owner[element], tried):
                        owner[element] = expected
                        return True
            return False

        homeless = [expected for expected in range(len(items)) if not place(expected, set())]
        spare = [element for element in range(len(elements)) if element not in owner]
        found = []
        for expected, element in zip(homeless, spare, strict=False):
            # One on each side: the reader wants to know in what they differ.
            found += items[expected].match(elements[element], context, _sub(path, element))
        for expected in homeless[len(spare) :]:
            item = items[expected]
            found.append(Mismatch(path, f"an element like {item.told(context)}", short(actual), item.node))
        for element in spare[len(homeless) :]:
            found.append(
                Mismatch(_sub(path, element), "no such element", short(elements[element]), self.node)
            )
        return found


@_matcher(
    "$sorted_by",
    "a list in this order; `key` is a path into each element, left out for scalars",
    {
        "type": "object",
        "properties": {"key": {"type": "string"}, "descending": {"type": "boolean"}},
        "additionalProperties": False,
    },
)
def _sorted_by(node: Node, scope: Scope) -> Matcher | None:
    found = scope.fields(node, "$sorted_by", ("key", "descending"))
    if found is None:
        return None
    parts = _path(found["key"], scope, "key") if "key" in found else []
    descending = "descending" in found and scope.flag(found["descending"], "descending")
    if parts is None:
        return None

    def check(actual: Any, _: Context) -> str | None:
        order = "descending" if descending else "ascending"
        elements = actual if isinstance(actual, list) else None
        if elements is None:
            return "a list"
        keys = [walk(element, parts, "$sorted_by") for element in elements]
        for index in range(1, len(keys)):
            pair = _ordered(keys[index - 1], keys[index])
            if pair is None or (pair[0] < pair[1] if descending else pair[0] > pair[1]):
                left, right = short(keys[index - 1], 60), short(keys[index], 60)
                return f"{order} order, but {left} at [{index - 1}] comes before {right}"
        return None

    return _Check(node, check, what="a list")


def _path(node: Node, scope: Scope, what: str) -> list[str | int] | None:
    text = scope.text(node, what)
    if text is None:
        return None
    parts = parse_path(text)
    if parts is None:
        scope.report(
            node, f"`{clip(text, 60)}` is no path such as `unit.metadata.quality_score` or `data[0].id`"
        )
    return parts


@_matcher(
    "$unique",
    "a list without equal elements, or with a different value at this path in each",
    {"type": ["string", "boolean"]},
)
def _unique(node: Node, scope: Scope) -> Matcher | None:
    whole = isinstance(node, ScalarNode) and node.value is True
    parts = [] if whole else _path(node, scope, "$unique (true, or a path)")
    if parts is None:
        return None

    def check(actual: Any, _: Context) -> str | None:
        elements = _elements(actual)
        if elements is None:
            return "a list"
        counts = Counter(repr(walk(element, parts, "$unique")) for element in elements)
        twice = next((text for text, count in counts.items() if count > 1), None)
        return (
            None
            if twice is None
            else f"no two alike, but {redact(clip(twice, 80))} is there {counted(counts[twice], 'time')}"
        )

    return _Check(node, check, what="a list")


@_matcher("$one_of", "at least one of these matches", _MATCHERS)
def _one_of(node: Node, scope: Scope) -> Matcher:
    items = _matchers(node, scope, "$one_of")

    def check(actual: Any, context: Context) -> str | None:
        parts = items(context)
        if any(not part.match(actual, context, "") for part in parts):
            return None
        return "one of " + ", ".join(part.told(context) for part in parts)

    return _Check(node, check, what=None)


@_matcher("$all_of", "all of these match", _MATCHERS)
def _all_of(node: Node, scope: Scope) -> Matcher:
    return _AllOf(node, [compile_matcher(item, scope) for item in scope.items(node, "$all_of")])


@_matcher("$not", "there, and not matching this", _MATCHER)
def _not(node: Node, scope: Scope) -> Matcher:
    inner = compile_matcher(node, scope)

    def check(actual: Any, context: Context) -> str | None:
        return None if inner.match(actual, context, "") else f"not {inner.told(context)}"

    # A misspelt key is absent, and must not pass for "not this".
    return _Check(node, check, what=f"not {short(plain(node), 120)}")


@_matcher(
    "$exact",
    "equal in every respect: keys and their order, 1 is not 1.0, -0.0 is not 0.0, null is not absent",
    _VALUE,
)
def _exact(node: Node, scope: Scope) -> Matcher:
    return _Equal(node, compile_value(node, scope), exact=True)


@_matcher("$same_as", "equal in every respect to a saved value", {"$ref": "#/definitions/reference"})
def _same_as(node: Node, scope: Scope) -> Matcher | None:
    if not (isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.startswith("${")):
        scope.report(
            node,
            f"$same_as needs a saved value such as `${{before}}`, not {describe(node)}; data goes to $exact",
        )
        return None
    return _Equal(node, compile_value(node, scope), exact=True)


@_matcher("$time", "a datetime equal to now, an offset from it, or an instant", {"type": "string"})
def _time(node: Node, scope: Scope) -> Matcher:
    value = compile_time(node, scope, "$time")

    def check(actual: Any, context: Context) -> str | None:
        wanted = value.build(context)
        same = isinstance(actual, datetime) and _same_scalar(wanted, actual)
        return None if same else f"the datetime {short(wanted)}"

    return _Check(node, check, what="a datetime")


@_matcher(
    "$near_time",
    "a datetime at most `within` away from `at`",
    {
        "type": "object",
        "properties": {"at": {"type": "string"}, "within": {"type": "string"}},
        "required": ["at", "within"],
        "additionalProperties": False,
    },
)
def _near_time(node: Node, scope: Scope) -> Matcher | None:
    found = scope.fields(node, "$near_time", ("at", "within"), required=("at", "within"))
    if found is None or len(found) < 2:
        return None
    at = compile_time(found["at"], scope, "at")
    within = compile_duration(found["within"], scope, "within")

    def check(actual: Any, context: Context) -> str | None:
        wanted, room = at.build(context), within.build(context)
        pair = _ordered(actual, wanted) if isinstance(actual, datetime) else None
        near = pair is not None and abs(pair[0] - pair[1]) <= room
        return None if near else f"a datetime within {short(room)} of {short(wanted)}"

    return _Check(node, check, what="a datetime")


@_matcher("$keys", "a mapping with exactly these keys", {"type": "array"})
def _keys(node: Node, scope: Scope) -> Matcher | None:
    values = [compile_value(item, scope) for item in scope.items(node, "$keys")]

    def check(actual: Any, context: Context) -> str | None:
        wanted = [value.build(context) for value in values]
        if not isinstance(actual, dict):
            return f"a mapping with the keys {short(wanted)}"
        missing = [key for key in wanted if key not in actual]
        extra = [key for key in actual if key not in wanted]
        if not missing and not extra:
            return None
        parts = [f"without {short(extra)}"] * bool(extra) + [f"with {short(missing)}"] * bool(missing)
        return f"exactly the keys {short(wanted)}: " + " and ".join(parts)

    return _Check(node, check, what="a mapping")


@_matcher("$in_order", "a list in which these are found in this order, others between them", _MATCHERS)
def _in_order(node: Node, scope: Scope) -> Matcher:
    return _InOrder(node, _matchers(node, scope, "$in_order"))


class _InOrder(Matcher):
    __slots__ = ("items",)

    def __init__(self, node: Node, items: _Items) -> None:
        super().__init__(node)
        self.items = items

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        if not isinstance(actual, list):
            return self.differs(path, "a list", actual)
        position = 0
        for index, item in enumerate(self.items(context)):
            while position < len(actual) and item.match(actual[position], context, path):
                position += 1
            if position == len(actual):
                after = f" after the {index} before it" if index else ""
                return [
                    Mismatch(path, f"an element like {item.told(context)}{after}", short(actual), item.node)
                ]
            position += 1
        return []


@_matcher("$cancelled_or", "with `cancel_at`: the call was cancelled, or its result matches", _MATCHER)
def _cancelled_or(node: Node, scope: Scope) -> Matcher:
    return _CancelledOr(node, compile_matcher(node, scope))


class _CancelledOr(Matcher):
    __slots__ = ("completed",)

    def __init__(self, node: Node, completed: Matcher) -> None:
        super().__init__(node)
        self.completed = completed

    def match(self, actual: Any, context: Context, path: str) -> list[Mismatch]:
        return [] if actual is CANCELLED else self.completed.match(actual, context, path)
