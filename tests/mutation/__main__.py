"""The campaign's commands; see the package's docstring."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys

from mutation import campaign
from mutation.baseline import BACKENDS, take_baseline


def main() -> int:
    """Run one command; its status."""
    parser = argparse.ArgumentParser(prog="python -m mutation")
    commands = parser.add_subparsers(dest="command", required=True)
    baseline = commands.add_parser("baseline", help="note which case executes which line")
    baseline.add_argument(
        "--case", action="append", default=[], help="only cases that match, beside what is known"
    )
    baseline.add_argument("--backend", action="append", choices=BACKENDS, help="by default, on both")
    run = commands.add_parser("run", help="run mutants that are not known yet")
    run.add_argument("files", nargs="*", help="files or folders; all by default")
    run.add_argument(
        "--survivors", action="store_true", help="again those that survived and nothing explains"
    )
    run.add_argument(
        "--seconds",
        type=float,
        default=5,
        metavar="S",
        help="of cases that each survivor gets, quick ones only",
    )
    run.add_argument(
        "--thorough", action="store_true", help="also the cases that take long, and on both backends"
    )
    run.add_argument(
        "--case", action="append", default=[], help="only cases that match, of those that could tell"
    )
    run.add_argument(
        "--own-tests",
        action="append",
        default=[],
        metavar="TESTS",
        help="survivors, against these tests of the library's own, such as tests/library",
    )
    run.add_argument("--sample", type=float, default=1, metavar="SHARE", help="only so many of each file")
    run.add_argument("--seed", type=int, default=0, help="of the sample")
    run.add_argument("--workers", type=int, default=2)
    summary = commands.add_parser("summary", help="the score, and what has no explanation")
    summary.add_argument("files", nargs="*")
    given = parser.parse_args()
    # So that the workers, and their mutants, are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if given.command == "baseline":
        tasks = [(name, given.case) for name in given.backend or BACKENDS]
        with multiprocessing.get_context("spawn").Pool(len(tasks)) as pool:
            failed = [one for found in pool.starmap(take_baseline, tasks) for one in found]
        print(*failed, sep="\n")
        return 1 if failed else 0
    if given.command == "run":
        campaign.run(
            given.files,
            survivors=given.survivors,
            own_tests=given.own_tests,
            budget_s=None if given.thorough else given.seconds,
            workers=given.workers,
            globs=given.case,
            share=given.sample,
            seed=given.seed,
        )
        return 0
    return campaign.summary(given.files)


if __name__ == "__main__":
    raise SystemExit(main())
