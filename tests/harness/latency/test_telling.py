"""What a failure shows beside the figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from kpstore_conformance.latency.statistics import Demand, Load, Measurement, Pass, Timings
from kpstore_conformance.latency.telling import as_plain, as_text
from kpstore_conformance.scenario import BudgetCase
from kpstore_conformance.scenario.catalogue import STORES

CASE = cast(
    "BudgetCase",
    SimpleNamespace(
        budget=SimpleNamespace(method=STORES["skills"]["get_by_id"], data="skills"), records=1000
    ),
)


@pytest.mark.parametrize("kept", [True, False])
def test_whether_threads_were_kept_on_one_processor_is_told(kept: bool) -> None:
    """Without that, what it takes to wake another thread is chance."""
    timings = Timings([Pass((1000, 2000, 3000))])
    found = Measurement("hop of 20", calls=timings, reference=timings, load=Load(1.5, 7, kept))
    last = as_text(CASE, found, Demand(), [])[-1]
    assert last.startswith("the load it saw: load average 1.5, 7 times that this thread had to give way")
    told = "threads on several processors: the system does not let them be kept on one"
    assert last.endswith(told) is not kept
    assert as_plain(CASE, found, Demand(), [])["load"]["one_processor"] is kept
