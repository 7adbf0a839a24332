"""The picture: one HTML file that needs no other. Latency against size for each operation, both axes
logarithmic, all backends in one frame; throughput against latency under load; and the numbers in tables.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from math import ceil
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from kpstore_conformance.bench.result import LoadPoint, Measured, Result, Run
from kpstore_conformance.bench.rows import (
    Rows,
    described,
    fact_rows,
    load_rows,
    operation_rows,
    rate,
    size,
    target_rows,
)
from kpstore_conformance.bench.targets import Judgement

__all__ = ["page"]

_COLUMNS = 4
_TICKS = (
    (40, (1.0, 2.0, 5.0)),
    (400, (1.0, 3.0)),
)  # within a decade, where an axis spans less than so many times
_COLOURS = (
    "#0b6e99",
    "#c8501e",
    "#4a7c2c",
    "#7a4aa0",
    "#8a6d00",
)  # told apart by colour-blind people as well
_STYLE: dict[Any, Any] = {  # matplotlib has a literal type for each of its settings
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kpstore",  # the same result gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
}
_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b;
  margin: 2rem auto; max-width: 78rem; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
svg { width: 100%; height: auto } p { max-width: 60rem }
table { border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; margin: .6rem 0 1.2rem }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #eee }
th { color: #555; font-weight: 600 } .words { text-align: left } .bad { color: #b00020; font-weight: 700 }
summary { cursor: pointer; margin: .4rem 0 }
"""


def page(result: Result, judgements: Sequence[Judgement]) -> str:
    """The HTML."""
    with mpl.rc_context(_STYLE):
        body = "\n".join(_body(result, judgements))
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>kpstore bench</title>\n<style>{_CSS}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(result: Result, judgements: Sequence[Judgement]) -> Iterator[str]:
    yield "<h1>kpstore bench</h1>"
    for sentence in described(result):
        yield f"<p>{escape(sentence)}</p>"
    yield "<p>Solid: p50; dashed: p99. Against size, of calls one after another.</p>"
    if judgements:
        missed = sum(not each.met for each in judgements)
        yield "<h2>targets</h2>"
        yield f"<p>{len(judgements) - missed} of {len(judgements)} met, {missed} missed.</p>"
        yield f"<details><summary>all of them</summary>{_table(target_rows(judgements))}</details>"
    backends = list(dict.fromkeys(run.backend for run in result.runs))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(backends)}
    for section in dict.fromkeys(run.section for run in result.runs):
        runs = [run for run in result.runs if run.section == section]
        yield f"<h2>{escape(section)}</h2>"
        if any(run.operations for run in runs):
            yield _latency_against_size(runs, colours)
        for records in sorted({run.size for run in runs if run.load}):
            yield f"<h3>{size(records)} records</h3>"
            yield _throughput_against_latency([run for run in runs if run.size == records], colours)
        yield "<details><summary>numbers</summary>"
        for rows in (operation_rows(runs), load_rows(runs), fact_rows(runs)):
            if rows.rows:
                yield _table(rows)
        yield "</details>"


def _latency_against_size(runs: Sequence[Run], colours: dict[str, str]) -> str:
    curves: dict[str, dict[str, list[tuple[int, Measured]]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: run.size):
        for operation in run.operations:
            curves[operation.name][run.backend].append((run.size, operation))
    rows = ceil(len(curves) / _COLUMNS)
    figure = Figure(figsize=(13, 2.3 * rows + 0.4), layout="constrained")
    frames = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).flat
    for frame, (name, by_backend) in zip(frames, curves.items(), strict=False):
        frame.set_title(name.partition("/")[2], loc="left")
        for backend, points in by_backend.items():
            sizes = [records for records, _ in points]
            p50 = [operation.closed.p50_us for _, operation in points]
            p99 = [operation.closed.p99_us for _, operation in points]
            frame.plot(sizes, p50, "o-", ms=3.5, lw=1.4, color=colours[backend], label=backend)
            frame.plot(sizes, p99, "o--", ms=2, lw=0.9, color=colours[backend])
        _logarithmic(frame)
        frame.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(round(value))))
        frame.set_xticks(sorted({run.size for run in runs}))
        frame.set_xticks([], minor=True)
        frame.tick_params(labelbottom=True)
    for frame in figure.axes[len(curves) :]:
        frame.set_visible(False)
    _legend(figure)
    return _svg(figure, f"latency against number of records, {runs[0].section}")


def _throughput_against_latency(runs: Sequence[Run], colours: dict[str, str]) -> str:
    """Of runs of one size."""
    mixes = list(dict.fromkeys(point.mix for run in runs for point in run.load))
    figure = Figure(figsize=(13, 3.4 * len(mixes) + 0.4), layout="constrained")
    for (left, right), mix in zip(figure.subplots(len(mixes), 2, squeeze=False), mixes, strict=True):
        left.set_title(f"{mix}: so many clients, each of which calls again when answered", loc="left")
        left.set_xlabel("calls answered per second")
        right.set_title(f"{mix}: calls arrive at a rate, timed from when they are due", loc="left")
        right.set_xlabel("calls arriving per second")
        for run in runs:
            for processes in dict.fromkeys(point.processes for point in run.load):
                points = [each for each in run.load if (each.mix, each.processes) == (mix, processes)]
                style: dict[str, Any] = {
                    "color": colours[run.backend],
                    "marker": "s" if processes > 1 else "o",
                    "label": run.backend + (f", {processes} processes" if processes > 1 else ""),
                }
                closed = [each for each in points if each.clients is not None]
                _curve(left, closed, [each.per_second for each in closed], style)
                for each in closed:
                    place = (each.per_second, each.p50_us)
                    offset = {"xytext": (4, -9), "textcoords": "offset points"}
                    left.annotate(str(each.clients), place, fontsize=7, color="#555", **offset)
                arriving = [each for each in points if each.offered_per_second is not None]
                _curve(right, arriving, [each.offered_per_second or 0.0 for each in arriving], style)
        for frame in (left, right):
            _logarithmic(frame)
            frame.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
            frame.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    _legend(figure)
    return _svg(figure, f"throughput against latency, {size(runs[0].size)} records")


def _curve(frame: Axes, points: Sequence[LoadPoint], x: Sequence[float], style: dict[str, Any]) -> None:
    if points:
        frame.plot(x, [point.p50_us for point in points], "-", ms=4, lw=1.4, **style)
        frame.plot(x, [point.p99_us for point in points], "--", ms=2.5, lw=0.9, **{**style, "label": None})


def _logarithmic(frame: Axes) -> None:
    """Logarithmic axes, with ticks enough to read a number by and no more."""
    frame.set_xscale("log")
    frame.set_yscale("log")
    lowest, highest = frame.get_ylim()
    middle = (lowest * highest) ** 0.5
    frame.set_ylim(min(lowest, middle / 3), max(highest, middle * 3))
    for axis in (frame.xaxis, frame.yaxis):
        lowest, highest = axis.get_view_interval()
        subs = next((subs for times, subs in _TICKS if highest / lowest < times), (1.0,))
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    frame.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _round(value)))
    frame.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _round(microseconds: float) -> str:
    """A duration at a tick: 10 µs rather than 10.0 µs."""
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= factor:
            return f"{microseconds / factor:g} {unit}"
    return f"{microseconds:g} µs"


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=max(1, len(labels)), frameon=False)


def _svg(figure: Figure, description: str) -> str:
    out = io.StringIO()
    # Without the metadata, which would name addresses outside of the file.
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = out.getvalue()
    start = drawing.index("<svg")
    return f'<figure role="img" aria-label="{escape(description)}">{drawing[start:]}</figure>'


def _table(rows: Rows) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=words' if number < rows.words else ''}>{escape(cell)}</{tag}>"
            for number, cell in enumerate(cells)
        )

    body = "\n".join(
        f"<tr{' class=bad' if number in rows.bad else ''}>{line('td', row)}</tr>"
        for number, row in enumerate(rows.rows)
    )
    return f"<table><thead><tr>{line('th', rows.head)}</tr></thead><tbody>\n{body}\n</tbody></table>"
