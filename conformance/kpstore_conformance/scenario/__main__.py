"""A developer's tool: validate scenario files, or run them, without pytest.

python -m kpstore_conformance.scenario validate FILE…
python -m kpstore_conformance.scenario run FILE… [--backend memory|sqlite] [-k TEXT]
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import kpstore
from kpstore_conformance.scenario.document import Case, ScenarioFile, discover, load_file
from kpstore_conformance.scenario.runner import CaseResult, run_case
from kpstore_conformance.scenario.yaml_nodes import ScenarioFileError

CAPABILITIES = {
    "memory": {"controllable_clock"},
    "sqlite": {"controllable_clock", "durable", "multi_process", "inspector.sql", "inspector.raw"},
}


class LocalTarget:
    """One case's data on one of the two local backends, in a folder of its own."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.name = backend
        self._folder = folder
        self._file = folder / "kpstore.db"

    def inspectors(self) -> frozenset[str]:
        """Both, where there is a file to look into."""
        return frozenset({"sql", "raw"} if self.name == "sqlite" else ())

    async def open(self, clock: kpstore.Clock) -> kpstore.AllStores:
        """A handle on the data."""
        settings = kpstore.Settings(sqlite_path=str(self._file))
        return await kpstore.create_store(self.name, settings=settings, clock=clock)

    async def inspect_sql(self, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
        """The rows of a query through a connection of its own."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, tuple(parameters))]

    async def inspect_raw(self, needle: bytes) -> int:
        """How often the bytes occur in the database, its WAL and whatever else is in the folder."""
        return sum(file.read_bytes().count(needle) for file in sorted(self._folder.iterdir()))

    async def dispose(self) -> None:
        """Nothing: the folder is its owner's."""


async def _run(case: Case, backend: str) -> CaseResult:
    with tempfile.TemporaryDirectory(prefix="kpstore-") as folder:
        return await run_case(case, LocalTarget(backend, Path(folder)))


def _run_all(cases: list[Case], backend: str) -> int:
    counts = {"passed": 0, "failed": 0, "error": 0, "not applicable": 0}
    seconds = 0.0
    for case in cases:
        if not case.scenario.requires <= CAPABILITIES[backend]:
            counts["not applicable"] += 1
            continue
        result = asyncio.run(_run(case, backend))
        counts[result.outcome] += 1
        seconds += result.duration_s
        if result.failure is not None:
            print(result.failure.render(rerun=None))
    print(
        f"{backend}: " + ", ".join(f"{count} {name}" for name, count in counts.items()), f"in {seconds:.1f} s"
    )
    return 0 if counts["passed"] and not counts["failed"] and not counts["error"] else 1


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where a file is refused or a case does not pass."""
    parser = argparse.ArgumentParser(
        prog="python -m kpstore_conformance.scenario",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["validate", "run"])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--backend", default="memory", choices=["memory", "sqlite"])
    parser.add_argument("-k", dest="only", default="", help="run only the cases whose id holds this text")
    options = parser.parse_args(arguments)
    files: list[ScenarioFile] = []
    refused = 0
    folders = [path for path in options.files if path.is_dir()]
    for path in discover(options.files):
        root = next((folder for folder in folders if path.is_relative_to(folder)), None)
        try:
            files.append(load_file(path, root=root))
        except ScenarioFileError as error:
            refused += 1
            print(error)
    cases = [case for file in files for scenario in file.scenarios for case in scenario.cases()]
    print(f"{len(files)} files with {len(cases)} cases, {refused} refused")
    status = 1 if refused or not files else 0
    if options.command == "run":
        chosen = [case for case in cases if options.only in case.id]
        status |= _run_all(chosen, options.backend)
    return status


if __name__ == "__main__":
    sys.exit(main())
