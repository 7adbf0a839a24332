"""Which reference calls are compared with: one of their kind, and of their size."""

from __future__ import annotations

import pytest
from kpstore_conformance.latency.reference import REFERENCES, Kind, kinds_of, nearest


@pytest.mark.parametrize(
    ("durable", "writes", "hops", "many", "kinds"),
    [
        (False, False, False, False, ["in-loop"]),
        (False, True, True, False, ["in-loop"]),
        (False, False, True, True, ["many in-loop"]),
        (True, False, False, False, ["statement"]),
        (True, False, True, False, ["hop of 5", "hop of 20", "hop of 80"]),
        (True, False, True, True, ["many hop"]),
        (True, True, True, False, ["synced hop of 4", "synced hop of 8", "synced hop of 16"]),
    ],
)
def test_the_kinds_are_seen_from_the_calls(
    durable: bool, writes: bool, hops: bool, many: bool, kinds: list[Kind]
) -> None:
    assert [*kinds_of(durable=durable, writes=writes, hops=hops, many=many)] == kinds


@pytest.mark.parametrize(
    ("cost_us", "kind"),
    [
        (1, "synced hop of 4"),
        (249, "synced hop of 4"),
        (251, "synced hop of 8"),
        (450, "synced hop of 16"),
        (9999, "synced hop of 16"),
    ],
)
def test_the_nearest_is_so_as_factors_go(cost_us: int, kind: Kind) -> None:
    """200 µs, 312 µs and 500 µs: midway is 250 and 395, and a stall among them changes nothing."""
    references: dict[Kind, list[int]] = {
        "synced hop of 4": [200, 200, 90_000],
        "synced hop of 8": [312, 3, 312],
        "synced hop of 16": [500, 500, 500],
    }
    assert nearest([cost_us, cost_us, 80_000], references) == kind


@pytest.mark.parametrize("kind", REFERENCES)
async def test_each_does_what_it_does_as_often_as_it_is_asked(kind: Kind) -> None:
    reference = REFERENCES[kind]()
    try:
        for number in range(3):
            await reference.call(number)
    finally:
        reference.close()
