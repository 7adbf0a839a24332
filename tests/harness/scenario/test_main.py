"""The developer's tool tells problems and failures, and its exit code is what a script goes by."""

from __future__ import annotations

import pytest
from harness.scenario import corpus
from kpstore_conformance.scenario.__main__ import main

HERE = corpus.HERE


def test_validate_tells_each_problem_on_a_line_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    path = HERE / "refused" / "five_mistakes.yaml"
    assert main(["validate", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:5]] == [
        f"{path}:{place}" for place in ("7:30", "9:9", "10:30", "11:18", "12:42")
    ]
    assert lines[5:] == ["0 files with 0 cases, 1 refused"]


def test_validate_exits_0_on_sound_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(HERE / "pass")]) == 0
    assert capsys.readouterr().out.startswith(f"{len(list((HERE / 'pass').glob('*.yaml')))} files with ")


def test_run_exits_by_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(HERE / "pass"), "-k", "$any"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("memory: 1 passed, 0 failed, 0 error, 0 not applicable")
    )
    assert main(["run", str(HERE / "fail"), "-k", "$any"]) == 1
    assert "FAILED matchers/$any: a key that is not there" in capsys.readouterr().out


def test_running_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(HERE / "pass"), "-k", "no such case"]) == 1
    assert "0 passed" in capsys.readouterr().out
