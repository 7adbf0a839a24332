"""Histories: calls and moves of the clock as plain data, played on the model and on stores, and compared."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kpstore import AllStores, ApiKeyRecord, AuditLogEntry, KpStoreError, ManualClock, NewApiKey, Page
from kpstore_conformance.model import Model, Refused, clone
from kpstore_conformance.scenario.show import redact, short

__all__ = [
    "Advance",
    "Bounds",
    "Call",
    "Close",
    "Move",
    "Names",
    "Observation",
    "Open",
    "Player",
    "Raised",
    "Ref",
    "Reopen",
    "Returned",
    "SetClock",
    "Step",
    "StorePlayer",
    "Symbol",
    "Unplayable",
    "compare",
    "differences",
    "disagreement",
    "raised",
    "unlike",
]

ANSWER_WITHIN_S = 30.0
"""A call that takes longer hangs: the slowest, a create_many on a busy disk, takes a hundredth of it."""

IDENTITY = {
    "skills": "id",
    "knowledge": "id",
    "reputation": "agent_id",
    "api_keys": "key_hash",
    "audit_log": "id",
}
"""The field that says which record of a scan is which."""


# --- steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ref:
    """A text that only an earlier call knows: `before`, the part of what it saved as `name`, `after`."""

    name: str
    part: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Call:
    """A call of a store's method, `times` times over.

    `scribble` changes every dict and list passed and returned, after the call. For a `scan`, `changes` are
    made once `after` records have come.
    """

    store: str
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    handle: str = "main"
    times: int = 1
    scribble: bool = False
    save: str | None = None
    after: int = 0
    changes: tuple[Call, ...] = ()


@dataclass(frozen=True)
class SetClock:
    """The clock shows `to`."""

    to: datetime


@dataclass(frozen=True)
class Advance:
    """The clock moves by `by`, which may be negative."""

    by: timedelta


@dataclass(frozen=True)
class Open:
    """Another handle on the same data, or a closed one again."""

    handle: str


@dataclass(frozen=True)
class Close:
    """Close a handle."""

    handle: str


@dataclass(frozen=True)
class Reopen:
    """Close a handle and open it again."""

    handle: str


Move = SetClock | Advance | Open | Close | Reopen
Step = Call | Move


# --- observations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """A call's result, with a `Symbol` for what a store makes up."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """A call's error. `paths`: the fields that a ValidationError may name; of a store's, the one it names."""

    error: str
    paths: frozenset[str] = frozenset()
    text: str = ""


Observation = Returned | Raised


class Symbol(str):
    """Stands for a text that a store makes up (a raw key, its hash and prefix, an entry's id)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self!s}>"


@dataclass(frozen=True)
class Bounds:
    """What a scan during changes may give: every survivor once, in order, each record in a version it had."""

    store: str
    survivors: list[Any]
    versions: dict[Any, list[Any]]


class Names:
    """Symbols for what one subject made up, in the order in which it did."""

    def __init__(self) -> None:
        self._known: dict[str, Symbol] = {}
        self._keys = 0
        self._entries = 0

    def learn(self, result: object) -> None:
        """Take in a new key or entry. One that breaks the contract's form gets no symbol, and so differs."""
        if isinstance(result, NewApiKey):
            self._keys += 1
            raw, record = result.raw_key, result.record
            sound = (
                isinstance(raw, str)
                and re.fullmatch(r"kp_[0-9a-f]{64}", raw) is not None
                and record.key_hash == hashlib.sha256(raw.encode()).hexdigest()
                and record.key_prefix == raw[:11]
                and not {raw, record.key_prefix} & self._known.keys()
                and raw not in repr(result)
            )
            if sound:
                self._known[raw] = Symbol(f"raw_key of key {self._keys}")
                self._known[record.key_hash] = Symbol(f"record.key_hash of key {self._keys}")
                self._known[record.key_prefix] = Symbol(f"record.key_prefix of key {self._keys}")
        elif isinstance(result, AuditLogEntry):
            self._entries += 1
            if _is_uuid(result.id) and result.id not in self._known:
                self._known[result.id] = Symbol(f"id of entry {self._entries}")

    def symbolic(self, value: Any) -> Any:
        """The value with its symbols in place of the texts that they stand for."""
        if isinstance(value, NewApiKey):
            raw = self._known.get(value.raw_key, value.raw_key)
            return NewApiKey(raw, self.symbolic(value.record))
        if isinstance(value, ApiKeyRecord):
            known = self._known
            return replace(
                value,
                key_hash=known.get(value.key_hash, value.key_hash),
                key_prefix=known.get(value.key_prefix, value.key_prefix),
            )
        if isinstance(value, AuditLogEntry):
            return replace(value, id=self._known.get(value.id, value.id))
        if type(value) is list:
            return [self.symbolic(item) for item in value]
        if isinstance(value, Page) and type(value.data) is list:
            return replace(value, data=self.symbolic(value.data))
        return value


def _is_uuid(text: object) -> bool:
    try:
        return isinstance(text, str) and str(uuid.UUID(text)) == text
    except ValueError:
        return False


# --- players ---------------------------------------------------------------------------------------


class Unplayable(Exception):  # noqa: N818 - a history that a removed step has made meaningless
    """A step refers to what was never saved or opened, or goes where the contract leaves room."""


def _resolved(value: Any, saved: Mapping[str, Any]) -> Any:
    if isinstance(value, Ref):
        if value.name not in saved:
            raise Unplayable(value.name)
        part = saved[value.name]
        for name in value.part.split("."):
            part = getattr(part, name)
        return f"{value.before}{part}{value.after}"
    return clone(value)


def _arguments(call: Call, saved: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _resolved(value, saved) for name, value in call.arguments.items()}


class Player:
    """Plays steps on the model. What it gives is what a store must give."""

    def __init__(self, start: datetime, capabilities: frozenset[str] = frozenset()) -> None:
        self.model = Model(start)
        self.open = {"main"}
        self._known_handles = {"main"}
        self._capabilities = capabilities
        self._saved: dict[str, Any] = {}
        self._names = Names()

    def perform(self, step: Step) -> list[Observation]:
        """One observation per call made; none for a move."""
        if isinstance(step, Call):
            if step.handle not in self._known_handles:
                raise Unplayable(step.handle)
            if step.changes:
                return self._scan_during(step)
            return [self._call(step) for _ in range(step.times)]
        if isinstance(step, (SetClock, Advance)):
            to = step.to if isinstance(step, SetClock) else self.model.now + step.by
            if to < self.model.earliest():
                raise Unplayable("the clock goes back to where the contract leaves open what is there")
            self.model.set_clock(to)
        elif isinstance(step, Close):
            if step.handle not in self._known_handles:
                raise Unplayable(step.handle)
            self.open.discard(step.handle)
        else:
            if isinstance(step, Open) == (step.handle in self.open):
                raise Unplayable(step.handle)
            self.open.add(step.handle)
            self._known_handles.add(step.handle)
        return []

    def _call(self, call: Call) -> Observation:
        arguments = _arguments(call, self._saved)
        if call.handle not in self.open:
            return Raised("StoreClosedError")
        if call.method == "search_similar":
            return Raised("ConfigurationError")
        method = getattr(getattr(self.model, call.store), call.method)
        try:
            result = method(**arguments)
        except Refused as error:
            return Raised("ValidationError", error.paths)
        if call.save is not None:
            self._saved[call.save] = result
        self._names.learn(result)
        return Returned(self._names.symbolic(result))

    def _scan_during(self, call: Call) -> list[Observation]:
        store = getattr(self.model, call.store)
        if call.handle not in self.open:
            return [Raised("StoreClosedError")]
        try:
            before = store.scan(**call.arguments)
        except Refused as error:
            return [Raised("ValidationError", error.paths)]
        identity = IDENTITY[call.store]
        survivors = [getattr(record, identity) for record in before]
        versions: dict[Any, list[Any]] = {}
        observed: list[Observation] = []

        def note() -> None:
            now = store.scan()
            there = {getattr(record, identity) for record in now}
            survivors[:] = [one for one in survivors if one in there]
            for record in self._names.symbolic(now):
                found = versions.setdefault(getattr(record, identity), [])
                if not any(not differences(one, record) for one in found):
                    found.append(record)

        note()
        if len(before) >= call.after:
            for change in call.changes:
                observed += self.perform(change)
                note()
        bounds = Bounds(call.store, [], versions)
        # Symbols again, so that both sides name a key or an entry alike.
        kept = [record for record in before if getattr(record, identity) in survivors]
        bounds.survivors.extend(getattr(record, identity) for record in self._names.symbolic(kept))
        return [Returned(bounds), *observed]


class StorePlayer:
    """Plays steps on stores.

    Args:
        open_handle: opens a handle on the one set of data.
        clock: the clock of every handle.
    """

    def __init__(self, open_handle: Callable[[], Awaitable[AllStores]], clock: ManualClock) -> None:
        self._open_handle = open_handle
        self._clock = clock
        self._handles: dict[str, AllStores] = {}
        self._saved: dict[str, Any] = {}
        self._names = Names()

    async def start(self) -> None:
        """Open the handle `main`."""
        self._handles["main"] = await self._open_handle()

    async def stop(self) -> None:
        """Close every handle."""
        for stores in self._handles.values():
            await stores.close()

    async def perform(self, step: Step) -> list[Observation]:
        """One observation per call made; none for a move, unless it fails."""
        if isinstance(step, Call):
            if step.changes:
                return await self._scan_during(step)
            return [await self._call(step) for _ in range(step.times)]
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._move(step)
        except Exception as error:
            return [raised(error)]
        return []

    async def _move(self, step: Move) -> None:
        if isinstance(step, SetClock):
            self._clock.set(step.to)
        elif isinstance(step, Advance):
            self._clock.advance(step.by)
        else:
            if isinstance(step, (Close, Reopen)):
                await self._handles[step.handle].close()
            if isinstance(step, (Open, Reopen)):
                self._handles[step.handle] = await self._open_handle()

    async def _call(self, call: Call) -> Observation:
        arguments = _arguments(call, self._saved)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                method = getattr(getattr(self._handles[call.handle], call.store), call.method)
                if call.method == "scan":
                    result: Any = [record async for record in method(**arguments)]
                else:
                    result = await method(**arguments)
        except Exception as error:
            return raised(error)
        return self._returned(call, arguments, result)

    def _returned(self, call: Call, arguments: dict[str, Any], result: Any) -> Observation:
        if call.save is not None:
            self._saved[call.save] = result
        self._names.learn(result)
        observed = Returned(self._names.symbolic(clone(result)))
        if call.scribble:
            _scribble(list(arguments.values()))
            _scribble(result)
        return observed

    async def _scan_during(self, call: Call) -> list[Observation]:
        arguments = _arguments(call, self._saved)
        items: list[Any] = []
        observed: list[Observation] = []
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                store = getattr(self._handles[call.handle], call.store)
                records: AsyncIterator[Any] = store.scan(**arguments)
                async for record in records:
                    items.append(record)
                    if len(items) == call.after:
                        for change in call.changes:
                            observed += await self.perform(change)
        except Exception as error:
            return [raised(error), *observed]
        return [Returned(self._names.symbolic(items)), *observed]


def raised(error: Exception) -> Raised:
    """The observation of an error; what is no error of kpstore's comes with its traceback."""
    name = type(error).__name__
    if isinstance(error, KpStoreError):
        paths = frozenset({str(error.field)}) if hasattr(error, "field") else frozenset[str]()
        return Raised(name, paths, redact(str(error)))
    if isinstance(error, TimeoutError):
        return Raised(name, text=f"no answer within {ANSWER_WITHIN_S:g} s")
    return Raised(name, text=redact("".join(traceback.format_exception(error)[-6:])))


def _scribble(value: Any) -> None:
    """Change every dict and list reachable from the value."""
    if is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            _scribble(getattr(value, one.name))
    elif isinstance(value, dict):
        for item in value.values():
            _scribble(item)
        value.clear()
        value["scribbled"] = "scribbled"
    elif isinstance(value, (list, tuple)):
        for item in value:
            _scribble(item)
        if isinstance(value, list):
            value.clear()
            value.append("scribbled")
    elif isinstance(value, set):
        value.clear()


# --- comparison ------------------------------------------------------------------------------------


def differences(expected: Any, came: Any, path: str = "result") -> list[str]:
    """Every smallest part in which two values differ: types, key order and the sign of zero count."""
    if isinstance(expected, Bounds):
        return _outside(expected, came, path)
    if isinstance(expected, datetime) and isinstance(came, datetime):
        # Times come back in UTC; which class of tzinfo says so does not matter.
        same = came.utcoffset() == timedelta(0) and expected == came
        return [] if same else [_differ(path, expected, came)]
    if isinstance(expected, str) and isinstance(came, str):
        # A symbol stands for the store's text only where the store's text became the same symbol.
        same = str(expected) == str(came) and isinstance(expected, Symbol) == isinstance(came, Symbol)
        return [] if same else [_differ(path, expected, came)]
    if type(expected) is not type(came):
        return [_differ(path, expected, came)]
    found: list[str] = []
    if is_dataclass(expected):
        for one in fields(expected):
            found += differences(getattr(expected, one.name), getattr(came, one.name), f"{path}.{one.name}")
        return found
    if isinstance(expected, dict):
        if list(expected) != list(came):
            return [f"{path}: the keys must be {list(expected)!r}, but came as {list(came)!r}"]
        for key, item in expected.items():
            found += differences(item, came[key], f"{path}.{key}")
        return found
    if isinstance(expected, (list, tuple)):
        if len(expected) != len(came):
            found.append(f"{path}: {len(expected)} items must come, but {len(came)} came")
        for index, (one, other) in enumerate(zip(expected, came, strict=False)):
            found += differences(one, other, f"{path}[{index}]")
        return found
    if isinstance(expected, float):
        same = expected == came and math.copysign(1, expected) == math.copysign(1, came)
    else:
        same = bool(expected == came)
    return [] if same else [_differ(path, expected, came)]


def _differ(path: str, expected: Any, came: Any) -> str:
    left, right = _show(expected), _show(came)
    if left == right:
        left, right = f"{left} ({type(expected).__name__})", f"{right} ({type(came).__name__})"
    return f"{path}: must be {left}, but came as {right}"


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, Symbol) else short(value)


def _outside(bounds: Bounds, came: Any, path: str) -> list[str]:
    if type(came) is not list:
        return [_differ(path, "records", came)]
    found = []
    ids = []
    for index, record in enumerate(came):
        one = getattr(record, IDENTITY[bounds.store], None)
        ids.append(one)
        versions = bounds.versions.get(one, [])
        if not any(not differences(version, record) for version in versions):
            found.append(f"{path}[{index}]: no record ever was {short(record)}")
    kept = [one for one in ids if one in bounds.survivors]
    if kept != bounds.survivors:
        found.append(
            f"{path}: what was there from start to end is {bounds.survivors!r}, but of it came {kept!r}"
        )
    return found


def _names_one_of(paths: frozenset[str], came: frozenset[str]) -> bool:
    return any(
        named == path or named.startswith((f"{path}.", f"{path}[")) for path in paths for named in came
    )


def compare(expected: Observation, came: Observation) -> list[str]:
    """How two observations differ, a line each; empty where they agree."""
    if isinstance(expected, Returned):
        if isinstance(came, Returned):
            return differences(expected.value, came.value)
        return [f"must return {_show_result(expected.value)}, but raised {came.error}: {came.text}"]
    if isinstance(came, Returned):
        return [f"must raise {_show_error(expected)}, but returned {_show_result(came.value)}"]
    if expected.error != came.error or (expected.paths and not _names_one_of(expected.paths, came.paths)):
        return [f"must raise {_show_error(expected)}, but raised {_show_error(came)}: {came.text}"]
    return []


def _show_result(value: Any) -> str:
    return "what was stored" if isinstance(value, Bounds) else _show(value)


def _show_error(error: Raised) -> str:
    paths = f" for {' or '.join(sorted(error.paths))}" if error.paths else ""
    return f"{error.error}{paths}"


def disagreement(
    expected: Sequence[Observation], came: Sequence[Observation]
) -> tuple[int, list[str]] | None:
    """Which observation of a step is the first to differ, and how; None where all agree."""
    for index, (one, other) in enumerate(zip(expected, came, strict=False)):
        found = compare(one, other)
        if found:
            return index, found
    if len(expected) != len(came):
        index = min(len(expected), len(came))
        extra = came[index] if len(came) > index else None
        text = (
            _show_error(extra) + f": {extra.text}" if isinstance(extra, Raised) else "another number of calls"
        )
        return index, [f"must succeed, but raised {text}"]
    return None


def unlike(
    expected: Sequence[Observation], one: Sequence[Observation], other: Sequence[Observation]
) -> tuple[int, list[str]] | None:
    """As `disagreement`, of what one backend gave with what another did, where `expected` is the model's.

    Which of several wrong fields an error names may differ, and so may what a scan gives during changes,
    within the model's bounds.
    """
    reference: list[Observation] = []
    for index, observed in enumerate(one):
        model = expected[index] if index < len(expected) else None
        if isinstance(observed, Raised):
            reference.append(Raised(observed.error, text=observed.text))
        elif isinstance(model, Returned) and isinstance(model.value, Bounds):
            reference.append(model)
        else:
            reference.append(observed)
    return disagreement(reference, other)
