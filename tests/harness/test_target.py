"""Each case has stores of its own, and looks behind them without going through them."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kpstore_conformance.target import (
    AdapterError,
    BackendAdapter,
    CaseTarget,
    MemoryAdapter,
    SqliteAdapter,
    adapter_for,
    probe,
)

from kpstore import AllStores, Clock, ManualClock, Settings, StoredSkill
from kpstore.backends.memory import open_store as open_memory

CLOCK = ManualClock(datetime(2026, 1, 15, 12, tzinfo=UTC))


def a_skill(content: str = "# A skill") -> StoredSkill:
    return StoredSkill(
        id="a", name="a", description="A skill.", content=content, created_at=CLOCK(), updated_at=CLOCK()
    )


def module(monkeypatch: pytest.MonkeyPatch, **names: object) -> str:
    made = types.ModuleType("made_up_backend")
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, "made_up_backend", made)
    return "made_up_backend"


@pytest.mark.parametrize(
    ("backend", "kind", "spec"),
    [
        ("memory", MemoryAdapter, "memory"),
        (" SQLite ", SqliteAdapter, "sqlite"),
        ("my.Module:Open", BackendAdapter, "my.Module:Open"),
        ("elsewhere", BackendAdapter, "elsewhere"),
    ],
)
def test_the_adapter_of_a_backend(backend: str, kind: type[BackendAdapter], spec: str) -> None:
    adapter = adapter_for(backend)
    assert type(adapter) is kind
    assert adapter.spec == spec


def test_an_adapter_named_by_an_installed_package_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = tmp_path / "made_up-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[kpstore.conformance]\nmade-up = made_up_adapter:Mine\n")
    (tmp_path / "made_up_adapter.py").write_text(
        "from kpstore_conformance.target import BackendAdapter\n\n\nclass Mine(BackendAdapter):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(adapter_for("made-up")).__name__ == "Mine"
    assert type(adapter_for("made-up-too")) is BackendAdapter


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere_at_all:Mine", "cannot import nowhere_at_all"),
        ("kpstore_conformance.target:Mine", "kpstore_conformance.target has no Mine"),
        ("kpstore_conformance.target:CaseTarget", "CaseTarget must be a subclass of"),
        ("kpstore_conformance.target", "write module:Class"),
    ],
)
def test_an_adapter_that_is_none_is_refused(reference: str, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        adapter_for("memory", reference)


def test_the_probe_reports_what_a_backend_says_of_itself() -> None:
    facts = asyncio.run(probe(adapter_for("sqlite")))
    assert facts.name == "sqlite"
    assert facts.capabilities == {"durable", "multi_process", "controllable_clock"}
    # `unsynced` only where the system tells what of a file is on the disk, `power_loss` where Python's SQLite
    # can be reached.
    assert facts.inspectors - {"unsynced", "power_loss"} == {"raw", "sql"}


def test_a_backend_that_is_not_there_is_one_line() -> None:
    with pytest.raises(AdapterError) as caught:
        asyncio.run(probe(adapter_for("nowhere")))
    assert "cannot open backend 'nowhere'" in str(caught.value)
    assert "known: memory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_backend_that_breaks_on_opening_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_store(settings: Settings, clock: Clock) -> AllStores:
        raise TypeError("no such thing")

    name = module(monkeypatch, open_store=open_store)
    with pytest.raises(AdapterError, match=r"TypeError: no such thing \(.*test_target.py:\d+\)"):
        asyncio.run(probe(adapter_for(f"{name}:open_store")))


def test_what_is_no_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_store(settings: Settings, clock: Clock) -> str:
        return "a store"

    name = module(monkeypatch, open_store=open_store)
    with pytest.raises(AdapterError, match=r"gave a str, not AllStores"):
        asyncio.run(probe(adapter_for(f"{name}:open_store")))


def test_a_backend_whose_cases_share_their_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[AllStores] = []

    async def open_store(settings: Settings, clock: Clock) -> AllStores:
        if not kept:
            kept.append(await open_memory(settings, clock))
        return kept[0]

    name = module(monkeypatch, open_store=open_store)
    with pytest.raises(AdapterError, match="see each other's data: write a BackendAdapter"):
        asyncio.run(probe(adapter_for(f"{name}:open_store")))


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_cases_are_apart_and_leave_nothing(backend: str) -> None:
    async def run() -> None:
        one, other = CaseTarget(adapter_for(backend)), CaseTarget(adapter_for(backend))
        stores, others = await one.open(CLOCK), await other.open(CLOCK)
        await stores.skills.create(a_skill())
        assert await others.skills.get_by_id("a") is None
        assert await stores.skills.get_by_id("a") is not None
        for opened, target in ((stores, one), (others, other)):
            await opened.close()
            await target.dispose()
            assert not target.folder.exists()

    asyncio.run(run())


def test_a_case_opens_the_same_data_again() -> None:
    async def run() -> None:
        target = CaseTarget(adapter_for("sqlite"))
        stores = await target.open(CLOCK)
        await stores.skills.create(a_skill())
        second = await target.open(CLOCK)
        assert await second.skills.get_by_id("a") is not None
        await stores.close()
        await second.close()
        await target.dispose()

    asyncio.run(run())


def test_the_inspectors_of_sqlite_read_the_file_and_change_nothing() -> None:
    async def run() -> None:
        target = CaseTarget(adapter_for("sqlite"))
        stores = await target.open(CLOCK)
        await stores.skills.create(a_skill("a needle in a haystack"))
        assert await target.inspect_sql("SELECT count(*) AS n FROM skills WHERE id = ?", ["a"]) == [{"n": 1}]
        assert await target.inspect_sql("SELECT 1 AS one WHERE 0", []) == []
        files = sorted(path.name for path in target.folder.iterdir())
        assert await target.inspect_raw(b"a needle in a haystack") >= 1
        assert await target.inspect_raw(b"another needle") == 0
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await target.inspect_sql("DELETE FROM skills", [])
        assert sorted(path.name for path in target.folder.iterdir()) == files
        await stores.close()
        assert await target.inspect_sql("SELECT count(*) AS n FROM skills", []) == [{"n": 1}]
        await target.dispose()

    asyncio.run(run())


def test_the_raw_inspector_finds_what_lies_beside_the_database() -> None:
    async def run() -> None:
        target = CaseTarget(adapter_for("sqlite"))
        (target.folder / "cache").mkdir()
        (target.folder / "cache" / "copy").write_bytes(b"a needle, a needle")
        assert await target.inspect_raw(b"a needle") == 2
        await target.dispose()

    asyncio.run(run())


def test_an_unknown_backend_has_no_inspectors() -> None:
    adapter = adapter_for("some:backend")
    assert adapter.inspectors() == frozenset()
    with pytest.raises(AdapterError, match=r"offers no inspector\.raw"):
        asyncio.run(adapter.inspect_raw(Path(), Settings(), b""))
    with pytest.raises(AdapterError, match=r"offers no inspector\.sql"):
        asyncio.run(adapter.inspect_sql(Path(), Settings(), "", ()))


def test_settings_of_the_environment_hold_but_for_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_SQLITE_SYNCHRONOUS", "normal")
    monkeypatch.setenv("KP_SQLITE_PATH", "/nowhere/at/all.db")
    settings = adapter_for("sqlite").settings(tmp_path)
    assert settings.sqlite_synchronous == "normal"
    assert Path(settings.sqlite_path).parent == tmp_path


def test_only_the_adapter_says_what_the_settings_of_a_process_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(BackendAdapter):
        def environment(self, settings: Settings) -> dict[str, str]:
            return {"KP_STORE_BACKEND": self.spec}

    monkeypatch.setenv("KP_SQLITE_PATH", "/elsewhere.db")
    monkeypatch.setenv("KP_REDIS_URL", "redis://somewhere")
    target = CaseTarget(Silent("mine:open"))
    environment = target.environment()
    assert environment["KP_STORE_BACKEND"] == "mine:open"
    assert environment["KP_REDIS_URL"] == "redis://somewhere"
    assert "KP_SQLITE_PATH" not in environment
    asyncio.run(target.dispose())


def test_another_process_opens_the_data_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_QDRANT_URL", "http://elsewhere:1")
    program = (
        "import asyncio, kpstore\n"
        "async def main():\n"
        "    async with kpstore.create_store() as stores:\n"
        "        print(stores.backend, await stores.skills.get_by_id('a') is not None)\n"
        "asyncio.run(main())\n"
    )

    async def run() -> None:
        target = CaseTarget(adapter_for("sqlite"))
        stores = await target.open(CLOCK)
        await stores.skills.create(a_skill())
        environment = target.environment()
        assert environment["KP_QDRANT_URL"] == "http://elsewhere:1"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout.strip() == "sqlite True", done.stderr
        await stores.close()
        await target.dispose()

    asyncio.run(run())
