"""The checker of linearizability tells histories that some order explains from those that none does."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance.checks import concurrency
from kpstore_conformance.checks._linear import Call, assert_linearizable, order_of
from kpstore_conformance.checks._objects import KINDS
from kpstore_conformance.target import BackendAdapter, CaseTarget, adapter_for


def made(*calls: tuple[str, Any, Any, float, float]) -> list[Call]:
    """Calls as (name, given, gave, began, ended)."""
    return [Call(f"task {n}", *call) for n, call in enumerate(calls)]


GOOD = {
    "skill": made(
        ("create", "one", None, 0, 2), ("read", None, None, 1, 3), ("read", None, "one", 4, 5),
        ("delete", None, True, 6, 8), ("delete", None, False, 6, 8), ("search", None, "one", 5, 7),
    ),
    "key": made(("verify", None, True, 0, 5), ("revoke", None, True, 1, 2), ("revoke", None, False, 1, 3)),
    "agent": made(
        ("upsert", 2, (2, 1), 0, 3), ("upsert", -5, (0, 1), 0, 3), ("read", None, (0, 1), 4, 5),
    ),
    "bucket": made(("consume", None, (True, 28), 0, 3), ("consume", None, (True, 29), 1, 2)),
    "log": made(
        ("log", "a", None, 0, 3), ("log", "b", None, 0, 3), ("query", None, ("b",), 1, 2),
        ("query", None, ["b", "a"], 4, 5),
    ),
}  # fmt: skip

BAD = {
    "a stale read": ("skill", made(("create", "one", None, 0, 1), ("read", None, None, 2, 3))),
    "a read of what was replaced": (
        "unit",
        made(("create", "a", None, 0, 1), ("create", "b", None, 2, 3), ("search", None, "a", 4, 5)),
    ),
    "two deletions of one record": (
        "skill",
        made(("create", "one", None, 0, 1), ("delete", None, True, 2, 4), ("delete", None, True, 2, 4)),
    ),
    "reads that go back": (
        "skill",
        made(("create", "one", None, 0, 9), ("read", None, "one", 1, 2), ("read", None, None, 3, 4)),
    ),
    "a lost update": (
        "agent",
        made(("upsert", 1, (1, 1), 0, 2), ("upsert", 1, (1, 1), 1, 3), ("read", None, (1, 1), 4, 5)),
    ),
    "a key that verifies after its revocation": (
        "key",
        made(("revoke", None, True, 0, 1), ("verify", None, True, 2, 3)),
    ),
    "two revocations of one key": ("key", made(("revoke", None, True, 0, 2), ("revoke", None, True, 1, 3))),
    "a token taken twice": (
        "bucket",
        made(("consume", None, (True, 29), 0, 2), ("consume", None, (True, 29), 1, 3)),
    ),
    "a token too many": (
        "bucket",
        made(*(("consume", None, (True, max(0, 29 - n)), n, n + 0.5) for n in range(31))),
    ),
    "entries in another order": (
        "log",
        made(("log", "a", None, 0, 1), ("log", "b", None, 2, 3), ("query", None, ("b", "a"), 4, 5)),
    ),
    "an entry that comes and goes": (
        "log",
        made(("log", "a", None, 0, 9), ("query", None, ("a",), 1, 2), ("query", None, (), 3, 4)),
    ),
}


@pytest.mark.parametrize("what", GOOD)
def test_some_order_explains_it(what: str) -> None:
    kind = KINDS[what]
    order = order_of(GOOD[what], kind.start, kind.model)
    assert order is not None
    assert sorted(call.who for call in order) == [call.who for call in GOOD[what]]


@pytest.mark.parametrize("name", BAD)
def test_no_order_explains_it(name: str) -> None:
    what, history = BAD[name]
    assert order_of(history, KINDS[what].start, KINDS[what].model) is None


def test_the_counterexample_is_a_timeline() -> None:
    _, history = BAD["a key that verifies after its revocation"]
    with pytest.raises(AssertionError) as caught:
        assert_linearizable("history 7 of one key", reversed_(history), True, KINDS["key"].model)
    assert str(caught.value).splitlines() == [
        "history 7 of one key: no order of these calls explains what they gave",
        "          0 –   1000000  task 0     revoke() -> True",
        "    2000000 –   3000000  task 1     verify() -> True",
    ]


def reversed_(history: list[Call]) -> list[Call]:
    return list(reversed(history))


def test_long_histories_take_no_long_time_and_too_wide_ones_are_given_up() -> None:
    kind = KINDS["agent"]
    long = made(
        *(("upsert", 1, (n + 1, n + 1), n, n + 4.5) for n in range(300)), ("read", None, (0, 1), 0, 400)
    )
    started = time.perf_counter()
    assert order_of(long, kind.start, kind.model) is None
    assert time.perf_counter() - started < 20  # it takes a fiftieth of that; trying all orders, for ever
    wide = made(*(("log", f"{n}", None, 0, 1) for n in range(12)), ("query", None, ("none",), 0, 1))
    with pytest.raises(RuntimeError, match="undecided"):
        order_of(wide, (), KINDS["log"].model)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a case's target, of a backend that can be imported by other processes, too."""
    shutil.copy(Path(__file__).with_name("broken_stores.py"), tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(concurrency, "HISTORIES", 30)
    return lambda backend: CaseTarget(_Sqlite(backend))


class _Sqlite(BackendAdapter):
    """As SQLite's own."""


async def run(target: CaseTarget, check: Any) -> None:
    try:
        await check.run(target)
    finally:
        await target.dispose()


async def test_a_key_that_another_process_revoked_and_this_one_has_cached_is_found(target: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        await run(target("broken_stores:verified_by_process"), concurrency.process_histories)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("of one key: no order of these calls explains what they gave")
    assert any("revoke() -> True" in line for line in lines)
    assert len({line.split()[4] for line in lines[1:]}) > 1, "the calls of several clients are told"


async def test_sound_stores_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "HISTORIES", 5)
    await run(CaseTarget(adapter_for("sqlite")), concurrency.histories)
    await run(CaseTarget(adapter_for("sqlite")), concurrency.process_histories)
    await run(CaseTarget(adapter_for("memory")), concurrency.histories)
