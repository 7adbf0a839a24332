"""Nobody can silence a check: each way to do it fails the run, and the verdict says which it was.

The backend of all of these forgets to say that there was something to delete, which two of the four cases of
the small suite are about. What it does besides is to keep that from being seen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import Distribution, PackagePath
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance import guard
from kpstore_conformance.running import ANCHOR

MINE = ("--no-packaged", "--scenarios", "small")


@pytest.fixture(autouse=True)
def in_the_folder_of_the_small_suite(small_suite: Path, broken_backend: str) -> None:
    """What every test here works on."""


def backend(text: str = "") -> str:
    """The broken backend, and what its module does when it is imported."""
    Path("evil.py").write_text(f"from broken_backend import open_store\n\n{text}\n", "utf-8")
    return "evil:open_store"


def processed(*command: str) -> tuple[int, str]:
    """Exit status and output of a process in the current folder, apart from what this one is told."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *command],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


def conformance(*arguments: str) -> tuple[int, str]:
    program = "import sys; from kpstore.cli import main; sys.exit(main())"
    return processed("-P", "-c", program, "conformance", "run", "--report", "out", *arguments)


def pytest_run(*arguments: str) -> tuple[int, str]:
    """The suite as a plugin of pytest, which loads the conftest.py of the current folder."""
    plugins = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:cacheprovider")
    return processed("-m", "pytest", *plugins, "--kpstore-no-packaged", "--report", "out", *arguments)


def verdict() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/conformance.json").read_text("utf-8"))["verdict"]
    return found


def assert_caught(status: int, output: str, problem: str) -> None:
    """The run failed, grants no level, and names the problem."""
    assert status == 1, output
    found = verdict()
    assert found["passed"] is False
    assert found["level"] is None
    assert any(problem in one for one in found["problems"]), output
    assert "problems" in output


def test_the_broken_backend_fails_as_it_is() -> None:
    status, output = conformance("--backend", backend(), *MINE)
    assert status == 1
    assert verdict()["counts"]["failed"] == 2, output
    assert verdict()["problems"] == []


# ---- in the process, by the backend's module


REPLACED = {
    "the engine's way to judge": (
        "from kpstore_conformance.scenario import runner\nrunner._Run._check = lambda *given: None",
        "kpstore_conformance.scenario.runner._Run._check was replaced",
    ),
    "the code of a function": (
        "from kpstore_conformance.scenario import runner\n"
        "def _judge(self, step, result, raised): pass\n"
        "runner._Run._judge.__code__ = _judge.__code__",
        "kpstore_conformance.scenario.runner._Run._judge.__code__ was replaced",
    ),
    "an attribute that was not there": (
        "from kpstore_conformance.scenario import matchers\n"
        "for kind in list(vars(matchers).values()):\n"
        "    if isinstance(kind, type) and issubclass(kind, matchers.Matcher) and 'match' in vars(kind):\n"
        "        kind.__getattribute__ = lambda self, name: (\n"
        "            (lambda *given: []) if name == 'match' else object.__getattribute__(self, name))",
        "__getattribute__ was replaced",
    ),
    "what a case does when it runs": (
        "from kpstore_conformance.running import CaseItem\nCaseItem.runtest = lambda self: None",
        "kpstore_conformance.running.CaseItem.runtest was replaced",
    ),
    "a rule of the stores": (
        "from kpstore.stores import SkillStore\n"
        "async def delete(self, id): return await self._delete(id)\n"
        "SkillStore.delete = delete",
        "kpstore.stores.skills.SkillStore.delete was replaced",
    ),
    "a constant of the suite": (
        "from kpstore_conformance import verdict\nverdict.FAILING = frozenset()",
        "kpstore_conformance.verdict.FAILING was replaced",
    ),
    "what all of it stands on": (
        "import builtins\nreal = isinstance\nbuiltins.isinstance = lambda one, kind: real(one, kind)",
        "builtins.isinstance was replaced",
    ),
    "the options of the run": (
        "import gc\nfrom kpstore_conformance.running import ConformanceRun\n"
        "[run] = [one for one in gc.get_objects() if type(one) is ConformanceRun]\n"
        "run._config.option.keyword = 'gone'",
        "the options of the run were changed",
    ),
}


@pytest.mark.parametrize("what", REPLACED)
def test_what_a_backend_replaces_is_named(what: str) -> None:
    text, problem = REPLACED[what]
    assert_caught(*conformance("--backend", backend(text), *MINE), problem)


def test_what_a_backend_replaces_in_another_process_is_named() -> None:
    text, problem = REPLACED["a constant of the suite"]
    there = "import os\nif 'PYTEST_XDIST_WORKER' in os.environ:\n    " + text.replace("\n", "\n    ")
    assert_caught(*conformance("--backend", backend(there), *MINE, "-n", "1"), problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("module.create_store_has_the_parameters = None", "create_store_has_the_parameters was replaced"),
        (
            "async def nothing(lab): pass\n"
            "object.__setattr__(module.create_store_has_the_parameters, 'function', nothing)",
            "create_store_has_the_parameters.__code__ was replaced",
        ),
        (
            "object.__setattr__(module.create_store_has_the_parameters, 'clauses', frozenset())",
            "create_store_has_the_parameters.clauses was replaced",
        ),
        ("del module.create_store_has_the_parameters", "create_store_has_the_parameters was replaced"),
    ],
)
def test_a_check_that_is_replaced_or_emptied_is_named(text: str, problem: str) -> None:
    evil = backend(f"from kpstore_conformance.checks import public_api as module\n{text}")
    arguments = ("--case", "checks/public_api/*")
    assert_caught(*conformance("--backend", evil, *arguments), problem)


@pytest.mark.parametrize(
    "text",
    [
        "stop = lambda: sys.exit(0)",
        "import pytest\ndef stop(): raise pytest.skip.Exception('not today')",
        "import unittest\ndef stop(): raise unittest.SkipTest('not today')",
        "import pytest\ndef stop(): raise pytest.xfail.Exception('it is known')",
        "import pytest\nstop = lambda: pytest.exit('enough', returncode=0)",
    ],
)
def test_what_a_store_raises_to_get_out_of_a_case_is_an_error(text: str) -> None:
    leaving = "import sys\n" + text + "\n" + LEAVING
    status, output = conformance("--backend", backend(leaving), *MINE)
    assert status == 1, output
    assert verdict()["counts"]["error"] + verdict()["counts"]["failed"] == 3, output
    assert verdict()["level"] is None


LEAVING = """
open_broken = open_store


async def open_store(settings, clock):
    stores = await open_broken(settings, clock)

    async def leave(id):
        stop()

    stores.skills.delete = leave
    return stores
"""


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos._exit(0)",
        "import os\nstop = lambda: os._exit(0)\n" + LEAVING,
        # Takes the run's plugin out, and with it the verdict.
        "import gc\nfrom kpstore_conformance.running import ConformanceRun\n"
        "def stop():\n"
        "    [run] = [one for one in gc.get_objects() if type(one) is ConformanceRun]\n"
        "    if run._config.pluginmanager.is_registered(run): run._config.pluginmanager.unregister(run)\n"
        "    return True\n" + LEAVING.replace("stop()", "return stop()"),
    ],
)
def test_a_process_that_ends_without_a_verdict_is_no_success(text: str) -> None:
    status, output = conformance("--backend", backend(text), *MINE)
    assert status == 1, output
    assert "no verdict: the run ended with exit status" in output


def test_an_exit_status_that_is_changed_after_the_verdict_does_not_count() -> None:
    text = "import atexit, os\natexit.register(os._exit, 0)"
    status, output = conformance("--backend", backend(text), *MINE)
    assert status == 1, output
    assert verdict()["counts"]["failed"] == 2


def test_a_scenario_that_is_rewritten_is_named() -> None:
    text = (
        "import pathlib\nfile = pathlib.Path('small/skills/delete.yaml')\n"
        "file.write_text(file.read_text().replace('expect: true', 'expect: false'))"
    )
    assert_caught(*conformance("--backend", backend(text), *MINE), "delete.yaml was changed during the run")


def test_a_package_that_hides_the_suite_from_its_processes_is_named() -> None:
    Path("kpstore_conformance").mkdir()
    Path("kpstore_conformance/__init__.py").write_text("")
    status, output = conformance("--backend", backend(), *MINE)
    assert_caught(status, output, "comes before")
    assert f"not the suite: {Path.cwd()}/kpstore_conformance/__init__.py comes before" in output


def test_known_failures_that_swallow_everything_grant_nothing() -> None:
    Path("known.yaml").write_text(
        "flaky:\n  - case: '*'\n    reason: it forgets\n    issue: https://example.org/1\n"
        "    expires: 2999-01-01\n"
    )
    status, output = conformance("--backend", backend(), *MINE, "--known", "known.yaml")
    assert status == 0
    assert verdict()["level"] is None
    assert "2 flaky, failed" in output
    assert "known failures" in output


def test_methods_of_its_own_are_noted() -> None:
    status, output = conformance("--backend", backend(), *MINE)
    assert "own rules      skills.delete" in output
    document = json.loads(Path("out/conformance.json").read_text("utf-8"))
    assert document["backend"]["own_methods"] == ["skills.delete"]
    status, output = conformance("--backend", "sqlite", *MINE)
    assert status == 0
    assert "own rules" not in output


# ---- with pytest, by a conftest.py or a plugin


HOOKS = {
    "removes items": (
        "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if 'gone' in i.name]",
        "taken out of the run by something other than its options",
    ),
    "deselects items": (
        "def pytest_collection_modifyitems(config, items):\n"
        "    config.hook.pytest_deselected(items=[i for i in items if 'gone' not in i.name])\n"
        "    items[:] = [i for i in items if 'gone' in i.name]",
        "taken out of the run by something other than its options",
    ),
    "removes items later": (
        "def pytest_collection_finish(session):\n"
        "    session.items[:] = [i for i in session.items if 'gone' in i.name]",
        "to run, and came to no outcome",
    ),
    "skips items": (
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.skip)",
        "to run, and came to no outcome",
    ),
    "gives items nothing to do": (
        "def pytest_collection_modifyitems(items):\n    for item in items: item.runtest = lambda: None",
        "to run, and came to no outcome",
    ),
    "runs items in a way of its own": (
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_protocol(item): return True",
        "to run, and came to no outcome",
    ),
    "replaces before the suite looks": (
        "from kpstore_conformance.scenario import runner\n"
        "def _check(self, *given): pass\nrunner._Run._check = _check",
        "kpstore_conformance.scenario.runner._Run._check is from ",
    ),
}


WHERE = [(what, ()) for what in HOOKS] + [(what, ("-n", "1")) for what in ("removes items", "skips items")]


@pytest.mark.parametrize(("what", "processes"), WHERE)
def test_what_a_conftest_takes_away_is_named(what: str, processes: tuple[str, ...]) -> None:
    text, problem = HOOKS[what]
    Path("conftest.py").write_text(text)
    assert_caught(*pytest_run("small", "--backend", backend(), *processes), problem)


RESULTS = {
    "reports what it likes": (
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        "def pytest_runtest_makereport(item, call):\n"
        "    report = yield\n    report.outcome = 'passed'\n    return report"
    ),
    "expects failures": (
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.xfail)"
    ),
    "sets the exit status": (
        "import pytest\n@pytest.hookimpl(trylast=True)\n"
        "def pytest_sessionfinish(session): session.exitstatus = 0"
    ),
    "runs items in another order": "def pytest_collection_modifyitems(items): items.reverse()",
}


@pytest.mark.parametrize("what", RESULTS)
def test_what_a_conftest_makes_of_an_outcome_does_not_count(what: str) -> None:
    Path("conftest.py").write_text(RESULTS[what])
    status, output = pytest_run("small", "--backend", backend())
    assert status == 1, output
    assert verdict()["counts"]["failed"] == 2
    assert verdict()["problems"] == []


def test_an_outcome_that_is_changed_on_its_way_is_named() -> None:
    Path("conftest.py").write_text(
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_logreport(report):\n"
        "    if hasattr(report, 'kpstore_outcome'):\n"
        "        report.kpstore_outcome |= {'outcome': 'passed'}\n"
    )
    status, output = pytest_run("small", "--backend", backend(), "-n", "1")
    assert_caught(status, output, "was changed on its way from a worker")
    assert verdict()["counts"]["failed"] == 2


def test_a_file_that_is_kept_from_being_collected_is_named() -> None:
    Path("keeper.py").write_text(
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_make_collect_report(collector):\n"
        "    if collector.path.name == 'delete.yaml':\n"
        "        return pytest.CollectReport(collector.nodeid, 'passed', None, [])\n"
    )
    arguments = (str(ANCHOR), f"-c{ANCHOR}", f"--rootdir={ANCHOR.parent}", "-p", "keeper")
    status, output = pytest_run(*arguments, "--backend", backend(), "--kpstore-scenarios=small")
    assert_caught(status, output, "not collected")


def test_a_selection_of_the_user_is_no_problem() -> None:
    for selection in (("-k", "gone"), ("--case", "*gone"), ("--deselect", "small/skills/delete.yaml::x")):
        status, output = pytest_run("small", "--backend", "memory", *selection)
        assert status == 0, output
        assert verdict()["problems"] == []


# ---- what is installed


class _Installed(Distribution):
    """A distribution with these files on record."""

    def __init__(self, folder: Path, record: dict[str, bytes]) -> None:
        self._folder = folder
        rows = []
        for name, content in record.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
        self._record = "\n".join(rows)

    def read_text(self, filename: str) -> str | None:
        return self._record if filename == "RECORD" else None

    def locate_file(self, path: Any) -> Path:
        return self._folder / PackagePath(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: None, None),
        (
            lambda folder: (folder / "kpstore_conformance/checks.py").write_bytes(b"pass"),
            "checks.py is not the file that was installed",
        ),
        (
            lambda folder: (folder / "kpstore_conformance/conftest.py").write_bytes(b""),
            "conftest.py is not part of the installed package",
        ),
        (lambda folder: (folder / "kpstore_conformance/checks.py").unlink(), "checks.py is gone"),
    ],
)
def test_files_are_as_they_were_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, problem: str | None
) -> None:
    record = {f"{name}/__init__.py": b"" for name in guard.PACKAGES} | {"kpstore_conformance/checks.py": b"1"}
    for name, content in record.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(guard, "distribution", lambda name: _Installed(tmp_path, record))
    monkeypatch.setattr(guard, "_package_file", lambda name: tmp_path / name / "__init__.py")
    change(tmp_path)
    found = guard._unlike_record(guard._files([tmp_path / name for name in guard.PACKAGES]))
    assert [one.endswith(problem or "") for one in found] == ([True] if problem else [])
