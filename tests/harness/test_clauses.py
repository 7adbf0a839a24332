"""What proves a clause is read from scenarios, checks and marked tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from kpstore_conformance.clauses import marked_tests, proofs
from kpstore_conformance.scenario import CLAUSES
from kpstore_conformance.suite import Suite

TESTS = """\
import pytest
from pytest import mark

pytestmark = [pytest.mark.clauses("SQL-1"), pytest.mark.slow]


@pytest.mark.clauses("SQL-2", "SQL-3")
def test_one():
    pass


@pytest.mark.parametrize("x", [1])
async def test_two(x):
    pass


@mark.clauses("SQL-4")
class TestThree:
    @mark.clauses("SQL-5")
    def test_four(self):
        pass

    def helper(self):
        pass
"""


def test_marks_of_tests_classes_and_modules_count(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_it.py").write_text(TESTS)
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    assert {mark.id: mark.clauses for mark in marked_tests(tmp_path)} == {
        "deep/test_it.py::test_one": ("SQL-1", "SQL-2", "SQL-3"),
        "deep/test_it.py::test_two": ("SQL-1",),
        "deep/test_it.py::TestThree::test_four": ("SQL-1", "SQL-4", "SQL-5"),
    }


def test_a_mark_with_an_unknown_clause_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n\n@pytest.mark.clauses('SQL-99')\ndef test_it(): pass\n"
    )
    with pytest.raises(ValueError, match=r"test_it\.py:5: unknown clause SQL-99"):
        marked_tests(tmp_path)


def test_scenarios_and_tests_prove_clauses(small_suite: Path, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    found = {
        proof.clause: proof
        for proof in proofs(Suite((small_suite,), packaged=False), marked_tests(tmp_path / "tests"))
    }
    assert list(found) == list(CLAUSES)
    assert found["SKILL-6"].scenarios == (
        "skills/delete/deleting says whether it was there",
        "skills/delete/a deleted skill is gone",
        "skills/delete/a skill outlives its store",
    )
    assert found["SKILL-2"].scenarios == ("skills/delete/a deleted skill is gone",)
    assert found["SQL-5"].tests == ("test_it.py::TestThree::test_four",)
    assert not found["GEN-1"].proven


@pytest.mark.usefixtures("small_package")
def test_checks_prove_clauses() -> None:
    found = {proof.clause: proof for proof in proofs(Suite())}
    assert "checks/public_api/every name of the contract is importable from kpstore" in found["GEN-12"].checks
