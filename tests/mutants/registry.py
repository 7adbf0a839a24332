"""Deliberately broken backends: each one small, plausible bug, and the clause that it breaks.

A mutant is a function that takes the open stores of a correct backend and
breaks them. `open_store` of a mutant is a backend like any other:

    kpstore conformance run --backend mutants:skill_filters_joined_with_or
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kpstore import AllStores, Clock, Settings, create_store

Break = Callable[[AllStores], None]
OpenStore = Callable[[Settings, Clock], Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken backend.

    Attributes:
        name: what it is called, a function's name.
        clause: the clause that it breaks.
        bug: what a person got wrong, in a sentence.
        base: the correct backend that it is made from.
        open_store: opens it.
    """

    name: str
    clause: str
    bug: str
    base: str
    open_store: OpenStore


MUTANTS: dict[str, Mutant] = {}


def mutant(clause: str, *, base: str = "memory") -> Callable[[Break], Break]:
    """Add a mutant; the function's docstring says what is wrong with it."""

    def declare(break_stores: Break) -> Break:
        async def open_store(settings: Settings, clock: Clock) -> AllStores:
            stores = await create_store(base, settings=settings, clock=clock)
            break_stores(stores)
            return stores

        _add(break_stores.__name__, clause, break_stores.__doc__, base, open_store)
        return break_stores

    return declare


def mutant_opening(clause: str, *, base: str) -> Callable[[OpenStore], OpenStore]:
    """Add a mutant that is broken before its stores are open: the function is its `open_store`."""

    def declare(open_store: OpenStore) -> OpenStore:
        _add(open_store.__name__, clause, open_store.__doc__, base, open_store)
        return open_store

    return declare


def _add(name: str, clause: str, bug: str | None, base: str, open_store: OpenStore) -> None:
    if name in MUTANTS or not bug:
        raise ValueError(f"mutant {name!r} needs a name of its own and a docstring")
    MUTANTS[name] = Mutant(name, clause, " ".join(bug.split()), base, open_store)


def patch(store: object, **methods: Callable[..., Any]) -> None:
    """Give one store other methods."""
    for name, method in methods.items():
        if not hasattr(store, name):
            raise AttributeError(f"{type(store).__name__} has no {name} to break")
        object.__setattr__(store, name, method)


def load_all() -> dict[str, Mutant]:
    """Every mutant, by name."""
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name.rpartition(".")[2].startswith("broken_"):
            importlib.import_module(module.name)
    return MUTANTS
