"""The process in which `kpstore conformance run` runs pytest, with the backend in it."""

from __future__ import annotations

import os
import sys

import pytest

USAGE = 2


def main(arguments: list[str]) -> int:
    """Run pytest; the command's exit status."""
    for argument in arguments:
        if argument.startswith("--kpstore-tell="):
            os.set_inheritable(int(argument.partition("=")[2]), False)  # it is nobody else's
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - where a backend lies that is not packaged yet
    status = pytest.main(arguments)
    return USAGE if status == pytest.ExitCode.USAGE_ERROR else min(int(status), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
