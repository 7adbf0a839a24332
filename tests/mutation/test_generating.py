"""What counts as a mutant, and at which statement it is."""

from __future__ import annotations

import ast

import pytest

from mutation.generating import mutant_of, statement_at

_ORIGINAL = '''
"""A module."""
from __future__ import annotations
LIMIT = 3

class Record:
    """A record."""
    size: int | None = None

    @abstractmethod
    def larger(self, than: int | None) -> bool | None:
        """Whether it is."""
        found: int | None = min(
            self.size, LIMIT
        )  # at most
        if found > than:
            return True

    # Kept.
    @property
    def smaller(self) -> bool:
        return True
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Two modules."),
        ("A record.", ""),
        ("# at most", "# at least"),
        ("than: int | None", "than: int & None"),
        ("-> bool | None", "-> bool & None"),
        ("found: int | None", "found: int & None"),
        ("    @abstractmethod\n", ""),
        ("LIMIT = 3", "LIMIT = = 3"),
        ("found > than", "found is 7"),
    ],
)
def test_what_does_the_same_or_does_not_compile_is_no_mutant(old: str, new: str) -> None:
    assert old in _ORIGINAL
    assert mutant_of("file.py", "operator", _ORIGINAL, _ORIGINAL.replace(old, new)) is None


@pytest.mark.parametrize(
    ("old", "new", "line", "change"),
    [
        ("LIMIT = 3", "LIMIT = 4", 4, "LIMIT = 4"),
        ("size: int | None", "size: int & None", 8, "size: int & None = None"),
        ("found > than", "found   >=   than", 16, "if found >= than:"),
        ("\n            return True", " pass", 16, "if found > than: pass"),
        ("        if found > than:\n            return True\n", "", 16, "- if found > than: return True"),
        ("\n    # Kept.\n    @property\n", "", 20, "- # Kept. @property"),
    ],
)
def test_a_mutant_is_named_by_its_changed_lines(old: str, new: str, line: int, change: str) -> None:
    mutant = mutant_of("file.py", "operator", _ORIGINAL, _ORIGINAL.replace(old, new))
    assert mutant is not None
    assert (mutant.line, mutant.key) == (line, ("file.py", "operator", change))


@pytest.mark.parametrize(
    ("line", "lines", "names"),
    [
        (4, range(4, 5), {"LIMIT"}),
        (6, range(6, 7), {"Record"}),
        (8, range(8, 9), {"size"}),
        (10, range(10, 18), set()),  # a function's head is noticed in its body
        (14, range(13, 16), {"found"}),
        (16, range(16, 17), set()),
        (17, range(17, 18), set()),
    ],
)
def test_a_line_belongs_to_the_statement_that_stands_on_it(line: int, lines: range, names: set[str]) -> None:
    assert statement_at(ast.parse(_ORIGINAL), line) == (lines, names)
