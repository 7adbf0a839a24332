"""One run of the suite inside pytest: collects the cases, runs each on stores of its own, and judges at
the end.

With pytest-xdist the workers run the cases and the controller judges; what a case gave travels on its report.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from kpstore import KpStoreError, __version__
from kpstore_conformance.check import DEFAULT_TIMEOUT_S, Check, DifferenceError, module_checks
from kpstore_conformance.comparison import compare_scenario
from kpstore_conformance.guard import Guard
from kpstore_conformance.known import Known, KnownEntry, KnownFileError, load_known, matches
from kpstore_conformance.latency.baseline import BaselineError, load_baselines
from kpstore_conformance.latency.bench import Bench, WrongAnswerError
from kpstore_conformance.latency.judging import LatencyLevel, is_selected
from kpstore_conformance.latency.statistics import Demand, broken
from kpstore_conformance.latency.telling import as_plain, as_text
from kpstore_conformance.plugin import is_scenario_file
from kpstore_conformance.report import write_reports
from kpstore_conformance.scenario import BudgetCase, Case, CaseResult, Failure, ScenarioFileError, run_case
from kpstore_conformance.scenario.scope import CaseError
from kpstore_conformance.scenario.show import redact
from kpstore_conformance.suite import (
    Missing,
    Suite,
    SuiteCase,
    checks_folder,
    is_data,
    known_root,
    packaged_scenarios,
    root_of,
    scenario_cases,
)
from kpstore_conformance.target import AdapterError, BackendFacts, CaseTarget, adapter_for, probe
from kpstore_conformance.verdict import FAILING, CaseOutcome, Outcome, Verdict, judge, render

__all__ = ["ANCHOR", "CaseItem", "ConformanceRun"]

ANCHOR = Path(__file__).with_name("suite.ini")
"""Collecting this file collects the whole suite."""

_FROM_WORKER = "kpstore_account"
_ON_REPORT = "kpstore_outcome"
_ON_WORKER = "kpstore_backends"


class CaseFailedError(Exception):
    """A case failed; the message is the whole text for a person."""


@dataclass(frozen=True, slots=True)
class CaseRun:
    """How a case ended; of a failure one line, where (file:line), and the whole text for a person. `compared`
    and `not_compared` are those of `CaseOutcome`.
    """

    outcome: Outcome
    summary: str = ""
    at: str | None = None
    text: str = ""
    compared: int | None = None
    not_compared: str | None = None
    latency: dict[str, Any] | None = None


class ConformanceRun:
    """The hooks of one run. Raises UsageError where the options make no sense or the backend cannot be
    opened.
    """

    def __init__(self, config: pytest.Config, backend: str) -> None:
        self._config = config
        self._started = datetime.now(UTC)
        self._start_s = time.perf_counter()
        here = config.invocation_params.dir
        named = [backend, *(config.getoption(f"kpstore_{name}") or "" for name in ("adapter", "against"))]
        if any(":" in name for name in named) and str(here) not in sys.path:
            # The backend of somebody who has not packaged it yet lies where they stand.
            sys.path.insert(0, str(here))
        folders = [(here / folder).resolve() for folder in config.getoption("kpstore_scenarios") or ()]
        for folder in folders:
            if not folder.is_dir():
                raise pytest.UsageError(f"--scenarios {folder}: no such folder")
        self.suite = Suite(tuple(folders), packaged=not config.getoption("kpstore_no_packaged"))
        self._guard = Guard(checks=self.suite.packaged, folders=self.suite.extra, files=not self._is_worker)
        self._selection = self._selected_by()
        self._globs: list[str] = config.getoption("kpstore_case") or []
        self.known = self._load_known(here)
        try:
            self.adapter = adapter_for(backend, config.getoption("kpstore_adapter"))
            other = config.getoption("kpstore_against")
            self._other = None if other is None else adapter_for(other)
            self.backend, self.against = self._facts()
        except AdapterError as error:
            raise pytest.UsageError(str(error)) from error
        self.latency_level: LatencyLevel = config.getoption("kpstore_latency") or "quick"
        baseline = config.getoption("kpstore_baseline")
        try:
            self._baselines = load_baselines(self.backend.name, None if baseline is None else here / baseline)
        except BaselineError as error:
            raise pytest.UsageError(str(error)) from error
        self._bench: Bench | None = None
        self._outcomes: list[CaseOutcome] = []
        """What the cases gave; of a worker of pytest-xdist, the cases that it ran."""
        self._due: set[str] = set()
        """The cases that are to run."""
        self._deselected: set[str] = set()
        """Those that options of the run have left out."""
        self._problems: list[str] = []
        self.verdict: Verdict | None = None
        self._reports: list[str] = []

    def _load_known(self, here: Path) -> Known:
        file = self._config.getoption("kpstore_known")
        if file is None:
            return Known()
        try:
            return load_known(here / file)
        except KnownFileError as error:
            raise pytest.UsageError(*map(str, error.problems)) from error

    @property
    def _is_worker(self) -> bool:
        return hasattr(self._config, "workerinput")

    def _facts(self) -> tuple[BackendFacts, BackendFacts | None]:
        """Of the backend, and of the one that it is compared with."""
        told = getattr(self._config, "workerinput", {}).get(_ON_WORKER)
        if told is not None:
            backend, other = told
            return BackendFacts.from_json(backend), None if other is None else BackendFacts.from_json(other)
        other_facts = None if self._other is None else asyncio.run(probe(self._other))
        return asyncio.run(probe(self.adapter)), other_facts

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist what the controller found out, so that the backend is probed once."""
        other = None if self.against is None else self.against.to_json()
        node.workerinput[_ON_WORKER] = (self.backend.to_json(), other)

    def pytest_report_header(self) -> str:
        """A line on the backend."""
        declares = ", ".join(sorted(self.backend.capabilities)) or "no capability"
        return f"kpstore conformance: backend {self.backend.name}, declares {declares}"

    # ---- collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """The suite's own folders are never ignored, wherever a virtual environment may have put them."""
        ours = (ANCHOR.parent, packaged_scenarios())
        return False if any(collection_path.is_relative_to(folder) for folder in ours) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Our own package is a folder of cases here, not a Python package to be imported by its path."""
        if path == ANCHOR.parent or path == checks_folder():
            return pytest.Dir.from_parent(parent, path=path)
        return None

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Scenario files, check modules, and the anchor."""
        if file_path == ANCHOR:
            if parent.session.isinitpath(file_path):
                return _WholeSuite.from_parent(parent, path=file_path, name="", run=self)
            return None
        if file_path.parent == checks_folder():
            if file_path.suffix == ".py" and not file_path.name.startswith("_"):
                return _CheckModule.from_parent(parent, path=file_path, run=self)
            return None
        if file_path.suffix not in (".yaml", ".yml"):
            return None
        root = root_of(file_path, self.suite.extra)
        # In a folder of the suite every YAML file counts: one that does not look like a scenario file is
        # broken.
        ours = known_root(file_path, self.suite.extra) is not None or is_scenario_file(file_path)
        if ours and not is_data(file_path, root):
            return _ScenarioFileNode.from_parent(parent, path=file_path, root=root, run=self)
        return None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        """Apply --case and --latency, and see what anybody else takes away. Latency comes last, the cases on
        one data set one after another.
        """
        collected = [item for item in items if isinstance(item, CaseItem)]
        dropped = {item for item in collected if not self._is_wanted(item.case)}
        if dropped:
            self._config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = sorted((item for item in items if item not in dropped), key=_latency_last)
        if self._config.pluginmanager.hasplugin("xdist"):
            for item in collected:
                if isinstance(item.case.work, BudgetCase):
                    # One process loads the data sets, and measures undisturbed by another one's measuring.
                    item.add_marker(pytest.mark.xdist_group("latency"))
        result = yield
        left = {item.case.id for item in items if isinstance(item, CaseItem)} & {
            item.case.id for item in collected
        }
        taken = [item.case.id for item in collected if item.case.id not in left | self._deselected]
        self._due = {item.case.id for item in collected} - self._deselected
        if taken:
            self._problems.append(f"{_these(taken)} taken out of the run by something other than its options")
            self._due -= {*taken}
        return result

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what options have left out. What a plugin leaves out is not that."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == "pluggy":
            frame = frame.f_back
        if frame.f_globals["__name__"].partition(".")[0] in ("_pytest", "kpstore_conformance"):
            self._deselected |= {item.case.id for item in items if isinstance(item, CaseItem)}

    def _is_wanted(self, case: SuiteCase) -> bool:
        if isinstance(case.work, BudgetCase) and not is_selected(case.work.level, self.latency_level):
            return False
        return not self._globs or any(matches(glob, case.id) for glob in self._globs)

    # ---- reports

    def note(self, outcome: CaseOutcome) -> None:
        """Take in what became of a case that ran in this process."""
        self._outcomes.append(outcome)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """In a worker of pytest-xdist: put what a case gave on its report, in case the worker dies."""
        report = yield
        if self._is_worker and isinstance(item, CaseItem) and call.when == "call":
            latest = self._outcomes[-1:]
            if latest and latest[0].case == item.case.id:
                setattr(report, _ON_REPORT, latest[0].to_plain())
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what the cases of the workers of pytest-xdist gave."""
        plain = getattr(report, _ON_REPORT, None)
        if plain is not None and not self._is_worker:
            self._outcomes.append(CaseOutcome.from_plain(plain))
        elif report.failed and report.when not in ("setup", "call", "teardown"):
            # What pytest-xdist reports of a test during which its worker died.
            self._problems.append(f"the process died in {report.nodeid}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take a worker's own account of what it ran in place of what its reports have become on the way."""
        told = getattr(node, "workeroutput", {}).get(_FROM_WORKER)
        if told is None:
            return  # it died, which has been said
        ran = [CaseOutcome.from_plain(plain) for plain in told["outcomes"]]
        known = {(one.case, one.file): one for one in ran}
        for one in self._outcomes:
            if one != known.get((one.case, one.file), one):
                self._problems.append(f"the outcome of {one.case} was changed on its way from a worker")
        self._outcomes = [one for one in self._outcomes if (one.case, one.file) not in known] + ran
        self._due |= {*told["due"]}
        self._deselected |= {*told["deselected"]}
        self._problems += told["problems"]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected fails the run."""
        if report.failed:
            self._problems.append(f"cannot be read: {report.nodeid}")

    def pytest_unconfigure(self) -> None:
        """Remove what the latency cases were measured on."""
        if self._bench is not None:
            self._bench.close()

    # ---- the verdict

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge, write the reports, and see to it that a bad verdict is a bad exit status, whoever else has a
        say in that.
        """
        if self._config.getoption("collectonly") or session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            return (yield)
        if self._is_worker:
            # Typed nowhere: pytest-xdist gives it to a worker's configuration.
            self._config.workeroutput[_FROM_WORKER] = {  # type: ignore[attr-defined]
                "outcomes": [one.to_plain() for one in self._outcomes],
                "due": sorted(self._due),
                "deselected": sorted(self._deselected),
                "problems": [*self._problems, *self._guard.problems()],
            }
            return (yield)
        good = self._judge()
        result = yield
        if not good and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        told = self._config.getoption("kpstore_tell")
        if told is not None:
            os.write(told, b"passed" if good else b"failed")
        return result

    def _judge(self) -> bool:
        """Come to the verdict, and write the reports; whether all is well."""
        cases, unreadable = self.suite.readable_cases()
        known_ids = {case.id for case in cases} | {one.case for one in self._outcomes}
        selected = {one.case for one in self._outcomes}
        whole = all(case.id in selected for case in cases if case.kind != "latency")
        if whole:
            # In a selection, a broken file that was not selected is not this run's; no level is granted
            # anyway.
            self._problems.extend(f"cannot be read: {problem}" for problem in unreadable)
        self._problems.extend(self.known.problems(known_ids if whole else None))
        self._problems.extend(self._missing([case.id for case in cases]))
        self._problems.extend(self._guard.problems())
        self.verdict = judge(
            self.backend,
            self._outcomes,
            suite=cases,
            packaged=self.suite.packaged,
            problems=list(dict.fromkeys(self._problems)),
            duration_s=time.perf_counter() - self._start_s,
            against=self.against,
            latency_level=self.latency_level,
        )
        folder = self._config.getoption("kpstore_report")
        if folder is not None:
            target = self._config.invocation_params.dir / folder
            try:
                written = write_reports(target, self.verdict, self.suite, self._started)
                self._reports = [str(path) for path in written]
            except OSError as error:
                self._reports = [f"NOT WRITTEN: {error}"]
                return False
        return self.verdict.passed and self.verdict.latency.passed

    def _selected_by(self) -> tuple[object, ...]:
        """The options that leave cases out of a run, or stop it."""
        names = ("keyword", "markexpr", "deselect", "lf", "stepwise", "maxfail", "kpstore_case")
        return tuple(self._config.getoption(name, None) for name in names)

    def _missing(self, suite: Sequence[str]) -> Iterator[str]:
        """What should have run and did not."""
        if self._selected_by() != self._selection:
            yield "the options of the run were changed during the run"
        ran = {one.case for one in self._outcomes}
        stopped = any(one.outcome in FAILING for one in self._outcomes) and self._config.getoption("maxfail")
        if not stopped and (silent := sorted(self._due - ran)):
            yield f"{_these(silent)} to run, and came to no outcome"
        everything = str(ANCHOR) in self._config.args and not self._problems
        if everything and (absent := [one for one in suite if one not in ran | self._due | self._deselected]):
            yield f"{_these(absent)} not collected"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the verdict."""
        if self.verdict is None:
            return
        terminalreporter.ensure_newline()
        for line in render(
            self.verdict,
            suite_version=__version__,
            reports=self._reports,
        ):
            terminalreporter.write_line(redact(line.text), **line.markup)

    # ---- running a case

    def shown(self, case: SuiteCase) -> str:
        """A case's file, as short as it stays clickable."""
        return self.shown_path(case.file)

    def shown_path(self, path: Path) -> str:
        """A file from where the command was given, or from the suite's own folder."""
        for base in (self._config.invocation_params.dir, packaged_scenarios().parent):
            if path.is_relative_to(base):
                return str(path.relative_to(base))
        return str(path)

    @property
    def rootpath(self) -> Path:
        """The folder that pytest's ids start at."""
        return self._config.rootpath

    def rerun(self, case: SuiteCase) -> str:
        """The command that runs a case alone."""
        parts = ["kpstore", "conformance", "run", "--backend", self.adapter.spec]
        for name in ("adapter", "against"):
            if self._config.getoption(f"kpstore_{name}"):
                parts += [f"--{name}", self._config.getoption(f"kpstore_{name}")]
        if not self.suite.packaged:
            parts.append("--no-packaged")
        if case.root is not None and case.root != packaged_scenarios():
            parts += ["--scenarios", str(case.root)]
        if isinstance(case.work, BudgetCase):
            parts += ["--latency", case.work.level]
            if self._config.getoption("kpstore_baseline"):
                parts += ["--baseline", self._config.getoption("kpstore_baseline")]
        return shlex.join([*parts, "--case", case.id])

    def missing(self, case: SuiteCase) -> list[Missing]:
        """What a case needs and the backend does not have."""
        missing = case.missing(self.backend)
        if isinstance(case.work, BudgetCase) and not self._demand(case.work).states_anything:
            missing.append(Missing("limit", self.backend.name))
        return missing

    def execute(self, case: SuiteCase) -> CaseRun:
        """Run a case, on stores of its own unless it measures."""
        if isinstance(case.work, BudgetCase):
            return self._latency(case, case.work)
        return asyncio.run(self._execute(case, case.work))

    def _demand(self, work: BudgetCase) -> Demand:
        budget, backend = work.budget, self.backend.name
        return Demand(
            budget.statistic,
            budget.limit_ms(backend),
            budget.growth_at_most(backend),
            self._baselines.get(work.id),
        )

    def _latency(self, case: SuiteCase, work: BudgetCase) -> CaseRun:
        if self._bench is None:
            self._bench = Bench(self.adapter, self.backend)
        at, demand = f"{self.shown(case)}:{case.line}", self._demand(work)
        try:
            measurement = self._bench.measure(work, demand)
        except (WrongAnswerError, CaseError, KpStoreError, TimeoutError) as error:
            summary = f"{type(error).__name__}: {str(error) or 'no end'}"
            return CaseRun("error", summary, at, f"{case.id}: {summary}\n  {at}\n\n  {self.rerun(case)}")
        faults = broken(measurement, demand)
        figures = as_plain(work, measurement, demand, faults)
        if not faults:
            return CaseRun("passed", latency=figures)
        told = [f"  {line}".rstrip() for line in as_text(work, measurement, demand, faults)]
        text = [f"TOO SLOW {case.id}", f"  {at}", "", *told, "", f"  run it again: {self.rerun(case)}"]
        summary = "; ".join(fault.text for fault in faults)
        return CaseRun("failed", summary, at, "\n".join(text), latency=figures)

    async def _execute(self, case: SuiteCase, work: Case | Check) -> CaseRun:
        target = CaseTarget(self.adapter, self.backend.name, against=self._other)
        timeout_s = work.timeout_s if isinstance(work, Check) else DEFAULT_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await (
                    self._check(case, work, target)
                    if isinstance(work, Check)
                    else self._scenario(case, work, target)
                )
        except TimeoutError:
            if not limit.expired():
                raise
            summary = f"no end after {timeout_s:g} s"
            at = f"{self.shown(case)}:{case.line}"
            text = f"{case.id}: {summary}\n  {at}\n\n  run it again: {self.rerun(case)}"
            return CaseRun("error", summary, at, text)
        finally:
            await target.dispose()

    async def _scenario(self, case: SuiteCase, work: Case, target: CaseTarget) -> CaseRun:
        if self._other is None or self.against is None:
            return self._ran(case, await run_case(work, target))
        missing = case.missing(self.against)
        if missing:
            ran = self._ran(case, await run_case(work, target))
            return replace(ran, not_compared=" and ".join(map(str, missing)))
        reference = CaseTarget(self._other, self.against.name)
        try:
            comparison = await compare_scenario(work, target, reference)
        finally:
            await reference.dispose()
        ran = self._ran(case, comparison.results[0])
        if ran.outcome == "passed" and comparison.differences:
            ran = self._unlike("differs", comparison.failure(), case)
        return replace(ran, compared=comparison.compared)

    def _ran(self, case: SuiteCase, result: CaseResult) -> CaseRun:
        if result.failure is None:
            return CaseRun(result.outcome)
        return self._unlike(result.outcome, result.failure, case)

    def _unlike(self, outcome: Outcome, failure: Failure, case: SuiteCase) -> CaseRun:
        at = f"{self.shown_path(failure.file)}:{failure.line}"
        return CaseRun(outcome, failure.summary, at, failure.render(rerun=self.rerun(case)))

    async def _check(self, case: SuiteCase, work: Check, target: CaseTarget) -> CaseRun:
        try:
            await work.run(target)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the time-out's doing, not the check's
                raise
            said = str(error).strip() or "no message"
            summary = f"{type(error).__name__}: {said.splitlines()[0]}"
            text = "\n".join(
                [
                    f"{case.id}",
                    f"  {work.fact}",
                    f"  proves {', '.join(case.clauses)} · {self.shown(case)}:{case.line}",
                    "",
                    *_trace(error, work.file),
                    "",
                    f"run it again: {self.rerun(case)}",
                ]
            )
            outcome: Outcome = "failed" if isinstance(error, AssertionError) else "error"
            if isinstance(error, DifferenceError):
                outcome = "differs"
            return CaseRun(outcome, summary, f"{self.shown(case)}:{case.line}", text)
        return CaseRun("passed")


def _these(cases: Sequence[str]) -> str:
    """`3 cases (a, b, …) were`."""
    shown = ", ".join([*cases[:2], *(["…"] if len(cases) > 2 else [])])
    return f"1 case ({shown}) was" if len(cases) == 1 else f"{len(cases)} cases ({shown}) were"


def _trace(error: BaseException, file: Path) -> list[str]:
    """The stack of an error from the check's own file on: what called the check is of no interest."""
    stack = traceback.TracebackException.from_exception(error)
    inside = [number for number, frame in enumerate(stack.stack) if Path(frame.filename) == file]
    if inside:
        stack.stack = traceback.StackSummary.from_list(stack.stack[inside[0] :])
    return "".join(stack.format()).rstrip().splitlines()


class _RunNode(pytest.File):
    """A file whose cases belong to a run."""

    def __init__(self, *, run: ConformanceRun, path: Path, **kwargs: Any) -> None:
        if not path.is_relative_to(run.rootpath):
            # Pytest has no id for a file outside its root folder, and the suite mostly lies outside.
            kwargs.setdefault("nodeid", path.as_posix())
        super().__init__(path=path, **kwargs)
        self.run = run

    def _items(self, cases: Iterable[SuiteCase]) -> Iterator[pytest.Item]:
        for case in cases:
            # Item names end up in reports and on terminals; a parameter may hold what neither can show.
            name = case.name.encode("utf-8", "backslashreplace").decode("utf-8")
            # The whole id as a text, so that pytest tells parameters from the name as it does when it reads
            # the id back: `--last-failed` compares the two.
            nodeid = f"{self.nodeid}::{name}"
            yield CaseItem.from_parent(self, name=name, nodeid=nodeid, case=case, run=self.run)


class _WholeSuite(_RunNode):
    """Everything: the packaged scenarios, the checks, and the folders given besides."""

    def collect(self) -> Iterator[pytest.Collector]:
        for path, root in self.run.suite.scenario_paths():
            yield _ScenarioFileNode.from_parent(self, path=path, root=root, run=self.run)
        for name in self.run.suite.check_modules():
            yield _CheckModule.from_parent(self, path=checks_folder() / f"{name}.py", run=self.run)


class _ScenarioFileNode(_RunNode):
    """One scenario file."""

    def __init__(self, *, root: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._root = root

    def collect(self) -> Iterator[pytest.Item]:
        return self._items(scenario_cases(self.path, self._root))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The problems of a refused file, a line each."""
        if isinstance(excinfo.value, ScenarioFileError):
            return "\n".join(str(problem) for problem in excinfo.value.problems)
        return super().repr_failure(excinfo)


class _CheckModule(_RunNode):
    """One module of checks."""

    def collect(self) -> Iterator[pytest.Item]:
        found = module_checks(self.path.stem)
        return self._items(SuiteCase.of_check(check) for check in found)


def _latency_last(item: pytest.Item) -> tuple[bool, tuple[str, bool, int]]:
    if isinstance(item, CaseItem) and isinstance(item.case.work, BudgetCase):
        return (True, item.case.work.turn)
    return (False, ("", False, 0))


class CaseItem(pytest.Item):
    """One case. `-k` finds it by its id, its clauses, its tags and what it requires."""

    def __init__(self, *, case: SuiteCase, run: ConformanceRun, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self._run = run
        self.extra_keyword_matches.update((case.id, *case.clauses, *case.tags, *case.requires))
        self.user_properties.extend(
            [
                ("case", case.id),
                ("file", run.shown(case)),
                ("line", case.line),
                ("clauses", " ".join(case.clauses)),
            ]
        )

    def runtest(self) -> None:
        """Run the case; raises with the text for a person where that fails the run."""
        missing = self._run.missing(self.case)
        if missing:
            self._note(CaseRun("not_applicable"), 0.0, missing=[(one.kind, one.name) for one in missing])
            backend = self._run.backend.name
            pytest.skip(f"not applicable to {backend}: {' and '.join(map(str, missing))}")
        entry = self._run.known.entry_for(self.case.id)
        start_s = time.perf_counter()
        try:
            ran = self._run.execute(self.case)
        except (KeyboardInterrupt, pytest.exit.Exception):
            raise
        except BaseException as error:
            # The adapter broke, before or after the case: as loud as a failing case, with its own traceback.
            # Or the backend raised what pytest would take for a skip.
            ran = CaseRun("error", f"{type(error).__name__}: {error}")
            self._note(ran, time.perf_counter() - start_s)
            if not isinstance(error, Exception) or isinstance(error, SkipTest):
                raise CaseFailedError(f"{self.case.id}: {ran.summary}") from error
            raise
        duration_s = time.perf_counter() - start_s
        if ran.outcome == "passed":
            if entry is None or entry.flaky:
                self._note(ran, duration_s, entry=entry)
                return
            summary = f"known to fail, but passes: remove it from {entry.file}:{entry.line}"
            self._note(replace(ran, outcome="unexpected_pass", summary=summary), duration_s, entry=entry)
            raise CaseFailedError(f"{self.case.id}\n  {summary}\n  {entry.reason} ({entry.issue})")
        if entry is not None:
            foretold: Outcome = "flaky_failed" if entry.flaky else "known_failing"
            self._note(replace(ran, outcome=foretold), duration_s, entry=entry)
            pytest.xfail(f"{entry.kind}: {entry.reason} ({entry.issue}): {redact(ran.summary)}")
        self._note(ran, duration_s)
        raise CaseFailedError(redact(ran.text))

    def _note(
        self,
        ran: CaseRun,
        duration_s: float,
        *,
        entry: KnownEntry | None = None,
        missing: Iterable[tuple[str, str]] = (),
    ) -> None:
        case = self.case
        known = (
            None
            if entry is None
            else {"reason": entry.reason, "issue": entry.issue, "expires": entry.expires.isoformat()}
        )
        failed = ran.outcome not in ("passed", "not_applicable")
        outcome = CaseOutcome(
            case=case.id,
            kind=case.kind,
            file=self._run.shown(case),
            line=case.line,
            clauses=list(case.clauses),
            requires=list(case.requires),
            outcome=ran.outcome,
            duration_s=duration_s,
            summary=redact(ran.summary) if failed else None,
            at=(ran.at or f"{self._run.shown(case)}:{case.line}") if failed else None,
            missing=list(missing),
            known=known,
            rerun=self._run.rerun(case) if failed else None,
            compared=ran.compared,
            not_compared=ran.not_compared,
            latency=ran.latency,
        )
        self._run.note(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The text of a failing case; whatever else went wrong, as pytest shows it."""
        if isinstance(excinfo.value, CaseFailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The case's file, its line (from 0, as pytest has it), and its id."""
        return self.case.file, self.case.line - 1, self.case.id
