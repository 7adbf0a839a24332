"""The example backend passes the suite, from outside the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/dict_backend/dict_backend.py"


@pytest.mark.clauses("CFG-2")
def test_the_example_backend_passes(tmp_path: Path) -> None:
    """It is one file, named by module:callable, that knows nothing of the repository it is copied from."""
    shutil.copy(EXAMPLE, tmp_path)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("KP_", "PYTEST_"))}
    kpstore = [Path(sys.executable).parent / "kpstore", "conformance", "run"]
    done = subprocess.run(
        [*kpstore, "--backend", "dict_backend:open_store", "--report", "out"],
        cwd=tmp_path,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    verdict = json.loads((tmp_path / "out/conformance.json").read_text("utf-8"))["verdict"]
    assert verdict["passed"]
    assert verdict["counts"]["executed"] > 1000
    assert verdict["capabilities"]["controllable_clock"] == "kept"
