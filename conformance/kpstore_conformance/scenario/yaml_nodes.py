"""YAML to nodes that know their place: PyYAML's parser, the YAML 1.2 core schema, and no mercy on keys."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["ListNode", "MapNode", "Node", "Problem", "ScalarNode", "ScenarioFileError", "parse"]

MAX_NODES = 200_000
"""Aliases are copied out, so a few bytes can ask for billions of nodes; no honest file has this many."""

_PREFIX = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)\Z")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


class Problem(NamedTuple):
    """One reason to refuse a file. `line` and `column` count from 1."""

    file: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ScenarioFileError(Exception):
    """A scenario file is refused; `problems` holds every reason, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(slots=True, eq=False)
class Node:
    """A node of the file; `line` and `column` count from 1, `last_line` is where it ends."""

    line: int
    column: int
    last_line: int


@dataclass(slots=True, eq=False)
class ScalarNode(Node):
    """A scalar, resolved: `value` is a `str`, `int`, `float`, `bool` or `None`."""

    value: Any


@dataclass(slots=True, eq=False)
class ListNode(Node):
    """A sequence."""

    items: list[Node]


@dataclass(slots=True, eq=False)
class MapNode(Node):
    """A mapping: its keys (scalars) and values in the order of the file."""

    entries: list[tuple[ScalarNode, Node]]

    def __iter__(self) -> Iterator[tuple[ScalarNode, Node]]:
        return iter(self.entries)

    def get(self, key: str) -> Node | None:
        """The value under `key`, or `None`."""
        return next((value for name, value in self.entries if name.value == key), None)

    def key(self, key: str) -> ScalarNode:
        """The node of the key `key` itself, which must be there."""
        return next(name for name, _ in self.entries if name.value == key)


def plain(node: Node) -> Any:
    """The node as plain Python data, without any meaning given to `$` keys."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    assert isinstance(node, MapNode)
    return {key.value: plain(value) for key, value in node}


def parse(data: bytes, file: Path, report: Callable[[Problem], None]) -> Node | None:
    """The root node of one YAML document, or `None` (and a problem reported) where it cannot be read.

    Problems that leave the rest readable (a duplicate key, a tag) are reported and the rest is returned.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        report(Problem(file, before.count(b"\n") + 1, column, "not UTF-8: a scenario file is UTF-8 text"))
        return None
    try:
        root = _compose(text)
        if root is not None:
            return _Converter(file, report).convert(root)
    except yaml.reader.ReaderError as error:
        before_text = text[: error.position]
        line, column = before_text.count("\n") + 1, len(before_text.rpartition("\n")[2]) + 1
        character = ord(error.character) if isinstance(error.character, str) else error.character
        message = (
            f"YAML: the character U+{character:04X} is not allowed; write it as an escape in double quotes"
        )
        report(Problem(file, line, column, message))
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" ({error.context})" if error.context else ""
        message = f"YAML: {error.problem or 'cannot be read'}{context}"
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        report(Problem(file, line, column, message))
        return None
    except RecursionError:
        report(
            Problem(
                file, 1, 1, "YAML: nested too deeply; for deep data use {$nested: {depth: 300, kind: list}}"
            )
        )
        return None
    report(Problem(file, 1, 1, "the file is empty"))
    return None


def _compose(text: str) -> yaml.Node | None:
    # The C parser is ten times faster; the pure one says more about an error.
    fast = getattr(yaml, "CBaseLoader", None)
    if fast is not None:
        try:
            return yaml.compose(text, Loader=fast)
        except yaml.YAMLError:
            pass
    return yaml.compose(text, Loader=yaml.BaseLoader)


def _until(place: tuple[int, int, int], node: yaml.CollectionNode, parts: list[Any]) -> tuple[int, int, int]:
    if node.flow_style or not parts:
        return place
    return (*place[:2], max(part.last_line for part in parts))


class _Converter:
    def __init__(self, file: Path, report: Callable[[Problem], None]) -> None:
        self._file = file
        self._report = report
        self._count = 0
        self._open: set[int] = set()  # ids of the nodes being converted: an alias to one of them never ends

    def _problem(self, node: yaml.Node, message: str) -> None:
        mark = node.start_mark
        self._report(Problem(self._file, mark.line + 1, mark.column + 1, message))

    def convert(self, node: yaml.Node) -> Node:
        start, end = node.start_mark, node.end_mark
        # A block ends where the next token starts; its content ends with its last child, or a line before.
        last = end.line if end.column == 0 and end.line > start.line else end.line + 1
        place = (start.line + 1, start.column + 1, last)
        self._count += 1
        if self._count == MAX_NODES:
            self._problem(node, f"more than {MAX_NODES:,} values once the aliases are copied out")
        if self._count >= MAX_NODES or id(node) in self._open:
            if id(node) in self._open:
                self._problem(node, "an alias inside its own anchor never ends")
            return ScalarNode(*place, None)
        self._open.add(id(node))
        try:
            return self._convert(node, place)
        finally:
            self._open.discard(id(node))

    def _convert(self, node: yaml.Node, place: tuple[int, int, int]) -> Node:
        kind = {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}[type(node)]
        if node.tag != _PREFIX + kind:
            tag = node.tag.replace(_PREFIX, "!!")
            self._problem(node, f"the tag {tag} is not allowed: a scenario is plain data")
        if isinstance(node, yaml.ScalarNode):
            return ScalarNode(*place, self._scalar(node))
        if isinstance(node, yaml.SequenceNode):
            items = [self.convert(item) for item in node.value]
            return ListNode(*_until(place, node, items), items)
        assert isinstance(node, yaml.MappingNode)
        entries: list[tuple[ScalarNode, Node]] = []
        seen: dict[tuple[type, object], int] = {}
        for key_node, value_node in node.value:
            key = self.convert(key_node)
            value = self.convert(value_node)
            if not isinstance(key, ScalarNode):
                self._problem(key_node, "a key must be a scalar")
            elif key.value == "<<" and not key_node.style:
                self._problem(key_node, "merge keys (`<<`) are not allowed: write the keys out")
            elif (identity := (type(key.value), key.value)) in seen:
                self._problem(key_node, f"duplicate key {key.value!r}, first on line {seen[identity]}")
            else:
                seen[identity] = key.line
                entries.append((key, value))
        return MapNode(*_until(place, node, [part for entry in entries for part in entry]), entries)

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text: str = node.value
        if node.style:  # quoted or a block: always text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.match(text):
            try:
                return int(text)
            except ValueError:
                self._problem(node, "an integer of more than 4300 digits")
                return 0
        if _OCTAL.match(text) or _HEXADECIMAL.match(text):
            return int(text, 0)
        if _FLOAT.match(text):
            number = float(text)
            if math.isinf(number):
                self._problem(node, f"{text} is too large for a float; infinity is {{$float: inf}}")
            return number
        if _INFINITY.match(text):
            return -math.inf if text.startswith("-") else math.inf
        return text
