"""Values in a scenario: plain data, `${names}` and `$constructors`; compiled once, built for each use."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from kpstore_conformance.scenario.scope import CaseError, Context, Scope, describe, nearest
from kpstore_conformance.scenario.show import clip, short, snapshot
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, ScalarNode, plain

__all__ = [
    "CONSTRUCTORS",
    "Constant",
    "Constructor",
    "Value",
    "compile_integer",
    "compile_list",
    "compile_typed",
    "compile_value",
    "parse_duration",
    "parse_path",
    "parse_time",
    "refers",
    "walk",
]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)\}")
_PART = re.compile(r"\.?([A-Za-z_@][A-Za-z0-9_@-]*)|\[(-?[0-9]+)\]")
_UNITS = {
    "us": 1,
    "ms": 1000,
    "s": 10**6,
    "min": 60 * 10**6,
    "h": 3600 * 10**6,
    "day": 86400 * 10**6,
    "days": 86400 * 10**6,
    "week": 7 * 86400 * 10**6,
    "weeks": 7 * 86400 * 10**6,
}
_FINE_OFFSET = re.compile(r"([+-])(\d\d):(\d\d):(\d\d)\.(\d{6})\Z")
_AMOUNT = re.compile(r"\s*([+-]?)\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


class Value(ABC):
    """Something that becomes a Python object when its step runs."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    @abstractmethod
    def build(self, context: Context) -> Any:
        """A fresh object; a `CaseError` where it cannot be made."""


class Constant(Value):
    """An immutable value known at load."""

    __slots__ = ("value",)

    def __init__(self, node: Node, value: object) -> None:
        super().__init__(node)
        self.value = value

    def build(self, context: Context) -> Any:
        """The value itself."""
        return self.value


class Computed(Value):
    """A value made by a function each time."""

    __slots__ = ("_make",)

    def __init__(self, node: Node, make: Callable[[Context], object]) -> None:
        super().__init__(node)
        self._make = make

    def build(self, context: Context) -> Any:
        """What the function makes; its refusals become a `CaseError` at this node."""
        try:
            return self._make(context)
        except CaseError as error:
            error.node = error.node or self.node
            raise
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise CaseError(str(error), self.node) from error


class _ListValue(Value):
    __slots__ = ("items",)

    def __init__(self, node: Node, items: Sequence[Value]) -> None:
        super().__init__(node)
        self.items = items

    def build(self, context: Context) -> Any:
        return [item.build(context) for item in self.items]


class _MapValue(Value):
    __slots__ = ("entries",)

    def __init__(self, node: Node, entries: Sequence[tuple[Value, Value]]) -> None:
        super().__init__(node)
        self.entries = entries

    def build(self, context: Context) -> Any:
        return {key.build(context): value.build(context) for key, value in self.entries}


@dataclass(frozen=True, slots=True)
class Constructor:
    """A `$name` that makes a value: its meaning in one line, its JSON Schema, how its argument compiles."""

    name: str
    summary: str
    schema: Mapping[str, Any]
    compile: Callable[[Node, Scope], Value | None]


CONSTRUCTORS: dict[str, Constructor] = {}


def _constructor(
    name: str, summary: str, schema: Mapping[str, Any]
) -> Callable[[Callable[[Node, Scope], Value | None]], Callable[[Node, Scope], Value | None]]:
    def register(compile_: Callable[[Node, Scope], Value | None]) -> Callable[[Node, Scope], Value | None]:
        CONSTRUCTORS[name] = Constructor(name, summary, schema, compile_)
        return compile_

    return register


def constructor_of(node: Node) -> tuple[ScalarNode, Node] | None:
    """The key and argument, if the node is a mapping of exactly one known constructor."""
    if isinstance(node, MapNode) and len(node.entries) == 1:
        key, argument = node.entries[0]
        if isinstance(key.value, str) and key.value in CONSTRUCTORS:
            return key, argument
    return None


def compile_value(node: Node, scope: Scope) -> Value:
    """Compile data; every problem in it is reported to the scope."""
    if isinstance(node, ScalarNode):
        return _compile_scalar(node, scope)
    if isinstance(node, ListNode):
        return _ListValue(node, [compile_value(item, scope) for item in node.items])
    assert isinstance(node, MapNode)
    special = constructor_of(node)
    if special:
        key, argument = special
        return CONSTRUCTORS[str(key.value)].compile(argument, scope) or Constant(node, None)
    entries = []
    for key, item in node:
        if isinstance(key.value, str) and key.value.startswith("$") and not key.value.startswith("${"):
            scope.report(key, _not_a_constructor(key.value, node))
            continue
        entries.append((_compile_scalar(key, scope), compile_value(item, scope)))
    return _MapValue(node, entries)


def _not_a_constructor(name: str, node: MapNode) -> str:
    from kpstore_conformance.scenario.matchers import MATCHERS  # matchers build on values

    if name in CONSTRUCTORS:
        return f"`{name}` must be the only key of its mapping"
    if name in MATCHERS:
        return f"the matcher `{name}` cannot stand where data is needed; as data it is {{$literal: …}}"
    return f"unknown constructor `{clip(name, 40)}`{nearest(name, list(CONSTRUCTORS))}"


def compile_list(node: ListNode, compile_item: Callable[[Node, Scope], Value], scope: Scope) -> Value:
    """A list whose items are compiled by `compile_item`."""
    return _ListValue(node, [compile_item(item, scope) for item in node.items])


# --- names ---------------------------------------------------------------------------------------


def parse_path(text: str) -> list[str | int] | None:
    """`a.b[0].c` as its parts; `None` if it is no path."""
    parts: list[str | int] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if (
            not match
            or (position > 0 and match[1] and text[position] != ".")
            or (position == 0 and text[0] == ".")
        ):
            return None
        parts.append(match[1] or int(match[2]))
        position = match.end()
    return parts or None


def walk(value: Any, parts: Sequence[str | int], whole: str) -> Any:
    """The part of a value that a path leads to; a `CaseError` says how far it led."""
    for part in parts:
        try:
            if isinstance(part, int) or isinstance(value, Mapping):
                value = value[part]
            elif dataclasses.is_dataclass(value) and not part.startswith("_"):
                value = getattr(value, part)
            else:
                raise KeyError(part)
        except (KeyError, IndexError, TypeError, AttributeError):
            name = f"[{part}]" if isinstance(part, int) else part
            raise CaseError(f"`{whole}`: there is no `{name}` in {short(value, 120)}") from None
    return value


def _compile_scalar(node: ScalarNode, scope: Scope) -> Value:
    text = node.value
    if not isinstance(text, str) or "${" not in text:
        return Constant(node, text)
    pieces: list[str | tuple[str, list[str | int]]] = []
    position = 0
    for match in _REFERENCE.finditer(text):
        pieces.append(text[position : match.start()])
        position = match.end()
        if match[1]:
            pieces.append("${")
            continue
        inside = match[2].strip()
        path = parse_path(inside)
        if path is None or not isinstance(path[0], str):
            scope.report(
                node,
                f"`${{{clip(inside, 60)}}}` is no name or path such as `key.raw_key` or `page.data[0].id`",
            )
            return Constant(node, None)
        if path[0] not in scope.names:
            known = list(scope.names)
            hint = nearest(path[0], known) if known else "; nothing is saved yet, and there are no parameters"
            scope.report(node, f"unknown name `${{{clip(inside, 60)}}}`{hint}")
            return Constant(node, None)
        pieces.append((inside, path))
    pieces.append(text[position:])
    if "${" in text[position:]:
        scope.report(node, "`${` without its `}`; a literal `${` is written `$${`")
        return Constant(node, None)
    pieces = [piece for piece in pieces if piece != ""]
    if all(isinstance(piece, str) for piece in pieces):
        return Constant(node, "".join(str(piece) for piece in pieces))
    if len(pieces) == 1 and not isinstance(pieces[0], str):
        only = pieces[0]
        return Computed(node, lambda context: snapshot(_look_up(*only, context)))

    def build(context: Context) -> str:
        return "".join(
            piece if isinstance(piece, str) else _inside_text(_look_up(*piece, context), piece[0])
            for piece in pieces
        )

    return Computed(node, build)


def refers(node: Node) -> bool:
    """Whether there is a `${name}` anywhere in the node."""
    if isinstance(node, ScalarNode):
        return isinstance(node.value, str) and any(
            match[2] is not None for match in _REFERENCE.finditer(node.value)
        )
    if isinstance(node, ListNode):
        return any(map(refers, node.items))
    assert isinstance(node, MapNode)
    return any(key.value != "$literal" and (refers(key) or refers(value)) for key, value in node)


def _look_up(whole: str, path: Sequence[str | int], context: Context) -> object:
    name = str(path[0])
    if name not in context.variables:
        raise CaseError(f"`${{{whole}}}`: nothing was saved as `{name}`")
    value = context.variables[name]
    if isinstance(value, Value):  # a parameter that is made of saved values
        value = value.build(context)
    return walk(value, path[1:], whole)


def _inside_text(value: object, whole: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise CaseError(f"`${{{whole}}}` is {short(value, 80)}: only a scalar can stand inside a text")


# --- values of a known type ------------------------------------------------------------------------

_KINDS: dict[str, tuple[type, ...]] = {
    "a text": (str,),
    "an integer": (int,),
    "a number": (int, float),
    "a list": (list, tuple, set, frozenset),
    "a datetime": (datetime,),
}


def _is_kind(value: object, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and not isinstance(value, bool)


def compile_typed(node: Node, scope: Scope, kind: str, what: str) -> Value:
    """A value that must be `kind` (`a text`, `a list`…): checked at load where known, else when it runs."""
    value = compile_value(node, scope)
    if isinstance(value, Constant):
        if value.value is None and not (isinstance(node, ScalarNode) and node.value is None):
            return value  # a problem is reported already
        if not _is_kind(value.value, kind):
            scope.report(node, f"{what} must be {kind}, not {describe(node)}")
        return value
    if (isinstance(value, _ListValue) and kind != "a list") or isinstance(value, _MapValue):
        scope.report(node, f"{what} must be {kind}, not {describe(node)}")
        return value

    def build(context: Context) -> object:
        made = value.build(context)
        if not _is_kind(made, kind):
            raise CaseError(f"{what} must be {kind}, not {short(made, 80)}")
        return made

    return Computed(node, build)


def compile_integer(node: Node, scope: Scope, what: str, *, least: int = 0) -> Value:
    """An integer of at least `least`."""
    value = compile_typed(node, scope, "an integer", what)
    if isinstance(value, Constant):
        if isinstance(value.value, int) and value.value < least:
            scope.report(node, f"{what} must be at least {least}, not {value.value}")
        return value

    def build(context: Context) -> int:
        number: int = value.build(context)
        if number < least:
            raise CaseError(f"{what} must be at least {least}, not {number}")
        return number

    return Computed(node, build)


def compile_parsed(
    node: Node,
    scope: Scope,
    what: str,
    parse: Callable[[str, Context], object],
    check: Callable[[str], object],
) -> Value:
    """A text that `check` parses at load to find its problems, and `parse` when it runs."""
    value = compile_typed(node, scope, "a text", what)
    if isinstance(value, Constant):
        if isinstance(value.value, str):
            try:
                check(value.value)
            except ValueError as error:
                scope.report(node, str(error))
        return Computed(node, lambda context: parse(str(value.value), context))
    return Computed(node, lambda context: parse(value.build(context), context))


def parse_duration(text: str) -> timedelta:
    """`90 min`, `-1.5 h`, `1 h 30 min` as a timedelta; a `ValueError` says what is wrong."""
    position, micros, sign = 0, Decimal(0), "+"
    while position < len(text):
        match = _AMOUNT.match(text, position)
        if not match:
            break
        sign = match[1] or sign
        if match[3] not in _UNITS:
            raise ValueError(
                f"unknown unit `{clip(match[3], 20)}` of a duration{nearest(match[3], list(_UNITS))}"
            )
        amount = Decimal(match[2]) * _UNITS[match[3]]
        micros += -amount if sign == "-" else amount
        position = match.end()
    if position < len(text) or not text.strip():
        raise ValueError(f"`{clip(text, 60)}` is no duration such as `90 min`, `-1.5 h` or `30 days 1 us`")
    if micros != int(micros):
        raise ValueError(f"`{text}` is no whole number of microseconds")
    try:
        return timedelta(microseconds=int(micros))
    except OverflowError:
        raise ValueError(f"`{text}` is more than a timedelta holds") from None


def parse_time(text: str, now: datetime) -> datetime:
    """`now`, an offset from it (`-30 days`), or an ISO instant with an offset, as an aware datetime."""
    if text == "now":
        return now
    if text[:1] in ("+", "-"):
        return now + parse_duration(text)
    moment = _iso(text, "now, an offset such as `-30 days`, or an ISO time with its zone")
    if moment.tzinfo is None:
        raise ValueError(f"`{text}` has no zone; end it with `Z` or `+02:00` (or write {{$naive: …}})")
    return moment


def _iso(text: str, wanted: str) -> datetime:
    try:
        fine = _FINE_OFFSET.search(text)
        if fine:  # Python 3.11 drops an offset of less than a second
            sign, hours, minutes, seconds, micros = fine.groups()
            size = timedelta(
                hours=int(hours), minutes=int(minutes), seconds=int(seconds), microseconds=int(micros)
            )
            naive = datetime.fromisoformat(text[: fine.start()])
            return naive.replace(tzinfo=timezone(-size if sign == "-" else size))
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{clip(text, 60)}` is not {wanted}") from None


def _naive(text: str) -> datetime:
    moment = _iso(text, "an ISO time such as `2026-01-01T00:00:00`")
    if moment.tzinfo is not None:
        raise ValueError(f"`{text}` has a zone; $naive is for times without one")
    return moment


def compile_time(node: Node, scope: Scope, what: str) -> Value:
    """A `$time` argument: a text, or a saved datetime."""
    scope.implied.add("controllable_clock")
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.startswith("${"):
        value = compile_value(node, scope)

        def build(context: Context) -> datetime:
            made = value.build(context)
            if isinstance(made, datetime):
                return made
            if isinstance(made, str):
                return parse_time(made, context.now())
            raise CaseError(f"{what} must be a time, not {short(made, 80)}")

        return value if isinstance(value, Constant) else Computed(node, build)
    return compile_parsed(
        node,
        scope,
        what,
        lambda text, context: parse_time(text, context.now()),
        lambda text: parse_time(text, datetime.fromisoformat("2026-01-01T00:00:00Z")),
    )


def compile_duration(node: Node, scope: Scope, what: str) -> Value:
    """A duration such as `90 min`."""
    return compile_parsed(node, scope, what, lambda text, _: parse_duration(text), parse_duration)


# --- the constructors ------------------------------------------------------------------------------

_TEXT = {"type": "string"}
_VALUE = {"$ref": "#/definitions/value"}
_COUNT = {"anyOf": [{"type": "integer", "minimum": 0}, {"$ref": "#/definitions/reference"}]}


def _object(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


@_constructor("$literal", "the value as it stands, its `$` keys and `${…}` untouched", {})
def _literal(node: Node, scope: Scope) -> Value:
    return Computed(node, lambda _: plain(node))


@_constructor(
    "$float", "a float that YAML cannot say: nan, inf, -inf, -0.0, or a text", {"type": ["string", "number"]}
)
def _float(node: Node, scope: Scope) -> Value | None:
    value = node.value if isinstance(node, ScalarNode) else None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return Constant(node, float(value))
        except (ValueError, OverflowError):
            pass
    scope.report(node, f"$float needs nan, inf, -inf, -0.0 or the text of a float, not {describe(node)}")
    return None


@_constructor(
    "$codepoints",
    "the text of these code points, lone surrogates allowed",
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 0x10FFFF}},
)
def _codepoints(node: Node, scope: Scope) -> Value | None:
    text = ""
    for item in scope.items(node, "$codepoints"):
        code = item.value if isinstance(item, ScalarNode) else None
        if isinstance(code, int) and not isinstance(code, bool) and 0 <= code <= 0x10FFFF:
            text += chr(code)
        else:
            scope.report(item, f"a code point is an integer from 0 to 0x10FFFF, not {describe(item)}")
    return Constant(node, text)


@_constructor("$repeat", "a text so many times over", _object({"text": _VALUE, "times": _COUNT}))
def _repeat(node: Node, scope: Scope) -> Value | None:
    found = scope.fields(node, "$repeat", ("text", "times"), required=("text", "times"))
    if found is None or len(found) < 2:
        return None
    text = compile_typed(found["text"], scope, "a text", "text")
    times = compile_integer(found["times"], scope, "times")
    return Computed(node, lambda context: text.build(context) * times.build(context))


@_constructor("$join", "these texts, one after another", {"type": "array", "items": _VALUE})
def _join(node: Node, scope: Scope) -> Value | None:
    parts = [compile_typed(item, scope, "a text", "a part of $join") for item in scope.items(node, "$join")]
    return Computed(node, lambda context: "".join(part.build(context) for part in parts))


@_constructor(
    "$nested",
    "lists or mappings inside each other, `depth` levels",
    _object({"depth": _COUNT}, kind={"enum": ["list", "mapping"]}),
)
def _nested(node: Node, scope: Scope) -> Value | None:
    found = scope.fields(node, "$nested", ("depth", "kind"), required=("depth",))
    if not found or "depth" not in found:
        return None
    depth = compile_integer(found["depth"], scope, "depth", least=1)
    kind = scope.word(found["kind"], "kind", ("list", "mapping")) if "kind" in found else "list"

    def build(context: Context) -> object:
        value: object = [] if kind == "list" else {}
        for _ in range(depth.build(context) - 1):
            value = [value] if kind == "list" else {"k": value}
        return value

    return Computed(node, build)


@_constructor(
    "$range",
    "a list of integers, the end excluded",
    {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
)
def _range(node: Node, scope: Scope) -> Value | None:
    items = scope.items(node, "$range")
    if len(items) != 2:
        scope.report(node, "$range needs two integers: [0, 100]")
        return None
    low, high = (compile_typed(item, scope, "an integer", "an end of $range") for item in items)
    return Computed(node, lambda context: list(range(low.build(context), high.build(context))))


@_constructor(
    "$list",
    "a list of `times` items, each made with the variable `as` (from 0)",
    _object({"times": _COUNT, "item": _VALUE}, **{"as": _TEXT}),
)
def _list(node: Node, scope: Scope) -> Value | None:
    return compile_times_list(node, scope, compile_value)


def compile_times_list(
    node: Node, scope: Scope, compile_item: Callable[[Node, Scope], Value]
) -> Value | None:
    """The argument of `$list`, with items of any kind."""
    found = scope.fields(node, "$list", ("times", "as", "item"), required=("times", "item"))
    if found is None or "times" not in found or "item" not in found:
        return None
    times = compile_integer(found["times"], scope, "times")
    name = compile_variable(found.get("as"), scope)
    with scope.variable(name, found.get("as", node)):
        item = compile_item(found["item"], scope)

    def build(context: Context) -> list[object]:
        made = []
        for index in range(times.build(context)):
            context.variables[name] = index
            made.append(item.build(context))
        context.variables.pop(name, None)
        return made

    return Computed(node, build)


def compile_variable(node: Node | None, scope: Scope, default: str = "i") -> str:
    """The name of a loop's variable."""
    if node is None:
        return default
    text = scope.text(node, "a name")
    if text is None or NAME.match(text):
        return text or default
    scope.report(node, f"`{clip(text, 40)}` is no name: letters, digits and `_`")
    return default


@_constructor("$time", "an aware datetime: now, an offset from it, or an ISO instant with its zone", _TEXT)
def _time(node: Node, scope: Scope) -> Value:
    return compile_time(node, scope, "$time")


@_constructor("$naive", "a datetime without a zone", _TEXT)
def _naive_time(node: Node, scope: Scope) -> Value:
    return compile_parsed(node, scope, "$naive", lambda text, _: _naive(text), _naive)


@_constructor("$duration", "a timedelta: `90 min`, `-1.5 h`; units us, ms, s, min, h, day(s), week(s)", _TEXT)
def _duration(node: Node, scope: Scope) -> Value:
    return compile_duration(node, scope, "$duration")


@_constructor("$set", "a Python set", {"type": "array", "items": _VALUE})
def _set(node: Node, scope: Scope) -> Value:
    items = [compile_value(item, scope) for item in scope.items(node, "$set")]
    return Computed(node, lambda context: {item.build(context) for item in items})


@_constructor("$tuple", "a Python tuple", {"type": "array", "items": _VALUE})
def _tuple(node: Node, scope: Scope) -> Value:
    items = [compile_value(item, scope) for item in scope.items(node, "$tuple")]
    return Computed(node, lambda context: tuple(item.build(context) for item in items))


@_constructor("$bytes", "Python bytes, from hex digits", _TEXT)
def _bytes(node: Node, scope: Scope) -> Value | None:
    text = scope.text(node, "$bytes")
    try:
        return Constant(node, bytes.fromhex(text or ""))
    except ValueError:
        scope.report(node, f"$bytes needs pairs of hex digits in quotes, not {describe(node)}")
        return None


@_constructor("$object", "a Python object of no accepted type", {"const": True})
def _python_object(node: Node, scope: Scope) -> Value | None:
    if not (isinstance(node, ScalarNode) and node.value is True):
        scope.report(node, f"write {{$object: true}}, not {describe(node)}")
        return None
    return Computed(node, lambda _: object())


@_constructor("$file", "the text of a file, its path relative to the scenario file", _TEXT)
def _file(node: Node, scope: Scope) -> Value:
    path = compile_path(node, scope, "$file")
    return Computed(node, lambda context: read_text(path.build(context)))


def compile_path(node: Node, scope: Scope, what: str, *, folder: bool = False) -> Value:
    """A path relative to the scenario file, checked at load where it is known."""
    value = compile_typed(node, scope, "a text", what)
    if isinstance(value, Constant) and isinstance(value.value, str):
        path = scope.folder / value.value
        if not (path.is_dir() if folder else path.is_file()):
            scope.report(
                node,
                f"there is no {'folder' if folder else 'file'} `{value.value}` beside this scenario file",
            )
    return Computed(node, lambda context: context.folder / value.build(context))


@lru_cache(maxsize=256)
def read_text(path: Path) -> str:
    """The text of a UTF-8 file, newlines as they are."""
    return path.read_bytes().decode("utf-8")


@_constructor("$sha256", "the SHA-256 of a text's UTF-8, in hex digits", _VALUE)
def _sha256(node: Node, scope: Scope) -> Value:
    text = compile_typed(node, scope, "a text", "$sha256")
    return Computed(
        node, lambda context: hashlib.sha256(text.build(context).encode("utf-8", "surrogatepass")).hexdigest()
    )


def is_nan(value: object) -> bool:
    """Whether a value is the float NaN."""
    return isinstance(value, float) and math.isnan(value)
