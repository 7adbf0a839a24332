"""The figures on timings that are made up: a sound store passes, and each way to be slow is seen."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from kpstore_conformance.latency.statistics import (
    Baseline,
    Demand,
    Measurement,
    Pass,
    Timings,
    broken,
    histogram,
    percentile,
    ratios,
)

MS = 1_000_000
PASSES, CALLS = 5, 100


def timings(dice: random.Random, cost_ns: float, *, noise: float = 0.05) -> Timings:
    """Passes over calls that each cost about the same: noise only ever adds."""
    return Timings(
        [Pass(tuple(int(cost_ns * (1 + noise * dice.random())) for _ in range(CALLS))) for _ in range(PASSES)]
    )


def measurement(cost_ms: float = 0.1, *, tenth_ms: float = 0.1, machine: float = 1.0) -> Measurement:
    """Of calls that cost so much, on a machine so many times slower than another."""
    dice = random.Random(7)
    return Measurement(
        "hop of 20",
        calls=timings(dice, cost_ms * MS * machine),
        on_a_tenth=timings(dice, tenth_ms * MS * machine),
        reference=timings(dice, 0.05 * MS * machine),
    )


def with_pass(sound: Measurement, number: int, times_ns: list[int]) -> Measurement:
    passes = [*sound.calls.passes]
    passes[number] = Pass(tuple(times_ns))
    return replace(sound, calls=Timings(passes))


SOUND = measurement()
DEMAND = Demand("p99", at_most_ms=1, growth=2, baseline=Baseline("hop of 20", ratios(SOUND)))


def what(found: Measurement, demand: Demand = DEMAND) -> list[str]:
    return [fault.what for fault in broken(found, demand)]


def test_a_sound_store_passes() -> None:
    assert what(SOUND) == []


def test_twice_as_slow_is_seen_far_below_the_limit() -> None:
    assert what(measurement(0.2, tenth_ms=0.2)) == ["tail", "median"]


@pytest.mark.parametrize(("times", "faults"), [(1.25, []), (1.35, ["tail", "median"])])
def test_how_much_larger_than_recorded_a_ratio_may_be(times: float, faults: list[str]) -> None:
    assert what(measurement(0.1 * times, tenth_ms=0.1 * times)) == faults


def test_a_slower_machine_is_no_slower_store() -> None:
    assert what(measurement(machine=3)) == []


@pytest.mark.parametrize("number", range(PASSES))
def test_one_stall_in_one_pass_does_not_fail(number: int) -> None:
    times = [*SOUND.calls.passes[number].times_ns]
    times[50] = 40 * MS
    assert what(with_pass(SOUND, number, times)) == []


@pytest.mark.parametrize("number", range(PASSES))
def test_one_pass_that_is_slow_throughout_does_not_fail(number: int) -> None:
    times = [10 * time for time in SOUND.calls.passes[number].times_ns]
    assert what(with_pass(SOUND, number, times)) == []


def test_stalls_in_every_pass_break_the_limit() -> None:
    found = SOUND
    for number, one in enumerate(SOUND.calls.passes):
        times = [*one.times_ns]
        for stalled in (11 * number, 11 * number + 5):  # never the same call
            times[stalled] = 40 * MS
        found = with_pass(found, number, times)
    assert what(found) == ["limit"]


def test_a_few_inputs_that_are_always_slow_are_seen_in_the_tail() -> None:
    found = SOUND
    for number, one in enumerate(SOUND.calls.passes):
        times = [*one.times_ns]
        times[::15] = [int(0.5 * MS)] * 7
        found = with_pass(found, number, times)
    assert what(found) == ["tail"]


def test_the_limit_is_on_the_statistic_that_is_named() -> None:
    slow = measurement(1.2, tenth_ms=1.2)
    assert what(slow, Demand("p99", at_most_ms=1)) == ["limit"]
    assert what(slow, Demand("p50", at_most_ms=1)) == ["limit"]
    found = SOUND
    for number, one in enumerate(SOUND.calls.passes):
        found = with_pass(found, number, [5 * MS, 5 * MS, *one.times_ns[2:]])
    assert what(found, Demand("p99", at_most_ms=1)) == ["limit"]
    assert what(found, Demand("p50", at_most_ms=1)) == []


def test_growth_is_seen_without_a_baseline() -> None:
    demand = Demand("p99", at_most_ms=1, growth=2)
    assert what(measurement(0.5, tenth_ms=0.2), demand) == ["growth"]
    assert what(measurement(0.5, tenth_ms=0.3), demand) == []


def test_a_fault_says_what_came_and_what_was_allowed() -> None:
    (fault,) = broken(measurement(3), Demand("p99", at_most_ms=1))
    assert fault.text == "p99 is 3.15 ms at the best of 5 passes; the limit is 1 ms"
    (fault,) = broken(measurement(0.5, tenth_ms=0.1), Demand(growth=2))
    assert fault.text.startswith("costs 4.99 ")
    assert fault.text.endswith("times what it costs with a tenth of the records; the bound is 2")
    faults = broken(measurement(0.3), Demand(baseline=Baseline("hop of 20", {"tail": 2.0, "median": 2.0})))
    assert [fault.text.partition(" is ")[0] for fault in faults] == [
        "p95 of the calls at their quietest ÷ the reference's",
        "median of the calls at their quietest ÷ the reference's",
    ]
    assert "recorded 2, which allows 2.6" in faults[0].text


def test_nothing_stated_is_nothing_broken() -> None:
    assert not Demand().states_anything
    assert what(measurement(1000), Demand()) == []
    assert Demand(growth=2).states_anything


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1), (0.5, 50), (0.99, 99), (0.995, 100), (1, 100), (0, 1)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    values = list(range(1, 101))
    random.Random(1).shuffle(values)
    assert percentile(values, share) == expected


def test_passes_that_were_cut_short_count_as_far_as_they_go() -> None:
    cut = Timings([Pass((5, 6)), Pass((4, 7, 9))])
    assert cut.quietest_ns() == [4, 6, 9]
    assert cut.all_ns() == [5, 6, 4, 7, 9]


def test_a_call_that_most_passes_did_not_get_to_is_not_at_its_quietest() -> None:
    cut = Timings([Pass((5, 6)), Pass((4, 7, 9, 9)), Pass((4, 8, 8))])
    assert cut.quietest_ns() == [4, 6, 8]


def test_a_histogram_shows_each_call_and_the_limit() -> None:
    rows = histogram([1000] * 60 + [1100] * 20 + [30_000] * 3 + [2_000_000], mark_ms=1)
    assert rows[0] == "     1 µs │████████████████████████████████████████ 80"
    assert rows[-1].split() == ["1.58", "ms", "│█", "1"]
    assert [row for row in rows if "← the limit" in row] == ["     1 ms │   ← the limit"]
    assert sum(int(row.split()[-1]) for row in rows if row[-1].isdigit()) == 84


def test_a_histogram_shows_a_limit_that_is_far_away() -> None:
    rows = histogram([1000, 1000], mark_ms=1000)
    assert rows[1].strip() == "…"
    assert rows[2].split() == ["1", "s", "│", "←", "the", "limit"]
