"""Baselines: what each budget cost, as multiples of the reference, on each class of machines.

A file of baselines is JSON:

    {"format": 1, "machines": {"<class>": {"<backend>": {"<case>":
        {"reference": "hop of 20", "ratios": {"tail": 2.1, "median": 2.0}}}}}}

Those that come with the suite are in `baselines.json` beside this module; a file given besides goes first.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from kpstore_conformance.latency.statistics import Baseline

__all__ = ["PACKAGED", "BaselineError", "load_baselines", "machine_class", "record"]

PACKAGED = Path(__file__).with_name("baselines.json")

_Cases = dict[str, Baseline]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal[1] = 1
    machines: dict[str, dict[str, _Cases]] = {}


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


def load_baselines(backend: str, file: Path | None) -> Mapping[str, Baseline]:
    """Of this class of machines, by case: those of `file`, and for cases that it does not have those of the
    suite.

    Raises:
        BaselineError: a file cannot be read, or is none of baselines.
    """
    cases: _Cases = {}
    for path in (PACKAGED, file):
        if path is not None:
            cases |= _read(path).machines.get(machine_class(), {}).get(backend, {})
    return cases


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise BaselineError(f"{path}: no file of baselines: {error}") from error
    except msgspec.DecodeError as error:
        raise BaselineError(f"{path}: no JSON: {error}") from error


def record(path: Path, backend: str, cases: Mapping[str, Sequence[Baseline]]) -> None:
    """Write the median of what each case gave into a file, in place of what it had of the same cases.

    Raises:
        BaselineError: the file is there and is none of baselines.
    """
    document = _read(path) if path.exists() else _File()
    into = document.machines.setdefault(machine_class(), {}).setdefault(backend, {})
    for case, runs in cases.items():
        middle = {gate: median(run.ratios[gate] for run in runs) for gate in runs[0].ratios}
        rounded = {gate: float(f"{ratio:.3g}") for gate, ratio in middle.items()}
        into[case] = Baseline(runs[0].reference, rounded)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=1) + b"\n")
