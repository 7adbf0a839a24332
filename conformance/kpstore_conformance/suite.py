"""What the suite consists of: the packaged scenarios and checks, and folders of scenarios given besides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from kpstore_conformance.check import Check, check_modules, module_checks
from kpstore_conformance.scenario import (
    CLAUSES,
    BudgetCase,
    Case,
    Problem,
    ScenarioFileError,
    discover,
    load_file,
)
from kpstore_conformance.target import BackendFacts

__all__ = [
    "Missing",
    "Suite",
    "SuiteCase",
    "binds",
    "checks_folder",
    "clause_group",
    "digest_of",
    "is_data",
    "known_root",
    "packaged_scenarios",
    "root_of",
    "scenario_cases",
]

_ONLY_FOR = {"SQL": "sqlite", "MEM": "memory"}
"""Groups of clauses that are about one backend."""


def packaged_scenarios() -> Path:
    """The folder of the scenarios that come with the suite: in the wheel, else at the top of the
    repository.
    """
    package = Path(str(files("kpstore_conformance")))
    installed = package / "scenarios"
    return installed if installed.is_dir() else package.parents[1] / "scenarios"


def checks_folder() -> Path:
    """The folder of the check modules."""
    return Path(str(files("kpstore_conformance"))) / "checks"


def root_of(path: Path, roots: Sequence[Path]) -> Path:
    """The folder that a scenario file's ids start at, however the file was reached.

    It is the innermost of `roots` and the packaged folder that contains it, else the outermost folder named
    `scenarios`, else the file's own folder.
    """
    path = path.resolve()
    inside = known_root(path, roots)
    if inside is not None:
        return inside
    named = [parent for parent in path.parents if parent.name == "scenarios"]
    return named[-1] if named else path.parent


def known_root(path: Path, roots: Sequence[Path]) -> Path | None:
    """The innermost of `roots` and the packaged folder that contains a file, if one does."""
    path = path.resolve()
    inside = [one for root in (packaged_scenarios(), *roots) if path.is_relative_to(one := root.resolve())]
    return max(inside, key=lambda root: len(root.parts), default=None)


def is_data(path: Path, root: Path) -> bool:
    """Whether a file below `root` is one that scenarios read, by the folder it is in; see
    `scenario.discover`.
    """
    folders = path.resolve().relative_to(root).parts[:-1]
    return any(name == "data" or name.startswith((".", "_")) for name in folders)


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing a case needs and a backend does not have: a capability, an inspector, or being another
    backend; or a latency budget that states nothing for it.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        if self.kind == "limit":
            return f"states no limit for {self.name}"
        return f"is about {self.name} only" if self.kind == "backend" else f"needs {self.name}"


def clause_group(clause: str) -> str:
    """`GEN` of `GEN-6`."""
    return clause.partition("-")[0]


def binds(clause: str, facts: BackendFacts) -> bool:
    """Whether a backend must keep a clause: those about one backend bind it alone, KNOW-7 whoever
    declares it.
    """
    only = _ONLY_FOR.get(clause_group(clause))
    if only is not None:
        return facts.name == only
    return clause != "KNOW-7" or "vector_search" in facts.capabilities


@dataclass(frozen=True, slots=True)
class SuiteCase:
    """A case of a scenario or of a latency budget, or a check: one thing that runs and has an outcome."""

    id: str
    name: str
    clauses: tuple[str, ...]
    requires: tuple[str, ...]
    tags: tuple[str, ...]
    file: Path
    line: int
    work: Case | Check | BudgetCase
    root: Path | None = None
    """The folder that a scenario's id starts at."""

    @classmethod
    def of_check(cls, check: Check) -> SuiteCase:
        """A check, as a case."""
        return cls(
            id=check.id,
            name=check.name,
            clauses=_in_order(check.clauses),
            requires=tuple(sorted(check.requires)),
            tags=(),
            file=check.file,
            line=check.line,
            work=check,
        )

    @property
    def kind(self) -> str:
        """`scenario`, `check` or `latency`."""
        if isinstance(self.work, BudgetCase):
            return "latency"
        return "check" if isinstance(self.work, Check) else "scenario"

    def missing(self, facts: BackendFacts) -> list[Missing]:
        """What it needs and the backend does not have; nothing where it is applicable."""
        only = {_ONLY_FOR[group] for clause in self.clauses if (group := clause_group(clause)) in _ONLY_FOR}
        if isinstance(self.work, Check) and self.work.backends is not None and not only:
            only = set(self.work.backends)
        if only and facts.name not in only:
            return [Missing("backend", " or ".join(sorted(only)))]
        found = []
        for name in self.requires:
            if name.startswith("inspector."):
                if name.removeprefix("inspector.") not in facts.inspectors:
                    found.append(Missing("inspector", name))
            elif name not in facts.capabilities:
                found.append(Missing("capability", name))
        return found


@lru_cache(maxsize=4096)
def scenario_cases(path: Path, root: Path) -> tuple[SuiteCase, ...]:
    """The cases of a scenario file, read once per process. A `ScenarioFileError` holds all its problems."""
    loaded = load_file(path, root=root)
    file = path.resolve()
    prefix = f"{file.relative_to(root.resolve()).with_suffix('').as_posix()}/"
    found: list[SuiteCase] = []
    for scenario in loaded.scenarios:
        clauses = _in_order(scenario.clauses)
        requires, tags = tuple(sorted(scenario.requires)), tuple(sorted(scenario.tags))
        found.extend(
            SuiteCase(
                id=case.id,
                name=case.id.removeprefix(prefix),
                clauses=clauses,
                requires=requires,
                tags=tags,
                file=file,
                line=scenario.line,
                work=case,
                root=root,
            )
            for case in scenario.cases()
        )
    found.extend(
        SuiteCase(
            id=case.id,
            name=case.id.removeprefix(prefix),
            clauses=(),
            requires=tuple(sorted(case.budget.requires)),
            tags=tuple(sorted({*case.budget.tags, case.level})),
            file=file,
            line=case.budget.line,
            work=case,
            root=root,
        )
        for case in loaded.budget_cases()
    )
    return tuple(found)


_ORDER = {clause: number for number, clause in enumerate(CLAUSES)}


def _in_order(clauses: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(clauses, key=_ORDER.__getitem__))


@dataclass(frozen=True, slots=True)
class Suite:
    """The folders a run is made of. `extra` are folders of scenarios given besides the packaged ones."""

    extra: tuple[Path, ...] = ()
    packaged: bool = True

    @property
    def roots(self) -> tuple[Path, ...]:
        """All folders of scenarios."""
        return ((packaged_scenarios(),) if self.packaged else ()) + self.extra

    def scenario_paths(self) -> list[tuple[Path, Path]]:
        """Each scenario file with the folder that its ids start at."""
        return [(path, root) for root in self.roots if root.is_dir() for path in discover([root])]

    def cases(self) -> list[SuiteCase]:
        """Every case of every file, then every check.

        Raises:
            ScenarioFileError: with all problems of all files.
        """
        cases, problems = self.readable_cases()
        if problems:
            raise ScenarioFileError(problems)
        return cases

    def readable_cases(self) -> tuple[list[SuiteCase], list[Problem]]:
        """The cases of what can be read, scenario files and check modules, and the problems of the rest."""
        cases, problems = self.readable_scenarios()
        for name in self.check_modules():
            try:
                cases.extend(SuiteCase.of_check(check) for check in module_checks(name))
            except Exception as error:
                place = checks_folder() / f"{name}.py"
                problems.append(Problem(place, 1, 1, f"cannot be imported: {type(error).__name__}: {error}"))
        return cases, problems

    def check_modules(self) -> list[str]:
        """The names of the check modules that are part of it."""
        return check_modules() if self.packaged else []

    def readable_scenarios(self) -> tuple[list[SuiteCase], list[Problem]]:
        """The same without the checks, whose modules are not imported."""
        cases: list[SuiteCase] = []
        problems: list[Problem] = []
        for path, root in self.scenario_paths():
            try:
                cases.extend(scenario_cases(path, root))
            except ScenarioFileError as error:
                problems.extend(error.problems)
        return cases, problems


_IGNORED_FOLDERS = re.compile(r"(__pycache__|\..*)\Z")


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder: the same on every machine, and
    different as soon as anything that a scenario reads is.
    """
    total = hashlib.sha256()
    found = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(found, key=lambda one: one.relative_to(folder).as_posix()):
        inside = path.relative_to(folder)
        if any(_IGNORED_FOLDERS.match(part) for part in inside.parts):
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{inside.as_posix()}\0{content}\n".encode())
    return total.hexdigest()
