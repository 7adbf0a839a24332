"""Two backends answer alike: the same random history, step by step.

The other backend is that of `--against`, else `memory`.
"""

from __future__ import annotations

from kpstore_conformance.check import DifferenceError, Lab, check
from kpstore_conformance.checks.stateful import (
    TIMEOUT_S,
    AllStoresMachine,
    Disagreement,
    profile,
    run_search,
)
from kpstore_conformance.target import adapter_for


@check(
    clauses=["GEN-4", "GEN-5", "GEN-6", "GEN-9", "PAGE-3", "PAGE-4"],
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories answer as on another backend",
)
async def histories(lab: Lab) -> None:
    """Whatever is done, the backend and the reference backend answer alike, step by step."""
    reference = lab.against or adapter_for("memory")
    try:
        await run_search(lab, AllStoresMachine, "differential", profile(), reference)
    except Disagreement as error:
        raise DifferenceError(f"compared with {reference.spec}: {error}") from error
