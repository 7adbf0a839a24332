"""A failed case told to a person: where in the YAML, what was expected and what came, what went before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kpstore_conformance.scenario.matchers import Mismatch
from kpstore_conformance.scenario.show import clip, counted, redact
from kpstore_conformance.scenario.yaml_nodes import Node

__all__ = ["Before", "Failure"]

SHOWN_MISMATCHES = 5
EXCERPT_LINES = 14
EXCERPT_WIDTH = 140


@dataclass(frozen=True, slots=True)
class Before:
    """A step that went before, with its result or error in short."""

    line: int
    action: str
    result: str
    variables: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a case did not pass. `summary` is one line; `file` and `line` are the step's."""

    summary: str
    file: Path
    line: int
    case_id: str
    outcome: str
    clauses: tuple[str, ...]
    lines: tuple[str, ...]
    step: Node
    marked: Node
    mismatches: tuple[Mismatch, ...] = ()
    notes: tuple[str, ...] = ()
    before: tuple[Before, ...] = ()
    before_count: int = 0
    parameters: tuple[tuple[str, str], ...] = ()
    variables: str = ""

    def render(self, *, rerun: str | None) -> str:
        """The whole text for a person; `rerun` is the command that runs just this case again."""
        parts = [f"{self.outcome.upper()} {self.case_id}", f"  {self.file}:{self.line}: {self.summary}"]
        parts += [f"  clauses: {', '.join(self.clauses)}"]
        if self.parameters:
            parts.append("  parameters: " + ", ".join(f"{name} = {value}" for name, value in self.parameters))
        if self.variables:
            parts.append(f"  in the loop: {self.variables}")
        parts += ["", *self._excerpt()]
        if self.mismatches:
            parts += ["", *_diff(self.mismatches)]
        if self.notes:
            parts += ["", *(f"  {note}" for note in self.notes)]
        if self.before:
            parts += ["", *self._history()]
        if rerun:
            parts += ["", f"  run it again: {rerun}"]
        return redact("\n".join(parts)) + "\n"

    def _excerpt(self) -> list[str]:
        first, last = self.step.line, max(self.step.last_line, self.marked.line)
        while last > first and not self.lines[min(last, len(self.lines)) - 1].strip():
            last -= 1
        numbers = list(range(first, last + 1))
        if len(numbers) > EXCERPT_LINES:
            # The step's first lines, and those around the marked one.
            near = range(max(first, self.marked.line - 3), min(last, self.marked.line + 2) + 1)
            numbers = sorted({*numbers[: EXCERPT_LINES - len(near)], *near})
        width = len(str(last))
        shown: list[str] = []
        for number, previous in zip(numbers, [number - 1 for number in numbers[:1]] + numbers, strict=False):
            if number > previous + 1:
                shown.append(f"    {'':>{width}} …")
            text = redact(self.lines[number - 1].rstrip("\r"))
            sign = ">" if number == self.marked.line else " "
            shown.append(f"  {sign} {number:>{width}} | {clip(text, EXCERPT_WIDTH)}".rstrip())
            if number == self.marked.line and self.marked.column <= EXCERPT_WIDTH:
                shown.append(f"    {'':>{width}} | {' ' * (self.marked.column - 1)}^")
        return shown

    def _history(self) -> list[str]:
        shown = ["  before it:"]
        if self.before_count > len(self.before):
            shown.append(f"    … {self.before_count - len(self.before):,} more")
        for step in self.before:
            variables = f" ({step.variables})" if step.variables else ""
            shown.append(f"    line {step.line}: {step.action}{variables} → {step.result}")
        return shown


def _diff(mismatches: Sequence[Mismatch]) -> list[str]:
    shown: list[str] = []
    for mismatch in mismatches[:SHOWN_MISMATCHES]:
        shown += [
            f"  {mismatch.path}",
            f"    - expected: {mismatch.expected}",
            f"    +     came: {mismatch.came}",
        ]
    if len(mismatches) > SHOWN_MISMATCHES:
        shown.append(f"  … and {counted(len(mismatches) - SHOWN_MISMATCHES, 'more difference')}")
    return shown
