"""A catalogue of deliberately broken backends, each reachable as `mutants:<name>`."""

from __future__ import annotations

from mutants.registry import OpenStore, load_all


def __getattr__(name: str) -> OpenStore:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        return load_all()[name].open_store
    except KeyError:
        raise AttributeError(f"there is no mutant {name!r}") from None
