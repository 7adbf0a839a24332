"""Runs the suite against the mutants: which case, proving the broken clause, fails first.

`PYTHONPATH=tests python -m mutants.killing [NAME …]` prints the kill table in Markdown.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kpstore_conformance.check import Check
from kpstore_conformance.scenario import Case, run_case
from kpstore_conformance.suite import Suite, SuiteCase
from kpstore_conformance.target import BackendAdapter, BackendFacts, CaseTarget, adapter_for, probe

from kpstore import AllStores, Clock, Settings
from mutants.registry import Mutant, load_all

_TIMEOUT_S = 30.0  # ten times what the slowest case takes that is not about long times


@dataclass(frozen=True, slots=True)
class Kill:
    """The case that caught a mutant."""

    case_id: str
    summary: str
    tried: int
    seconds: float


class _MutantAdapter(BackendAdapter):
    """Opens the mutant where the correct backend would be opened; looks behind it as behind that one."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(f"mutants:{mutant.name}")
        self._mutant = mutant
        self._base = adapter_for(mutant.base)

    async def open(self, settings: Settings, clock: Clock) -> AllStores:
        stores: AllStores = await self._mutant.open_store(settings, clock)
        return stores

    def inspectors(self) -> frozenset[str]:
        return self._base.inspectors()

    async def inspect_sql(
        self, folder: Path, settings: Settings, sql: str, parameters: Sequence[object]
    ) -> list[dict[str, object]]:
        return await self._base.inspect_sql(folder, settings, sql, parameters)

    async def inspect_unsynced(self, folder: Path, settings: Settings) -> int:
        return await self._base.inspect_unsynced(folder, settings)

    async def inspect_raw(self, folder: Path, settings: Settings, needle: bytes) -> int:
        return await self._base.inspect_raw(folder, settings, needle)


@cache
def _facts(base: str) -> BackendFacts:
    return asyncio.run(probe(adapter_for(base)))


@cache
def _cases() -> tuple[SuiteCase, ...]:
    return tuple(Suite().cases())


def _cost(case: SuiteCase) -> tuple[bool, bool, float]:
    # A check that may take longer than others says so.
    return case.kind == "check", "heavy" in case.tags, getattr(case.work, "timeout_s", 0)


def cases_for(mutant: Mutant) -> list[SuiteCase]:
    """The cases that prove the mutant's clause and apply to its base, cheap ones first."""
    facts = _facts(mutant.base)
    found = [case for case in _cases() if mutant.clause in case.clauses and not case.missing(facts)]
    return sorted(found, key=_cost)


def kill(mutant: Mutant) -> Kill | None:
    """The first of those cases that fails on the mutant, or `None` if it survives them all."""
    start = time.perf_counter()
    for tried, case in enumerate(cases_for(mutant), 1):
        failure = asyncio.run(failure_of(case, _MutantAdapter(mutant), mutant.base, _TIMEOUT_S))
        if failure is not None:
            return Kill(case.id, failure, tried, time.perf_counter() - start)
    return None


async def failure_of(case: SuiteCase, adapter: BackendAdapter, name: str, timeout_s: float) -> str | None:
    """How a case fails on a backend, in a line, or `None` if it passes."""
    target = CaseTarget(adapter, name)
    try:
        async with asyncio.timeout(timeout_s):
            if isinstance(case.work, Check):
                await case.work.run(target)
                return None
            assert isinstance(case.work, Case)  # a latency budget proves no clause
            result = await run_case(case.work, target)
            return None if result.failure is None else result.failure.summary
    except TimeoutError:
        return f"no end after {timeout_s:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        await target.dispose()


def table(mutants: Sequence[Mutant]) -> tuple[list[str], int]:
    """The kill table's lines, and how many mutants survived."""
    lines = ["| clause | base | mutant | what is wrong | caught by |", "| --- | --- | --- | --- | --- |"]
    survivors = 0
    for mutant in sorted(mutants, key=lambda one: (_clause_key(one.clause), one.name)):
        found = kill(mutant)
        survivors += found is None
        caught = f"`{found.case_id}`" if found else "**survived**"
        print(f"{mutant.clause} {mutant.name}: {found or 'SURVIVED'}", file=sys.stderr, flush=True)
        bug = mutant.bug.replace("|", "\\|")
        lines.append(f"| {mutant.clause} | {mutant.base} | `{mutant.name}` | {bug} | {caught} |")
    return lines, survivors


def _clause_key(clause: str) -> tuple[str, int]:
    group, _, number = clause.partition("-")
    return group, int(number)


def main(names: Sequence[str]) -> int:
    """Print the table; 1 if a mutant survived."""
    mutants = load_all()
    lines, survivors = table([mutants[name] for name in names] if names else list(mutants.values()))
    print("\n".join(lines))
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
