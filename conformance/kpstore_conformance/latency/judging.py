"""The verdict on latency, which is not the one on correctness: a slow store may keep the contract."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from kpstore_conformance.latency.baseline import machine_class
from kpstore_conformance.scenario.budget import FULL, NIGHT, Level

if TYPE_CHECKING:
    from kpstore_conformance.verdict import CaseOutcome

__all__ = ["LEVELS", "LatencyLevel", "LatencyVerdict", "is_selected"]

LatencyLevel = Literal["none", "quick", "full", "night"]
LEVELS: tuple[LatencyLevel, ...] = get_args(LatencyLevel)
"""How much is measured, the least first."""

Status = Literal["passed", "failed", "left out", "nothing measured"]

_UP_TO: dict[LatencyLevel, str] = {
    "quick": f"up to {FULL:,} records",
    "full": f"up to {NIGHT:,} records",
    "night": "all sizes",
}


def is_selected(level: Level, asked: LatencyLevel) -> bool:
    """Whether a case of that level is part of what was asked for."""
    return LEVELS.index(level) <= LEVELS.index(asked)


@dataclass(frozen=True, slots=True)
class LatencyVerdict:
    """The judgement of one run on the latency of one backend.

    `level` is what was asked for; `failing` are the outcomes that fail it; `not_selected` counts the budgets'
    cases that were not part of the run.
    """

    level: LatencyLevel
    outcomes: tuple[CaseOutcome, ...]
    failing: tuple[CaseOutcome, ...]
    not_selected: int

    @property
    def measured(self) -> int:
        """How many cases were."""
        return sum(one.executed for one in self.outcomes)

    @property
    def status(self) -> Status:
        """`nothing measured` where no budget was selected, or none states anything for this backend."""
        if self.failing:
            return "failed"
        if self.measured:
            return "passed"
        return "left out" if self.level == "none" and self.not_selected else "nothing measured"

    @property
    def passed(self) -> bool:
        """Whether nothing that was measured broke its budget."""
        return not self.failing

    @property
    def with_baseline(self) -> int:
        """How many cases were compared with a recorded ratio."""
        return sum(bool(one.latency and one.latency["baseline"]) for one in self.outcomes)

    def reasons(self) -> list[tuple[str, int]]:
        """Why budgets were not measured, and how many for that reason."""
        counted = Counter(why for one in self.outcomes if (why := one.why_not_applicable))
        return sorted(counted.items(), key=lambda item: (-item[1], item[0]))

    def to_json(self) -> dict[str, Any]:
        """The verdict without its cases, as `conformance.json` has it."""
        return {
            "verdict": self.status,
            "level": self.level,
            "machine": machine_class(),
            "counts": {
                "measured": self.measured,
                "passed": sum(one.outcome == "passed" for one in self.outcomes),
                "failed": len(self.failing),
                "not_applicable": sum(not one.executed for one in self.outcomes),
                "not_selected": self.not_selected,
                "with_baseline": self.with_baseline,
            },
        }

    def told(self) -> list[str]:
        """The verdict for a person, a line each; none where the suite has no budget."""
        if not self.outcomes and not self.not_selected:
            return []
        lines = [" · ".join([_WORDS[self.status], *self._counts()])]
        lines += [f"not measured: {count} × {reason}" for reason, count in self.reasons()]
        return lines

    def _counts(self) -> list[str]:
        parts = []
        if self.measured:
            parts.append(f"{self.measured - len(self.failing)} of {self.measured} kept")
            parts.append(f"{self.level}: {_UP_TO[self.level]}")
            parts.append(
                f"{self.with_baseline} beside a baseline"
                if self.with_baseline
                else "no baseline for this machine"
            )
        if self.not_selected:
            parts.append(f"{self.not_selected} not selected")
        return parts


_WORDS: dict[Status, str] = {
    "passed": "PASSED",
    "failed": "FAILED",
    "left out": "LEFT OUT (--no-latency)",
    "nothing measured": "nothing measured",
}
