"""Checks that a scenario file cannot say: how one is declared, found, and the `Lab` that it works in.

A check is a coroutine function in a module of `kpstore_conformance.checks`:

    @check(clauses=["GEN-10"], requires=["durable"], name="closing twice is closing once")
    async def closing_twice(lab: Lab) -> None:
        "A second close() neither raises nor waits."
        stores = await lab.open()
        await stores.close()
        await stores.close()
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kpstore import AllStores, Clock, ManualClock, Settings
from kpstore_conformance.scenario import CLAUSES
from kpstore_conformance.target import BackendAdapter, CaseTarget

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "REQUIREMENTS",
    "Check",
    "DifferenceError",
    "Lab",
    "check",
    "check_modules",
    "module_checks",
]

REQUIREMENTS = frozenset(
    {
        *("durable", "multi_process", "vector_search", "controllable_clock"),
        *("inspector.sql", "inspector.raw", "inspector.unsynced", "inspector.power_loss"),
    }
)
"""What a check or a scenario may require: the capabilities, and the inspectors of an adapter."""

DEFAULT_TIMEOUT_S = 120.0
"""A case that is silent for so long hangs: the longest of the shipped ones takes a tenth of it."""

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""Where a lab's clock starts; the same as a scenario's."""


class DifferenceError(AssertionError):
    """What a check raises where the backend answered otherwise than another one."""


class Lab:
    """What a check works with: stores on data of its own, isolated from every other case."""

    def __init__(self, target: CaseTarget) -> None:
        self._target = target
        self._opened: list[AllStores] = []
        self.clock = ManualClock(START)
        """The clock of every handle opened without one."""

    @property
    def settings(self) -> Settings:
        """The settings that lead to this case's data."""
        return self._target.settings

    @property
    def backend_spec(self) -> str:
        """What to give `create_store` as `backend`: a name or `module:callable`."""
        return self._target.adapter.spec

    @property
    def against(self) -> BackendAdapter | None:
        """The backend that the run compares with, if it does."""
        return self._target.against

    @property
    def environment(self) -> dict[str, str]:
        """All variables for a subprocess whose `create_store()` opens this case's data."""
        return self._target.environment()

    @property
    def folder(self) -> Path:
        """A directory of the case's own, removed after it; the backend's files are in it too."""
        return self._target.folder

    async def open(self, clock: Clock | None = None) -> AllStores:
        """A new handle on the case's data, closed at the end if it is still open. `clock` is the lab's by
        default.
        """
        stores = await self._target.open(self.clock if clock is None else clock)
        self._opened.append(stores)
        return stores

    async def inspect_sql(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """The rows of a query behind the store's back; needs `inspector.sql`."""
        return await self._target.inspect_sql(sql, parameters)

    async def inspect_raw(self, needle: bytes) -> int:
        """How often `needle` occurs in what the backend keeps on disk; needs `inspector.raw`."""
        return await self._target.inspect_raw(needle)

    async def inspect_unsynced(self) -> int:
        """How many pages of the backend's files a power cut would take; needs `inspector.unsynced`."""
        return await self._target.inspect_unsynced()

    async def close(self) -> None:
        """Close every handle that `open` gave."""
        while self._opened:
            await self._opened.pop().close()


@dataclass(frozen=True, slots=True)
class Check:
    """One declared check. `backends` is None for every backend, else the names of those it is about."""

    id: str
    name: str
    fact: str
    clauses: frozenset[str]
    requires: frozenset[str]
    backends: frozenset[str] | None
    timeout_s: float
    function: Callable[[Lab], Awaitable[None]]
    file: Path
    line: int

    async def run(self, target: CaseTarget) -> None:
        """Run it on the data of `target`; an exception is its failure."""
        lab = Lab(target)
        try:
            await self.function(lab)
        finally:
            await lab.close()


def check(
    *,
    clauses: Collection[str],
    name: str,
    requires: Collection[str] = (),
    backends: Collection[str] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Callable[[Callable[[Lab], Awaitable[None]]], Check]:
    """Declare a check. The function's docstring says the fact it proves.

    Args:
        clauses: the clauses of the contract that it proves; at least one.
        name: a fact, as in a scenario's name; without `[`, `]` and `::`.
        requires: capabilities and inspectors without which it is not applicable.
        backends: names of the backends it is about, where a clause is about one.
        timeout_s: seconds after which it counts as hanging.

    Raises:
        ValueError: an unknown clause or requirement, or no docstring.
    """
    unknown = [*sorted(set(clauses) - set(CLAUSES)), *sorted(set(requires) - REQUIREMENTS)]
    if unknown:
        raise ValueError(f"check {name!r}: unknown {', '.join(unknown)}")
    if not clauses:
        raise ValueError(f"check {name!r}: name the clauses that it proves")
    if any(text in name for text in ("[", "]", "::")):
        raise ValueError(f"check {name!r}: a name has no '[', ']' or '::'")

    def declare(function: Callable[[Lab], Awaitable[None]]) -> Check:
        fact = " ".join((function.__doc__ or "").split())
        if not fact:
            raise ValueError(f"check {name!r}: its docstring must say the fact it proves")
        code = function.__code__
        return Check(
            id=f"checks/{function.__module__.rpartition('.')[2]}/{name}",
            name=name,
            fact=fact,
            clauses=frozenset(clauses),
            requires=frozenset(requires),
            backends=None if backends is None else frozenset(backends),
            timeout_s=timeout_s,
            function=function,
            file=Path(code.co_filename),
            line=code.co_firstlineno,
        )

    return declare


_PACKAGE = "kpstore_conformance.checks"


def check_modules() -> list[str]:
    """The names of the check modules; those that begin with `_` are helpers of the others."""
    package = importlib.import_module(_PACKAGE)
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def module_checks(name: str) -> list[Check]:
    """The checks that the check module of that name declares, in the order written."""
    module = importlib.import_module(f"{_PACKAGE}.{name}")
    return sorted(
        (found for found in vars(module).values() if isinstance(found, Check)), key=lambda c: c.line
    )
