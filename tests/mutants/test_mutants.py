"""The suite catches every mutant, by a case that names the clause it breaks."""

from __future__ import annotations

import pytest

from mutants.killing import kill
from mutants.registry import Mutant, load_all


@pytest.mark.parametrize("mutant", load_all().values(), ids=lambda mutant: f"{mutant.clause}-{mutant.name}")
def test_the_suite_catches(mutant: Mutant) -> None:
    """At least one case that proves the mutant's clause fails."""
    assert kill(mutant) is not None, f"{mutant.name} survives: {mutant.bug}"
