"""Keeps what a campaign found out in `.mutation/`, so that it can be cut into pieces and goes on."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path

import yaml

from mutation import generating
from mutation.baseline import BACKENDS, KEPT, TIMED, backends, cases_at, seconds
from mutation.generating import ROOT, Mutant, lines_with, statement_at
from mutation.running import Result, Step, prepare_worker, run_mutant, run_own_tests

EXPLAINED = Path(__file__).with_name("equivalent.yaml")
_LOOKS_WITHOUT_A_CALL = "checks/public_api/"
_QUICK_S = 2.0  # all but two dozen cases take less
FILES = (
    "kpstore/stores",
    "kpstore/backends",
    "kpstore/index",
    "kpstore/text.py",
    "kpstore/turns.py",
    "kpstore/units.py",
    "kpstore/clock.py",
    "kpstore/settings.py",
    "kpstore/factory.py",
    "kpstore/records.py",
)


def files(given: Sequence[str]) -> list[str]:
    """The Python files below the paths given, or below all that the campaign is about."""
    found = []
    for name in given or FILES:
        path = ROOT / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [path.relative_to(ROOT).as_posix() for path in found]


# ---- which cases can tell


def _is_run(found: dict[str, set[str]]) -> bool:
    return any(cases - {""} for cases in found.values())


def steps_for(mutant: Mutant) -> list[Step]:
    """The cases that execute the changed statement, those that take least time first; none if none does.

    A statement that is executed by the import alone is judged by the cases that execute another line of its
    file on which a name stands that it binds; if there are none, such a line of another file; if there are
    none, any line of its file; and by those that look at functions and classes without a call.
    """
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    extent, names = statement_at(ast.parse(source), mutant.line)
    found = cases_at(mutant.file, extent)
    is_import = any("" in cases for cases in found.values())
    if not is_import and not _is_run(found):
        return []
    if names and not _is_run(found):
        found = cases_at(mutant.file, lines_with(names, source))
    if names and not _is_run(found):
        for file in files(()):
            others = lines_with(names, (ROOT / file).read_text(encoding="utf-8"))
            found = {backend: found[backend] | cases for backend, cases in cases_at(file, others).items()}
    if not _is_run(found):
        found = cases_at(mutant.file, range(source.count("\n") + 1))
    steps = [
        Step(backend, case, time_s)
        for backend in backends()
        for case, time_s in seconds(backend).items()
        if case in found[backend] or (is_import and case.startswith(_LOOKS_WITHOUT_A_CALL))
    ]
    return sorted(steps, key=lambda step: (step.seconds, step.case))


def quick(steps: Sequence[Step], killers: Counter[str], budget_s: float) -> list[Step]:
    """As many as fit in so many seconds, but none that takes long, and each case on one backend only.

    Those that have caught others come first, then one of each scenario, then a second of each, and so on.
    """
    first: dict[str, Step] = {}
    for step in sorted(steps, key=lambda step: BACKENDS.index(step.backend)):
        if step.seconds <= _QUICK_S:
            first.setdefault(step.case, step)
    turns: Counter[str] = Counter()
    ranked: list[tuple[tuple[int, int, float], Step]] = []
    for step in steps:
        if first.get(step.case) is step:
            scenario = step.case.partition("[")[0]
            ranked.append(((-min(killers[step.case], 3), turns[scenario], step.seconds), step))
            turns[scenario] += 1
    chosen = [step for _, step in sorted(ranked, key=lambda pair: pair[0])]
    ends = accumulate(step.seconds for step in chosen)
    return [step for step, end_s in zip(chosen, ends, strict=True) if end_s <= budget_s]


# ---- the mutants, one after another


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a mutant, as it is kept.

    Attributes:
        id: the mutant's.
        left_out: how many cases of those that could tell did not run.
        seconds: how long it took.
    """

    id: str
    file: str
    operator: str
    line: int
    change: str
    outcome: str
    by: str
    why: str
    tried: int
    left_out: int
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        """By what an explanation names it."""
        return self.file, self.operator, self.change


_killers: dict[str, Counter[str]] = {}


def judge(task: tuple[Mutant, float | None, Sequence[str]]) -> Record:
    """Run the cases for a mutant, in a worker: the quick ones that fit in so many seconds, or all; of those
    that match one of the patterns, if there are any.
    """
    mutant, budget_s, globs = task
    start = time.perf_counter()
    everything = steps_for(mutant)
    killers = _killers.setdefault(mutant.file, Counter())
    if globs:
        steps = [step for step in everything if any(fnmatchcase(step.case, glob) for glob in globs)]
    else:
        untimed = [step for step in everything if not step.case.startswith(TIMED)]
        steps = untimed if budget_s is None else quick(untimed, killers, budget_s)
    result = run_mutant(mutant.file, mutant.source, steps)  # without a step, still the import
    if result.outcome == "killed" and result.by != "import":
        killers[result.by.partition(" ")[2]] += 1
    return _record(mutant, result, len(everything) - len(steps), start)


def complaint_of_the_original() -> str:
    """How the library fails as it is, in a worker, on a few cases of each backend; empty if it does not."""
    steps = [
        Step(backend, case, time_s)
        for backend in backends()
        for case, time_s in sorted(seconds(backend).items(), key=lambda one: one[1])[:3]
    ]
    file = files(())[0]
    result = run_mutant(file, (ROOT / file).read_text(encoding="utf-8"), steps)
    return "" if result.outcome == "survived" else f"{result.by}: {result.why}"


def judge_by_own_tests(task: tuple[Mutant, Sequence[str], float]) -> Record:
    """Run some of the library's own tests for a mutant, in a worker; they take so long on the original."""
    mutant, tests, time_s = task
    start = time.perf_counter()
    return _record(mutant, run_own_tests(mutant.file, mutant.source, tests, time_s), 0, start)


def own_tests_seconds(tests: Sequence[str]) -> float:
    """How many seconds those tests take on the original, in a worker."""
    file = files(())[0]
    start = time.perf_counter()
    result = run_own_tests(file, (ROOT / file).read_text(encoding="utf-8"), tests, 3600)
    if result.outcome != "survived":
        raise RuntimeError(f"the original itself fails: {result.why}")  # a SystemExit never left the pool
    return time.perf_counter() - start


def _record(mutant: Mutant, result: Result, left_out: int, start: float) -> Record:
    return Record(
        id=mutant.id,
        file=mutant.file,
        operator=mutant.operator,
        line=mutant.line,
        change=mutant.change,
        **asdict(result),
        left_out=left_out,
        seconds=round(time.perf_counter() - start, 2),
    )


def ids_of(file: str) -> frozenset[str]:
    """The ids of the mutants of a file as it is now; kept, since making them takes a while."""
    kept_ids = KEPT / "mutants.json"
    index: dict[str, list[str]] = json.loads(kept_ids.read_text()) if kept_ids.exists() else {}
    made_from = hashlib.sha256()
    for path in (ROOT / file, Path(generating.__file__), Path(generating.__file__).with_name("sql.py")):
        made_from.update(path.read_bytes())
    name = f"{file} {made_from.hexdigest()[:16]}"
    if name not in index:
        index[name] = [mutant.id for mutant in generating.mutants_of(ROOT / file)]
        kept_ids.write_text(json.dumps(index, indent=0))
    return frozenset(index[name])


def kept(given: Sequence[str]) -> dict[str, Record]:
    """What is known of the mutants of these files, by id; the latest if a mutant ran several times."""
    results = KEPT / "results.jsonl"
    if not results.exists():
        return {}
    ids = {file: ids_of(file) for file in files(given)}
    records = (Record(**json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines())
    return {record.id: record for record in records if record.id in ids.get(record.file, ())}


def sample(ids: Collection[str], share: float, seed: int) -> frozenset[str]:
    """That share of the ids, chosen at random; with one seed, a larger share has the smaller one in it."""
    ranked = sorted(ids, key=lambda id: hashlib.sha256(f"{seed} {id}".encode()).digest())
    return frozenset(ranked[: math.ceil(share * len(ranked))])


def run(
    given: Sequence[str],
    *,
    workers: int,
    survivors: bool = False,
    own_tests: Sequence[str] = (),
    budget_s: float | None = None,
    globs: Sequence[str] = (),
    share: float = 1,
    seed: int = 0,
) -> None:
    """Run the mutants of files that are not known yet, or a sample of each file's.

    Or again the survivors that nothing explains: against the suite, or against some of the own tests.
    """
    known, reasons = kept(given), explanations()
    alive = {one.id for one in known.values() if one.outcome == "survived" and one.key not in reasons}
    wanted = {
        file: ids_of(file) & alive
        if survivors or own_tests
        else sample(ids_of(file), share, seed) - known.keys()
        for file in files(given)
    }
    mutants = (
        mutant
        for file, ids in wanted.items()
        if ids
        for mutant in generating.mutants_of(ROOT / file)
        if mutant.id in ids
    )
    # Spawned, so that the processes that mutants are forked from have one thread.
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(workers, prepare_worker) as pool, (KEPT / "results.jsonl").open("a") as out:
        if complaint := pool.apply(complaint_of_the_original):
            raise SystemExit(f"the original itself fails: {complaint}")
        if own_tests:
            time_s = pool.apply(own_tests_seconds, (own_tests,))
            found = pool.imap_unordered(
                judge_by_own_tests, ((mutant, own_tests, time_s) for mutant in mutants)
            )
        else:
            found = pool.imap_unordered(judge, ((mutant, budget_s, globs) for mutant in mutants))
        for number, record in enumerate(found, 1):
            out.write(json.dumps(asdict(record)) + "\n")
            out.flush()
            if record.outcome == "survived" or number % 50 == 0:
                print(f"{number} {_line(record)}", flush=True)
        pool.close()
        pool.join()


def _line(record: Record) -> str:
    left_out = f", {record.left_out} left out" if record.left_out else ""
    found = f"by {record.by}" if record.by else f"{record.tried} cases{left_out}"
    return f"{record.outcome} {record.file}:{record.line} {record.operator}: {record.change}  [{found}]"


# ---- the score


def explanations() -> dict[tuple[str, str, str], str]:
    """Why no test can tell a mutant from the original, by its key."""
    return {
        (file, operator, change): " ".join(group["reason"].split())
        for group in yaml.safe_load(EXPLAINED.read_text(encoding="utf-8"))
        for file, mutants in group["mutants"].items()
        for mutant in mutants
        for operator, change in mutant.items()
    }


_COLUMNS = (
    *("mutants", "judged", "caught", "of them endless", "by own tests alone"),
    *("equivalent", "survived"),
)


def summary(given: Sequence[str]) -> int:
    """Print the score of each file, then the survivors without an explanation; 1 if there are any."""
    records, reasons = list(kept(given).values()), explanations()
    problems: list[str] = []
    print(f"| file | {' | '.join(_COLUMNS)} |")
    print(f"| --- |{' --: |' * len(_COLUMNS)}")
    total: Counter[str] = Counter()
    complete = set()
    for file in files(given):
        if not (ids := ids_of(file)):
            continue
        of_file = [record for record in records if record.file == file]
        if len(of_file) == len(ids):
            complete.add(file)
        survivors = [record for record in of_file if record.outcome == "survived"]
        unexplained = [record for record in survivors if record.key not in reasons]
        problems += map(_line, sorted(unexplained, key=lambda record: record.line))
        outcomes = Counter(record.outcome for record in of_file)
        numbers = (
            *(len(ids), len(of_file), outcomes["killed"] + outcomes["endless"], outcomes["endless"]),
            *(outcomes["own"], len(survivors) - len(unexplained), len(unexplained)),
        )
        counts = dict(zip(_COLUMNS, numbers, strict=True))
        print(_row(f"`{file}`", counts))
        total.update(counts)
    print(_row("all", total))
    alive = {record.key for record in records if record.outcome == "survived"}
    gone = sorted(key for key in reasons.keys() - alive if key[0] in complete)
    problems += [f"explained, but no survivor: {', '.join(key)}" for key in gone]
    print("", *problems, sep="\n")
    return 1 if problems else 0


def _row(name: str, counts: Mapping[str, int]) -> str:
    return f"| {name} | {' | '.join(str(counts[column]) for column in _COLUMNS)} |"
