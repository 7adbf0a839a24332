"""The mutants of a source file: the operators of cosmic-ray, and one of our own for SQL.

What is left out, by rule and not by hand:

- text that does not compile, or only with a warning of the compiler's, such as `is` with a literal;
- a change that leaves the same program once comments, docstrings and the annotations of parameters, results
  and variables outside classes are taken away: the library's modules start with `from __future__ import
  annotations`, so nothing evaluates those. The annotations of a class's fields stay: records are decoded
  by them;
- an arithmetic operator that becomes another than its counterpart: of the eleven others, most only end in a
  `TypeError`, and where they do not, they say no more than the first;
- `@abstractmethod` taken away: no class of the library has `ABCMeta` as its metaclass, so that the decorator
  speaks to readers and type checkers alone.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

_COUNTERPARTS = {
    "ReplaceBinaryOperator_" + pair
    for pair in (
        *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
        *("LShift_RShift", "RShift_LShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr"),
    )
}

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small change to one file.

    Attributes:
        file: the file, from the checkout's root.
        operator: what changed it.
        line: the number of the first line of code that changed, in the original.
        change: the changed lines as they are now, in one line; `- ` and the old ones where they are gone.
        source: the whole file, changed.
    """

    file: str
    operator: str
    line: int
    change: str
    source: str

    @property
    def id(self) -> str:
        """The same for the same change to the same file."""
        return hashlib.sha256(f"{self.file}\0{self.source}".encode()).hexdigest()[:16]

    @property
    def key(self) -> tuple[str, str, str]:
        """By what an explanation names it, so that it survives edits elsewhere in the file."""
        return self.file, self.operator, self.change


def mutant_of(file: str, operator: str, original: str, source: str) -> Mutant | None:
    """The mutant that `source` is of the original, or `None` if it is none by the rules above."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntaxWarning)
            compile(source, file, "exec", dont_inherit=True)
        if _program(source) == _program(original):
            return None
    except SyntaxError:
        return None
    before, after = original.splitlines(), source.splitlines()
    blocks = [
        block for block in difflib.SequenceMatcher(None, before, after).get_opcodes() if block[0] != "equal"
    ]
    new = " ".join(after[number].strip() for _, _, _, start, end in blocks for number in range(start, end))
    old = " ".join(before[number].strip() for _, start, end, _, _ in blocks for number in range(start, end))
    _, start, end, _, _ = blocks[0]
    # A decorator is taken away with the blank lines and comments before it.
    line = next((number for number in range(start, end) if _is_code(before[number])), start) + 1
    return Mutant(file, operator, line, " ".join((new or f"- {old}").split()), source)


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


@lru_cache(maxsize=8)
def _program(source: str) -> str:
    """The program without what has no effect."""
    return ast.dump(_Stripped().visit(ast.parse(source)))


class _Stripped(ast.NodeTransformer):
    def __init__(self) -> None:
        self._in_class = False

    def _within(self, node: ast.AST, *, in_class: bool) -> ast.AST:
        before, self._in_class = self._in_class, in_class
        self.generic_visit(node)
        self._in_class = before
        return node

    def _body(self, node: Any, *, in_class: bool) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
        return self._within(node, in_class=in_class)

    def visit_Module(self, node: ast.Module) -> ast.AST:  # ast's own name
        return self._body(node, in_class=False)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._body(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        node.decorator_list = [one for one in node.decorator_list if ast.unparse(one) != "abstractmethod"]
        return self._body(node, in_class=False)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not self._in_class:
            node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, from its first statement to its last; each changed program once."""
    # Only the campaign needs cosmic-ray, and only here.
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.operators.provider import OperatorProvider

    from mutation.sql import ReplaceSql

    original = path.read_text(encoding="utf-8")
    file = path.relative_to(ROOT).as_posix()
    provider = OperatorProvider()
    names = [
        name
        for name in provider
        # Those of variables need names as arguments, and choose at random.
        if not name.startswith("Variable")
        and (not name.startswith("ReplaceBinaryOperator") or name in _COUNTERPARTS)
    ]
    operators = [*(provider[name]() for name in names), ReplaceSql()]
    seen: set[str] = set()
    before = ""
    # Statement by statement, since the time that a change takes grows with the text that it is made to.
    for statement in get_ast(original).children:
        text = statement.get_code()
        after = original[len(before) + len(text) :]
        nodes = list(ast_nodes(get_ast(text)))
        for operator in operators:
            positions = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            for occurrence in range(positions):
                try:
                    changed = mutate_code(text, operator, occurrence)
                except AttributeError:
                    continue  # ExceptionReplacer knows no dotted names
                mutant = mutant_of(file, type(operator).__name__, text, changed)
                if mutant is not None and mutant.source not in seen:
                    seen.add(mutant.source)
                    line = before.count("\n") + mutant.line
                    yield replace(mutant, line=line, source=before + mutant.source + after)
        seen.clear()
        before += text


def statement_at(tree: ast.Module, line: int) -> tuple[range, set[str]]:
    """The lines of the statement that stands on a line, and the names it binds.

    Of a compound statement they are those of its head, but for a function, whose head is noticed in its body.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and line in (
            extent := _extent(node)
        ):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                return range(extent.start, (node.end_lineno or line) + 1), set()
            return extent, _bound(node)
    return range(line, line + 1), set()


def _extent(node: ast.stmt | ast.ExceptHandler | ast.match_case) -> range:
    if isinstance(node, ast.match_case):
        return range(node.pattern.lineno, node.body[0].lineno)
    start = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    assert node.end_lineno is not None
    body = getattr(node, "body", None)
    if not body:
        return range(start, node.end_lineno + 1)
    return range(start, max(start + 1, body[0].lineno))


def _bound(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef):
        return {node.name}
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


def lines_with(names: set[str], source: str) -> Iterator[int]:
    """The numbers of the lines in which one of the names stands as a word."""
    word = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b")
    return (number for number, line in enumerate(source.splitlines(), 1) if word.search(line))
