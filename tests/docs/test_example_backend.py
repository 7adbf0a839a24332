"""The example backend keeps every scenario, outside the repository; `tox -e example` runs the whole suite."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/dict_backend/dict_backend.py"


@pytest.mark.clauses("CFG-2")
def test_the_example_backend_keeps_every_scenario(tmp_path: Path) -> None:
    """It is one file, named by module:callable, that knows nothing of the repository it is copied from."""
    shutil.copy(EXAMPLE, tmp_path)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("KP_", "PYTEST_"))}
    kpstore = Path(sys.executable).parent / "kpstore"
    done = subprocess.run(
        shlex.split(
            f"{kpstore} conformance run --backend dict_backend:open_store --report out -k 'not checks'"
        ),
        cwd=tmp_path,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "out/conformance.json").read_text("utf-8"))
    assert report["verdict"]["passed"]
    assert report["verdict"]["counts"]["passed"] > 2000
    assert {case["kind"] for case in report["cases"]} == {"scenario"}
