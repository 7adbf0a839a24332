"""A developer's tool: `python -m kpstore_conformance.scenario validate FILE…` and `… run FILE… [--backend NAME]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kpstore_conformance.scenario.document import ScenarioFile, discover, load_file
from kpstore_conformance.scenario.yaml_nodes import ScenarioFileError


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where a file is refused or a case does not pass."""
    parser = argparse.ArgumentParser(prog="python -m kpstore_conformance.scenario", description=__doc__)
    parser.add_argument("command", choices=["validate", "run"])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--backend", default="memory", choices=["memory", "sqlite"])
    parser.add_argument("-k", dest="only", default="", help="run only cases whose id holds this text")
    options = parser.parse_args(arguments)
    files: list[ScenarioFile] = []
    refused = 0
    for path in discover(options.files):
        try:
            files.append(load_file(path))
        except ScenarioFileError as error:
            refused += 1
            print(error)
    cases = [case for file in files for scenario in file.scenarios for case in scenario.cases()]
    print(f"{len(files)} files with {len(cases)} cases, {refused} refused")
    return 1 if refused or not files else 0


if __name__ == "__main__":
    sys.exit(main())
