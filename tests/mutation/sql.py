"""A cosmic-ray operator for what the SQLite backend says in SQL, which no Python operator looks into."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cosmic_ray.operators.operator import Operator

_IS_SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|WHERE|ORDER BY|VALUES|CREATE|PRAGMA|LIMIT|AND)\b")
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
_SWAPS = [
    (re.compile(r"(?<!<)>=(?!=)"), ">"),
    (re.compile(r"<="), "<"),
    (re.compile(r"(?<![<>=!-])>(?![=>])"), ">="),
    (re.compile(r"<(?![=>])"), "<="),
    (re.compile(r"(?<![<>!=])=(?!=)"), "<>"),
    (re.compile(r"<>|!="), "="),
    (re.compile(r" AND (?!\?)"), " OR "),  # not the one of BETWEEN
    (re.compile(r" OR (?!REPLACE|IGNORE|ROLLBACK)"), " AND "),
    (re.compile(r" DESC\b"), ""),
    (re.compile(r"(?<=ORDER BY )\w+\b(?! DESC)"), r"\g<0> DESC"),
    (re.compile(r" ORDER BY [\w, ]+?(?= LIMIT|[)\"']|$)"), ""),
    (re.compile(r" LIMIT \?(?! OFFSET)"), " LIMIT ? + 1"),
    (re.compile(r" OFFSET \?"), " OFFSET ? + 1"),
    (re.compile(r"\b(IS) NULL\b"), "IS NOT NULL"),
    (re.compile(r" IS NOT NULL\b"), " IS NULL"),
    (re.compile(r"\bDISTINCT "), ""),
    (re.compile(r"\bUNIQUE\b"), ""),
    (re.compile(r"\bMAX\("), "MIN("),
    (re.compile(r"\bIF NOT EXISTS "), ""),
    (re.compile(r"\+ 1\b"), "+ 2"),
    (re.compile(r"\bOR REPLACE\b"), "OR IGNORE"),
]


def _changes(text: str) -> Iterator[str]:
    if not _IS_SQL.search(text):
        return
    for pattern, new in _SWAPS:
        for match in pattern.finditer(text):
            yield text[: match.start()] + match.expand(new) + text[match.end() :]
    for match in _NUMBER.finditer(text):
        yield text[: match.start()] + str(int(match[0]) + 1) + text[match.end() :]


class ReplaceSql(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Turns a comparison, a connective, an order, a limit or a number in SQL into its neighbour."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """One position for every change that can be made to a piece of text."""
        if node.type in ("string", "fstring_string"):
            for _ in _changes(node.value):
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The node with its change of that number."""
        node.value = list(_changes(node.value))[index]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None: they are for cosmic-ray's own tests."""
        return ()
