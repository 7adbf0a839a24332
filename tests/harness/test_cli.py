"""The commands: what they print, what they exit with, and that nobody's surroundings change a verdict."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kpstore
from kpstore.cli import main

pytestmark = pytest.mark.usefixtures("small_package")


def command(*arguments: object, folder: Path, check: int) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, which must exit with `check`."""
    program = "import sys; from kpstore.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


def conformance(*arguments: object) -> int:
    return main(["conformance", *map(str, arguments)])


# ---- kpstore


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"kpstore {kpstore.__version__}\n"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "conformance" in capsys.readouterr().out


def test_without_the_extra_the_pip_command_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("kpstore_conformance", "yaml")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["conformance", "list"]) == 2
    message = capsys.readouterr().err
    assert message == (
        "kpstore conformance: yaml is not installed; it comes with: pip install 'kpstore[conformance]'\n"
    )


@pytest.mark.parametrize("arguments", [[], ["run"], ["frobnicate"], ["run", "--backend"]])
def test_a_command_that_makes_no_sense_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        conformance(*arguments)
    assert caught.value.code == 2
    assert "usage: kpstore conformance" in capsys.readouterr().err


# ---- run, in processes of its own: the surroundings are what is tested


def hostile(folder: Path) -> None:
    """Make a folder in which every plain pytest run breaks."""
    (folder / "conftest.py").write_text("raise RuntimeError('this conftest.py must not be imported')\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\nnorecursedirs = *\n")
    (folder / "test_theirs.py").write_text("def test_theirs(): raise AssertionError\n")


def test_a_broken_module_fails_from_any_folder(
    small_suite: Path, broken_backend: str, workplace: Path
) -> None:
    hostile(workplace)
    arguments = ("--backend", broken_backend, "--no-packaged", "--scenarios", "small", "--report", "out")
    done = command("conformance", "run", *arguments, folder=workplace, check=1)
    assert "FAILED  memory (broken_backend:open_store)" in done.stdout
    assert "2 cases in SKILL-6" in done.stdout
    assert "small/skills/delete.yaml:11: result: expected true, came false" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "must not be imported" not in done.stdout + done.stderr
    document = json.loads((workplace / "out" / "conformance.json").read_text("utf-8"))
    assert {case["case"]: case["outcome"] for case in document["cases"]} == {
        "skills/delete/deleting says whether it was there[id=a]": "failed",
        "skills/delete/deleting says whether it was there[id=b]": "failed",
        "skills/delete/a deleted skill is gone": "passed",
        "skills/delete/a skill outlives its store": "not_applicable",
    }


def test_the_rerun_command_runs_just_the_case(
    small_suite: Path, broken_backend: str, workplace: Path
) -> None:
    arguments = ("--backend", broken_backend, "--no-packaged", "--scenarios", "small")
    done = command("conformance", "run", *arguments, folder=workplace, check=1)
    again = next(line for line in done.stdout.splitlines() if "run it again: " in line).partition("again: ")[
        2
    ]
    words = shlex.split(again)
    assert words[:3] == ["kpstore", "conformance", "run"]
    assert "--no-packaged" in words
    done = command(*words[1:], folder=workplace, check=1)
    assert "1 executed · 0 passed · 1 failed" in done.stdout


def test_processes_give_the_same_verdict(small_suite: Path, workplace: Path) -> None:
    hostile(workplace)
    arguments = ("--backend", "memory", "--no-packaged", "--scenarios", "small", "-n", "2")
    done = command("conformance", "run", *arguments, folder=workplace, check=0)
    assert "3 executed · 3 passed · 1 not applicable" in done.stdout


# ---- run


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and output of `run` on the small suite alone."""
    status = conformance("run", "--no-packaged", "--scenarios", "small", *arguments)
    captured = capfd.readouterr()
    return status, captured.out + captured.err


def test_a_run_on_memory(capfd: pytest.CaptureFixture[str], small_suite: Path) -> None:
    status, output = run(capfd, "--backend", "memory")
    assert status == 0
    assert "PASSED  memory" in output
    assert "level          none (partial: the packaged scenarios and checks were left out)" in output


def test_the_packaged_suite_is_run_by_default(
    capfd: pytest.CaptureFixture[str], small_suite: Path, tmp_path: Path
) -> None:
    arguments = ("--backend", "memory", "--scenarios", "small", "--report", tmp_path / "out")
    selected = ("--case", "general/closed/*", "--case", "skills/delete/a*", "--case", "checks/public_api/*")
    conformance("run", *arguments, *selected)
    capfd.readouterr()
    document: dict[str, Any] = json.loads((tmp_path / "out" / "conformance.json").read_text("utf-8"))
    kinds = {case["case"].partition("/")[0] for case in document["cases"]}
    assert kinds == {"general", "skills", "checks"}


def test_selections(capfd: pytest.CaptureFixture[str], small_suite: Path) -> None:
    status, output = run(capfd, "--backend", "memory", "-k", "SKILL-2")
    assert status == 0
    assert "1 executed · 1 passed · 3 not selected" in output
    status, output = run(capfd, "--backend", "memory", "--case", "*[id=b]")
    assert status == 0
    assert "1 executed · 1 passed · 3 not selected" in output


def test_a_selection_of_nothing_fails(capfd: pytest.CaptureFixture[str], small_suite: Path) -> None:
    status, output = run(capfd, "--backend", "memory", "--case", "elsewhere/*")
    assert status == 1
    assert "nothing was executed" in output


def test_what_is_not_applicable_alone_fails(capfd: pytest.CaptureFixture[str], small_suite: Path) -> None:
    status, output = run(capfd, "--backend", "memory", "--case", "*outlives*")
    assert status == 1
    assert "1 not applicable" in output
    assert "nothing was executed" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "nowhere"], "cannot open backend 'nowhere'"),
        (["--backend", "memory", "--known", "nowhere.yaml"], "nowhere.yaml:1:1: cannot be read"),
        (["--backend", "memory", "--adapter", "no_such:Adapter"], "cannot import no_such"),
        (["--backend", "memory", "-n", "many"], "-n 'many': a number of processes, or auto"),
        (["--backend", "memory", "-k", "and and"], "and and"),
        (["--backend", "memory", "--scenarios", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_usage_is_a_line_and_exit_2(
    capfd: pytest.CaptureFixture[str], small_suite: Path, arguments: list[str], message: str
) -> None:
    status, output = run(capfd, *arguments)
    assert status == 2
    assert message in output
    assert "Traceback" not in output


def test_a_refused_file_stops_the_run_with_its_problems(
    capfd: pytest.CaptureFixture[str], small_suite: Path
) -> None:
    (small_suite / "bad.yaml").write_text("format: 1\ntitel: x\nscenarios: []\n")
    status, output = run(capfd, "--backend", "memory")
    assert status == 2
    assert "bad.yaml:2:1: " in output
    assert "executed" not in output


def test_one_id_in_two_folders_fails(capfd: pytest.CaptureFixture[str], small_suite: Path) -> None:
    (small_suite.parent / "more" / "skills").mkdir(parents=True)
    text = (small_suite / "skills" / "delete.yaml").read_text("utf-8")
    (small_suite.parent / "more" / "skills" / "delete.yaml").write_text(text, "utf-8")
    status, output = run(capfd, "--backend", "memory", "--scenarios", "more")
    assert status == 1
    assert "the case 'skills/delete/a deleted skill is gone' is there twice: " in output


# ---- list, validate, clauses


def test_list(capsys: pytest.CaptureFixture[str], small_suite: Path) -> None:
    assert conformance("list", "--no-packaged", "--scenarios", "small") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "skills/delete/deleting says whether it was there[id=a]",
        "skills/delete/deleting says whether it was there[id=b]",
        "skills/delete/a deleted skill is gone",
        "skills/delete/a skill outlives its store",
    ]
    assert conformance("list", "--no-packaged", "--scenarios", "small", "--case", "*outlives*", "-v") == 0
    shown = capsys.readouterr().out
    assert "    SKILL-6 GEN-10  needs durable\n" in shown or "    GEN-10 SKILL-6  needs durable\n" in shown
    assert conformance("list", "--no-packaged", "--scenarios", "small", "--case", "nothing") == 1


def test_validate(capsys: pytest.CaptureFixture[str], small_suite: Path) -> None:
    assert conformance("validate", "small", "small/skills/delete.yaml") == 0
    assert "2 files in order" in capsys.readouterr().out
    (small_suite / "bad.yaml").write_text("format: 1\ntitel: x\nscenarios: 3\n")
    assert conformance("validate", "small", "nowhere.yaml") == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert any(line.startswith("small/bad.yaml:2:1: ") for line in lines)
    assert any(line.startswith("small/bad.yaml:3:12: ") for line in lines)
    assert "nowhere.yaml:1:1: no such file or folder" in lines
    assert lines[-1].endswith("problems in 2 files")
    assert "1 file in order, with 3 scenarios (4 cases)" in captured.out


def test_validate_a_folder_without_scenarios(capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    (workplace / "empty").mkdir()
    assert conformance("validate", "empty") == 1
    assert "empty:1:1: no scenario file in this folder" in capsys.readouterr().err


def test_clauses_exits_1_where_one_has_no_proof(
    capsys: pytest.CaptureFixture[str], small_suite: Path
) -> None:
    assert conformance("clauses", "--no-packaged", "--scenarios", "small") == 1
    captured = capsys.readouterr()
    assert "NOTHING PROVES IT" in captured.out
    assert "           skills/delete/a deleted skill is gone\n" in captured.out
    assert "clauses have no proof: GEN-1, " in captured.err


def test_clauses_exits_0_where_each_has_a_proof(
    capsys: pytest.CaptureFixture[str], small_suite: Path, tmp_path: Path
) -> None:
    from kpstore_conformance.scenario import CLAUSES

    folder = tmp_path / "marked"
    folder.mkdir()
    names = ", ".join(repr(clause) for clause in CLAUSES)
    (folder / "test_all.py").write_text(
        f"import pytest\n\n@pytest.mark.clauses({names})\ndef test_all(): pass\n"
    )
    arguments = ("clauses", "--no-packaged", "--scenarios", "small", "--tests", folder)
    assert conformance(*arguments, "-q") == 0
    captured = capsys.readouterr()
    assert "test_all.py::test_all" not in captured.out
    assert "3 scenarios, 1 test" in captured.out
    assert captured.err == f"all {len(CLAUSES)} clauses have a proof\n"
    (folder / "test_all.py").write_text(
        "import pytest\n\n@pytest.mark.clauses('SQL-77')\ndef test_all(): pass\n"
    )
    assert conformance(*arguments) == 1
    assert "test_all.py:4: unknown clause SQL-77" in capsys.readouterr().err
