"""Only errors of kpstore come out, whatever goes in; what raises changes nothing.

A hundred and fifty values of the wrong type, size, depth, sign, calendar and temper go through every
parameter of every method, and through every field of the records given: some twenty thousand calls.
`KP_HOSTILE_RANDOM` says how many random JSON documents there are besides (200), `KP_HOSTILE_SEED` which;
`KP_HOSTILE_SHOWN` how many failures are shown (40).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import UserDict, UserString, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cache
from types import GeneratorType, MappingProxyType
from typing import Any

import kpstore
from kpstore import (
    AllStores,
    KpStoreError,
    StoreClosedError,
    StoredKnowledgeUnit,
    StoredSkill,
    ValidationError,
    ValidationVote,
)
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import (
    METHODS,
    MOMENT,
    Method,
    contents,
    difference,
    fill,
    pattern,
    skill,
    vote,
    within,
)

SEED = int(os.environ.get("KP_HOSTILE_SEED", "20260115"))
RANDOM_DOCUMENTS = int(os.environ.get("KP_HOSTILE_RANDOM", "200"))

_ERRORS = (
    "ConfigurationError",
    "ValidationError",
    "StoreClosedError",
    "BackendUnavailableError",
    "DataCorruptionError",
    "SchemaVersionError",
)

_SHOWN = int(os.environ.get("KP_HOSTILE_SHOWN", "40"))
_CALL_S = 10.0
"""No value makes a call take longer: all are refused, or small."""


# ---- values of bad temper


class _EvilError(Exception):
    """Raised by a value when it is looked at; only a store can have let it out."""


def _evil(*_: object, **__: object) -> Any:
    raise _EvilError("looked at")


_ALL = (
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__bool__", "__len__"),
    *("__iter__", "__contains__", "__getitem__", "__repr__", "__str__", "__format__", "__int__", "__index__"),
    *("__float__", "__add__", "__radd__", "__sub__", "__rsub__", "__neg__", "__floordiv__"),
    *("encode", "isascii", "casefold", "lower", "strip", "startswith", "copy", "items", "keys", "values"),
    *("get", "utcoffset", "astimezone", "isoformat", "timestamp", "replace", "total_seconds", "__getattr__"),
)


def _evil_type(base: type, *sound: str) -> Any:
    """A subclass of the type whose every method raises, but for the sound ones."""
    methods: dict[str, Any] = {name: _evil for name in _ALL if base is object or hasattr(base, name)}
    methods |= {name: getattr(base, name) for name in sound}
    return type(f"Evil{base.__name__}", (base,), methods)


_EvilText = _evil_type(str)
_EvilInt = _evil_type(int)
_EvilFloat = _evil_type(float)
_EvilList = _evil_type(list)
_EvilDict = _evil_type(dict)
_EvilSet = _evil_type(set)
_EvilMoment = _evil_type(datetime)
_EvilDuration = _evil_type(timedelta)
_EvilObject = _evil_type(object)
# As a key of a dict it is hashed by whoever makes the dict.
_EvilKey = _evil_type(str, "__hash__")


def _pretender(kind: type) -> Any:
    """An object that says of itself to be of the type, as mocks do, and is not."""
    return type("Pretender", (), {"__class__": property(lambda self: kind)})()


class _EqualType(type):
    """A type that says to equal every other."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __ne__(cls, other: object) -> bool:
        return False

    __hash__ = type.__hash__


class OfEqualType(metaclass=_EqualType):
    """An object of it."""


class _EvilZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise _EvilError("asked for the offset")

    def tzname(self, moment: datetime | None) -> str | None:
        raise _EvilError("asked for the name")

    def dst(self, moment: datetime | None) -> timedelta | None:
        raise _EvilError("asked for the summer time")


class _Zone(tzinfo):
    """A time zone with an offset that no `timezone` would take."""

    def __init__(self, offset: Any) -> None:
        self._offset = offset

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        offset: timedelta | None = self._offset
        return offset

    def tzname(self, moment: datetime | None) -> str | None:
        return "odd"

    def dst(self, moment: datetime | None) -> timedelta | None:
        return timedelta(0)


class _Kind(StrEnum):
    NAME = "name"


def _nested(depth: int, *, objects: bool) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    return value


def _cycle_of_lists() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _cycle_of_objects() -> dict[str, Any]:
    value: dict[str, Any] = {"list": []}
    value["list"].append(value)
    value["self"] = value
    return value


def _raising_generator() -> Iterator[Any]:
    yield skill("from a generator")
    raise _EvilError("asked for the second")


def _unset(record: type) -> Any:
    """A record none of whose fields was ever set."""
    return object.__new__(record)


_SCALARS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1001": lambda: 1001,
    "2**63 - 1": lambda: 2**63 - 1,
    "2**63": lambda: 2**63,
    "-2**63": lambda: -(2**63),
    "-2**63 - 1": lambda: -(2**63) - 1,
    "2**64": lambda: 2**64,
    "10**400": lambda: 10**400,
    "10**5000, whose digits Python does not print": lambda: 10**5000,
    "0.5": lambda: 0.5,
    "-0.0": lambda: -0.0,
    "1e308": lambda: 1e308,
    "-1e308": lambda: -1e308,
    "5e-324": lambda: 5e-324,
    "1.0000000000000002": lambda: 1.0000000000000002,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "-infinity": lambda: float("-inf"),
    "1j": lambda: 1j,
    "a Decimal": lambda: Decimal("0.5"),
    "a Fraction": lambda: Fraction(1, 2),
    "an empty text": lambda: "",
    "a space": lambda: " ",
    "U+0000": lambda: "\0",
    "U+0000 within": lambda: "a\0b",
    "a lone high surrogate": lambda: "\ud800",
    "a lone low surrogate": lambda: "a\udfffb",
    "a pair of surrogates": lambda: "\ud83d\ude00",
    "U+FFFF": lambda: "\uffff",
    "U+10FFFF": lambda: "\U0010ffff",
    "a right-to-left override": lambda: "\u202e",
    "combining marks": lambda: "e" + "\u0301" * 200,
    "512 characters": lambda: "i" * 512,
    "513 characters": lambda: "i" * 513,
    "512 characters of four bytes": lambda: "\U0001f600" * 512,
    "2 MiB of text": lambda: "x" * 2**21,
    "2 MiB of ligatures": lambda: "\ufdfa" * 2**19,
    "SQL": lambda: "'; DROP TABLE skills; --",
    "wildcards": lambda: "%_*?[]^$",
    "a path": lambda: "../../etc/passwd",
    "a number in text": lambda: "5",
    "a key": lambda: f"kp_{'0' * 64}",
    "bytes": lambda: b"bytes",
    "a bytearray": lambda: bytearray(b"bytes"),
    "a memoryview": lambda: memoryview(b"bytes"),
    "an enum's text": lambda: _Kind.NAME,
    "a UserString": lambda: UserString("text"),
    "an evil text": lambda: _EvilText("evil"),
    "an evil int": lambda: _EvilInt(3),
    "an evil float": lambda: _EvilFloat(0.5),
    "a pretended text": lambda: _pretender(str),
    "a pretended int": lambda: _pretender(int),
    "a pretended float": lambda: _pretender(float),
    "an evil object": _EvilObject,
    "an object whose type equals every other": OfEqualType,
    "an object": object,
    "a type": lambda: int,
    "a function": lambda: print,
    "an ellipsis": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "an exception": lambda: ValueError("value"),
}

_TIMES: dict[str, Callable[[], Any]] = {
    "a naive datetime": lambda: datetime(2026, 1, 15, 12),
    "a date": lambda: date(2026, 1, 15),
    "the first datetime": lambda: datetime.min.replace(tzinfo=UTC),
    "the last datetime": lambda: datetime.max.replace(tzinfo=UTC),
    "the first datetime, at +14:00": lambda: datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    "the last datetime, at -12:00": lambda: datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    "an offset of microseconds": lambda: MOMENT.replace(tzinfo=timezone(timedelta(microseconds=-1))),
    "an offset of 23:59:59.999999": lambda: MOMENT.replace(
        tzinfo=timezone(timedelta(days=1) - timedelta(microseconds=1))
    ),
    "a zone without an offset": lambda: MOMENT.replace(tzinfo=_Zone(None)),
    "a zone with an offset of two days": lambda: MOMENT.replace(tzinfo=_Zone(timedelta(days=2))),
    "a zone whose offset is a number": lambda: MOMENT.replace(tzinfo=_Zone(3600)),
    "an evil zone": lambda: MOMENT.replace(tzinfo=_EvilZone()),
    "a second pass through an hour": lambda: MOMENT.replace(fold=1),
    "an evil datetime": lambda: _EvilMoment(2026, 1, 15, 12, tzinfo=UTC),
    "a pretended datetime": lambda: _pretender(datetime),
    "a timestamp": lambda: 1_768_478_400,
    "ISO 8601": lambda: "2026-01-15T12:00:00Z",
    "no time": lambda: timedelta(0),
    "the longest time": lambda: timedelta.max,
    "the shortest time": lambda: timedelta.min,
    "a negative microsecond": lambda: timedelta(microseconds=-1),
    "300,000 years": lambda: timedelta(days=110_000_000),
    "300,000 years ago": lambda: timedelta(days=-110_000_000),
    "an evil duration": lambda: _EvilDuration(hours=1),
    "a pretended duration": lambda: _pretender(timedelta),
}

_CONTAINERS: dict[str, Callable[[], Any]] = {
    "an empty list": list,
    "an empty object": dict,
    "an empty tuple": tuple,
    "an empty set": set,
    "a tuple of texts": lambda: ("a", "b"),
    "a frozenset of texts": lambda: frozenset({"read"}),
    "a list of None": lambda: [None],
    "a list of numbers": lambda: [1, 2.5],
    "a list of texts with U+0000": lambda: ["a\0"],
    "a list of surrogates": lambda: ["\ud800"],
    "a list of evil texts": lambda: [_EvilText("read")],
    "a list with itself in it": _cycle_of_lists,
    "an object with itself in it": _cycle_of_objects,
    "lists 500 deep": lambda: _nested(500, objects=False),
    "lists 501 deep": lambda: _nested(501, objects=False),
    "lists 5,000 deep": lambda: _nested(5_000, objects=False),
    "lists 100,000 deep": lambda: _nested(100_000, objects=False),
    "objects 499 deep": lambda: _nested(499, objects=True),
    "objects 501 deep": lambda: _nested(501, objects=True),
    "objects 5,000 deep": lambda: _nested(5_000, objects=True),
    "objects 100,000 deep": lambda: _nested(100_000, objects=True),
    "a million times None": lambda: [None] * 1_000_000,
    "one list two hundred times": lambda: [["shared"] * 20] * 200,
    "NaN in a list": lambda: [[float("nan")]],
    "infinity in an object": lambda: {"a": {"b": float("inf")}},
    "2**64 in a list": lambda: [2**64],
    "a number as a key": lambda: {1: "one"},
    "None as a key": lambda: {None: "none"},
    "True as a key": lambda: {True: "yes"},
    "a tuple as a key": lambda: {("a", "b"): 1},
    "a surrogate as a key": lambda: {"\ud800": 1},
    "U+0000 as a key": lambda: {"\0": 1},
    "an evil text as a key": lambda: {_EvilKey("key"): 1},
    "an empty key": lambda: {"": ""},
    "a datetime in a list": lambda: [MOMENT],
    "a set in a list": lambda: [{1}],
    "bytes in an object": lambda: {"a": b"b"},
    "an evil list": lambda: _EvilList(["a"]),
    "an evil object of keys": lambda: _EvilDict(a=1),
    "an evil set": lambda: _EvilSet({"read"}),
    "an evil list in a list": lambda: [_EvilList(["a"])],
    "an object in a list whose type equals every other": lambda: [OfEqualType()],
    "an object as a key whose type equals every other": lambda: {OfEqualType(): 1},
    "a pretended list": lambda: _pretender(list),
    "a pretended object of keys": lambda: _pretender(dict),
    "a deque": lambda: deque(["a"]),
    "a UserDict": lambda: UserDict(a=1),
    "a mapping proxy": lambda: MappingProxyType({"a": 1}),
    "a range": lambda: range(3),
    "a generator of texts": lambda: (text for text in ("read", "write")),
    "a generator that raises": _raising_generator,
    "an iterator": lambda: iter([1]),
}


_RECORDS: dict[str, Callable[[], Any]] = {
    "a skill": lambda: skill("hostile"),
    "a unit": lambda: pattern("hostile"),
    "a vote": lambda: vote("hostile"),
    "a skill without fields": lambda: _unset(StoredSkill),
    "a unit without fields": lambda: _unset(StoredKnowledgeUnit),
    "a vote without fields": lambda: _unset(ValidationVote),
    "a pretended skill": lambda: _pretender(StoredSkill),
    "a pretended unit": lambda: _pretender(StoredKnowledgeUnit),
    "a pretended vote": lambda: _pretender(ValidationVote),
    "a list of skills and a bad one": lambda: [skill("first"), skill("second", quality_score=2)],
    "a list of units and a bad one": lambda: [pattern("first"), pattern("second", performance=None)],
    "a generator of skills that raises": _raising_generator,
    "a tuple of skills": lambda: (skill("first"), skill("second")),
    "a type of record": lambda: StoredSkill,
}

_VALUES = _SCALARS | _TIMES | _CONTAINERS | _RECORDS


_NEVER = frozenset(
    {
        *("U+0000", "U+0000 within", "a lone high surrogate", "a lone low surrogate"),
        *("NaN", "infinity", "-infinity", "2**64", "10**400", "1j", "a Decimal", "bytes", "a bytearray"),
        *("a type", "a function", "an ellipsis", "an exception", "an object", "a date", "a range"),
        *("a list with itself in it", "an object with itself in it", "lists 501 deep", "objects 5,000 deep"),
        *(
            "NaN in a list",
            "2**64 in a list",
            "a number as a key",
            "bytes in an object",
            "a datetime in a list",
        ),
    }
)
"""What no parameter of any method takes, but `verify`, which takes any text."""


@cache
def _made(name: str) -> Any:
    return _VALUES[name]()


def _value(name: str) -> Any:
    """The value, made once; those that are used up by being looked at are made anew."""
    value = _made(name)
    return _VALUES[name]() if type(value) in _USED_UP else value


_USED_UP: tuple[type, ...] = (GeneratorType, type(iter([])))


# ---- the places where they go


@dataclass(frozen=True, slots=True)
class _Place:
    """A parameter of a method, or a field of a record given to it."""

    method: Method
    name: str
    put: Callable[[Any], dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.method}({self.name})"


def _places() -> list[_Place]:
    by_name = {str(method): method for method in METHODS}
    places = [
        _Place(method, parameter, lambda value, parameter=parameter: {parameter: value})  # type: ignore[misc]
        for method in METHODS
        for parameter in method.arguments()
    ]
    for method_name, parameter, sample in (
        ("skills.create", "skill", skill("hostile")),
        ("knowledge.create", "entry", pattern("hostile")),
        ("reputation.record_vote", "vote", vote("hostile")),
    ):
        places += [
            _Place(
                by_name[method_name],
                f"{parameter}.{field.name}",
                lambda value, p=parameter, s=sample, f=field.name: {p: replace(s, **{f: value})},  # type: ignore[misc]
            )
            for field in fields(sample)
        ]
    places += [
        _Place(
            by_name["skills.create"], "skill.tags[0]", lambda value: {"skill": skill("hostile", tags=[value])}
        ),
        _Place(
            by_name["skills.create"],
            "skill.files.a",
            lambda value: {"skill": skill("hostile", files={"a": value})},
        ),
        _Place(by_name["skills.create_many"], "skills[1]", lambda value: {"skills": [skill("first"), value]}),
        _Place(
            by_name["knowledge.create_many"],
            "entries[1]",
            lambda value: {"entries": [pattern("first"), value]},
        ),
        _Place(by_name["audit_log.log"], "details.a", lambda value: {"details": {"a": [value]}}),
        _Place(by_name["skills.search"], "tags[0]", lambda value: {"tags": [value]}),
        _Place(by_name["knowledge.search"], "types[0]", lambda value: {"types": [value]}),
        _Place(by_name["api_keys.create"], "scopes[0]", lambda value: {"scopes": [value]}),
        *(
            _Place(by_name["knowledge.create"], f"entry.unit.{key}", _within_unit(key))
            for key in ("@type", "@context", "id", "metadata", "name", "tool_sequence", "unknown")
        ),
        *(
            _Place(by_name["knowledge.create"], f"entry.unit.metadata.{key}", _within_metadata(key))
            for key in ("created_at", "quality_score", "agent_id", "success", "validated_by", "unknown")
        ),
    ]
    return places


def _within_unit(key: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {"entry": pattern("hostile", **{key: value})}


def _within_metadata(key: str) -> Callable[[Any], dict[str, Any]]:
    def put(value: Any) -> dict[str, Any]:
        entry = pattern("hostile")
        entry.unit["metadata"][key] = value
        return {"entry": entry}

    return put


async def _try(call: Awaitable[Any]) -> BaseException | None:
    """What the call raised; `SystemExit` and the like are not caught."""
    try:
        await asyncio.wait_for(call, _CALL_S)
    except Exception as error:
        return error
    return None


def _shown(error: BaseException) -> str:
    # An evil value may have got into the message, and its repr raises.
    try:
        return f"{type(error).__name__}: {str(error)[:150]}"
    except Exception:
        return type(error).__name__


# ---- the checks


@check(clauses=["GEN-6"], name="every error derives from KpStoreError")
async def error_classes(lab: Lab) -> None:
    """Each of the six errors is a KpStoreError, which is an Exception, and none is another's base."""
    assert issubclass(KpStoreError, Exception)
    classes = [getattr(kpstore, name) for name in _ERRORS]
    for one in classes:
        assert issubclass(one, KpStoreError), f"{one.__name__} is no KpStoreError"
        others = [other.__name__ for other in classes if other is not one and issubclass(one, other)]
        assert not others, f"catching {others} catches {one.__name__} too"


@check(clauses=["GEN-6"], name="every method of closed stores raises StoreClosedError")
async def closed_stores(lab: Lab) -> None:
    """After close() each method of each store, an iterator at its first step and one that was on its way too,
    raises StoreClosedError, with bad arguments as with good ones.
    """
    stores = await lab.open()
    await fill(stores)
    walks = {
        f"{name} in batches of {size}": aiter(getattr(stores, name).scan(batch_size=size))
        for name in ("skills", "knowledge", "reputation", "api_keys", "audit_log")
        for size in (1, 500)
    }
    for walk in walks.values():
        await anext(walk)
    await stores.close()
    wrong = []
    for method in METHODS:
        for what, changes in (("", {}), (" with bad arguments", dict.fromkeys(method.arguments(), object()))):
            error = await _try(method.call(stores, **changes))
            if not isinstance(error, StoreClosedError):
                wrong.append(f"{method}{what}: {error!r}")
    for name, walk in walks.items():
        try:
            await anext(walk)
        except StoreClosedError:
            continue
        except StopAsyncIteration:
            wrong.append(f"a scan of {name} that was on its way just ended")
        else:
            wrong.append(f"a scan of {name} that was on its way went on")
    assert not wrong, "no StoreClosedError after close():\n  " + "\n  ".join(wrong)


async def _hostile(stores: AllStores, places: list[_Place]) -> list[str]:
    """What is wrong with how the places take the values: a line for each."""
    wrong = []
    for place in places:
        refused, taken = [], []
        before = await contents(stores)
        for name in _VALUES:
            error = await _try(place.method.call(stores, **place.put(_value(name))))
            if error is None:
                taken.append(name)
                if name in _NEVER and place.method.name != "verify":
                    wrong.append(f"{place} of {name}: was taken")
            else:
                refused.append(name)
                if not isinstance(error, ValidationError):
                    wrong.append(f"{place} of {name}: {_shown(error)}")
        if place.method.changes and taken:
            # All that were refused once more, now that nothing is taken in between.
            await _remove_hostile(stores)
            before = await contents(stores)
            for name in refused:
                await _try(place.method.call(stores, **place.put(_value(name))))
        after = await contents(stores)
        if before != after:
            calls = "refused calls" if place.method.changes else "reads"
            wrong.append(f"{place}: {calls} changed {difference(before, after)}")
    return wrong


async def _remove_hostile(stores: AllStores) -> None:
    """Keep the stores small: what was taken has been seen."""
    known = ("sample", "another")
    for record in [each async for each in stores.skills.scan()]:
        if record.id not in known:
            await stores.skills.delete(record.id)
    for unit in [each async for each in stores.knowledge.scan()]:
        if unit.id.removeprefix("kp:pattern:") not in known:
            await stores.knowledge.delete(unit.id)


def _report(wrong: list[str]) -> None:
    if wrong:
        shown = wrong[:_SHOWN] + ([f"… and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else [])
        raise AssertionError(
            f"{len(wrong)} values brought out something else than a ValidationError:\n  " + "\n  ".join(shown)
        )


async def _hostile_check(lab: Lab, *names: str) -> None:
    stores = await lab.open()
    await fill(stores)
    places = [place for place in _places() if place.method.store in names]
    assert places, f"no method of {names}"
    _report(await _hostile(stores, places))
    # Still usable, with what was there before.
    await within(_CALL_S, stores.skills.create(skill("afterwards")), "a call after hostile ones")
    assert (await stores.skills.get_by_id("sample")) is not None


@check(
    clauses=["GEN-5", "GEN-6"], name="hostile values given to the skill store bring out only ValidationErrors"
)
async def hostile_skills(lab: Lab) -> None:
    """Each of 150 hostile values, as each parameter and each field of a skill, is taken or refused with a
    ValidationError; what was refused changed nothing.
    """
    await _hostile_check(lab, "skills")


@check(
    clauses=["GEN-5", "GEN-6"],
    name="hostile values given to the knowledge store bring out only ValidationErrors",
)
async def hostile_knowledge(lab: Lab) -> None:
    """Each of 150 hostile values, as each parameter and at many places of a unit, is taken or refused with a
    ValidationError; what was refused changed nothing.
    """
    await _hostile_check(lab, "knowledge")


@check(
    clauses=["GEN-5", "GEN-6"],
    name="hostile values given to the other stores bring out only ValidationErrors",
)
async def hostile_others(lab: Lab) -> None:
    """Each of 150 hostile values, as each parameter of reputation, keys, rate limits and the audit log, and
    as each field of a vote, is taken or refused with a ValidationError; what was refused changed nothing.
    """
    await _hostile_check(lab, "reputation", "api_keys", "rate_limit", "audit_log")


@check(clauses=["GEN-4", "GEN-5", "GEN-6"], name="a random document is kept as it is or refused")
async def random_documents(lab: Lab) -> None:
    """Random JSON with hostile values at random places, inside a unit and as an entry's details, comes back
    as it went in, or is refused with a ValidationError and is not there.
    """
    stores = await lab.open()
    chance = random.Random(SEED)  # noqa: S311
    wrong = []
    for number in range(RANDOM_DOCUMENTS):
        entry = pattern(f"random-{number}", random=_random_value(chance, 0))
        error = await _try(stores.knowledge.create(entry))
        stored = await stores.knowledge.get_by_id(entry.id)
        if error is None:
            if stored is None or not _same(stored.unit, entry.unit):
                wrong.append(f"document {number} did not come back as it went in")
        elif not isinstance(error, ValidationError):
            wrong.append(f"document {number}: {_shown(error)}")
        elif stored is not None:
            wrong.append(f"document {number} was refused and is there")
    _report(wrong)


def _random_value(chance: random.Random, depth: int) -> Any:
    if depth < 5 and chance.random() < 0.6:
        if chance.random() < 0.5:
            return [_random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        return {_random_text(chance): _random_value(chance, depth + 1) for _ in range(chance.randrange(4))}
    if chance.random() < 0.03:
        return chance.choice([_VALUES[name] for name in sorted(_VALUES)])()
    return chance.choice(
        (
            None,
            True,
            False,
            chance.randrange(-(2**63), 2**63),
            chance.choice((-0.0, 0.0, 0.1, 1e22, 1e-7, 2.0**53, 1e300, 5e-324, sys.float_info.max)),
            chance.uniform(-1e6, 1e6),
            _random_text(chance),
        )
    )


def _random_text(chance: random.Random) -> str:
    ranges = ((0x20, 0x7F), (0x1, 0x20), (0xA0, 0x250), (0x300, 0x370), (0x2000, 0x2070), (0x1F600, 0x1F650))
    return "".join(chr(chance.randrange(*chance.choice(ranges))) for _ in range(chance.randrange(8)))


def _same(one: Any, other: Any) -> bool:
    """Equal with types, signs of zero and the order of keys."""
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if type(one) is list:
        return len(one) == len(other) and all(map(_same, one, other))
    return repr(one) == repr(other)
