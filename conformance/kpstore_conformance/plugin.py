"""The pytest face, as far as pytest always loads it: the options, and nothing else until one of them is used.

`pytest scenarios --backend memory` collects the scenario files below `scenarios` and runs each case on
the backend. Everything that needs more than pytest is imported when `--backend` is given; without it this
plugin does nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["INSTALL", "is_scenario_file"]

INSTALL = "pip install 'kpstore[conformance]'"
"""What brings in everything that the suite needs."""

_RUN_PLUGIN = "kpstore_conformance_run"

_OPTIONS: dict[str, dict[str, Any]] = {
    "backend": {
        "action": "append",
        "metavar": "NAME|module:callable",
        "help": "the backend that the scenarios and checks are run on",
    },
    "against": {
        "metavar": "NAME|module:callable",
        "help": "another backend: every case that applies to both is run on both, and their answers compared",
    },
    "adapter": {
        "metavar": "module:Class",
        "help": "the BackendAdapter that gives each case its own stores (default: the backend's)",
    },
    "known": {"metavar": "FILE", "help": "YAML file of the cases that are known to fail, or flaky"},
    "report": {"metavar": "DIR", "help": "write conformance.json and junit.xml into this folder"},
    "latency": {
        "choices": ("none", "quick", "full", "night"),
        "help": "how much of the latency budgets is measured (default: quick)",
    },
    "baseline": {"metavar": "FILE", "help": "the ratios that latencies were recorded with on this machine"},
    "case": {
        "action": "append",
        "metavar": "GLOB",
        "help": "only the cases whose id is this, or matches it (`*` and `?`); may be repeated",
    },
}

# A scenario file says `format:` and `scenarios:` at its top; one of them is enough, so that a file in
# which the other is misspelt is refused rather than overlooked.
_MARKS = re.compile(
    rb"^(?:format|scenarios|latency|['\"](?:format|scenarios|latency)['\"])\s*:", re.MULTILINE
)
_BOTH_MARKS = (
    re.compile(rb"^format\s*:", re.MULTILINE),
    re.compile(rb"^(?:scenarios|latency)\s*:", re.MULTILINE),
)


def is_scenario_file(path: Path, *, strictly: bool = False) -> bool:
    """Whether a file looks like a scenario file. `strictly`: as far as a stranger's YAML cannot be meant."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if strictly:
        return all(mark.search(data) for mark in _BOTH_MARKS)
    return _MARKS.search(data) is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options under names that nobody else has."""
    group = parser.getgroup("kpstore", "kpstore conformance")
    for name, attributes in _OPTIONS.items():
        group.addoption(f"--kpstore-{name}", dest=f"kpstore_{name}", default=None, **attributes)
    for name, help_text in (
        ("scenarios", "a folder of scenarios besides the packaged ones; may be repeated"),
        ("no-packaged", "leave out the packaged scenarios and checks"),
    ):
        dest = f"kpstore_{name.replace('-', '_')}"
        action = "store_true" if name == "no-packaged" else "append"
        group.addoption(f"--kpstore-{name}", dest=dest, action=action, help=help_text)
    # For `kpstore conformance run`, to which an exit status alone is no verdict.
    group.addoption("--kpstore-tell", dest="kpstore_tell", type=int, default=None, help=argparse.SUPPRESS)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Generator[None, object, object]:
    """The short names of the options, once every conftest.py and plugin has taken what it wants:
    `--backend` is a name that other people's tests use too, and theirs wins.
    """
    result = yield
    group = parser.getgroup("kpstore")
    for name, attributes in _OPTIONS.items():
        if _is_free(parser, f"--{name}"):
            group.addoption(f"--{name}", dest=f"kpstore_{name}", default=None, **attributes)
    return result


def _is_free(parser: pytest.Parser, option: str) -> bool:
    try:
        _, unknown = parser.parse_known_and_unknown_args([f"{option}=x"])
    except pytest.UsageError:
        return False  # somebody knows it, and does not like the value
    return bool(unknown)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; where a backend is given, bring in what runs the suite."""
    config.addinivalue_line(
        "markers", "clauses(*ids): the clauses of the store contract that a test proves, such as 'SQL-3'"
    )
    backends = config.getoption("kpstore_backend")
    if not backends:
        return
    if len(backends) > 1:
        raise pytest.UsageError(f"one backend per run, not {len(backends)}: {', '.join(backends)}")
    pytest.register_assert_rewrite("kpstore_conformance.checks")
    try:
        from kpstore_conformance.running import ConformanceRun
    except ModuleNotFoundError as error:
        raise pytest.UsageError(f"--backend needs {error.name}: {INSTALL}") from error
    config.pluginmanager.register(ConformanceRun(config, backends[0]), _RUN_PLUGIN)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A scenario file that is named on the command line, without a backend: say what is missing."""
    if parent.config.pluginmanager.has_plugin(_RUN_PLUGIN):
        return None
    if not parent.session.isinitpath(file_path) or not is_scenario_file(file_path, strictly=True):
        return None
    return _BackendMissing.from_parent(parent, path=file_path)


class _BackendMissing(pytest.File):
    def collect(self) -> list[pytest.Item]:
        raise self.CollectError(
            f"{self.path.name} is a kpstore scenario file: give --backend, as in --backend memory"
        )
