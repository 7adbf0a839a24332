"""The suite catches every mutant, by a case that names the clause it breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants.killing import kill
from mutants.registry import Mutant, load_all


@pytest.mark.parametrize("mutant", load_all().values(), ids=lambda mutant: f"{mutant.clause}-{mutant.name}")
def test_the_suite_catches(mutant: Mutant) -> None:
    """At least one case that proves the mutant's clause fails."""
    assert kill(mutant) is not None, f"{mutant.name} survives: {mutant.bug}"


def test_the_documentation_lists_every_mutant() -> None:
    """The table in the documentation has each mutant, with its clause and a case that caught it."""
    document = Path(__file__).parents[2] / "docs" / "what-it-catches.md"
    rows = [line.split(" | ") for line in document.read_text(encoding="utf-8").splitlines() if " | `" in line]
    listed = {row[2].strip("`"): row[0].removeprefix("| ") for row in rows}
    assert listed == {mutant.name: mutant.clause for mutant in load_all().values()}
    assert not [row for row in rows if "survived" in row[-1]]
    assert f"holds {len(listed)} backends" in document.read_text(encoding="utf-8")
