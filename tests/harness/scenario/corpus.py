"""What the tests of the corpus share: a target for its cases, and texts that stay the same between runs."""

from __future__ import annotations

import asyncio
import re
import tempfile
from contextlib import closing
from pathlib import Path

from kpstore_conformance.latency.bench import Bench, WrongAnswerError
from kpstore_conformance.latency.statistics import Demand, broken
from kpstore_conformance.scenario import BudgetCase, Case, CaseResult, load_file, run_case
from kpstore_conformance.scenario.__main__ import CAPABILITIES, LocalTarget
from kpstore_conformance.target import adapter_for, probe

from kpstore import KpStoreError

HERE = Path(__file__).parent


def cases(folder: str) -> list[Case]:
    """Every case of a folder of the corpus."""
    files = [load_file(path, root=HERE) for path in sorted((HERE / folder).glob("*.yaml"))]
    return [case for file in files for scenario in file.scenarios for case in scenario.cases()]


def budget_cases(folder: str) -> list[BudgetCase]:
    """Every case of every budget of a folder of the corpus."""
    files = [load_file(path, root=HERE) for path in sorted((HERE / folder).glob("*.yaml"))]
    return [case for file in files for case in file.budget_cases()]


def measure(case: BudgetCase) -> str:
    """What a budget says of the memory backend: what is broken, or the error."""
    adapter = adapter_for("memory")
    budget = case.budget
    demand = Demand(budget.statistic, budget.limit_ms("memory"), budget.growth_at_most("memory"))
    with closing(Bench(adapter, asyncio.run(probe(adapter)))) as bench:
        try:
            return ", ".join(fault.what for fault in broken(bench.measure(case, demand), demand))
        except (WrongAnswerError, KpStoreError) as error:
            return f"{type(error).__name__}: {error}"


def run(case: Case) -> CaseResult:
    """Runs a case on memory, or on SQLite where it needs more than memory has."""
    backend = "memory" if case.scenario.requires <= CAPABILITIES["memory"] else "sqlite"
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run_case(case, LocalTarget(backend, Path(folder))))


def settled(text: str) -> str:
    """The text without random ids, hashes and this machine's paths."""
    text = text.replace(f"{HERE}/", "")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>", text)
    text = re.sub(r"[0-9a-f]{64}", "<hash>", text)
    text = re.sub(r"kp_[0-9a-f]{8}", "kp_<prefix>", text)
    # How the library words its errors, and how often a backend keeps a text, is no business of the engine.
    text = re.sub(r"(ValidationError: [^:\n]+: |StoreClosedError: |came \"id: |came \{id: ).*", r"\1…", text)
    return re.sub(r"(occurrences: expected 0, came )[0-9]+", r"\1<n>", text)
