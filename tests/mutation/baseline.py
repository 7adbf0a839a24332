"""Which case runs which line of the library, and how long it takes: kept by coverage.py, a file per backend.

Each line has the cases that execute it, and `""` for the import. What the processes of a case execute counts
too, but for those that are killed; that they import the library as well is of no interest.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from mutation.generating import ROOT
from mutation.running import waited_s

KEPT = ROOT / ".mutation"
BACKENDS = ("memory", "sqlite")
# These fail on a busy machine, whatever they run on: only where they are asked for.
TIMED = "checks/event_loop/"

_IN_PROCESS = "process:"  # before the id of a case, where a process of its own executed the line
_CASE = "MUTATION_CASE"
_PROCESSES = """\
[run]
data_file = {kept}/lines.{backend}.process
parallel = true
sigterm = true
source = {root}/kpstore
context = {prefix}${{{variable}}}
"""


def take_baseline(backend: str, globs: Sequence[str]) -> list[str]:
    """Run the cases on the original and note what each one executes; how those fail that do.

    With `globs`, only the cases that match, beside what is known already.
    """
    import coverage

    KEPT.mkdir(exist_ok=True)
    measuring = coverage.Coverage(data_file=str(KEPT / f"lines.{backend}"), source=[str(ROOT / "kpstore")])
    times: dict[str, float] = {}
    if globs:
        measuring.load()
        times |= seconds(backend)
    settings = KEPT / f"processes.{backend}.ini"
    settings.write_text(
        _PROCESSES.format(kept=KEPT, backend=backend, root=ROOT, prefix=_IN_PROCESS, variable=_CASE)
    )
    os.environ["COVERAGE_PROCESS_START"] = str(settings)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        # Every Python looks for a module of this name when it starts.
        Path(folder, "sitecustomize.py").write_text("import coverage; coverage.process_startup()")
        sys.path.insert(0, folder)
        measuring.start()
        from kpstore_conformance.suite import Suite
        from kpstore_conformance.target import adapter_for, probe
        from mutants.killing import failure_of

        facts = asyncio.run(probe(adapter_for(backend)))
        for case in Suite().cases():
            if globs:
                is_wanted = any(fnmatch.fnmatchcase(case.id, one) for one in globs)
            else:
                is_wanted = not case.id.startswith(TIMED)
            if not is_wanted or case.missing(facts) or case.kind == "latency":
                continue
            os.environ[_CASE] = case.id
            measuring.switch_context(case.id)
            start, before_s = time.perf_counter(), waited_s(os.getpid())
            why = asyncio.run(failure_of(case, adapter_for(backend), backend, 3600))
            measuring.switch_context("")
            if why is None:
                # What other work on the machine took does not count; but threads wait at the same time,
                # and all of their waiting may be longer than the case was.
                took_s, waiting_s = time.perf_counter() - start, waited_s(os.getpid()) - before_s
                times[case.id] = round(max(took_s / 4, took_s - waiting_s), 4)
            else:
                failed.append(f"{backend} {case.id}: {why}")
        measuring.stop()
    measuring.combine([str(file) for file in KEPT.glob(f"lines.{backend}.process.*")])
    measuring.save()
    (KEPT / f"seconds.{backend}.json").write_text(json.dumps(times, indent=0))
    return failed


def backends() -> list[str]:
    """The backends whose baseline is known: the campaign goes by these."""
    return [backend for backend in BACKENDS if (KEPT / f"seconds.{backend}.json").exists()]


@cache
def seconds(backend: str) -> dict[str, float]:
    """How long each case that passes takes, by id."""
    loaded: dict[str, float] = json.loads((KEPT / f"seconds.{backend}.json").read_text())
    return loaded


@cache
def _cases(backend: str, file: str) -> dict[int, set[str]]:
    import coverage

    data = coverage.CoverageData(str(KEPT / f"lines.{backend}"))
    data.read()
    found: dict[int, set[str]] = {}
    for line, contexts in data.contexts_by_lineno(str(ROOT / file)).items():
        is_import = "" in contexts
        found[line] = {
            context.removeprefix(_IN_PROCESS)
            for context in contexts
            if not (is_import and context.startswith(_IN_PROCESS))
        }
    return found


def cases_at(file: str, lines: Iterable[int]) -> dict[str, set[str]]:
    """By backend, the cases that execute one of the lines; `""` stands for the import."""
    wanted = list(lines)
    return {
        backend: {case for line in wanted for case in _cases(backend, file).get(line, ())}
        for backend in backends()
    }
