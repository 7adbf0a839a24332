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

_SUBCOMMANDS = {
    "conformance": ("kpstore_conformance.cli", "prove a backend: run, list, validate, clauses"),
    "bench": ("kpstore_conformance.bench.cli", "measure backends, and compare what was measured"),
}
"""Commands that come with the extra of their name: the module whose `main` runs each, and its purpose."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="kpstore", description="The KnowledgePulse stores, and the suite that proves a backend right."
    )
    parser.add_argument("--version", action="version", version=f"kpstore {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    # Their own parsers read what follows: their options are known only where they are installed.
    for name, (_, purpose) in _SUBCOMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False, prefix_chars="\0")
    if given[:1] and given[0] in _SUBCOMMANDS:
        return _subcommand(given[0], given[1:])
    parser.parse_args(given)
    parser.print_help()
    return USAGE


def _subcommand(name: str, arguments: Sequence[str]) -> int:
    module, _ = _SUBCOMMANDS[name]
    try:
        command = import_module(module)
    except ModuleNotFoundError as error:
        print(
            f"kpstore {name}: {error.name} is not installed; it comes with: pip install 'kpstore[{name}]'",
            file=sys.stderr,
        )
        return USAGE
    status: int = command.main(arguments)
    return status
