"""How a check is declared, and what it works with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kpstore_conformance.check import START, Check, Lab, check, check_modules, module_checks
from kpstore_conformance.checks import public_api
from kpstore_conformance.target import CaseTarget, adapter_for

import kpstore
from kpstore import StoredSkill


async def a_function(lab: Lab) -> None:
    """A fact."""


@pytest.mark.parametrize(
    ("clauses", "requires", "name", "message"),
    [
        (["GEN-99"], [], "a fact", "unknown GEN-99"),
        (["GEN-1"], ["durability"], "a fact", "unknown durability"),
        ([], [], "a fact", "name the clauses"),
        (["GEN-1"], [], "a fact[x]", "a name has no"),
    ],
)
def test_a_wrong_declaration_is_refused(
    clauses: list[str], requires: list[str], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(clauses=clauses, requires=requires, name=name)(a_function)


def test_a_check_needs_a_docstring() -> None:
    async def silent(lab: Lab) -> None:
        pass

    with pytest.raises(ValueError, match="must say the fact"):
        check(clauses=["GEN-1"], name="a fact")(silent)


def test_a_declared_check() -> None:
    made = check(clauses=["GEN-1"], requires=["durable", "inspector.sql"], name="a fact")(a_function)
    assert made.id == "checks/test_checks/a fact"
    assert made.fact == "A fact."
    assert made.file == Path(__file__)
    assert made.line == a_function.__code__.co_firstlineno
    assert made.backends is None


def test_all_modules_are_found_and_no_id_is_there_twice() -> None:
    ids = [one.id for name in check_modules() for one in module_checks(name)]
    assert "checks/public_api/create_store has the contract's parameters" in ids
    assert len(ids) == len(set(ids))


def test_a_lab_opens_stores_on_one_set_of_data_and_closes_them() -> None:
    opened: list[kpstore.AllStores] = []

    async def body(lab: Lab) -> None:
        """A fact."""
        assert lab.clock() == START
        assert lab.folder.is_dir()
        assert lab.backend_spec == "sqlite"
        assert lab.environment["KP_SQLITE_PATH"] == lab.settings.sqlite_path
        one, other = await lab.open(), await lab.open(clock=lambda: START)
        opened.extend([one, other])
        skill = StoredSkill(
            id="a", name="a", description="needle", content="", created_at=lab.clock(), updated_at=lab.clock()
        )
        await one.skills.create(skill)
        assert await other.skills.get_by_id("a") == skill
        assert await lab.inspect_sql("SELECT count(*) AS n FROM skills") == [{"n": 1}]
        assert await lab.inspect_raw(b"needle") > 0

    target = CaseTarget(adapter_for("sqlite"))

    async def run() -> None:
        await check(clauses=["GEN-1"], name="a fact")(body).run(target)
        for stores in opened:
            with pytest.raises(kpstore.StoreClosedError):
                await stores.skills.get_by_id("a")
        await target.dispose()

    asyncio.run(run())


def run_check(one: Check) -> None:
    async def run() -> None:
        target = CaseTarget(adapter_for("memory"))
        try:
            await one.run(target)
        finally:
            await target.dispose()

    asyncio.run(run())


# The checks of the public API are shown to fail where the API is not as the contract has it.


def test_a_missing_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(kpstore, "ScoredUnit")
    with pytest.raises(AssertionError, match="not importable from kpstore: ScoredUnit"):
        run_check(public_api.names_are_importable)


def test_a_name_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kpstore, "__all__", [*kpstore.__all__, "helper"])
    with pytest.raises(AssertionError, match="public beside the contract: helper"):
        run_check(public_api.nothing_else_is_public)


def test_a_renamed_parameter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from kpstore.stores.api_keys import ApiKeyStore

    async def verify(self: ApiKeyStore, key: str) -> None:
        """Not the contract's."""

    monkeypatch.setattr(ApiKeyStore, "verify", verify)
    with pytest.raises(AssertionError, match=r"api_keys\.verify: \(key\), not \(raw_key\)"):
        run_check(public_api.methods_have_the_parameters)


def test_a_public_helper_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from kpstore.stores.api_keys import ApiKeyStore

    monkeypatch.setattr(ApiKeyStore, "rotate", lambda self: None, raising=False)
    with pytest.raises(AssertionError, match="api_keys also has rotate"):
        run_check(public_api.no_other_methods)


def test_a_missing_field_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(public_api.RECORDS, "HistoryEntry", "timestamp, delta, reason, weight")
    with pytest.raises(AssertionError, match=r"HistoryEntry\(timestamp, delta, reason\), not"):
        run_check(public_api.records_have_the_fields)
