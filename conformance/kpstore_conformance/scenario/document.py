"""A scenario file as a typed document: read once, refused with all its problems, or made into cases."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kpstore_conformance.scenario.budget import (
    BUDGET_KEYS,
    BUDGET_NAMES,
    BUDGET_REQUIRED,
    Budget,
    BudgetCase,
    compile_budget,
)
from kpstore_conformance.scenario.catalogue import CAPABILITIES, INSPECTORS
from kpstore_conformance.scenario.clauses import CLAUSES
from kpstore_conformance.scenario.scope import Context, Scope, describe, nearest
from kpstore_conformance.scenario.show import clip, redact, short
from kpstore_conformance.scenario.steps import (
    Step,
    checks_something,
    compile_given,
    compile_steps,
)
from kpstore_conformance.scenario.values import (
    NAME,
    Value,
    compile_value,
    parse_time,
    refers,
)
from kpstore_conformance.scenario.yaml_nodes import (
    ListNode,
    MapNode,
    Node,
    Problem,
    ScalarNode,
    ScenarioFileError,
    parse,
    plain,
)

__all__ = ["Case", "Scenario", "ScenarioFile", "discover", "load_file"]

FORMAT = 1
DEFAULT_CLOCK = "2026-01-15T12:00:00Z"
TAG = re.compile(r"[a-z0-9-]+\Z")
_MAX_CASES = 10_000

FILE_KEYS = {
    "format": "the version of the format: 1",
    "title": "what the file is about, on one line",
    "clauses": "the clauses that every scenario of the file proves",
    "requires": "capabilities and inspectors that every scenario of the file needs",
    "tags": "free words, [a-z0-9-]+",
    "clock": "where the manual clock starts",
    "scenarios": "the scenarios",
    "latency": "latency budgets",
}
SCENARIO_KEYS = {
    "name": "a fact, unique in the file",
    "why": "what a reader should know beyond the name",
    "clauses": "the clauses that this scenario proves, besides the file's",
    "requires": "capabilities and inspectors that it needs, besides the file's",
    "tags": "free words, besides the file's",
    "clock": "where the manual clock starts",
    "matrix": "parameters, each with a list of values: every combination is a case",
    "cases": "a list of mappings of parameters: each is a case",
    "given": "records that are there before the first step",
    "steps": "what is done and expected",
}


@dataclass(frozen=True)
class _Row:
    """The parameters of one case: names, values and labels."""

    names: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Scenario:
    """One scenario: what it proves, what it needs and what it does."""

    name: str
    why: str | None
    clauses: frozenset[str]
    requires: frozenset[str]
    tags: frozenset[str]
    clock: datetime
    line: int
    file: Path
    root: Path
    given: tuple[Step, ...]
    steps: tuple[Step, ...]
    lines: tuple[str, ...] = field(repr=False)
    rows: tuple[_Row, ...] = field(repr=False)

    def cases(self) -> list[Case]:
        """Its cases, one per set of parameters, in the order of the file."""
        path = _relative(self.file, self.root).with_suffix("").as_posix()
        cases: list[Case] = []
        seen: dict[str, int] = {}
        for row in self.rows:
            label = "-".join(f"{name}={text}" for name, text in zip(row.names, row.labels, strict=True))
            seen[label] = seen.get(label, 0) + 1
            if seen[label] > 1:
                label = f"{label}#{seen[label]}"
            context = Context(self.file.parent, lambda: self.clock)
            # A parameter made of saved values has to wait for them.
            values = {
                name: value if refers(value.node) else value.build(context)
                for name, value in zip(row.names, row.values, strict=True)
            }
            cases.append(
                Case(f"{path}/{self.name}[{label}]" if label else f"{path}/{self.name}", self, values)
            )
        return cases


@dataclass(frozen=True, eq=False)
class Case:
    """One run of a scenario, with its parameters."""

    id: str
    scenario: Scenario
    parameters: dict[str, object]


@dataclass(frozen=True, eq=False)
class ScenarioFile:
    """A scenario file; `digest` is the SHA-256 of its bytes, in hex."""

    path: Path
    root: Path
    title: str
    clauses: frozenset[str]
    scenarios: tuple[Scenario, ...]
    budgets: tuple[Budget, ...]
    digest: str

    def budget_cases(self) -> list[BudgetCase]:
        """The cases of its budgets, one per number of records, in the order of the file."""
        path = _relative(self.path, self.root).with_suffix("").as_posix()
        return [
            BudgetCase(f"{path}/{budget.name}[records={records}]", budget, records)
            for budget in self.budgets
            for records in budget.records
        ]


def discover(folders: Sequence[Path]) -> list[Path]:
    """The scenario files (`*.yaml`, `*.yml`) below the folders, sorted; a file given by itself is taken.

    Folders named `data` hold what scenarios read, and hidden ones are left alone too.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if folder.is_file():
            found[folder] = None
            continue
        for top, names, files in os.walk(folder):
            names[:] = sorted(name for name in names if name != "data" and not name.startswith((".", "_")))
            for name in sorted(files):
                if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                    found[Path(top, name)] = None
    return sorted(found)


def load_file(path: Path, *, root: Path | None = None) -> ScenarioFile:
    """Read and check one file; a `ScenarioFileError` holds every problem.

    Args:
        path: the file; problems name it as given.
        root: the folder that case ids are relative to; the file's own by default.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScenarioFileError([Problem(path, 1, 1, f"cannot be read: {error.strerror}")]) from error
    scope = Scope(path)
    node = parse(data, path, scope.problems.append)
    loaded = None
    if node is not None:
        lines = tuple(data.decode("utf-8-sig").split("\n"))
        try:
            loaded = _Loader(scope, path, root or path.parent, lines).file(
                node, hashlib.sha256(data).hexdigest()
            )
        except RecursionError:
            scope.report(node, "nested too deeply; for deep data use {$nested: {depth: 300, kind: list}}")
    if scope.problems or loaded is None:
        unique = dict.fromkeys(scope.problems)
        raise ScenarioFileError(sorted(unique, key=lambda problem: (problem.line, problem.column)))
    return loaded


def _relative(path: Path, root: Path) -> Path:
    try:
        return path.resolve().relative_to(root.resolve())
    except ValueError:
        return Path(path.name)


class _Loader:
    def __init__(self, scope: Scope, path: Path, root: Path, lines: tuple[str, ...]) -> None:
        self._scope = scope
        self._path = path
        self._root = root
        self._lines = lines
        self._names_clauses = False  # whether the file does, known or not

    def file(self, node: Node, digest: str) -> ScenarioFile | None:
        scope = self._scope
        found = scope.fields(node, "the file", FILE_KEYS, required=("format", "title"))
        if found is None:
            return None
        if "format" in found:
            version = found["format"]
            if not (
                isinstance(version, ScalarNode) and version.value == FORMAT and version.value is not True
            ):
                scope.report(
                    version, f"this is not `format: {FORMAT}` but {describe(version)}; only 1 is known"
                )
        title = self._line(found["title"], "title") if "title" in found else ""
        self._names_clauses = "clauses" in found
        clauses = self._words(found.get("clauses"), "clause", CLAUSES)
        requires = self._words(found.get("requires"), "capability", {**CAPABILITIES, **INSPECTORS})
        tags = self._tags(found.get("tags"))
        clock = self._clock(found.get("clock"))
        if "clock" in found:
            requires |= {"controllable_clock"}
        scenarios = []
        names: dict[str, int] = {}
        if "scenarios" in found:
            items = scope.items(found["scenarios"], "scenarios")
            if not items and isinstance(found["scenarios"], ListNode):
                scope.report(found["scenarios"], "there is no scenario in `scenarios`")
            for item in items:
                made = self._scenario(item, names, clauses, requires, tags, clock)
                if made is not None:
                    scenarios.append(made)
        elif (
            "latency" not in found and isinstance(node, MapNode) and len(found) == len(node.entries)
        ):  # a misspelt key is one mistake
            scope.report(node, "the file: the key `scenarios` is missing, or `latency`")
        budgets = []
        if "latency" in found:
            items = scope.items(found["latency"], "latency")
            if not items and isinstance(found["latency"], ListNode):
                scope.report(found["latency"], "there is no budget in `latency`")
            for item in items:
                budget = self._budget(item, names, requires, tags)
                if budget is not None:
                    budgets.append(budget)
        return ScenarioFile(self._path, self._root, title, clauses, tuple(scenarios), tuple(budgets), digest)

    def _budget(
        self, node: Node, names: dict[str, int], requires: frozenset[str], tags: frozenset[str]
    ) -> Budget | None:
        scope = self._scope
        found = scope.fields(node, "a budget", BUDGET_KEYS, required=BUDGET_REQUIRED)
        if found is None:
            return None
        scope.start_scenario(())
        scope.names = dict.fromkeys(BUDGET_NAMES, "one of the names of a budget")
        return compile_budget(
            found,
            node,
            scope,
            name=self._name(found["name"], names) if "name" in found else "",
            why=scope.text(found["why"], "why") if "why" in found else None,
            requires=requires
            | self._words(found.get("requires"), "capability", {**CAPABILITIES, **INSPECTORS}),
            tags=tags | self._tags(found.get("tags")),
        )

    def _scenario(
        self,
        node: Node,
        names: dict[str, int],
        clauses: frozenset[str],
        requires: frozenset[str],
        tags: frozenset[str],
        clock: datetime,
    ) -> Scenario | None:
        scope = self._scope
        found = scope.fields(node, "a scenario", SCENARIO_KEYS, required=("name", "steps"))
        if found is None:
            return None
        scope.start_scenario(())
        before = len(scope.problems)
        name = self._name(found["name"], names) if "name" in found else ""
        why = scope.text(found["why"], "why") if "why" in found else None
        clauses |= self._words(found.get("clauses"), "clause", CLAUSES)
        if not (clauses or self._names_clauses or "clauses" in found):
            where = found.get("name", node)
            scope.report(where, "the scenario proves no clause: name one in `clauses`, here or for the file")
        requires |= self._words(found.get("requires"), "capability", {**CAPABILITIES, **INSPECTORS})
        if "clock" in found:
            clock = self._clock(found["clock"])
            scope.implied.add("controllable_clock")
        # A parameter may be made of what the scenario saves; it is built when it is used.
        scope.names = dict.fromkeys(_saved_names(node), "saved")
        rows = self._rows(found)
        scope.names = dict.fromkeys(rows[0].names, "a parameter")
        given = compile_given(found["given"], scope) if "given" in found else []
        steps = compile_steps(found["steps"], scope, "steps") if "steps" in found else []
        sound = len(scope.problems) == before  # else the check may be in what could not be read
        if sound and steps and not any(map(checks_something, steps)):
            scope.report(
                found["steps"], "no step checks anything: add `expect`, `error`, `outcomes` or a `compare`"
            )
        return Scenario(
            name=name,
            why=why,
            clauses=clauses,
            requires=requires | scope.implied,
            tags=tags | self._tags(found.get("tags")),
            clock=clock,
            line=node.line,
            file=self._path,
            root=self._root,
            given=tuple(given),
            steps=tuple(steps),
            lines=self._lines,
            rows=tuple(rows),
        )

    # --- parts -----------------------------------------------------------------------------------

    def _line(self, node: Node, what: str) -> str:
        text = self._scope.text(node, what)
        if text is None:
            return ""
        if not text.strip() or "\n" in text:
            self._scope.report(node, f"{what} must be one line of text")
        return text

    def _name(self, node: Node, names: dict[str, int]) -> str:
        name = self._line(node, "name")
        for bad in ("[", "]", "::"):
            if bad in name:
                self._scope.report(node, f"a name cannot hold `{bad}`, which ids of cases use themselves")
        if not name.isprintable() and "\n" not in name:
            self._scope.report(node, "a name must be printable text")
        if name and name in names:
            self._scope.report(node, f"the name `{clip(name, 80)}` is taken already, on line {names[name]}")
        names.setdefault(name, node.line)
        return name

    def _words(self, node: Node | None, what: str, known: Mapping[str, str]) -> frozenset[str]:
        if node is None:
            return frozenset()
        plural = {"clause": "clauses", "capability": "requires"}[what]
        words: set[str] = set()
        for item in self._scope.items(node, plural):
            word = self._scope.word(item, what, known)
            if word in words:
                self._scope.report(item, f"`{word}` is there twice")
            if word is not None:
                words.add(word)
        return frozenset(words)

    def _tags(self, node: Node | None) -> frozenset[str]:
        tags: set[str] = set()
        for item in self._scope.items(node, "tags") if node is not None else ():
            text = self._scope.text(item, "a tag")
            if text is not None and not TAG.match(text):
                self._scope.report(item, f"the tag `{clip(text, 40)}` is not made of a-z, 0-9 and `-` alone")
            elif text is not None:
                tags.add(text)
        return frozenset(tags)

    def _clock(self, node: Node | None) -> datetime:
        default = datetime.fromisoformat(DEFAULT_CLOCK)
        text = None if node is None else self._scope.text(node, "clock")
        if node is None or text is None:
            return default
        try:
            if text == "now" or text[:1] in ("+", "-"):
                raise ValueError(text)
            return parse_time(text, default)
        except ValueError:
            what = f"the clock starts at an instant with its zone, such as `{DEFAULT_CLOCK}`"
            self._scope.report(node, f"{what}, not at `{clip(text, 40)}`")
            return default

    def _rows(self, found: Mapping[str, Node]) -> list[_Row]:
        """The parameters of each case, in the order written."""
        blocks: list[list[_Row]] = []
        taken: dict[str, int] = {}
        for key in sorted(
            (key for key in ("matrix", "cases") if key in found), key=lambda key: found[key].line
        ):
            rows = self._matrix(found[key], taken) if key == "matrix" else self._cases(found[key], taken)
            blocks.append(rows or [_Row()])
        combined = [
            _Row(
                tuple(itertools.chain.from_iterable(row.names for row in rows)),
                tuple(itertools.chain.from_iterable(row.values for row in rows)),
                tuple(itertools.chain.from_iterable(row.labels for row in rows)),
            )
            for rows in itertools.islice(itertools.product(*blocks), _MAX_CASES + 1)
        ]
        if len(combined) > _MAX_CASES:
            node = found.get("matrix") or found["cases"]
            self._scope.report(node, f"more than {_MAX_CASES:,} cases")
        return combined

    def _parameter(self, key: ScalarNode, taken: dict[str, int]) -> str | None:
        name = key.value
        if not isinstance(name, str) or not NAME.match(name):
            self._scope.report(key, f"`{name}` is no name of a parameter: letters, digits and `_`")
            return None
        if name in taken:
            self._scope.report(key, f"the parameter `{name}` is there already, on line {taken[name]}")
            return None
        return name

    def _matrix(self, node: Node, taken: dict[str, int]) -> list[_Row]:
        if not isinstance(node, MapNode):
            self._scope.report(node, f"matrix must be a mapping of lists, not {describe(node)}")
            return []
        axes: list[list[tuple[str, Value, str]]] = []
        for key, values in node:
            name = self._parameter(key, taken)
            items = self._scope.items(values, f"`{key.value}` in matrix")
            if isinstance(values, ListNode) and not items:
                self._scope.report(values, f"`{key.value}` has no values, so there would be no case")
            if name is not None:
                taken[name] = key.line
                axes.append([(name, compile_value(item, self._scope), _label(item)) for item in items])
        combinations = itertools.islice(itertools.product(*axes), _MAX_CASES + 1)
        return [_Row(*map(tuple, zip(*row, strict=True))) for row in combinations if row]

    def _cases(self, node: Node, taken: dict[str, int]) -> list[_Row]:
        rows: list[_Row] = []
        first: ScalarNode | None = None
        names: tuple[str, ...] = ()
        items = self._scope.items(node, "cases")
        if isinstance(node, ListNode) and not items:
            self._scope.report(node, "there is no case in `cases`")
        for item in items:
            if not isinstance(item, MapNode):
                self._scope.report(item, f"a case must be a mapping of parameters, not {describe(item)}")
                continue
            row = [
                (name, compile_value(value, self._scope), _label(value))
                for key, value in item
                if (name := self._parameter(key, taken)) is not None
            ]
            found = tuple(name for name, _, _ in row)
            if first is None:
                first, names = item.entries[0][0] if item.entries else None, found
            elif set(found) != set(names):
                missing = [f"`{name}`" for name in names if name not in found]
                extra = [f"`{name}`" for name in found if name not in names]
                what = " and ".join(
                    [f"lacks {', '.join(missing)}"] * bool(missing)
                    + [f"adds {', '.join(extra)}"] * bool(extra)
                )
                hint = (
                    nearest(extra[0].strip("`"), [name.strip("`") for name in missing])
                    if extra and missing
                    else ""
                )
                self._scope.report(
                    item, f"every case has the same parameters as the first; this one {what}{hint}"
                )
            if row:
                rows.append(_Row(*map(tuple, zip(*row, strict=True))))
        for name in names:
            taken[name] = first.line if first else node.line
        return rows


def _saved_names(node: Node) -> Iterator[str]:
    """Every name that something in the scenario is saved under."""
    if isinstance(node, ListNode):
        for item in node.items:
            yield from _saved_names(item)
    elif isinstance(node, MapNode):
        for key, value in node:
            if key.value != "save":
                yield from _saved_names(value)
            elif isinstance(value, MapNode):
                yield from (str(name.value) for name, _ in value)
            elif isinstance(value, ScalarNode):
                yield str(value.value)


def _label(node: Node) -> str:
    """A parameter's value in a case id: short, printable, without what ids use themselves."""
    value = plain(node)
    if isinstance(value, str):
        text = "".join(ch if ch.isprintable() else f"\\u{ord(ch):04x}" for ch in clip(redact(value), 30))
        text = text or "''"
    else:
        text = clip(short(value), 40).replace('"', "")
    return text.replace("[", "(").replace("]", ")").replace("::", ":")
