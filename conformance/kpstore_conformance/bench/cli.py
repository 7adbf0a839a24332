"""`kpstore bench …`: how fast backends are, at which sizes, beside what the machine itself takes.

Exit status: 0 a success; 1 a target was missed, or a comparison found something slower; 2 the command
makes no sense, or a backend cannot be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kpstore import Settings
from kpstore_conformance.bench.compare import compare
from kpstore_conformance.bench.picture import page
from kpstore_conformance.bench.result import Method, Result, ResultError, read_result, schema, write_result
from kpstore_conformance.bench.session import SessionError, bench
from kpstore_conformance.bench.targets import SIZES, judge
from kpstore_conformance.bench.terminal import open_console, print_judgements, print_result, print_verdicts
from kpstore_conformance.bench.worker import MOST_OPEN_PER_SECOND, OpenRate, Task, names
from kpstore_conformance.known import matches
from kpstore_conformance.target import AdapterError, adapter_for

__all__ = ["main"]

USAGE = 2
_SMALLEST = 100
"""Records. With fewer, kinds of queries have nothing to be drawn from."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    commands = {"compare": _compare, "show": _show, "schema": _schema}
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    return _bench(arguments)


def _complain(message: object) -> int:
    print(f"kpstore bench: {message}", file=sys.stderr)
    return USAGE


# What options hold -------------------------------------------------------------


def _list_of(item: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    def parse(text: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return parse


def _count(text: str) -> int:
    """A whole number above 0, in which k and M stand for thousands and millions."""
    factors = {"k": 1000, "K": 1000, "m": 1_000_000, "M": 1_000_000}
    factor = factors.get(text[-1:], 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdecimal() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number such as 500, 10k or 1M")
    return int(digits) * factor


def _size(text: str) -> int:
    records = _count(text)
    if records < _SMALLEST:
        raise argparse.ArgumentTypeError(f"{text!r}: at least {_SMALLEST}")
    return records


def _backend(text: str) -> str:
    try:
        return adapter_for(text).spec
    except AdapterError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds, such as 0.5")
    return seconds


def _open_rate(text: str) -> OpenRate | None:
    if text == "off":
        return None
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: calls per second such as 500, a share such as 50%, or off"
        )
    return OpenRate(share=number / 100) if share else OpenRate(per_second=number)


# bench ----------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kpstore bench",
        description="Measure backends at several sizes. Other commands: `kpstore bench compare OLD.json "
        "NEW.json`, `kpstore bench show RESULT.json`, `kpstore bench schema`.",
    )
    parser.add_argument(
        "--backend",
        type=_list_of(_backend),
        default=("memory", "sqlite"),
        metavar="NAME,…",
        help="names of backends, or module:callable (default: memory,sqlite)",
    )
    parser.add_argument(
        "--adapter", metavar="module:Class", help="how to reach them, as for `conformance run`"
    )
    parser.add_argument(
        "--size",
        type=_list_of(_size),
        default=(1000, 10_000),
        metavar="N,…",
        help="records in a store: 1k,10k,100k,1M (default: 1k,10k)",
    )
    parser.add_argument(
        "--operation",
        action="append",
        metavar="GLOB",
        help="only the operations that match by `*` and `?`; may be repeated (default: all; see --list)",
    )
    parser.add_argument("--list", action="store_true", help="list the operations, and measure nothing")
    parser.add_argument("--passes", type=_count, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--calls", type=_count, default=1000, metavar="N", help="most calls a pass (default: 1000)"
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=0.5,
        metavar="S",
        help="a pass has fewer calls where it would take longer, but at least 10 (default: 0.5)",
    )
    parser.add_argument(
        "--open-loop",
        type=_open_rate,
        default="50%",
        metavar="RATE",
        help="calls a second that arrive, answered or not; or a share of the closed loop's rate, "
        f"{MOST_OPEN_PER_SECOND:.0f} a second at most; or off (default: 50%%)",
    )
    parser.add_argument(
        "--clients",
        type=_list_of(_count),
        default=(1, 4, 16, 64, 256),
        metavar="N,…",
        help="clients at a time, for load/* (default: 1,4,16,64,256)",
    )
    parser.add_argument(
        "--processes",
        type=_count,
        default=1,
        metavar="N",
        help="have N processes share load/* too (default: 1)",
    )
    parser.add_argument(
        "--load-seconds",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="for each point of load/* (default: 1)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where databases go (default: the folder for temporary files)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the data and all choices (default: 0)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the picture")
    parser.add_argument(
        "--targets",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="judge by the targets for 100k and 1M; exit 1 if one is missed (default: at such a size)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _bench(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    known = asyncio.run(names())
    globs = options.operation or ["*"]
    wanted = [name for name in known if any(matches(glob, name) for glob in globs)]
    if options.list:
        print("\n".join(wanted))
        return 0
    if not wanted:
        return _complain(f"no operation matches {', '.join(globs)}; see --list")
    if options.targets and not set(options.size) & set(SIZES):
        return _complain("--targets: there are targets for --size 100k and 1M")
    if options.folder is not None and not options.folder.is_dir():
        return _complain(f"{options.folder}: no such folder")
    for file in (options.json, options.html):
        if file is not None and not file.absolute().parent.is_dir():
            return _complain(f"{file}: its folder is not there")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # where the module of module:callable is

    def keep(so_far: Result) -> None:
        if options.json is not None:
            write_result(so_far, options.json)

    try:
        result = bench(_tasks(options, wanted), _method(options), keep, quiet=options.quiet)
    except SessionError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return _complain("interrupted")
    return _present(result, options.html, judged=options.targets is not False)


def _tasks(options: argparse.Namespace, wanted: Sequence[str]) -> list[Task]:
    sections = dict.fromkeys(name.partition("/")[0] for name in wanted)
    return [
        Task(
            backend=backend,
            adapter=options.adapter,
            section=section,
            size=size,
            seed=options.seed,
            wanted=frozenset(wanted),
            passes=options.passes,
            most_calls=options.calls,
            seconds=options.seconds,
            open_loop=options.open_loop,
            clients=tuple(sorted(options.clients)),
            processes=options.processes,
            load_seconds=options.load_seconds,
            folder=None if options.folder is None else str(options.folder.resolve()),
        )
        for backend in options.backend
        for size in sorted(options.size)
        for section in sections
    ]


def _method(options: argparse.Namespace) -> Method:
    rate = options.open_loop
    if rate is None:
        open_loop = "off"
    elif rate.per_second is not None:
        open_loop = f"{rate.per_second:g} calls per second"
    else:
        open_loop = (
            f"{rate.share:.0%} of the closed loop's rate, {MOST_OPEN_PER_SECOND:.0f} per second at most"
        )
    return Method(
        passes=options.passes,
        most_calls=options.calls,
        seconds_per_pass=options.seconds,
        seed=options.seed,
        open_loop=open_loop,
        synchronous=Settings.from_env().sqlite_synchronous,
    )


def _present(result: Result, picture: Path | None, *, judged: bool = True) -> int:
    """Print the result and draw the picture; the exit status."""
    judgements = judge(result) if judged else []
    if picture is not None:
        picture.write_text(page(result, judgements), "utf-8")
    out = open_console()
    print_result(out, result)
    if not judgements:
        return 0
    print_judgements(out, judgements)
    return 0 if all(each.met for each in judgements) else 1


# compare, show, schema --------------------------------------------------------


def _compare(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="kpstore bench compare",
        description="What became faster or slower; exit 1 if anything did worse.",
    )
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument("--all", action="store_true", help="show what stayed the same too")
    options = parser.parse_args(arguments)
    try:
        verdicts = compare(read_result(options.old), read_result(options.new))
    except ResultError as error:
        return _complain(error)
    if not verdicts:
        return _complain("the two results have no operation of one backend and size in common")
    print_verdicts(open_console(), verdicts, everything=options.all)
    return 1 if any(each.is_regression for each in verdicts) else 0


def _show(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="kpstore bench show",
        description="Print a result again, or draw its picture; exit 1 on missed targets.",
    )
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the picture")
    options = parser.parse_args(arguments)
    try:
        result = read_result(options.result)
    except ResultError as error:
        return _complain(error)
    return _present(result, options.html)


def _schema(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="kpstore bench schema", description="Print the JSON Schema of a result."
    )
    parser.parse_args(arguments)
    print(json.dumps(schema(), indent=2))
    return 0
