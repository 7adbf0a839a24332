"""Baselines: what each budget cost, as multiples of the reference, on each class of machines.

A file of baselines is JSON:

    {"format": 1, "machines": {"<class>": {"<backend>": {"<case>": {"tail": 2.1, "median": 2.0}}}}}

Those that come with the suite are in `baselines.json` beside this module; a file given besides goes first.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, get_args

from kpstore_conformance.latency.statistics import Gate

__all__ = ["PACKAGED", "BaselineError", "Baselines", "load_baselines", "machine_class", "record"]

PACKAGED = Path(__file__).with_name("baselines.json")

_FORMAT = 1
_GATES = frozenset(get_args(Gate))


class BaselineError(Exception):
    """A file of baselines cannot be read; the message is one line."""


def machine_class() -> str:
    """What must be the same for ratios to be compared: the processor, how many, the system and the Python."""
    python = f"{platform.python_implementation()}-{'.'.join(platform.python_version_tuple()[:2])}"
    parts = (platform.system(), platform.machine(), _processor(), f"{os.cpu_count()}-cpus", python)
    return re.sub(r"[^a-z0-9.]+", "-", "_".join(parts).lower().replace("_", " "))


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


@dataclass(frozen=True, slots=True)
class Baselines:
    """The ratios recorded for one backend on this class of machines, by case."""

    cases: Mapping[str, Mapping[Gate, float]]

    def of(self, case_id: str) -> Mapping[Gate, float] | None:
        """The ratios of a case, if they were recorded."""
        return self.cases.get(case_id)


def load_baselines(backend: str, file: Path | None) -> Baselines:
    """Those of `file`, and for cases that it does not have those that come with the suite.

    Raises:
        BaselineError: a file cannot be read, or is none of baselines.
    """
    cases: dict[str, Mapping[Gate, float]] = {}
    for path in (PACKAGED, file):
        if path is not None:
            cases |= _read(path)["machines"].get(machine_class(), {}).get(backend, {})
    return Baselines(cases)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BaselineError(f"{path}: no JSON: {error}") from error
    if not _is_sound(document):
        raise BaselineError(f"{path}: no file of baselines of format {_FORMAT}")
    found: dict[str, Any] = document
    return found


def _is_sound(document: Any) -> bool:
    def all_in(value: Any, depth: int) -> bool:
        if not isinstance(value, dict):
            return False
        if depth:
            return all(all_in(inner, depth - 1) for inner in value.values())
        return value.keys() <= _GATES and all(isinstance(ratio, int | float) for ratio in value.values())

    return (
        isinstance(document, dict)
        and document.get("format") == _FORMAT
        and all_in(document.get("machines"), 3)
    )


def record(path: Path, backend: str, cases: Mapping[str, list[dict[Gate, float]]]) -> None:
    """Write the median of what each case gave into a file, in place of what it had of the same cases.

    Raises:
        BaselineError: the file is there and is none of baselines.
    """
    document: dict[str, Any] = _read(path) if path.exists() else {"format": _FORMAT, "machines": {}}
    into = document["machines"].setdefault(machine_class(), {}).setdefault(backend, {})
    for case, runs in cases.items():
        into[case] = {gate: float(f"{median(run[gate] for run in runs):.3g}") for gate in sorted(runs[0])}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", "utf-8")
