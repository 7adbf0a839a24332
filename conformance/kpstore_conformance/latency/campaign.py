"""Do latency budgets flake, and do they lie? Measured: no alarm where a store is sound, one where it is not.

    python -m kpstore_conformance.latency.campaign --trials 100 --hogs 4

starts processes that do nothing but keep a processor busy, and then holds a sound store and the same one with
every call made twice to the baseline of this class of machines: in each trial one operation of each backend,
another one each time. A false alarm is a budget that the sound store broke, a miss one that the slow store
kept. Exit status 0: there was neither.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

from kpstore import AllStores
from kpstore_conformance.latency.baseline import load_baselines, machine_class
from kpstore_conformance.latency.bench import Bench
from kpstore_conformance.latency.statistics import Demand, broken, ratios
from kpstore_conformance.scenario import BudgetCase
from kpstore_conformance.scenario.catalogue import STORES
from kpstore_conformance.suite import Suite
from kpstore_conformance.target import BackendAdapter, adapter_for, probe

__all__ = ["main", "twice_as_slow"]

_RECORDS = 1000

_ONCE = frozenset({"delete", "revoke"})
"""Methods that find nothing to do the second time: made twice, they are hardly slower."""


def twice_as_slow(stores: AllStores) -> AllStores:
    """The same stores with every call made twice: exactly twice the work, on every thread and disk."""

    def called_twice(method: Callable[..., Any]) -> Callable[..., Any]:
        async def twice(*arguments: Any, **named: Any) -> Any:
            await method(*arguments, **named)
            return await method(*arguments, **named)

        return twice

    def begun_twice(method: Callable[..., Any]) -> Callable[..., Any]:
        async def twice(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
            async with aclosing(method(*arguments, **named)) as first:
                await anext(first, None)
            async with aclosing(method(*arguments, **named)) as second:
                async for item in second:
                    yield item

        return twice

    for store, methods in STORES.items():
        for name, method in methods.items():
            found = getattr(getattr(stores, store), name, None)
            if found is not None and name not in _ONCE:
                slow = begun_twice(found) if method.iterates else called_twice(found)
                setattr(getattr(stores, store), name, slow)
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
    """One backend, sound and slow, with the baselines that both are held to."""

    def __init__(self, adapter: BackendAdapter, cases: Sequence[BudgetCase], file: Path | None) -> None:
        self._adapter = adapter
        self._facts = asyncio.run(probe(adapter))
        self.name = self._facts.name
        self._baselines = load_baselines(self.name, file)
        self._cases = [case for case in cases if case.id in self._baselines]
        if not self._cases:
            sys.exit(f"no baseline of {self.name} for {machine_class()}: record one")
        self._stack = ExitStack()

    def close(self) -> None:
        """Remove what was measured on."""
        self._stack.close()

    def errors(self, trial: int) -> Iterator[tuple[str, str]]:
        """What was judged wrongly in a trial: what kind of error it is, and what happened."""
        number = trial % len(self._cases)
        if number == 0:  # once more from the start: not on what writes have left behind
            self.close()
            self._sound = self._bench(lambda stores: stores)
            self._slow = self._bench(twice_as_slow)
        case = self._cases[number]
        demand = Demand(
            case.budget.statistic,
            case.budget.limit_ms(self.name),
            case.budget.growth_at_most(self.name),
            self._baselines[case.id],
        )
        faults = broken(self._sound.measure(case, demand), demand)
        if faults:
            yield "false alarms", f"{case.id}: {'; '.join(fault.text for fault in faults)}"
        slow = self._slow.measure(case, demand)
        if not broken(slow, demand):
            came = ", ".join(f"{gate} ratio {ratio:.3g}" for gate, ratio in ratios(slow).items())
            yield "misses", f"{case.id}: {came}; recorded {dict(self._baselines[case.id].ratios)}"

    def _bench(self, wrap: Callable[[AllStores], AllStores]) -> Bench:
        return self._stack.enter_context(closing(Bench(self._adapter, self._facts, wrap=wrap)))


def _operations() -> list[BudgetCase]:
    works = [case.work for case in Suite().cases()]
    budgets = [work for work in works if isinstance(work, BudgetCase) and work.records == _RECORDS]
    twice = [work for work in budgets if work.budget.method.name not in _ONCE]
    return sorted(twice, key=lambda work: work.turn)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, metavar="N")
    parser.add_argument("--hogs", type=int, default=4, metavar="N", help="busy processes beside it")
    parser.add_argument(
        "--backend", action="append", metavar="NAME|module:callable", help="memory and sqlite"
    )
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="besides those of the suite")
    options = parser.parse_args(arguments)
    errors: Counter[tuple[str, str]] = Counter()
    with ExitStack() as stack:
        stack.enter_context(_hogs(options.hogs))
        contestants = [
            stack.enter_context(closing(_Contestant(adapter_for(name), _operations(), options.baseline)))
            for name in options.backend or ("memory", "sqlite")
        ]
        for trial in range(options.trials):
            start_s = time.perf_counter()
            for one in contestants:
                for kind, told in one.errors(trial):
                    errors[one.name, kind] += 1
                    print(f"  {kind}: {one.name}: {told}")
            took_s = time.perf_counter() - start_s
            print(f"trial {trial + 1}: {took_s:.1f} s, so far {errors.total()} errors", flush=True)
    print(f"{options.trials} trials beside {options.hogs} hogs")
    for one in contestants:
        counted = (f"{errors[one.name, kind]} {kind}" for kind in ("false alarms", "misses"))
        print(f"  {one.name}: {', '.join(counted)}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
