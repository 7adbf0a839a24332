"""The pytest face: what it collects, how it reports, and that it leaves other people's tests alone."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from kpstore_conformance import suite
from kpstore_conformance.check import Lab
from kpstore_conformance.checks import public_api
from kpstore_conformance.suite import checks_folder

SKILL_6 = "skills/delete/deleting says whether it was there"
LIGHT = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest")


pytestmark = pytest.mark.usefixtures("small_package")


@pytest.fixture(autouse=True)
def stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner runs do not inherit what this run was told."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def run(pytester: pytest.Pytester, *arguments: object) -> pytest.RunResult:
    return pytester.runpytest(*LIGHT, *map(str, arguments))


def report_of(pytester: pytest.Pytester, folder: str = "out") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((pytester.path / folder / "conformance.json").read_text("utf-8"))
    return document


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {case["case"]: case["outcome"] for case in document["cases"]}


# ---- what it leaves alone


def test_without_a_backend_nothing_is_collected(pytester: pytest.Pytester, small_suite: Path) -> None:
    pytester.makepyfile("def test_mine(): pass")
    (pytester.path / "mine.yaml").write_text((small_suite / "skills" / "delete.yaml").read_text())
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*kpstore conformance*")


def test_a_file_named_without_a_backend_says_what_is_missing(
    pytester: pytest.Pytester, small_suite: Path
) -> None:
    result = run(pytester, small_suite / "skills" / "delete.yaml")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*delete.yaml is a kpstore scenario file: give --backend*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_other_peoples_backend_option_wins(pytester: pytest.Pytester, small_suite: Path) -> None:
    pytester.makeconftest(
        """
        import pytest
        def pytest_addoption(parser):
            parser.addoption("--backend", default="theirs")
            parser.addoption("--report", action="store_true")
        @pytest.fixture
        def backend(request):
            return request.config.getoption("--backend")
        """
    )
    pytester.makepyfile("def test_mine(backend): assert backend == 'postgres'")
    result = run(pytester, "--backend", "postgres", "--report")
    result.assert_outcomes(passed=1)
    result = run(pytester, "--kpstore-backend", "memory", "--kpstore-report", "out", small_suite)
    result.assert_outcomes(passed=3, skipped=1)
    assert report_of(pytester)["backend"]["name"] == "memory"


def test_other_peoples_plugin_option_wins(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        their_plugin="def pytest_addoption(parser): parser.addoption('--backend', default='theirs')",
        test_it="def test_mine(request): assert request.config.getoption('--backend') == 'postgres'",
    )
    pytester.syspathinsert()
    run(pytester, "-p", "their_plugin", "--backend", "postgres").assert_outcomes(passed=1)


def test_it_is_inert_where_the_extra_is_not_installed(pytester: pytest.Pytester) -> None:
    # As after a plain `pip install kpstore`: pytest is there, PyYAML is not.
    (pytester.path / "sitecustomize.py").write_text("import sys\nsys.modules['yaml'] = None\n")
    pytester.makepyfile("def test_mine(): pass")
    command = (sys.executable, "-c", "import sitecustomize, pytest; raise SystemExit(pytest.main())", *LIGHT)
    result = pytester.run(*command)
    result.assert_outcomes(passed=1)
    result = pytester.run(
        sys.executable,
        "-c",
        "import sitecustomize, pytest; raise SystemExit(pytest.main(['--backend=memory']))",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --backend needs yaml: pip install 'kpstore?conformance?'"])


def test_other_yaml_below_the_folder_is_left_alone(pytester: pytest.Pytester, small_suite: Path) -> None:
    pytester.makefile(".yaml", compose="services: {}")
    pytester.makepyfile("def test_mine(): pass")
    result = run(pytester, "--backend", "memory", pytester.path, small_suite)
    result.assert_outcomes(passed=4, skipped=1)


# ---- what it runs


def test_the_cases_of_a_file_are_items(pytester: pytest.Pytester, small_suite: Path) -> None:
    result = run(pytester, small_suite, "--backend", "memory", "-v", "-rs", "--report", "out")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*skills/delete.yaml::deleting says whether it was there?id=a? PASSED*",
            "*skills/delete.yaml::deleting says whether it was there?id=b? PASSED*",
            "*skills/delete.yaml::a deleted skill is gone PASSED*",
            "*skills/delete.yaml::a skill outlives its store SKIPPED*",
            "*level*none (partial: * cases were not selected)",
            "*cases*3 executed · 3 passed · 1 not applicable*",
            "SKIPPED*not applicable to memory: needs durable",
        ]
    )
    assert result.ret == 0
    assert outcomes(report_of(pytester)) == {
        "delete/deleting says whether it was there[id=a]": "passed",
        "delete/deleting says whether it was there[id=b]": "passed",
        "delete/a deleted skill is gone": "passed",
        "delete/a skill outlives its store": "not_applicable",
    }


def test_ids_start_at_the_outermost_folder_named_scenarios(
    pytester: pytest.Pytester, small_suite: Path
) -> None:
    folder = pytester.mkdir("scenarios")
    (small_suite / "skills").rename(folder / "skills")
    run(pytester, folder / "skills", "--backend", "memory", "--report", "out").assert_outcomes(
        passed=3, skipped=1
    )
    assert f"{SKILL_6}[id=a]" in outcomes(report_of(pytester))


@pytest.mark.parametrize(
    ("expression", "passed"),
    [
        ("deleting", 2),
        ("SKILL-2", 1),
        ("small", 3),
        ("delete/deleting and not b]", 1),
        ("id=a", None),
        ("nothing", 0),
    ],
)
def test_k_finds_cases_by_id_clause_and_tag(
    pytester: pytest.Pytester, small_suite: Path, expression: str, passed: int | None
) -> None:
    result = run(pytester, small_suite / "skills" / "delete.yaml", "--backend", "memory", "-k", expression)
    if passed is None:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
    elif passed:
        assert result.parseoutcomes()["passed"] == passed
        assert result.ret == 0
    else:
        assert result.ret != 0


@pytest.mark.parametrize(
    ("glob", "passed"),
    [
        ("delete/deleting says whether it was there[id=a]", 1),
        ("delete/deleting*", 2),
        ("*gone", 1),
    ],
)
def test_case_selects_by_id(pytester: pytest.Pytester, small_suite: Path, glob: str, passed: int) -> None:
    result = run(pytester, small_suite, "--backend", "memory", "--case", glob)
    assert result.parseoutcomes()["passed"] == passed
    result.stdout.fnmatch_lines(["*level*none (partial: *"])


def test_last_failed_runs_what_failed(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str
) -> None:
    run(pytester, small_suite, "--backend", broken_backend).assert_outcomes(passed=1, failed=2, skipped=1)
    run(pytester, small_suite, "--backend", broken_backend, "--lf").assert_outcomes(failed=2)


def test_an_item_can_be_named(pytester: pytest.Pytester, small_suite: Path) -> None:
    file = small_suite / "skills" / "delete.yaml"
    run(pytester, f"{file}::deleting says whether it was there[id=b]", "--backend", "memory").assert_outcomes(
        passed=1
    )


def test_a_broken_backend_fails_with_the_clause_the_line_and_the_command(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str
) -> None:
    result = run(pytester, small_suite, "--backend", broken_backend, "--report", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*delete.yaml:11:*expected true, came false",
            "*run it again: kpstore conformance run --backend broken_backend:open_store*--case *id=a*",
            "*FAILED  memory (broken_backend:open_store)*",
            "*failures*2 cases in SKILL-6",
            "*✗ delete/deleting says whether it was there (2 cases) · SKILL-6",
            "*delete.yaml:11: *expected true, came false",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    document = report_of(pytester)
    assert document["verdict"]["passed"] is False
    assert document["clauses"]["SKILL-6"]["status"] == "failed"
    failed = [case for case in document["cases"] if case["outcome"] == "failed"]
    assert [case["at"].rpartition("/")[2] for case in failed] == ["delete.yaml:11", "delete.yaml:11"]


def test_nothing_executed_is_a_failure(pytester: pytest.Pytester, small_suite: Path) -> None:
    result = run(pytester, small_suite, "--backend", "memory", "--case", "*outlives*")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*problems*nothing was executed*"])


def test_a_backend_without_any_case_is_a_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    result = run(pytester, "--backend", "memory", pytester.path)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*problems*nothing was executed*"])


def test_collecting_alone_gives_no_verdict(pytester: pytest.Pytester, small_suite: Path) -> None:
    result = run(pytester, small_suite, "--backend", "memory", "--collect-only", "-q")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*level*")


def test_a_refused_file_shows_its_problems_and_no_traceback(
    pytester: pytest.Pytester, small_suite: Path
) -> None:
    (small_suite / "bad.yaml").write_text("formt: 1\ntitle: x\nscenarios:\n  - nam: y\n")
    result = run(pytester, small_suite, "--backend", "memory")
    assert result.ret != 0
    result.stdout.fnmatch_lines(
        ["*bad.yaml:1:1: *", "*bad.yaml:4:5: *", "*problems*cannot be read: *bad.yaml*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_checks_are_items_too(pytester: pytest.Pytester) -> None:
    file = checks_folder() / "public_api.py"
    alone = ("-c", pytester.makeini("[pytest]"), "-v", "-k", "create_store")
    result = run(pytester, file, "--backend", "memory", *alone)
    result.stdout.fnmatch_lines(["*public_api.py::create_store has the contract's parameters PASSED*"])


def test_a_run_leaves_no_files(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.mkdir("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    run(pytester, small_suite, "--backend", broken_backend).assert_outcomes(passed=1, failed=2, skipped=1)
    assert list(folder.glob("kpstore-*")) == []


def test_a_failing_check_shows_its_fact_its_lines_and_no_key(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "kp_" + "0123456789abcdef" * 4

    async def leaky(lab: Lab) -> None:
        raise AssertionError(f"the log has {key}")

    made = replace(public_api.create_store_has_the_parameters, function=leaky, file=Path(__file__))
    monkeypatch.setattr(public_api, "create_store_has_the_parameters", made)
    alone = ("-c", pytester.makeini("[pytest]"), "-k", "create_store", "--report", "out")
    result = run(pytester, checks_folder() / "public_api.py", "--backend", "memory", *alone)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "checks/public_api/create_store has the contract's parameters",
            "*create_store(backend=None, ?, settings=None, clock=None)*",
            "*proves GEN-12, CFG-1 · *test_plugin.py:*",
            "*test_plugin.py*in leaky",
            "*AssertionError: the log has kp_????????…",
            "run it again: kpstore conformance run --backend memory --case *",
            "*✗ checks/public_api/create_store has the contract's parameters · GEN-12 CFG-1",
        ]
    )
    assert key not in result.stdout.str()
    assert key not in (pytester.path / "out" / "conformance.json").read_text("utf-8")
    # What called the check is of no interest.
    result.stdout.no_fnmatch_line("*check.py*in run*")


def test_a_case_that_hangs_is_an_error(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging(lab: Lab) -> None:
        await asyncio.sleep(3600)

    made = replace(public_api.create_store_has_the_parameters, function=hanging, timeout_s=0.05)
    monkeypatch.setattr(public_api, "create_store_has_the_parameters", made)
    alone = ("-c", pytester.makeini("[pytest]"), "-k", "create_store")
    result = run(pytester, checks_folder() / "public_api.py", "--backend", "memory", *alone)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no end after 0.05 s"])


def test_a_check_module_that_cannot_be_imported_fails_a_whole_run(
    pytester: pytest.Pytester, small_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "check_modules", lambda: ["no_such_module"])
    result = run(pytester, small_package, "--backend", "memory")
    result.assert_outcomes(passed=3, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*problems*no_such_module.py:1:1: cannot be imported: ModuleNotFoundError: *"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


# ---- bad usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "nowhere"], "*cannot open backend 'nowhere'*known: *memory*"),
        (["--backend", "no_such_module:open_store"], "*cannot open backend 'no_such_module:open_store'*"),
        (["--backend", "memory", "--backend", "sqlite"], "*one backend per run, not 2: memory, sqlite"),
        (["--backend", "memory", "--adapter", "x"], "*--adapter 'x': write module:Class"),
        (
            ["--backend", "memory", "--known", "nowhere.yaml"],
            "*nowhere.yaml:1:1: cannot be read: No such file*",
        ),
        (["--backend", ""], "*--backend needs a name, or module:callable"),
    ],
)
def test_bad_usage_is_one_line(
    pytester: pytest.Pytester, small_suite: Path, arguments: list[str], message: str
) -> None:
    result = run(pytester, small_suite, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


# ---- known failures


def known(pytester: pytest.Pytester, text: str) -> Path:
    path = pytester.path / "known.yaml"
    path.write_text(text, "utf-8")
    return path


def entry(case: str, expires: str = "2999-01-01") -> str:
    return (
        f"  - case: '{case}'\n"
        "    reason: it forgets\n"
        "    issue: https://example.org/1\n"
        f"    expires: {expires}\n"
    )


def test_a_known_failure_runs_and_does_not_fail_the_run(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str
) -> None:
    file = known(pytester, "known_failing:\n" + entry("delete/deleting*"))
    result = run(pytester, small_suite, "--backend", broken_backend, "--known", file, "--report", "out")
    result.assert_outcomes(passed=1, xfailed=2, skipped=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*2 failed as known*", "*known failures*it forgets (https://example.org/1*"])
    document = report_of(pytester)
    assert document["clauses"]["SKILL-6"]["status"] == "known_failing"
    assert document["verdict"]["counts"]["known_failing"] == 2


def test_a_known_failure_that_passes_fails_the_run(pytester: pytest.Pytester, small_suite: Path) -> None:
    file = known(pytester, "known_failing:\n" + entry("*gone"))
    result = run(pytester, small_suite, "--backend", "memory", "--known", file)
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*known to fail, but passes: remove it from *known.yaml:2"])


def test_an_entry_past_its_date_fails_the_run_and_shields_nothing(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str
) -> None:
    file = known(pytester, "known_failing:\n" + entry("delete/deleting*", "2020-01-01"))
    result = run(pytester, small_suite, "--backend", broken_backend, "--known", file)
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*known failing 'delete/deleting?' is past its date, 2020-01-01"])
    result = run(pytester, small_suite, "--backend", "memory", "--known", file)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_an_entry_that_matches_nothing_fails_a_whole_run(
    pytester: pytest.Pytester, small_suite: Path
) -> None:
    file = known(pytester, "flaky:\n" + entry("elsewhere/*"))
    whole = (
        "--backend",
        "memory",
        "--known",
        file,
        "--kpstore-no-packaged",
        f"--kpstore-scenarios={small_suite}",
    )
    result = run(pytester, small_suite, *whole)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*flaky 'elsewhere/?' matches no case"])
    # Of a selection nobody can say so.
    assert run(pytester, small_suite, *whole, "--case", "*gone").ret == 0


def test_a_flaky_case_may_do_either(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str
) -> None:
    file = known(pytester, "flaky:\n" + entry("delete/*"))
    result = run(pytester, small_suite, "--backend", broken_backend, "--known", file)
    result.assert_outcomes(passed=1, xfailed=2, skipped=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*2 flaky, failed*", "*it forgets*, flaky)"])


# ---- reports


def test_junit_of_pytest_has_the_file_and_line_of_the_yaml(
    pytester: pytest.Pytester, small_suite: Path
) -> None:
    run(pytester, small_suite, "--backend", "memory", "--junitxml=junit.xml")
    cases = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    found = {
        case.get("name"): {one.get("name"): one.get("value") for one in case.iter("property")}
        for case in cases
    }
    properties = found["a deleted skill is gone"]
    assert properties["file"] == "small/skills/delete.yaml"
    assert properties["line"] == "15"
    assert properties["case"] == "delete/a deleted skill is gone"
    assert properties["clauses"] == "SKILL-2 SKILL-6"


def test_the_verdict_is_the_same_with_xdist(
    pytester: pytest.Pytester, small_suite: Path, broken_backend: str
) -> None:
    file = known(pytester, "known_failing:\n" + entry("delete/*[id=a]"))
    arguments = (small_suite, "--backend", broken_backend, "--known", file)
    serial = run(pytester, *arguments, "--report", "serial")
    parallel = run(pytester, *arguments, "--report", "parallel", "-n", "2")
    assert serial.ret == parallel.ret == pytest.ExitCode.TESTS_FAILED
    documents = [report_of(pytester, folder) for folder in ("serial", "parallel")]
    for document in documents:
        del document["run"]
        for case in document["cases"]:
            del case["duration_s"]
    assert documents[0] == documents[1]
    assert documents[0]["verdict"]["counts"]["failed"] == 1
    assert documents[0]["verdict"]["counts"]["known_failing"] == 1


def test_a_worker_that_dies_fails_the_run(
    pytester: pytest.Pytester, small_suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        deadly_backend="""
        import os
        from kpstore.backends.memory import open_store as open_memory

        async def open_store(settings, clock):
            stores = await open_memory(settings, clock)
            async def die(id):
                os._exit(1)
            stores.skills.delete = die
            return stores
        """
    )
    monkeypatch.chdir(pytester.path)
    monkeypatch.syspath_prepend(str(pytester.path))
    result = run(
        pytester, small_suite, "--backend", "deadly_backend:open_store", "-n", "1", "--case", "*gone"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*FAILED*deadly_backend*", "*problems*the process died in *gone*"])


def test_a_report_that_cannot_be_written_fails_the_run(pytester: pytest.Pytester, small_suite: Path) -> None:
    (pytester.path / "out").write_text("in the way")
    result = run(pytester, small_suite, "--backend", "memory", "--report", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*reports*NOT WRITTEN: *"])
