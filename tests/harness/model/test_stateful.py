"""A broken store is found by the stateful check, and its counterexample is a scenario that shows it again."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kpstore_conformance.check import Lab
from kpstore_conformance.checks import stateful
from kpstore_conformance.checks.stateful import PROFILES, Disagreement, Profile, Search, profile, search
from kpstore_conformance.counterexample import METHOD_CLAUSES
from kpstore_conformance.scenario import CLAUSES, load_file, run_case
from kpstore_conformance.scenario.catalogue import STORES
from kpstore_conformance.target import CaseTarget, adapter_for

QUICK = Profile(rounds=20, histories=12, steps=30, search_s=60.0, shrink_s=3.0)
MEMORY = frozenset({"controllable_clock"})

BROKEN = {
    "total_after_cut": (stateful.SkillsMachine, "SKILL-3"),
    "forgetful_scan": (stateful.KnowledgeMachine, "PAGE-4"),
    "voting_after_30_days": (stateful.ReputationMachine, "REP-5"),
    "revoked_verifies": (stateful.ApiKeysMachine, "KEY-4"),
    "leaky_error": (stateful.RateLimitMachine, "GEN-5"),
    "shared_details": (stateful.AuditLogMachine, "AUDIT-2"),
}


async def outcome(file: Path, backend: str) -> str:
    target = CaseTarget(adapter_for(backend))
    try:
        return (await run_case(load_file(file).scenarios[0].cases()[0], target)).outcome
    finally:
        await target.dispose()


@pytest.mark.parametrize("bug", BROKEN)
def test_a_broken_store_is_found_and_its_scenario_reproduces_it(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_STATEFUL_OUT", str(tmp_path))
    machine, clause = BROKEN[bug]
    backend = f"broken_stores:{bug}"
    with asyncio.Runner() as runner:
        state = Search(adapter_for(backend), MEMORY, runner)
        with pytest.raises(Disagreement) as caught:
            search(machine, state, QUICK, bug)
    said = str(caught.value)
    found = re.search(r"^counterexample: (.*\.yaml)$", said, re.MULTILINE)
    assert found, said
    file = Path(found[1])
    assert file.parent == tmp_path
    scenario = load_file(file).scenarios[0]
    assert clause in scenario.clauses
    assert len(scenario.steps) <= 8, file.read_text()
    assert asyncio.run(outcome(file, backend)) == "failed"
    assert asyncio.run(outcome(file, "memory")) == "passed"
    assert re.search(r"KP_STATEFUL_SEED=\d+", said)
    assert not re.search(r"kp_[0-9a-f]{9}", file.read_text() + said)


def test_a_seed_finds_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_STATEFUL_OUT", str(tmp_path))
    said = []
    for _ in range(2):
        with asyncio.Runner() as runner:
            state = Search(adapter_for("broken_stores:leaky_error"), MEMORY, runner)
            with pytest.raises(Disagreement) as caught:
                search(stateful.RateLimitMachine, state, QUICK, "again")
        said.append(str(caught.value).partition("\n")[0])
    assert said[0] == said[1]


def test_a_sound_store_passes() -> None:
    with asyncio.Runner() as runner:
        state = Search(adapter_for("memory"), MEMORY, runner)
        search(stateful.AllStoresMachine, state, Profile(1, 10, 30, 60.0, 3.0), "sound")
    assert state.played >= 10


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KP_STATEFUL_PROFILE", "KP_STATEFUL_SEED", "KP_STATEFUL_MINUTES"):
        monkeypatch.delenv(name, raising=False)
    assert profile() is PROFILES["ci"]
    assert [profile().seeds(index) for index in range(2)] == [0, 1]
    monkeypatch.setenv("KP_STATEFUL_PROFILE", "night")
    assert profile().seeds(0) != profile().seeds(0)
    monkeypatch.setenv("KP_STATEFUL_MINUTES", "2")
    assert profile().search_s == 120
    monkeypatch.setenv("KP_STATEFUL_SEED", "7")
    assert (profile().rounds, profile().seeds(0)) == (1, 7)
    monkeypatch.setenv("KP_STATEFUL_PROFILE", "noon")
    with pytest.raises(ValueError, match=r"KP_STATEFUL_PROFILE='noon': known are ci, night"):
        profile()


def test_every_method_has_clauses_of_the_contract() -> None:
    methods = {f"{store}.{name}" for store, found in STORES.items() for name in found}
    assert METHOD_CLAUSES.keys() == methods
    assert {clause for clauses in METHOD_CLAUSES.values() for clause in clauses} <= CLAUSES.keys()


def test_without_hypothesis_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import kpstore_conformance.checks.stateful"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "need Hypothesis: pip install 'kpstore[conformance]'" in done.stderr


async def test_a_check_that_is_cut_short_leaves_no_search_behind() -> None:
    target = CaseTarget(adapter_for("memory"))
    endless = Profile(rounds=10**9, histories=12, steps=40, search_s=600.0, shrink_s=3.0)
    before = threading.active_count()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await stateful.run_search(Lab(target), stateful.SkillsMachine, "endless", endless)
    finally:
        await target.dispose()
    # The worker thread itself is the event loop's, and waits for other work; the search in it has ended.
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 10)
    assert threading.active_count() == before
