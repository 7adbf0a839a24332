"""`kpstore conformance …`: run the suite on a backend, list it, check scenario files, and see what proves
a clause.

Exit status: 0 a success; 1 the backend, a file or the suite is not as it should be; 2 the command makes
no sense.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from kpstore_conformance.clauses import Proof, marked_tests, proofs
from kpstore_conformance.known import matches
from kpstore_conformance.latency.baseline import BaselineError, machine_class
from kpstore_conformance.latency.judging import LEVELS
from kpstore_conformance.plugin import INSTALL
from kpstore_conformance.scenario import CLAUSES, Problem, ScenarioFileError, discover
from kpstore_conformance.suite import Suite, SuiteCase, root_of, scenario_cases
from kpstore_conformance.target import AdapterError, adapter_for

__all__ = ["add_arguments", "main"]

USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the suite's commands; the parsed namespace's `run_command` is the one to call."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="run the suite on a backend and give the verdict",
        description="Run the packaged scenarios and checks, and further folders of scenarios, on a backend.",
    )
    run.add_argument(
        "--backend", required=True, metavar="NAME|module:callable", help="the backend to be proved"
    )
    run.add_argument(
        "--against",
        metavar="NAME|module:callable",
        help="another backend: compare every answer with that backend's",
    )
    run.add_argument(
        "--adapter", metavar="module:Class", help="gives each case its own stores of the backend"
    )
    _add_folders(run)
    run.add_argument("--report", metavar="DIR", help="write conformance.json and junit.xml into this folder")
    run.add_argument(
        "--known", metavar="FILE", help="YAML file of the cases that are known to fail, or flaky"
    )
    run.add_argument(
        "-k", dest="expression", metavar="EXPR", help="only what matches, as in pytest (no level then)"
    )
    run.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="GLOB",
        help="only the cases with this id, or that match it by `*` and `?` (no level then); may be repeated",
    )
    run.add_argument(
        "--latency",
        choices=LEVELS,
        help="measure the latency budgets of up to 10,000 records (quick, the default), 100,000 (full) or all"
        " (night)",
    )
    run.add_argument(
        "--no-latency",
        dest="latency",
        action="store_const",
        const="none",
        help="leave out the latency budgets",
    )
    run.add_argument(
        "--baseline", metavar="FILE", help="hold latencies to the ratios that were recorded in this file"
    )
    run.add_argument("-n", dest="processes", metavar="N", help="run in N processes at once (or `auto`)")
    run.add_argument("-v", "--verbose", action="store_true", help="a line per case, and why one was skipped")
    run.add_argument(
        "-x", "--exitfirst", action="store_true", help="stop at the first failure (no level then)"
    )
    run.set_defaults(run_command=_run)

    baseline = commands.add_parser(
        "baseline",
        help="record what the latency budgets cost on this class of machines",
        description="Measure the latency budgets several times over and record their cost, as multiples of a"
        " reference, in a file for --baseline.",
    )
    baseline.add_argument("--backend", required=True, metavar="NAME|module:callable", help="the backend")
    baseline.add_argument("--adapter", metavar="module:Class", help="gives the stores of the backend")
    _add_folders(baseline)
    baseline.add_argument("--latency", choices=LEVELS[1:], default="quick", help="up to which size")
    baseline.add_argument("--case", action="append", default=[], metavar="GLOB", help="only those that match")
    baseline.add_argument("--into", required=True, type=Path, metavar="FILE", help="the file to write into")
    baseline.set_defaults(run_command=_baseline)

    listing = commands.add_parser(
        "list", help="list the cases", description="List the ids of the suite's cases."
    )
    _add_folders(listing)
    listing.add_argument("--case", action="append", default=[], metavar="GLOB", help="only those that match")
    listing.add_argument("-v", "--verbose", action="store_true", help="with their clauses and requirements")
    listing.set_defaults(run_command=_list)

    validate = commands.add_parser(
        "validate",
        help="check scenario files without a backend",
        description="Check scenario files, and folders of them: each problem with file, line and column.",
    )
    validate.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="a scenario file, or a folder of them"
    )
    validate.set_defaults(run_command=_validate)

    clauses = commands.add_parser(
        "clauses",
        help="list what proves each clause",
        description="List each clause of the contract with what proves it; exit status 1 where nothing does.",
    )
    _add_folders(clauses)
    clauses.add_argument(
        "--tests",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="count the pytest tests below this folder that are marked with clauses; may be repeated",
    )
    clauses.add_argument("-q", "--quiet", action="store_true", help="numbers instead of names")
    clauses.set_defaults(run_command=_clauses)


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenarios",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of scenarios besides the packaged ones; may be repeated",
    )
    parser.add_argument("--no-packaged", action="store_true", help="leave out what comes with the suite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the suite; gives the exit status."""
    parser = argparse.ArgumentParser(prog="kpstore conformance", description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    options = parser.parse_args(arguments)
    status: int = options.run_command(options)
    return status


def _complain(message: str) -> int:
    print(f"kpstore conformance: {message}", file=sys.stderr)
    return USAGE


def _suite(options: argparse.Namespace) -> Suite:
    return Suite(tuple(folder.resolve() for folder in options.scenarios), packaged=not options.no_packaged)


def _missing_folder(options: argparse.Namespace) -> str | None:
    return next((f"{folder}: no such folder" for folder in options.scenarios if not folder.is_dir()), None)


def _run(options: argparse.Namespace) -> int:
    missing = _missing_folder(options)
    if missing is not None:
        return _complain(missing)
    if options.processes is not None and find_spec("xdist") is None:
        return _complain(f"-n needs pytest-xdist: {INSTALL}")
    if options.processes is not None and options.processes != "auto" and not options.processes.isdecimal():
        return _complain(f"-n {options.processes!r}: a number of processes, or auto")
    # A file that cannot be read is its author's next step, whatever else was asked for.
    _, problems = _suite(options).readable_scenarios()
    if problems:
        _print_problems(problems)
        return USAGE

    return _in_a_process_of_its_own(_pytest_arguments(options))


def _baseline(options: argparse.Namespace) -> int:
    missing = _missing_folder(options)
    if missing is not None:
        return _complain(missing)
    from kpstore_conformance.latency.recording import record_baseline

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    cases, problems = _suite(options).readable_scenarios()
    if problems:
        _print_problems(problems)
        return USAGE
    try:
        recorded = record_baseline(
            adapter_for(options.backend, options.adapter),
            [case for case in cases if not options.case or any(matches(g, case.id) for g in options.case)],
            options.latency,
            options.into,
        )
    except (AdapterError, BaselineError) as error:
        return _complain(str(error))
    print(f"{recorded} budgets recorded in {options.into} for {machine_class()}", file=sys.stderr)
    return 0 if recorded else 1


def _in_a_process_of_its_own(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; the exit status of the command.

    The backend is never imported here: what it does to its process, down to leaving it with an exit status of
    its choice, cannot pass for a verdict.
    """
    reading, writing = os.pipe()
    # Neither options nor plugins from the environment: the verdict is the same wherever the command is given.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    command = [sys.executable, "-P", "-m", "kpstore_conformance", f"--kpstore-tell={writing}", *arguments]
    with subprocess.Popen(command, env=environment, pass_fds=[writing]) as process:  # noqa: S603  # ourselves
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            try:
                told = pipe.read()
                status = process.wait()
            except KeyboardInterrupt:
                process.wait()
                return 1
    if told == b"passed" and status == 0:
        return 0
    if not told and status != USAGE:
        print(f"kpstore conformance: no verdict: the run ended with exit status {status}", file=sys.stderr)
    elif told == b"passed":
        print(f"kpstore conformance: after the verdict, exit status {status}", file=sys.stderr)
    return USAGE if status == USAGE and not told else 1


def _pytest_arguments(options: argparse.Namespace) -> list[str]:
    anchor = Path(__file__).with_name("suite.ini")
    arguments = [
        str(anchor),
        f"-c{anchor}",
        f"--rootdir={anchor.parent}",
        f"--confcutdir={anchor.parent}",
        "--noconftest",
        "-pno:cacheprovider",
        "-pkpstore_conformance.plugin",
        "--no-header",
        "--disable-warnings",
        "-rN",
        f"--kpstore-backend={options.backend}",
        *(["-v", "-rs"] if options.verbose else ["-qq"]),
        *(["-x"] if options.exitfirst else []),
        *([f"-k{options.expression}"] if options.expression is not None else []),
        *(
            ["-pxdist.plugin", f"-n{options.processes}", "--dist=loadgroup"]
            if options.processes is not None
            else []
        ),
        *(["--kpstore-no-packaged"] if options.no_packaged else []),
        *(f"--kpstore-scenarios={folder.resolve()}" for folder in options.scenarios),
        *(f"--kpstore-case={glob}" for glob in options.case),
    ]
    for name in ("against", "adapter", "known", "report", "latency", "baseline"):
        value = getattr(options, name)
        if value is not None:
            arguments.append(f"--kpstore-{name}={value}")
    return arguments


def _list(options: argparse.Namespace) -> int:
    missing = _missing_folder(options)
    if missing is not None:
        return _complain(missing)
    try:
        cases = _suite(options).cases()
    except ScenarioFileError as error:
        _print_problems(error.problems)
        return 1
    shown = [
        case for case in cases if not options.case or any(matches(glob, case.id) for glob in options.case)
    ]
    for case in shown:
        if options.verbose:
            needs = f"  needs {', '.join(case.requires)}" if case.requires else ""
            print(f"{case.id}\n    {' '.join(case.clauses)}{needs}\n    {case.file}:{case.line}")
        else:
            print(case.id)
    print(f"{len(shown)} of {len(cases)} cases", file=sys.stderr)
    return 0 if shown else 1


def _validate(options: argparse.Namespace) -> int:
    problems: list[Problem] = []
    cases: list[SuiteCase] = []
    files = 0
    for given in options.files:
        if not given.exists():
            problems.append(Problem(given, 1, 1, "no such file or folder"))
            continue
        paths = discover([given]) if given.is_dir() else [given]
        if not paths:
            problems.append(Problem(given, 1, 1, "no scenario file in this folder"))
        for path in paths:
            try:
                cases.extend(scenario_cases(path, root_of(path, ())))
                files += 1
            except ScenarioFileError as error:
                problems.extend(error.problems)
    _print_problems(problems)
    if files:
        scenarios = len({case.id.partition("[")[0] for case in cases})
        noun = "file" if files == 1 else "files"
        print(f"{files} {noun} in order, with {scenarios} scenarios ({len(cases)} cases)")
    return 1 if problems else 0


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        count = len({problem.file for problem in problems})
        noun = "problem" if len(problems) == 1 else "problems"
        print(f"{len(problems)} {noun} in {count} {'file' if count == 1 else 'files'}", file=sys.stderr)


def _clauses(options: argparse.Namespace) -> int:
    missing = _missing_folder(options)
    if missing is not None:
        return _complain(missing)
    for folder in options.tests:
        if not folder.is_dir():
            return _complain(f"{folder}: no such folder")
    try:
        marks = [mark for folder in options.tests for mark in marked_tests(folder)]
        found = proofs(_suite(options), marks)
    except ScenarioFileError as error:
        _print_problems(error.problems)
        return 1
    except (ValueError, SyntaxError) as error:
        print(error, file=sys.stderr)
        return 1
    for proof in found:
        _print_proof(proof, quiet=options.quiet)
    bare = [proof.clause for proof in found if not proof.proven]
    if bare:
        print(f"{len(bare)} of {len(found)} clauses have no proof: {', '.join(bare)}", file=sys.stderr)
        return 1
    print(f"all {len(found)} clauses have a proof", file=sys.stderr)
    return 0


def _print_proof(proof: Proof, *, quiet: bool) -> None:
    kinds = (("scenario", proof.scenarios), ("check", proof.checks), ("test", proof.tests))
    numbers = ", ".join(f"{len(ids)} {kind}{'' if len(ids) == 1 else 's'}" for kind, ids in kinds if ids)
    print(f"{proof.clause:<9}{CLAUSES[proof.clause]}")
    print(f"         {numbers or 'NOTHING PROVES IT'}")
    if not quiet:
        for _, ids in kinds:
            for one in ids:
                print(f"           {one}")
