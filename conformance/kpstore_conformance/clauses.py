"""Which scenarios, checks and tests prove each clause of the contract, read from the files without
running them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kpstore_conformance.scenario import CLAUSES
from kpstore_conformance.suite import Suite, SuiteCase

__all__ = ["Proof", "TestMark", "marked_tests", "proofs"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What proves a clause: ids of scenarios (without their parameters), of checks, and of tests."""

    clause: str
    scenarios: tuple[str, ...]
    checks: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Whether anything does."""
        return bool(self.scenarios or self.checks or self.tests)


@dataclass(frozen=True, slots=True)
class TestMark:
    """A pytest test and the clauses that `@pytest.mark.clauses("SQL-3")` says it proves."""

    __test__ = False  # not a test class, whatever its name

    id: str
    clauses: tuple[str, ...]
    file: Path
    line: int


def proofs(suite: Suite, tests: Iterable[TestMark] = ()) -> list[Proof]:
    """One `Proof` per clause, in the contract's order. Raises ScenarioFileError for files that cannot be
    read.
    """
    cases = suite.cases()
    marks = list(tests)
    found = []
    for clause in CLAUSES:
        of_it = [case for case in cases if clause in case.clauses]
        found.append(
            Proof(
                clause,
                _unique(_scenario_id(case) for case in of_it if case.kind == "scenario"),
                _unique(case.id for case in of_it if case.kind == "check"),
                _unique(mark.id for mark in marks if clause in mark.clauses),
            )
        )
    return found


def _scenario_id(case: SuiteCase) -> str:
    return case.id.partition("[")[0]


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def marked_tests(folder: Path) -> list[TestMark]:
    """The tests below `folder` that are marked with clauses; `pytestmark` and marked classes count for
    what they hold.

    Raises:
        ValueError: a mark names a clause that is not there; the message has its file and line.
    """
    found: list[TestMark] = []
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_bytes(), str(path))
        outer = _marks_of_assignment(tree.body)
        found.extend(_tests(tree.body, path, path.relative_to(folder).as_posix(), outer))
    for mark in found:
        unknown = [clause for clause in mark.clauses if clause not in CLAUSES]
        if unknown:
            raise ValueError(f"{mark.file}:{mark.line}: unknown clause {', '.join(unknown)}")
    return found


def _tests(body: list[ast.stmt], path: Path, prefix: str, outer: tuple[str, ...]) -> Iterator[TestMark]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            inner = (*outer, *_marks(node.decorator_list), *_marks_of_assignment(node.body))
            yield from _tests(node.body, path, f"{prefix}::{node.name}", inner)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            clauses = _unique((*outer, *_marks(node.decorator_list)))
            if clauses:
                yield TestMark(f"{prefix}::{node.name}", clauses, path, node.lineno)


def _marks_of_assignment(body: list[ast.stmt]) -> tuple[str, ...]:
    found: list[str] = []
    for node in body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        ):
            value = node.value
            found.extend(_marks(value.elts if isinstance(value, ast.List | ast.Tuple) else [value]))
    return tuple(found)


def _marks(nodes: Iterable[ast.expr]) -> tuple[str, ...]:
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.mark.clauses", "mark.clauses"):
            found.extend(
                argument.value
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )
    return tuple(found)
