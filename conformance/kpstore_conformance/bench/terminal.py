"""Tables on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from kpstore_conformance.bench.compare import Verdict
from kpstore_conformance.bench.result import Result
from kpstore_conformance.bench.rows import (
    Rows,
    described,
    fact_rows,
    load_rows,
    operation_rows,
    target_rows,
    verdict_rows,
)
from kpstore_conformance.bench.targets import Judgement

__all__ = ["open_console", "print_judgements", "print_result", "print_verdicts"]

_WIDTH = 200  # no table is wider; a narrow terminal breaks its lines, where rich would leave out digits


def open_console() -> Console:
    """The standard output."""
    return Console(highlight=False, soft_wrap=True, width=_WIDTH)


def print_result(out: Console, result: Result) -> None:
    """The machine and the method, then for each backend and size its operations, its facts and its curves."""
    for line in described(result):
        out.print(line)
    for _, group in groupby(result.runs, key=lambda run: (run.backend, run.size)):
        runs = list(group)
        for rows in (operation_rows(runs), load_rows(runs), fact_rows(runs)):
            if rows.rows:
                out.print()
                _print(out, rows)


def print_judgements(out: Console, judgements: Sequence[Judgement]) -> None:
    """Each target with what was measured, and how many were missed."""
    missed = sum(not each.met for each in judgements)
    out.print(
        "\nTargets are for the p99; SQLite's writes may take the p99 of the disk's fdatasync besides.\n"
    )
    _print(out, target_rows(judgements))
    out.print(f"\n{len(judgements) - missed} of {len(judgements)} targets met, {missed} missed")


def print_verdicts(out: Console, verdicts: Sequence[Verdict], *, everything: bool) -> None:
    """What changed, or everything; and how much there is of each kind."""
    rows = verdict_rows([each for each in verdicts if everything or each.word != "same"])
    if rows.rows:
        _print(out, rows)
    counts = Counter(each.word for each in verdicts)
    words = ("faster", "smaller", "same", "slower", "larger")
    out.print(", ".join(f"{counts[word]} {word}" for word in words if counts[word]))


def _print(out: Console, rows: Rows) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(rows.head):
        table.add_column(name, justify="left" if number < rows.words else "right", no_wrap=True)
    for number, row in enumerate(rows.rows):
        table.add_row(*row, style="bold red" if number in rows.bad else None)
    out.print(table)
