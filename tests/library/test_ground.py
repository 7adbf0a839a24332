"""The small shared ground: records, errors, clock, settings, the factory."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import os
import pickle
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kpstore
from kpstore import (
    AllStores,
    ApiKeyRecord,
    AuditLogEntry,
    BackendUnavailableError,
    Capability,
    Clock,
    ConfigurationError,
    DataCorruptionError,
    HistoryEntry,
    KpStoreError,
    ManualClock,
    NewApiKey,
    Page,
    RateLimitDecision,
    ReputationRecord,
    SchemaVersionError,
    ScoredUnit,
    Settings,
    StoreClosedError,
    StoredKnowledgeUnit,
    StoredSkill,
    ValidationError,
    ValidationVote,
    create_store,
    factory,
)
from kpstore.backends.memory import open_store as open_memory
from kpstore.clock import from_micros, system_clock, to_micros

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
RAW_KEY = "kp_" + "0123456789abcdef" * 4
KEY = ApiKeyRecord("h", RAW_KEY[:11], "agent", frozenset({"read"}), "free", NOW)
RECORDS: list[Any] = [
    Page([1], 1, 0, 20),
    StoredSkill("i", "n", "d", "c", created_at=NOW, updated_at=NOW),
    StoredKnowledgeUnit("i", {}, created_at=NOW, updated_at=NOW),
    ScoredUnit(StoredKnowledgeUnit("i", {}, created_at=NOW, updated_at=NOW), 0.5),
    HistoryEntry(NOW, 1.0, "r"),
    ReputationRecord("a", 1.0, 1, 1, [], NOW),
    ValidationVote("v", "t", "u", True, NOW),
    KEY,
    NewApiKey(RAW_KEY, KEY),
    RateLimitDecision(True, 1, 2, 3, None),
    AuditLogEntry("i", "a", "g", "t", "r", NOW, "ip"),
    Settings(),
]

# Records ----------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_frozen_compare_by_value_and_are_made_both_ways(record: Any) -> None:
    names = [field.name for field in dataclasses.fields(record)]
    values = [getattr(record, name) for name in names]
    kind = type(record)
    assert kind(*values) == kind(**dict(zip(names, values, strict=True))) == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, names[0], values[0])
    with pytest.raises((AttributeError, TypeError)):
        record.something_else = 1
    assert copy.deepcopy(record) == record
    assert pickle.loads(pickle.dumps(record)) == record
    with pytest.raises(TypeError):
        kind(*values, 1)
    with pytest.raises(TypeError):
        kind(**dict.fromkeys(names, 1), surplus=1)


@pytest.mark.parametrize("missing", ["id", "name", "description", "content", "created_at", "updated_at"])
def test_a_skill_without_a_required_field_is_refused(missing: str) -> None:
    values: dict[str, Any] = {
        "id": "i",
        "name": "n",
        "description": "d",
        "content": "c",
        "created_at": NOW,
        "updated_at": NOW,
    }
    StoredSkill(**values)
    del values[missing]
    with pytest.raises(TypeError, match=missing):
        StoredSkill(**values)


@pytest.mark.parametrize("missing", ["id", "unit", "created_at", "updated_at"])
def test_a_unit_without_a_required_field_is_refused(missing: str) -> None:
    values: dict[str, Any] = {"id": "i", "unit": {}, "created_at": NOW, "updated_at": NOW}
    del values[missing]
    with pytest.raises(TypeError, match=missing):
        StoredKnowledgeUnit(**values)


def test_a_value_that_equals_everything_is_there() -> None:
    assert StoredSkill("i", "n", "d", "c", created_at=ANY, updated_at=ANY).created_at is ANY


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_have_no_room_for_more(record: Any) -> None:
    assert not hasattr(record, "__dict__")


def test_defaults_are_not_shared() -> None:
    one = StoredSkill("i", "n", "d", "c", created_at=NOW, updated_at=NOW)
    other = StoredSkill("i", "n", "d", "c", created_at=NOW, updated_at=NOW)
    one.files["x"] = "y"
    assert other.files == {}


def test_no_text_form_of_a_key_shows_it() -> None:
    new = NewApiKey(RAW_KEY, KEY)
    for shown in (repr(new), str(new), f"{new}", f"{new!r:>10}", f"{[new]}", repr({"k": (new,)})):
        assert RAW_KEY[11:30] not in shown
        assert "NewApiKey" in shown
    # Which of them it is may be seen.
    assert RAW_KEY[:11] in repr(new)


def test_capabilities_are_texts() -> None:
    assert isinstance(Capability.DURABLE, str)
    assert f"{Capability.MULTI_PROCESS}" == "multi_process"
    assert {str(one) for one in Capability} == {
        "durable",
        "multi_process",
        "vector_search",
        "controllable_clock",
    }


# Errors -----------------------------------------------------------------------

ERRORS: list[KpStoreError] = [
    KpStoreError("m"),
    BackendUnavailableError("m"),
    ConfigurationError("m"),
    DataCorruptionError("m"),
    SchemaVersionError("m"),
    StoreClosedError("m"),
    ValidationError("skill.id", "must not be empty"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_copying(error: KpStoreError) -> None:
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is type(error)
        assert str(same) == str(error)
        assert same.args == error.args
        assert vars(same) == vars(error)
    assert isinstance(error, KpStoreError)


def test_a_validation_error_tells_field_and_rule() -> None:
    error = ValidationError("skill.id", "must not be empty")
    assert (error.field, error.rule, str(error)) == (
        "skill.id",
        "must not be empty",
        "skill.id: must not be empty",
    )


# Clock ------------------------------------------------------------------------


def test_a_manual_clock_moves_when_told_to() -> None:
    clock = ManualClock(datetime(2026, 1, 15, 14, tzinfo=timezone(timedelta(hours=2))))
    assert clock() == clock() == NOW
    assert clock().tzinfo is UTC
    clock.advance(timedelta(microseconds=1))
    assert clock() - NOW == timedelta(microseconds=1)
    clock.advance(timedelta(days=-2))
    assert clock() < NOW
    clock.set(NOW)
    assert clock() == NOW
    assert "2026-01-15T12:00:00" in repr(clock)


@pytest.mark.parametrize("bad", [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", None, 5])
def test_a_manual_clock_refuses_what_is_no_moment(bad: Any) -> None:
    with pytest.raises(ConfigurationError):
        ManualClock(bad)
    clock = ManualClock(NOW)
    with pytest.raises(ConfigurationError):
        clock.set(bad)
    assert clock() == NOW


def test_the_systems_clock_is_aware() -> None:
    assert system_clock().utcoffset() == timedelta()
    assert abs(system_clock() - datetime.now(UTC)) < timedelta(minutes=1)


@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_are_exact(moment: datetime) -> None:
    assert from_micros(to_micros(moment)) == moment
    assert to_micros(moment) - to_micros(moment.replace(microsecond=0)) == moment.microsecond


@pytest.mark.parametrize("shown", [datetime(2026, 1, 1), None, "now", 5.0])
async def test_a_clock_that_shows_no_moment_is_a_bad_configuration(shown: Any) -> None:
    async with create_store("memory", clock=lambda: shown) as stores:
        with pytest.raises(ConfigurationError):
            await stores.reputation.upsert("agent", 1, "r")
        with pytest.raises(ConfigurationError):
            await stores.audit_log.query()


# Settings ---------------------------------------------------------------------


def test_settings_have_the_contracts_defaults() -> None:
    assert (
        Settings.from_env({})
        == Settings()
        == Settings(
            store_backend="memory",
            sqlite_path="knowledgepulse.db",
            sqlite_synchronous="full",
            qdrant_url="http://localhost:6333",
            qdrant_api_key=None,
            max_record_bytes=1_048_576,
        )
    )


def test_settings_come_from_their_variables() -> None:
    environ = {
        "KP_STORE_BACKEND": " SQLite ",
        "KP_SQLITE_PATH": " a path ",
        "KP_SQLITE_SYNCHRONOUS": "NORMAL",
        "KP_QDRANT_URL": "https://q.example:6333",
        "KP_QDRANT_API_KEY": " secret ",
        "KP_MAX_RECORD_BYTES": "1000",
        "KP_UNKNOWN": "x",
    }
    found = Settings.from_env(environ)
    assert found == Settings("SQLite", " a path ", "normal", "https://q.example:6333", "secret", 1000)
    assert "secret" not in repr(found)


def test_empty_variables_are_unset() -> None:
    names = [f"KP_{field.name.upper()}" for field in dataclasses.fields(Settings)]
    assert Settings.from_env(dict.fromkeys(names, "")) == Settings()


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_MAX_RECORD_BYTES", "77")
    assert Settings.from_env().max_record_bytes == 77
    monkeypatch.delenv("KP_MAX_RECORD_BYTES")
    assert Settings.from_env().max_record_bytes == 1_048_576


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KP_SQLITE_SYNCHRONOUS", "off"),
        ("KP_SQLITE_SYNCHRONOUS", "fulll"),
        ("KP_SQLITE_PATH", "a\0b"),
        ("KP_QDRANT_URL", "localhost:6333"),
        ("KP_QDRANT_URL", "ftp://host"),
        ("KP_QDRANT_URL", "http://"),
        ("KP_QDRANT_URL", "http://host:port"),
        ("KP_QDRANT_URL", "http://host:99999"),
        ("KP_QDRANT_URL", "http://host:0"),
        ("KP_QDRANT_URL", "http://:80"),
        ("KP_MAX_RECORD_BYTES", "0"),
        ("KP_MAX_RECORD_BYTES", "-5"),
        ("KP_MAX_RECORD_BYTES", "1e6"),
        ("KP_MAX_RECORD_BYTES", "1_000"),
        ("KP_MAX_RECORD_BYTES", "١٢"),
        ("KP_MAX_RECORD_BYTES", "9" * 19),
        ("KP_MAX_RECORD_BYTES", "9" * 5000),
    ],
)
def test_a_bad_value_is_refused_by_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({variable: value})
    assert variable in str(caught.value)
    assert "allowed" in str(caught.value)
    assert len(value) > 100 or value in str(caught.value) or repr(value) in str(caught.value)


def test_a_secret_is_never_shown() -> None:
    for value in ("http://user:hunter2@", "user:hunter2@host"):
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({"KP_QDRANT_URL": value})
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError) as key:
        Settings(qdrant_api_key=1234567)  # type: ignore[arg-type]
    assert "1234567" not in str(key.value)
    assert "KP_QDRANT_API_KEY" in str(key.value)


class _PathTo:
    """A path of any text; a `Path` would change some."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __fspath__(self) -> str:
        return self._text


@pytest.mark.parametrize(
    "values",
    [
        {"store_backend": _PathTo("memory")},
        {"sqlite_synchronous": _PathTo("full")},
        {"qdrant_url": _PathTo("http://host")},
        {"store_backend": "memory\0"},
        {"max_record_bytes": -1},
        {"max_record_bytes": True},
        {"max_record_bytes": 1.5},
        {"max_record_bytes": 0},
        {"sqlite_path": ""},
        {"sqlite_path": 5},
        {"store_backend": ""},
        {"store_backend": None},
        {"sqlite_synchronous": "extra"},
        {"qdrant_url": ""},
    ],
)
def test_settings_made_by_hand_are_checked_too(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"KP_{next(iter(values)).upper()}"):
        Settings(**values)


def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    assert Settings(sqlite_path=tmp_path / "x.db").sqlite_path == os.fspath(tmp_path / "x.db")  # type: ignore[arg-type]
    assert Settings(sqlite_path=_PathTo("x.db")).sqlite_path == "x.db"  # type: ignore[arg-type]


def test_the_least_size_and_port_are_allowed() -> None:
    given = Settings(max_record_bytes=1, qdrant_url="https://host:1")
    assert (given.max_record_bytes, given.qdrant_url) == (1, "https://host:1")
    assert Settings(qdrant_url="http://host").qdrant_url == "http://host"


def test_the_largest_size_has_18_digits() -> None:
    assert Settings.from_env({"KP_MAX_RECORD_BYTES": "9" * 18}).max_record_bytes == 10**18 - 1


# Factory ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["memory", " Memory\n", "MEMORY"])
async def test_a_backend_is_found_by_its_name(name: str) -> None:
    stores = await create_store(name)
    assert isinstance(stores, AllStores)
    assert stores.backend == "memory"
    await stores.close()


async def test_the_environment_names_the_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KP_STORE_BACKEND", raising=False)
    async with create_store() as stores:
        assert stores.backend == "memory"
    monkeypatch.setenv("KP_STORE_BACKEND", "sqlite")
    monkeypatch.setenv("KP_SQLITE_PATH", str(tmp_path / "x.db"))
    async with create_store() as stores:
        assert stores.backend == "sqlite"
    async with create_store("memory") as stores:  # what is given wins
        assert stores.backend == "memory"
    async with create_store(settings=Settings()) as stores:
        assert stores.backend == "memory"


@pytest.mark.parametrize("name", ["nothing", "", "sqlite3", "memory sqlite"])
async def test_an_unknown_backend_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await create_store(name)
    for known in ("KP_STORE_BACKEND", "memory", "sqlite", "module:callable"):
        assert known in str(caught.value)


async def open_own(settings: Settings, clock: Clock) -> AllStores:
    return await open_memory(settings, clock)


NOT_CALLABLE = 5


async def test_a_callable_is_a_backend() -> None:
    async with create_store(f"{__name__}:open_own") as stores:
        assert stores.backend == "memory"


@pytest.mark.parametrize(
    "name",
    [
        f"{__name__}:nothing",
        f"{__name__}:NOT_CALLABLE",
        "no_such_module:open_store",
        ":open_store",
        "json:",
        "..:x",
        f"{__name__}:open_own.nothing",
    ],
)
async def test_what_is_no_callable_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="KP_STORE_BACKEND"):
        await create_store(name)


@pytest.mark.parametrize(
    ("raises", "said"),
    [
        ("ImportError('no driver')", r"cannot be imported \(no driver\).*kpstore\[broken\]"),
        ("RuntimeError('too old')", r"cannot be imported \(too old\)"),
        ("kpstore.ConfigurationError('set KP_X')", "^set KP_X$"),
    ],
)
async def test_an_installed_backend_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raises: str, said: str
) -> None:
    (tmp_path / "broken_backend.py").write_text(f"import kpstore\nraise {raises}\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("broken", "broken_backend:open_store", "kpstore.backends")
    monkeypatch.setitem(factory._KNOWN, "broken", point)
    with pytest.raises(ConfigurationError, match=said):
        await create_store("broken")


@pytest.mark.parametrize(
    "arguments",
    [{"settings": {}}, {"settings": "memory"}, {"clock": NOW}, {"clock": 5}, {"backend": 5}],
    ids=str,
)
async def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await create_store(**arguments)


async def test_qdrant_says_that_it_is_not_there() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await create_store("qdrant")
    assert "sqlite" in str(caught.value)


async def test_the_block_closes_what_it_opened() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with create_store("memory") as stores:
            raise RuntimeError("mine")
    with pytest.raises(StoreClosedError):
        await stores.skills.get_by_id("a")
    async with await create_store("memory") as stores:
        pass
    with pytest.raises(StoreClosedError):
        await stores.reputation.get("a")


def test_every_method_of_a_store_is_a_coroutine_or_an_async_iterator() -> None:
    async def look() -> list[str]:
        async with create_store("memory") as stores:
            return [
                f"{store}.{name}"
                for store in ("skills", "knowledge", "reputation", "api_keys", "rate_limit", "audit_log")
                for name, method in inspect.getmembers(getattr(stores, store), callable)
                if not name.startswith("_") and name != "scan" and not inspect.iscoroutinefunction(method)
            ]

    assert asyncio.run(look()) == []


def test_the_version_is_there() -> None:
    assert kpstore.__version__.count(".") == 2
