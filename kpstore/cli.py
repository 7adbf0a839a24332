"""The `kpstore` command. It needs nothing but the library; what a subcommand needs besides is imported by
it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from kpstore._version import __version__

__all__ = ["main"]

USAGE = 2
"""Exit status of a command that makes no sense, or cannot be run as things are installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="kpstore", description="The KnowledgePulse stores, and the suite that proves a backend right."
    )
    parser.add_argument("--version", action="version", version=f"kpstore {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    # Its own parser reads what follows: its options are known only where the suite is installed.
    commands.add_parser(
        "conformance", help="prove a backend: run, list, validate, clauses", add_help=False, prefix_chars="\0"
    )
    if given[:1] == ["conformance"]:
        return _conformance(given[1:])
    parser.parse_args(given)
    parser.print_help()
    return USAGE


def _conformance(arguments: Sequence[str]) -> int:
    try:
        suite = import_module("kpstore_conformance.cli")
    except ModuleNotFoundError as error:
        print(
            f"kpstore conformance: {error.name} is not installed; it comes with:"
            " pip install 'kpstore[conformance]'",
            file=sys.stderr,
        )
        return USAGE
    status: int = suite.main(arguments)
    return status
