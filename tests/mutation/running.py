"""Runs cases of the suite on one mutant, each mutant in a process of its own.

The process is forked from one that has imported what kpstore needs, but not kpstore: it imports the mutated
package from an overlay, a folder of links to the original's files with the mutated file among them, and so do
the processes that a case starts. A case that takes ten times as long as it should never ends: the process is
killed, and the mutant counts as caught.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mutation.generating import ROOT

if TYPE_CHECKING:  # only a child imports it
    from kpstore_conformance.suite import SuiteCase

# Of what a case takes on the original. What a busy machine lets the process wait for its turn does not count.
_TIMES_AS_LONG, _AT_LEAST_S = 10.0, 5.0
_MEMORY = 8 << 30  # bytes of addresses; some mutants ask for more and more
_PRELOADED = (
    *("aiosqlite", "hypothesis.stateful", "jsonschema", "msgspec", "numpy", "pyroaring"),
    *("sortedcontainers", "yaml"),
)
# A check that fails is run again: some look at the time, or choose at random.
_CHECK_RUNS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A case to run: on which backend, and how long it takes on the original, in seconds."""

    backend: str
    case: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: `killed`, `endless` (killed by the time-out), `own` (by own tests alone) or
    `survived`.

    Attributes:
        outcome: see above.
        by: the backend and the case that caught it.
        why: how that case failed, in a line.
        tried: how many cases ran.
    """

    outcome: str
    by: str = ""
    why: str = ""
    tried: int = 0


def prepare_worker() -> None:
    """Make this the process that mutants are forked from: it imports what kpstore needs, but not kpstore, and
    takes its mutant with it when it is ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's; a process with several threads is not to be forked
    for name in _PRELOADED:
        importlib.import_module(name)
    assert "kpstore" not in sys.modules


@contextlib.contextmanager
def overlay(file: str, source: str) -> Iterator[Path]:
    """A folder with the package `kpstore` in it, one file of which has other text."""
    folder = Path(tempfile.mkdtemp(prefix="kpstore-mutant-"))
    try:
        for original in (ROOT / "kpstore").rglob("*"):
            link = folder / original.relative_to(ROOT)
            if original.is_dir() and original.name != "__pycache__":
                link.mkdir(parents=True, exist_ok=True)
            elif original.name == "__pycache__" or original.suffix != ".pyc":
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(original)
        mutated = folder / file
        mutated.unlink()
        mutated.write_text(source, encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_mutant(file: str, source: str, steps: Sequence[Step], at_least_s: float = _AT_LEAST_S) -> Result:
    """Run the cases in order, up to the first that fails; each one's time-out is `at_least_s` or more."""
    return _in_a_child(file, source, steps, at_least_s, lambda say: _first_failure(steps, say))


def run_own_tests(file: str, source: str, tests: Sequence[str], seconds: float) -> Result:
    """Run some of the library's own tests on a mutant, which take so long on the original.

    It is `own` if one of them fails, or if they do not end in time.
    """
    steps = [Step("own", "tests", seconds)]
    result = _in_a_child(file, source, steps, _AT_LEAST_S, lambda say: _first_failed_test(tests, say))
    return result if result.outcome == "survived" else replace(result, outcome="own")


def _in_a_child(
    file: str,
    source: str,
    steps: Sequence[Step],
    at_least_s: float,
    first_failure: Callable[[Callable[..., None]], str | None],
) -> Result:
    with overlay(file, source) as folder:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(writing, folder, first_failure)
        os.close(writing)
        try:
            return _watched(child, reading, steps, at_least_s)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _watched(child: int, reading: int, steps: Sequence[Step], at_least_s: float) -> Result:
    """What the child says; it has a time-out for the imports, and one for each case."""
    limit_s, by, tried, buffer = _AT_LEAST_S, "import", 0, b""
    start, already_waited_s = time.monotonic(), 0.0
    while True:
        left_s = limit_s - (time.monotonic() - start - (waited_s(child) - already_waited_s))
        if left_s <= 0:
            return Result("endless", by, f"no end after {limit_s:.0f} s", tried)
        ready, _, _ = select.select([reading], [], [], left_s)
        if not ready:
            continue
        chunk = os.read(reading, 65536)
        if not chunk:
            return Result("killed", by, "the process died", tried)
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "outcome" in said:
                return Result(
                    said["outcome"], "" if said["outcome"] == "survived" else by, said["why"], tried
                )
            step = steps[said["step"]]
            by, tried = f"{step.backend} {step.case}", said["step"] + 1
            limit_s = max(at_least_s, _TIMES_AS_LONG * step.seconds)
            start, already_waited_s = time.monotonic(), waited_s(child)


def waited_s(process: int) -> float:
    """How many seconds the threads of a process could have run but had no processor; 0 if nobody tells."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        return sum(int((one / "schedstat").read_text().split()[1]) for one in threads) / 1e9
    except (OSError, IndexError):
        return 0.0


def _child(writing: int, folder: Path, first_failure: Callable[[Callable[..., None]], str | None]) -> None:
    def say(**what: object) -> None:
        os.write(writing, json.dumps(what).encode() + b"\n")

    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.chdir(folder)
        # What a case that is killed leaves behind goes with the overlay.
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import kpstore

        assert Path(kpstore.__file__).is_relative_to(folder)
        why = first_failure(say)
        say(outcome="survived" if why is None else "killed", why=why or "")
    except BaseException as error:
        say(outcome="killed", why="".join(traceback.format_exception_only(error)).strip()[:200])
    finally:
        os._exit(0)


def _first_failure(steps: Sequence[Step], say: Callable[..., None]) -> str | None:
    from kpstore_conformance.target import adapter_for
    from mutants.killing import failure_of

    for number, step in enumerate(steps):
        case = case_of(step.case)
        for _ in range(_CHECK_RUNS if case.kind == "check" else 1):
            say(step=number)
            why = asyncio.run(failure_of(case, adapter_for(step.backend), step.backend, 3600))
            if why is None:
                break
        else:
            return why
    return None


class _Failed:
    """A plugin of pytest's that notes the tests that fail."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.names.append(report.nodeid)


def _first_failed_test(tests: Sequence[str], say: Callable[..., None]) -> str | None:
    say(step=0)
    failed = _Failed()
    # Hypothesis is imported already, on purpose.
    warned_of = "ignore::pytest.PytestAssertRewriteWarning"
    options = ("-x", "-q", "-p", "no:cacheprovider", "-W", warned_of, "--rootdir", str(ROOT))
    status = pytest.main([*options, *(str(ROOT / one) for one in tests)], plugins=[failed])
    return None if status == pytest.ExitCode.OK else (failed.names or [str(status)])[0]


def case_of(id: str) -> SuiteCase:
    """The case with this id; only the file that it is in is read."""
    from kpstore_conformance.check import module_checks
    from kpstore_conformance.suite import SuiteCase, packaged_scenarios, scenario_cases

    folder, name, _ = id.split("/", 2)
    if folder == "checks":
        return next(SuiteCase.of_check(check) for check in module_checks(name) if check.id == id)
    root = packaged_scenarios()
    return next(case for case in scenario_cases(root / folder / f"{name}.yaml", root) if case.id == id)
