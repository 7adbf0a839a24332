"""Random histories over the six stores, clock moves and reopenings included, answer as the model does.

A profile says how much is tried: `ci` (the default; about a minute per backend in all) plays the same
histories every time, `night` new ones for an hour. Variables: `KP_STATEFUL_PROFILE`, `KP_STATEFUL_SEED` (one
round with that seed, as a failure names it), `KP_STATEFUL_MINUTES` (of the night, per check),
`KP_STATEFUL_OUT` (the folder for counterexamples).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from kpstore import ManualClock
from kpstore_conformance import strategies
from kpstore_conformance.check import Lab, check
from kpstore_conformance.counterexample import Unwritable, scenario_text
from kpstore_conformance.history import (
    Call,
    Close,
    Observation,
    Open,
    Player,
    Reopen,
    SetClock,
    Step,
    StorePlayer,
    Unplayable,
    disagreement,
    unlike,
)
from kpstore_conformance.scenario import ScenarioFileError, load_file, run_case
from kpstore_conformance.scenario.show import redact
from kpstore_conformance.target import BackendAdapter, CaseTarget, probe

# isort: split
# After our own strategies, which say what to install where Hypothesis is missing.
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

__all__ = ["PROFILES", "Profile", "Search", "StoresMachine", "profile", "run_search", "search"]


@dataclass(frozen=True)
class Profile:
    """How much is tried: `rounds` of `histories` of up to `steps` steps, for at most `search_s` seconds; then
    `shrink_s` seconds to make a counterexample small.
    """

    rounds: int
    histories: int
    steps: int
    search_s: float
    shrink_s: float
    seeds: Callable[[int], int] = field(default=lambda index: index)


HISTORIES = 12
"""Of one round. From its tenth on, Hypothesis makes most histories from the parts of earlier ones, which
finds less here than a new seed does.
"""

PROFILES: dict[str, Profile] = {
    "ci": Profile(rounds=12, histories=HISTORIES, steps=40, search_s=8.0, shrink_s=40.0),
    "night": Profile(
        rounds=10**9,
        histories=HISTORIES,
        steps=80,
        search_s=3600.0,
        shrink_s=300.0,
        seeds=lambda _: random.SystemRandom().getrandbits(32),
    ),
}


def profile() -> Profile:
    """The profile that the environment asks for."""
    name = os.environ.get("KP_STATEFUL_PROFILE") or "ci"
    if name not in PROFILES:
        raise ValueError(f"KP_STATEFUL_PROFILE={name!r}: known are {', '.join(PROFILES)}")
    chosen = PROFILES[name]
    minutes = os.environ.get("KP_STATEFUL_MINUTES")
    if minutes:
        chosen = replace(chosen, rounds=10**9, search_s=float(minutes) * 60)
    only = os.environ.get("KP_STATEFUL_SEED")
    if only:
        number = int(only)
        chosen = replace(chosen, rounds=1, seeds=lambda _: number)
    return chosen


NIGHT_TIMEOUT_S = 12 * 3600.0
CI_TIMEOUT_S = 300.0
TIMEOUT_S = CI_TIMEOUT_S if (os.environ.get("KP_STATEFUL_PROFILE") or "ci") == "ci" else NIGHT_TIMEOUT_S
"""The search ends by itself; this is for a store that hangs, which a call's own limit does not catch."""


class _GiveUpError(BaseException):
    """Ends the search from inside a history: time is up. No Exception, or it would be taken for a finding."""


class Disagreement(AssertionError):  # noqa: N818 - what it is
    """A store's answer is not the model's."""


@dataclass
class Finding:
    """A history whose last step was answered wrongly."""

    start: datetime
    steps: list[Step]
    expected: list[list[Observation]]
    failing: int
    problems: list[str]

    @property
    def size(self) -> tuple[int, int]:
        """What makes one counterexample better than another: fewer steps, then less in them."""
        return len(self.steps), len(repr(self.steps))


class Search:
    """What the histories of one search share.

    Args:
        adapter: how to get stores of the backend.
        capabilities: what the backend declares.
        runner: the loop that all histories run on.
        reference: another backend that answers instead of the model; `capabilities` are what both declare.
    """

    def __init__(
        self,
        adapter: BackendAdapter,
        capabilities: frozenset[str],
        runner: asyncio.Runner,
        reference: BackendAdapter | None = None,
    ) -> None:
        self.adapter = adapter
        self.reference = reference
        self.capabilities = capabilities
        self.runner = runner
        self.stop = threading.Event()
        self.best: Finding | None = None
        self.shrink_s = 0.0
        self.played = 0
        self._found_at: float | None = None

    def found(self, finding: Finding) -> None:
        """Take note of a wrong answer."""
        if self._found_at is None:
            self._found_at = time.monotonic()
        if self.best is None or finding.size < self.best.size:
            self.best = finding

    def check_time(self) -> None:
        """Raise where the search must not go on."""
        too_long = self._found_at is not None and time.monotonic() - self._found_at > self.shrink_s
        if too_long or self.stop.is_set():
            raise _GiveUpError


class _Side:
    """Stores of one backend in one history, opened at its first step."""

    def __init__(self, adapter: BackendAdapter, start: datetime) -> None:
        self._adapter = adapter
        self._clock = ManualClock(start)
        self._target: CaseTarget | None = None
        self._player: StorePlayer | None = None

    async def perform(self, step: Step) -> list[Observation]:
        if self._player is None:
            # Not before: Hypothesis breaks off many a history at its first draw.
            target = self._target = CaseTarget(self._adapter)
            self._player = StorePlayer(lambda: target.open(self._clock), self._clock)
            await self._player.start()
        return await self._player.perform(step)

    async def end(self) -> None:
        try:
            if self._player is not None:
                await self._player.stop()
        finally:
            if self._target is not None:
                await self._target.dispose()


class Trial:
    """One history: each step is played on the model and on stores of its own, and compared."""

    def __init__(self, search: Search, start: datetime) -> None:
        self._search = search
        self._stores = _Side(search.adapter, start)
        self._reference = None if search.reference is None else _Side(search.reference, start)
        self.start = start
        self.player = Player(start, search.capabilities)
        self.steps: list[Step] = []
        self.expected: list[list[Observation]] = []

    def play(self, step: Step) -> None:
        """Play one step. Raises Disagreement, with the finding noted."""
        finding = self.try_step(step)
        if finding is not None:
            self._search.found(finding)
            raise Disagreement("\n".join(finding.problems))

    def try_step(self, step: Step) -> Finding | None:
        """Play one step; the finding, where the stores answer wrongly."""
        expected = self.player.perform(step)
        came = self._search.runner.run(self._stores.perform(step))
        if self._reference is None:
            found = disagreement(expected, came)
        else:
            model, expected = expected, self._search.runner.run(self._reference.perform(step))
            found = unlike(model, expected, came)
        self.steps.append(step)
        self.expected.append(expected)
        return None if found is None else Finding(self.start, list(self.steps), list(self.expected), *found)

    def end(self) -> None:
        """Close and remove the data."""
        for side in (self._stores, self._reference):
            if side is not None:
                self._search.runner.run(side.end())


READ_ALL: dict[str, tuple[Call, ...]] = {
    "skills": (Call("skills", "search", {"limit": 1000}), Call("skills", "scan")),
    "knowledge": (Call("knowledge", "search", {"limit": 1000}), Call("knowledge", "scan")),
    "reputation": (
        Call("reputation", "get_leaderboard", {"limit": 1000}),
        Call("reputation", "get_all"),
        Call("reputation", "get_votes"),
    ),
    "api_keys": (Call("api_keys", "scan"),),
    "rate_limit": (),
    "audit_log": (Call("audit_log", "query", {"limit": 1000}), Call("audit_log", "scan")),
}
"""The calls at the end of a history that bring up what a wrong write left behind."""


class StoresMachine(RuleBasedStateMachine):
    """The rules that every machine has. A subclass says which stores it calls, and what its rules are."""

    search: ClassVar[Search]
    stores: ClassVar[tuple[str, ...]] = ()
    calls_per_move: ClassVar[int] = 4
    """Every so many calls the clock or a handle may move."""

    def __init__(self) -> None:
        super().__init__()
        self.search.check_time()
        self.search.played += 1
        self._trial: Trial | None = None
        self._failed = False
        self._calls = 0
        self._keys: list[str] = []

    @property
    def trial(self) -> Trial:
        """The history being played."""
        assert self._trial is not None
        return self._trial

    @initialize(start=st.sampled_from(strategies.STARTS))
    def begin(self, start: datetime) -> None:
        """Fresh stores."""
        self._trial = Trial(self.search, start)

    def play(self, step: Step) -> None:
        """Play a step on both sides."""
        self.search.check_time()
        self._calls += 1
        try:
            self.trial.play(step)
        except Disagreement:
            self._failed = True
            raise

    def call(self, data: st.DataObject, calls: Callable[[], st.SearchStrategy[Call]]) -> None:
        """Draw a call and play it, on any handle."""
        call = data.draw(calls())
        others = sorted(self.trial.player.open)
        if len(others) > 1:
            handle = data.draw(st.sampled_from(others))
            call = replace(
                call, handle=handle, changes=tuple(replace(one, handle=handle) for one in call.changes)
            )
        self.play(call)
        if call.save is not None:
            self._keys.append(call.save)

    def _may_move(self) -> bool:
        return self._trial is not None and self._calls % self.calls_per_move == self.calls_per_move - 1

    @precondition(_may_move)
    @rule(data=st.data())
    def move_clock(self, data: st.DataObject) -> None:
        """The clock moves, forwards or backwards, mostly to the edge of something that is looked at then."""
        to, probe = data.draw(strategies.clock_moves(self.trial.player.model))
        self.play(SetClock(to))
        if probe is not None:
            self.play(probe)

    @precondition(lambda self: self._may_move() and "durable" in self.search.capabilities)
    @rule(data=st.data())
    def move_handles(self, data: st.DataObject) -> None:
        """A handle is opened, closed or reopened; a closed one refuses every call."""
        player = self.trial.player
        kind = data.draw(st.integers(0, 3))
        if kind == 2 and "multi_process" in self.search.capabilities:
            self.play(Close("second") if "second" in player.open else Open("second"))
        elif kind == 3:
            self.play(Close("main"))
            for store in self.stores:
                for call in strategies.CLOSED_CALLS[store]:
                    self.play(call)
            self.play(Open("main"))
        else:
            self.play(Reopen("main"))

    def teardown(self) -> None:
        """Read everything once more, unless the history was broken off."""
        if self._trial is None:
            return
        try:
            if not self._failed and sys.exc_info()[0] is None:
                for store in self.stores:
                    for call in READ_ALL[store]:
                        self.play(call)
        finally:
            self._trial.end()


class SkillsMachine(StoresMachine):
    """Skills alone."""

    stores: ClassVar[tuple[str, ...]] = ("skills",)
    calls_per_move = 8

    @rule(data=st.data())
    def skills(self, data: st.DataObject) -> None:
        """Any call of skills."""
        self.call(data, lambda: strategies.skill_calls(self.trial.player.model))


class KnowledgeMachine(StoresMachine):
    """Knowledge units alone."""

    stores: ClassVar[tuple[str, ...]] = ("knowledge",)
    calls_per_move = 8

    @rule(data=st.data())
    def knowledge(self, data: st.DataObject) -> None:
        """Any call of knowledge."""
        vectors = "vector_search" in self.search.capabilities
        self.call(data, lambda: strategies.knowledge_calls(self.trial.player.model, vectors))

    @precondition(lambda self: self._calls % 5 == 4)
    @rule(data=st.data())
    def hurt_units(self, data: st.DataObject) -> None:
        """Units that the schemas refuse, and some that they do not."""
        for call in data.draw(strategies.hurt_units(self.trial.player.model)):
            self.play(call)


class ReputationMachine(StoresMachine):
    """Reputations and votes alone."""

    stores: ClassVar[tuple[str, ...]] = ("reputation",)

    @rule(data=st.data())
    def reputation(self, data: st.DataObject) -> None:
        """Any call of reputation."""
        self.call(data, lambda: strategies.reputation_calls(self.trial.player.model))


class ApiKeysMachine(StoresMachine):
    """API keys alone."""

    stores: ClassVar[tuple[str, ...]] = ("api_keys",)

    @rule(data=st.data())
    def api_keys(self, data: st.DataObject) -> None:
        """Any call of api_keys."""
        self.call(data, lambda: strategies.key_calls(self.trial.player.model, self._keys))


class RateLimitMachine(StoresMachine):
    """Buckets and violations alone."""

    stores: ClassVar[tuple[str, ...]] = ("rate_limit",)
    calls_per_move = 2

    @rule(data=st.data())
    def rate_limit(self, data: st.DataObject) -> None:
        """Any call of rate_limit."""
        self.call(data, lambda: strategies.rate_calls(self.trial.player.model))


class AuditLogMachine(StoresMachine):
    """The audit log alone."""

    stores: ClassVar[tuple[str, ...]] = ("audit_log",)
    calls_per_move = 3

    @rule(data=st.data())
    def audit_log(self, data: st.DataObject) -> None:
        """Any call of audit_log."""
        self.call(data, lambda: strategies.audit_calls(self.trial.player.model))


class AllStoresMachine(
    SkillsMachine, KnowledgeMachine, ReputationMachine, ApiKeysMachine, RateLimitMachine, AuditLogMachine
):
    """All six, on one clock and one set of data."""

    stores = tuple(READ_ALL)
    calls_per_move = 5


# --- searching -------------------------------------------------------------------------------------


def _run_round(machine: type[StoresMachine], search: Search, chosen: Profile, number: int) -> None:
    """One round of histories; what it finds is in `search.best`."""
    bound = type(machine.__name__, (machine,), {"search": search})
    try:
        run_state_machine_as_test(
            seed(number)(bound),
            settings=settings(
                max_examples=chosen.histories,
                stateful_step_count=chosen.steps,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
                print_blob=False,
                verbosity=Verbosity.quiet,
            ),
        )
    except _GiveUpError:
        if search.stop.is_set():
            raise
    except Exception:
        # A finding, or something that came of it (a store that answers differently each time is "flaky").
        if search.best is None:
            raise


def _replay(search: Search, start: datetime, steps: Sequence[Step]) -> Finding | None:
    """The first wrong answer to a history, if it can be played and there is one."""
    trial = Trial(search, start)
    try:
        for step in steps:
            finding = trial.try_step(step)
            if finding is not None:
                return finding
    except (Unplayable, TypeError):
        # What was left out is needed by a later step.
        return None
    finally:
        trial.end()
    return None


def _simpler(step: Step) -> list[Step]:
    """The step with less in it, several ways."""
    if not isinstance(step, Call):
        return []
    ways: list[Step] = []
    if step.scribble:
        ways.append(replace(step, scribble=False))
    if step.handle != "main":
        ways.append(replace(step, handle="main"))
    fewer = [times for times in (1, step.times // 2, step.times - 1) if 0 < times < step.times]
    ways += [replace(step, times=times) for times in fewer]
    changes = step.changes
    ways += [replace(step, changes=changes[:i] + changes[i + 1 :]) for i in range(len(changes))]
    for name, value in step.arguments.items():
        ways.append(replace(step, arguments={k: v for k, v in step.arguments.items() if k != name}))
        if type(value) is list:
            for index in range(len(value)):
                shorter = value[:index] + value[index + 1 :]
                ways.append(replace(step, arguments={**step.arguments, name: shorter}))
    return ways


def shorten(search: Search, finding: Finding, within_s: float) -> Finding:
    """The finding with every step, and every part of a step, left out that it does without."""
    until = time.monotonic() + within_s
    best = finding
    improved = True
    while improved:
        improved = False
        for index in reversed(range(len(best.steps))):
            if index >= len(best.steps):
                continue
            kept = best.steps[:index], best.steps[index + 1 :]
            ways: list[list[Step]] = [[], *([way] for way in _simpler(best.steps[index]))]
            for way in ways:
                if time.monotonic() > until:
                    return best
                found = _replay(search, best.start, [*kept[0], *way, *kept[1]])
                if found is not None and found.size < best.size:
                    best, improved = found, True
                    break
    return best


def _title(finding: Finding) -> str:
    last = finding.steps[-1]
    return (
        f"{last.store}.{last.method} answers as the contract says" if isinstance(last, Call) else "it reopens"
    )


async def _reproduces(search: Search, file: Path) -> str:
    """Why a counterexample's file does not show the failure again; empty where it does."""
    try:
        scenario = load_file(file).scenarios[0]
    except ScenarioFileError as error:
        return f"the file is refused: {error}"
    target = CaseTarget(search.adapter)
    try:
        result = await run_case(scenario.cases()[0], target)
    finally:
        await target.dispose()
    if result.outcome != "failed" or result.failure is None:
        return f"run as a scenario, it {result.outcome}"
    wrong_before = result.failure.line < scenario.steps[-1].node.line
    return f"run as a scenario, line {result.failure.line} already fails" if wrong_before else ""


def write_counterexample(search: Search, finding: Finding, name: str) -> tuple[Path | None, str]:
    """The scenario file of a finding, and why it does not show the failure (empty where it does)."""
    try:
        text = scenario_text(
            finding.start,
            finding.steps,
            finding.expected,
            failing=finding.failing,
            title=_title(finding),
            why=redact(" · ".join(" ".join(problem.split()) for problem in finding.problems[:3]))[:500],
        )
    except Unwritable as error:
        return None, f"no scenario can say it: {error}"
    folder = Path(os.environ.get("KP_STATEFUL_OUT") or "counterexamples")
    folder.mkdir(parents=True, exist_ok=True)
    backend = "".join(c if c.isalnum() else "_" for c in search.adapter.spec)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    file = folder / f"{backend}-{name}-{digest}.yaml"
    file.write_text(text, encoding="utf-8")
    return file, search.runner.run(_reproduces(search, file))


def search(machine: type[StoresMachine], state: Search, chosen: Profile, name: str) -> None:
    """Play histories until one is answered wrongly, or the profile is done.

    Raises:
        Disagreement: a history was answered wrongly; the message tells where its scenario file is.
    """
    started = time.monotonic()
    state.shrink_s = chosen.shrink_s
    for index in range(chosen.rounds):
        number = chosen.seeds(index)
        _run_round(machine, state, chosen, number)
        if state.best is not None:
            break
        if time.monotonic() - started > chosen.search_s:
            return
    else:
        return
    finding = shorten(state, state.best, chosen.shrink_s)
    file, unlike = write_counterexample(state, finding, name)
    lines = [
        *finding.problems[:8],
        "",
        f"after {len(finding.steps)} steps, the last of which is {_title(finding).split(' ')[0]};"
        f" history {state.played}, KP_STATEFUL_SEED={number}",
        f"counterexample: {file.resolve() if file else 'none'}" + (f" ({unlike})" if unlike else ""),
    ]
    raise Disagreement(redact("\n".join(lines)))


async def run_search(
    lab: Lab,
    machine: type[StoresMachine],
    name: str,
    chosen: Profile,
    reference: BackendAdapter | None = None,
) -> None:
    """Search on the backend of `lab`, on a thread of its own, since Hypothesis knows no `await`.

    Raises:
        Disagreement: as `search`.
    """
    stores = await lab.open()
    capabilities = frozenset(str(one) for one in stores.capabilities)
    await stores.close()
    if reference is not None:
        capabilities &= (await probe(reference)).capabilities
    adapter = lab._target.adapter
    searching: list[Search] = []

    def run() -> None:
        with asyncio.Runner() as runner:
            state = Search(adapter, capabilities, runner, reference)
            searching.append(state)
            try:
                search(machine, state, chosen, name)
            except _GiveUpError:
                return

    try:
        await asyncio.to_thread(run)
    finally:
        for state in searching:
            state.stop.set()


_COMMON = ("GEN-3", "GEN-4", "GEN-5", "GEN-6", "GEN-9")
_PAGES = ("PAGE-1", "PAGE-2", "PAGE-3", "PAGE-4")


def _clauses(store: str, count: int) -> tuple[str, ...]:
    return tuple(f"{store}-{index}" for index in range(1, count + 1))


@check(
    clauses=(*_COMMON, *_PAGES, *_clauses("SKILL", 7)),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories of skills answer as the model",
)
async def skills(lab: Lab) -> None:
    """Whatever is stored, replaced, deleted and sought, skills answer as a list in memory would."""
    await run_search(lab, SkillsMachine, "skills", profile())


@check(
    clauses=(*_COMMON, *_PAGES, *_clauses("KNOW", 6)),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories of knowledge answer as the model",
)
async def knowledge(lab: Lab) -> None:
    """Whatever is stored, replaced, deleted and sought, units answer as a list in memory would."""
    await run_search(lab, KnowledgeMachine, "knowledge", profile())


@check(
    clauses=(*_COMMON, *_PAGES, *_clauses("REP", 5)),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories of reputation answer as the model",
)
async def reputation(lab: Lab) -> None:
    """Scores, counts, histories, votes and the right to vote are what the sum of all calls makes them."""
    await run_search(lab, ReputationMachine, "reputation", profile())


@check(
    clauses=("GEN-5", "GEN-6", "GEN-9", "PAGE-4", *_clauses("KEY", 5)),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories of API keys answer as the model",
)
async def api_keys(lab: Lab) -> None:
    """A key verifies from its creation to its revocation, and nothing else ever does."""
    await run_search(lab, ApiKeysMachine, "api_keys", profile())


@check(
    clauses=("GEN-5", "GEN-6", "GEN-9", "RATE-1", "RATE-2", "RATE-3", "RATE-5"),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories of rate limits answer as the model",
)
async def rate_limit(lab: Lab) -> None:
    """Decisions and counts are those of exact fractions, wherever the clock goes."""
    await run_search(lab, RateLimitMachine, "rate_limit", profile())


@check(
    clauses=(*_COMMON, *_PAGES, *_clauses("AUDIT", 4)),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories of the audit log answer as the model",
)
async def audit_log(lab: Lab) -> None:
    """Every entry is there, in order, from its logging to the end of its 90th day."""
    await run_search(lab, AuditLogMachine, "audit_log", profile())


@check(
    clauses=("GEN-6", "GEN-9", "GEN-10", "PAGE-3", "PAGE-4"),
    requires=["controllable_clock"],
    timeout_s=TIMEOUT_S,
    name="random histories over all six stores answer as the model",
)
async def all_stores(lab: Lab) -> None:
    """The six stores share a clock and a set of data, and nothing else."""
    await run_search(lab, AllStoresMachine, "all", profile())
