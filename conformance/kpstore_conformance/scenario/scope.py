"""What is known while a file is loaded (`Scope`) and while a case runs (`Context`)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kpstore_conformance.scenario.show import clip
from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, Problem, ScalarNode

__all__ = ["CaseError", "Context", "Scope", "describe", "nearest"]


class CaseError(Exception):
    """The scenario itself cannot go on (an unknown path, a bad duration): no verdict on the store."""

    def __init__(self, message: str, node: Node | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.node = node


@dataclass(slots=True)
class Context:
    """The variables, the clock and the counters of one running case."""

    folder: Path
    now: Callable[[], datetime]
    variables: dict[str, object] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str) -> int:
        """1, 2, 3… per kind: the numbers of records that were given no id."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return self.counters[kind]


def nearest(word: str, known: Collection[str]) -> str:
    """A hint that follows an unknown word: the nearest known one, or all of them when they are few."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        lower = {name.casefold(): name for name in known}
        close = [lower[hit] for hit in difflib.get_close_matches(word.casefold(), lower, n=1, cutoff=0.6)]
    if close:
        return f"; did you mean `{close[0]}`?"
    if 0 < len(known) <= 12:
        return "; known: " + ", ".join(f"`{name}`" for name in known)
    return ""


def describe(node: Node) -> str:
    """What kind of thing a node is, for messages."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    assert isinstance(node, ScalarNode)
    value = node.value
    if value is None:
        return "null"
    kinds = {bool: "the boolean", int: "the integer", float: "the number", str: "the text"}
    shown = repr(value).lower() if isinstance(value, bool) else clip(repr(value), 60)
    return f"{kinds[type(value)]} {shown}"


class Scope:
    """Collects a file's problems, and knows which names a scenario may use at the point being read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.parent
        self.problems: list[Problem] = []
        self.implied: set[str] = set()
        self.names: dict[
            str, str
        ] = {}  # name -> what it is: "a parameter", "saved", "the variable of the loop …"
        self.handles: dict[str, bool] = {}  # handle -> whether it is open

    def report(self, node: Node, message: str) -> None:
        """Refuse the file for this node."""
        self.problems.append(Problem(self.file, node.line, node.column, message))

    def start_scenario(self, parameters: Collection[str]) -> None:
        """Forget the names of the scenario before."""
        self.implied = set()
        self.names = dict.fromkeys(parameters, "a parameter")
        self.handles = {"main": True}

    @contextmanager
    def variable(self, name: str, node: Node) -> Iterator[None]:
        """`name` is a loop's variable inside the block."""
        taken = self.names.get(name)
        if taken:
            self.report(node, f"`{name}` is already {taken}; name this variable with `as: other`")
        else:
            self.names[name] = f"the variable of the loop on line {node.line}"
        try:
            yield
        finally:
            if not taken:
                self.names.pop(name, None)

    def save(self, name: str, node: Node) -> None:
        """`name` is saved from here on."""
        taken = self.names.get(name)
        if taken and taken != "saved":
            self.report(node, f"`{name}` is already {taken}; save under another name")
        else:
            self.names[name] = "saved"

    def fields(
        self,
        node: Node,
        what: str,
        known: Mapping[str, bool] | Collection[str],
        *,
        required: Collection[str] = (),
    ) -> dict[str, Node] | None:
        """The known keys of a mapping; unknown and missing ones are reported. `None` if it is no mapping."""
        if not isinstance(node, MapNode):
            self.report(node, f"{what} must be a mapping, not {describe(node)}")
            return None
        found: dict[str, Node] = {}
        misspelt = ""
        for key, value in node:
            if isinstance(key.value, str) and key.value in known:
                found[key.value] = value
            else:
                hint = nearest(str(key.value), list(known))
                misspelt += hint
                self.report(key, f"unknown key `{clip(str(key.value), 60)}` in {what}{hint}")
        for name in required:
            # A misspelt key is one mistake, not a second one for being missing.
            if name not in found and f"did you mean `{name}`" not in misspelt:
                self.report(node, f"{what}: the key `{name}` is missing")
        return found

    def items(self, node: Node, what: str) -> list[Node]:
        """The items of a list; anything else is reported."""
        if not isinstance(node, ListNode):
            self.report(node, f"{what} must be a list, not {describe(node)}")
            return []
        return node.items

    def text(self, node: Node, what: str) -> str | None:
        """A scalar text, taken literally."""
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            return node.value
        self.report(node, f"{what} must be a text, not {describe(node)}")
        return None

    def word(self, node: Node, what: str, known: Collection[str]) -> str | None:
        """One of the known words."""
        text = self.text(node, what)
        if text is None:
            return None
        if text not in known:
            self.report(node, f"unknown {what} `{clip(text, 60)}`{nearest(text, known)}")
            return None
        return text

    def flag(self, node: Node, what: str) -> bool | None:
        """`true` or `false`."""
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            return node.value
        self.report(node, f"{what} must be true or false, not {describe(node)}")
        return None
