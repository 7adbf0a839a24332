"""Small suites and small backends for the tests of the harness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kpstore_conformance import guard, suite
from kpstore_conformance.latency.stopwatch import StopWatch
from kpstore_conformance.target import BackendFacts

# Before any inner run: pytester forgets what that imports first, and numpy can be loaded only once.
import kpstore.backends.memory  # noqa: F401

SCENARIOS = """\
format: 1
title: Deleting a skill
clauses: [SKILL-6]
tags: [small]
scenarios:
  - name: deleting says whether it was there
    matrix: { id: [a, b] }
    given:
      - skill: { id: "${id}" }
    steps:
      - skills.delete: { id: "${id}" }
        expect: true
      - skills.delete: { id: "${id}" }
        expect: false
  - name: a deleted skill is gone
    clauses: [SKILL-2]
    given:
      - skill: { id: a }
    steps:
      - skills.delete: { id: a }
      - skills.get_by_id: { id: a }
        expect: null
  - name: a skill outlives its store
    clauses: [GEN-10]
    requires: [durable]
    given:
      - skill: { id: a }
    steps:
      - skills.get_by_id: { id: a }
        expect: { id: a }
"""

# Delegates to the memory backend, but for `delete`, which forgets to say that there was something.
BROKEN_BACKEND = """\
from kpstore.backends.memory import open_store as open_memory


async def open_store(settings, clock):
    stores = await open_memory(settings, clock)
    delete = stores.skills.delete

    async def forgetful(id):
        await delete(id)
        return False

    stores.skills.delete = forgetful
    return stores
"""


@pytest.fixture
def facts() -> Callable[..., BackendFacts]:
    """Makes the facts of a backend that need not exist."""

    def make(
        *capabilities: str, name: str = "memory", inspectors: tuple[str, ...] = ("raw",)
    ) -> BackendFacts:
        return BackendFacts(name, name, frozenset(capabilities), frozenset(inspectors))

    return make


@pytest.fixture
def workplace(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, apart from every other test's: pytester's where a test uses that."""
    folder: Path = tmp_path
    if "pytester" in request.fixturenames:
        folder = request.getfixturevalue("pytester").path
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def small_package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the packaged scenarios and checks: these tests are not about their thousands of cases."""
    folder = tmp_path_factory.mktemp("package") / "scenarios"
    folder.mkdir()
    (folder / "packaged.yaml").write_text(SCENARIOS.replace("small", "packaged"), "utf-8")
    monkeypatch.setattr(suite, "packaged_scenarios", lambda: folder)
    monkeypatch.setattr(suite, "check_modules", lambda: ["public_api"])
    # Which is just what the guard is there to report.
    monkeypatch.setattr(guard, "_foreign", list)
    return folder


@pytest.fixture
def small_suite(workplace: Path) -> Path:
    """A folder with one scenario file: three cases for every backend, and one for durable ones."""
    folder = workplace / "small"
    (folder / "skills").mkdir(parents=True)
    (folder / "skills" / "delete.yaml").write_text(SCENARIOS, "utf-8")
    return folder


@pytest.fixture
def broken_backend(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend that breaks SKILL-6, in the current folder."""
    (workplace / "broken_backend.py").write_text(BROKEN_BACKEND, "utf-8")
    monkeypatch.syspath_prepend(str(workplace))
    return "broken_backend:open_store"


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[StopWatch]:
    """The watches by which this process has come to rest, in order; each time is one."""
    found: list[StopWatch] = []
    rest = StopWatch.rest

    async def noted(watch: StopWatch, at_most_s: float | None = None) -> None:
        await rest(watch, at_most_s)
        found.append(watch)

    monkeypatch.setattr(StopWatch, "rest", noted)
    return found
