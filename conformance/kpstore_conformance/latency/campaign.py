"""Do latency budgets flake, and do they lie? Measured: no alarm where a store is sound, one where it is not.

    python -m kpstore_conformance.latency.campaign --trials 100 --hogs 4

records a baseline, starts processes that do nothing but keep a processor busy, and then holds a sound store
and the same one with every call made twice to that baseline, one operation of each store in each trial. A
false alarm is a budget that the sound store broke, a miss one that the slow store kept. Exit status 0: there
was neither.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from kpstore import AllStores
from kpstore_conformance.latency.baseline import load_baselines
from kpstore_conformance.latency.bench import Bench
from kpstore_conformance.latency.recording import record_baseline
from kpstore_conformance.latency.statistics import Demand, broken
from kpstore_conformance.scenario import BudgetCase
from kpstore_conformance.scenario.catalogue import STORES
from kpstore_conformance.suite import Suite, SuiteCase
from kpstore_conformance.target import BackendAdapter, adapter_for, probe

__all__ = ["main", "twice_as_slow"]

OPERATIONS = (
    "latency/skills/a skill is replaced[records=1000]",
    "latency/knowledge/a unit is found by its id[records=1000]",
    "latency/reputation/an agent's reputation changes[records=1000]",
    "latency/api_keys/a key verifies[records=1000]",
    "latency/rate_limit/a token is taken[records=1000]",
    "latency/audit_log/an entry is logged[records=1000]",
)
"""One of each store, reads and writes."""


def twice_as_slow(stores: AllStores) -> AllStores:
    """The same stores with every call made twice: exactly twice the work, on every thread and disk."""

    def doubled(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def twice(*arguments: Any, **named: Any) -> Any:
            result = await method(*arguments, **named)
            await method(*arguments, **named)
            return result

        return twice

    for store, methods in STORES.items():
        for name, method in methods.items():
            if not method.iterates and hasattr(getattr(stores, store), name):
                setattr(getattr(stores, store), name, doubled(getattr(getattr(stores, store), name)))
    return stores


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    command = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(count)]  # noqa: S603  # our own script
    try:
        yield
    finally:
        for hog in running:
            hog.kill()
            hog.wait()


class _Contestant:
    """One backend, sound and slow, with the baseline that both are held to."""

    def __init__(self, adapter: BackendAdapter, cases: Sequence[SuiteCase], file: Path) -> None:
        record_baseline(adapter, cases, "quick", file)
        facts = asyncio.run(probe(adapter))
        self.name = facts.name
        self._works = [case.work for case in cases if isinstance(case.work, BudgetCase)]
        self._baselines = load_baselines(facts.name, file)
        self.sound = Bench(adapter, facts, keep=True)
        self.slow = Bench(adapter, facts, keep=True, wrap=twice_as_slow)

    def broken_by(self, bench: Bench) -> Iterator[tuple[str, list[str]]]:
        """For each operation what it broke, a line each."""
        for work in self._works:
            demand = Demand(
                work.budget.statistic,
                work.budget.limit_ms(self.name),
                work.budget.growth_at_most(self.name),
                self._baselines.of(work.id),
            )
            faults = broken(bench.measure(work, demand), demand)
            yield f"{self.name}: {work.id}", [fault.text for fault in faults]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, metavar="N")
    parser.add_argument("--hogs", type=int, default=4, metavar="N", help="busy processes beside it")
    parser.add_argument(
        "--backend", action="append", metavar="NAME|module:callable", help="memory and sqlite"
    )
    options = parser.parse_args(arguments)
    found = {case.id: case for case in Suite().cases()}
    cases = [found[operation] for operation in OPERATIONS]
    alarms: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    trials_with = Counter({"false alarms": 0, "misses": 0})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpstore-campaign-")))
        contestants = [
            _Contestant(adapter_for(name), cases, folder / "baseline.json")
            for name in options.backend or ("memory", "sqlite")
        ]
        for one in contestants:
            stack.enter_context(closing(one.sound))
            stack.enter_context(closing(one.slow))
        stack.enter_context(_hogs(options.hogs))
        for trial in range(1, options.trials + 1):
            start_s = time.perf_counter()
            alarmed = [hit for one in contestants for hit in one.broken_by(one.sound) if hit[1]]
            missed = [case for one in contestants for case, faults in one.broken_by(one.slow) if not faults]
            for case, faults in alarmed:
                print(f"  FALSE ALARM {case}: {'; '.join(faults)}")
            for case in missed:
                print(f"  MISS {case}")
            alarms.update(case for case, _ in alarmed)
            misses.update(missed)
            trials_with["false alarms"] += bool(alarmed)
            trials_with["misses"] += bool(missed)
            told = ", ".join(f"{count} trials with {what}" for what, count in trials_with.items())
            print(f"trial {trial}: {time.perf_counter() - start_s:.1f} s · so far {told}", flush=True)
    held = len(cases) * len(contestants) * options.trials
    print(
        f"{options.trials} trials beside {options.hogs} hogs: {alarms.total()} false alarms in {held} budgets"
        f" of a sound store, {misses.total()} misses in {held} of one that is slower by 2"
    )
    for what, counts in (("false alarms", alarms), ("misses", misses)):
        for case, count in counts.most_common():
            print(f"  {what}: {count} × {case}")
    return 1 if alarms or misses else 0


if __name__ == "__main__":
    sys.exit(main())
