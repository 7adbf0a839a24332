"""Hypothesis strategies of calls that hurt: near-duplicate ids, ties, extreme numbers, Unicode, bad input.

Each takes the model as it stands, so that ids, queries, filters and moments are mostly those that are stored,
or almost those. Whether a value is good or bad is for the model to say; some are made bad on purpose.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar

from kpstore import StoredKnowledgeUnit, StoredSkill, ValidationVote
from kpstore_conformance.history import Call, Ref
from kpstore_conformance.model import (
    AUDIT_LIFE,
    ID_PREFIXES,
    LIMITS,
    MAX_DEPTH,
    VIOLATION_LIFE,
    VOTING_AGE,
    Model,
    clone,
    unit_texts,
)

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "the stateful and differential checks need Hypothesis: pip install 'kpstore[conformance]'"
    ) from error

__all__ = [
    "CLOSED_CALLS",
    "HOSTILE",
    "IDS",
    "STARTS",
    "TEXTS",
    "audit_calls",
    "clock_moves",
    "hurt_units",
    "key_calls",
    "knowledge_calls",
    "rate_calls",
    "reputation_calls",
    "skill_calls",
]

T = TypeVar("T")
Draw = st.DrawFn

# --- values ----------------------------------------------------------------------------------------

TEXTS: tuple[str, ...] = (
    "a", "b", "A", "", " ", "ab", "ba", "a b", " a", "a ", "a  b",
    "ß", "ss", "SS", "ẞ", "über", "ÜBER", "u\u0308ber", "é", "e\u0301", "É", "E\u0301", "Å", "\u212b",
    "ﬁ", "fi", "İ", "i\u0307", "ı", "I", "Σίσυφος", "ΣΊΣΥΦΟΣ", "ς", "ΐ", "ŉ", "ǆ", "ᾳ", "\u0345", "\u0307",
    "a\u0323\u0307", "a\u0307\u0323", "한", "\u1112\u1161\u11ab", "ﷺ",
    "\u1e9e\u0301", "\U00010400", "\U00010428",
    "%", "_", "*", "?", "a%b", "a_b", "axb", "'", '"', "\\", "\\%", "[",
    "]", '","', '["a"]', "{}", "[]", "--", ";",
    "\n", "\t", "\r\n", "\x01", "\x7f", "\x85", "\u2028", "\ufeff", "\u200d", "\u00a0", "\uffff", "\ue000",
    "\U0001f600", "👩‍👩‍👧", "\U0010ffff", "null", "NULL", "None", "true", "0",
    "-0.0", "1e400", "NaN", "${a}", "$a",
    "kp_", "0" * 40, "ab" * 300,
)  # fmt: skip
"""Legal texts that stores have been seen to change, confuse, or take for a pattern."""

IDS: tuple[str, ...] = (
    "a", "A", "a ", " a", "aa", "ab", "a\n", "é", "e\u0301", "É", "ß", "ss", "a%", "a_", "%", "_", "a'", 'a"',
    "a\\", "a\u200b", "\ufeffa", "0", "00", "0.0", "a/b",
    "a\U0001f600", "x" * 512, "x" * 511, "x" * 511 + "y",
)  # fmt: skip
"""Ids that differ by case, normal form, spaces, wildcards, or in nothing but their length."""

LONGEST_ID = 512

ILLEGAL_TEXTS: tuple[str, ...] = ("\0", "a\0b", "\ud800", "a\udfff", "\udc00\ud800")
ILLEGAL_IDS: tuple[Any, ...] = ("", "x" * 513, *ILLEGAL_TEXTS, None, 0, True, b"a", ["a"])
HUGE = "x" * (2**20 + 1)

QUALITIES: tuple[float, ...] = (
    0.5, 0.0, 1.0, 0.5, -0.0, 0, 1, 0.7, 0.3, 0.1 + 0.2, 5e-324, 1 - 2**-53, 2.2250738585072014e-308, 0.25,
)  # fmt: skip
ILLEGAL_QUALITIES: tuple[Any, ...] = (
    -5e-324, 1.0000000000000002, 2, -1, float("nan"), float("inf"), float("-inf"), True, "0.5", [], 2**63,
)  # fmt: skip

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 0.0, -0.0, 1.0, 0.1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 5e-324, -5e-324,
    1.7976931348623157e308, -1.797e308, 1e16, 1e22, 1e-7, 123456789012345680.0, 100.0,
)  # fmt: skip

HOSTILE: tuple[Any, ...] = (
    None, True, "", "a", [], {}, 0, -1, 1.5, 2,
    float("nan"), float("inf"), float("-inf"), 2**63, -(2**63) - 1,
    "\0", "\ud800", [None], ["\0"], {"\0": 1}, {"\udfff": 1}, {1: "a"},
    {None: 1}, {"a": float("nan")}, (), ("a",),
    b"a", {1}, object, [[2**64]], datetime(2026, 1, 1, tzinfo=UTC), 10**30,
)  # fmt: skip
"""What no place in a document should take without a look; some places may take some of them."""

KEYS: tuple[str, ...] = (
    "a", "b", "A", "", " ", "é", "e\u0301", "@x", "$ref", "$a", "0",
    "a.b", "a[0]", "null", "id", "__proto__", "'",
    '"', "%", "\n", "\U0001f600", "metadata", "quality_score",
)  # fmt: skip

DEPTHS: tuple[int, ...] = (50, *range(MAX_DEPTH - 3, MAX_DEPTH + 1), 600)
"""How deep a value is nested that stands a level or more down: within the limit, about it, beyond it."""

_OPTIONAL: dict[str, tuple[str, ...]] = {
    "": ("source_skill", "knowledge_graph_delta", "validation"),
    "metadata": ("agent_id", "framework", "validated_by"),
    "task": ("input_schema",),
    "steps": ("content", "tool", "input", "output_summary", "latency_ms"),
    "tool": ("mcp_server",),
    "trigger_conditions": ("required_tools",),
    "tool_sequence": ("condition",),
    "tools": ("query_template", "input_template"),
    "decision_tree": ("criteria", "conditions", "tool_suggestions"),
}
"""The optional keys of the schemas, by the key under which their object, or the list of them, stands."""

_BASE = datetime(2026, 1, 15, 12, tzinfo=UTC)
MOMENTS: tuple[datetime, ...] = (
    _BASE,
    _BASE + timedelta(microseconds=1),
    _BASE.replace(microsecond=999999),
    _BASE.astimezone(timezone(timedelta(hours=5, minutes=30))),
    _BASE.astimezone(timezone(timedelta(hours=-12))),
    _BASE.astimezone(timezone(timedelta(hours=14, minutes=-1, seconds=1))),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-5))),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=14))),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    datetime(2016, 2, 29, 23, 59, 59, 500000, tzinfo=timezone(timedelta(hours=1))),
    datetime(2262, 4, 11, 23, 47, 16, 854776, tzinfo=UTC),
)
ILLEGAL_MOMENTS: tuple[Any, ...] = (
    datetime(2026, 1, 1),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
    datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-1))),
    None,
    "2026-01-15T12:00:00Z",
    1768478400,
    1768478400.5,
)

STARTS: tuple[datetime, ...] = (
    _BASE,
    _BASE,
    _BASE.replace(microsecond=999999),
    datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC),
    datetime(1901, 12, 13, 20, 45, 51, 1, tzinfo=UTC),
)
"""Where clocks start: today, on the edge of a second, before 1970, and where 32 bits of seconds end."""

DOMAINS: tuple[str, ...] = ("a", "A", "über", "ÜBER", "u\u0308ber", "ß", "SS", "a ", "b", "%", "ς", "Σ")

_small = st.integers(0, 9)
_texts = st.sampled_from(TEXTS)
# Hypothesis's own characters are nearly all ASCII; the others are those that UTF-8 takes two, three and four
# bytes for.
_any_character = st.characters(exclude_characters="\0", codec="utf-8") | st.one_of(
    *(
        st.integers(first, last).map(chr)
        for first, last in ((0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x1_0000, 0x10_FFFF))
    )
)
_any_text = st.text(_any_character, max_size=6)
# Likewise: most of its integers are small, and a float holds those.
_any_number = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(2**53, 2**63 - 1),
    st.integers(-(2**63), -(2**53)),
    st.floats(allow_nan=False, allow_infinity=False),
)


def _chance(draw: Draw, one_in: int) -> bool:
    """True once in so many; shrinks to False."""
    return draw(st.integers(0, one_in - 1)) == one_in - 1


def _one(draw: Draw, choices: Sequence[T]) -> T:
    return draw(st.sampled_from(choices))


def _text(draw: Draw) -> str:
    kind = draw(_small)
    if kind < 5:
        return draw(_texts)
    if kind < 8:
        return draw(_texts) + _one(draw, ("", " ")) + draw(_texts)
    return draw(_any_text)


def _id(draw: Draw, known: Sequence[str]) -> str:
    """Mostly one that is there, or almost one."""
    kind = draw(_small)
    if known and kind < 5:
        return _one(draw, known)
    if known and kind < 7:
        return _near(draw, _one(draw, known))[:LONGEST_ID] or "a"
    return _new_id(draw)


def _new_id(draw: Draw) -> str:
    """One of `IDS`, or anything that is an id."""
    return draw(_any_text) or "a" if draw(_small) == 9 else _one(draw, IDS)


def _key(draw: Draw) -> str:
    """The key of an object."""
    return draw(_any_text) if _chance(draw, 6) else _one(draw, KEYS)


def _number(draw: Draw) -> Any:
    """A number that a document may hold."""
    return draw(_any_number) if _chance(draw, 4) else _one(draw, NUMBERS)


def _near(draw: Draw, text: str) -> str:
    """The same text, or what a careless store takes for it."""
    kind = draw(st.integers(0, 12))
    if kind < 4:
        return text
    changed: Callable[[str], str] = (
        str.upper,
        str.lower,
        str.casefold,
        lambda t: unicodedata.normalize("NFD", t),
        lambda t: unicodedata.normalize("NFKC", t),
        lambda t: t + " ",
        lambda t: t[:-1],
        lambda t: t.replace("a", "_"),
        lambda t: t.replace("a", "%"),
    )[kind - 4]
    return changed(text)


def _json(draw: Draw, depth: int = 2) -> Any:
    kind = draw(st.integers(0, 11))
    if kind < 3:
        return _number(draw)
    if kind < 5:
        return _text(draw)
    if kind < 7 or depth == 0:
        return _one(draw, (None, True, False, "", [], {}))
    if kind == 11 and _chance(draw, 8):
        return _deep(draw)
    size = draw(st.integers(0, 3))
    if kind < 9:
        return [_json(draw, depth - 1) for _ in range(size)]
    return {_key(draw): _json(draw, depth - 1) for _ in range(size)}


def _deep(draw: Draw) -> Any:
    return _nested(_one(draw, DEPTHS), as_list=_chance(draw, 2))


def _nested(depth: int, *, as_list: bool) -> Any:
    value: Any = [] if as_list else {}
    for _ in range(depth - 1):
        value = [value] if as_list else {"k": value}
    return value


def _object(draw: Draw) -> dict[str, Any]:
    if _chance(draw, 8):
        return {_key(draw): _deep(draw)}
    return {_key(draw): _json(draw) for _ in range(draw(st.integers(0, 3)))}


def _moment(draw: Draw) -> datetime:
    return _one(draw, MOMENTS)


def _page(draw: Draw, total: int) -> dict[str, Any]:
    """Page arguments: mostly none, else around the number of records."""
    kind = draw(_small)
    if kind < 5:
        return {}
    if kind == 9 and _chance(draw, 3):
        bad = (-1, 2**63, True, 1.0, "1", None)
        name = _one(draw, ("offset", "limit"))
        return {name: _one(draw, bad if name == "offset" else (*bad, 1001))}
    arguments: dict[str, Any] = {}
    if kind != 5:
        arguments["offset"] = _one(draw, (0, 1, 2, 3, max(total - 1, 0), total, total + 1, 20, 2**63 - 1))
    if kind != 6:
        arguments["limit"] = _one(draw, (1, 2, 3, 0, 1000, 5))
    return arguments


def _batch(draw: Draw) -> dict[str, Any]:
    if _chance(draw, 12):
        return {"batch_size": _one(draw, (0, -1, True, 1.0, "2", None))}
    return _one(draw, ({}, {"batch_size": 1}, {"batch_size": 2}, {"batch_size": 3}, {"batch_size": 1000}))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a document, but not those of what is nested deeper than any schema goes."""
    found: list[tuple[Any, ...]] = []
    if len(path) < 7 and isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += [(*path, key), *_places(item, (*path, key))]
    return found


def _hurt(draw: Draw, unit: dict[str, Any]) -> dict[str, Any]:
    """The document with one part of it replaced, removed or added; it may be good still."""
    unit = clone(unit)
    places = _places(unit)
    if _chance(draw, 3):
        # `null` is good for no optional key, nor is much else.
        inside = [
            (path, next((key for key in reversed(path) if isinstance(key, str)), ""))
            for path in [(), *places]
            if isinstance(_at(unit, path), dict)
        ]
        path, name = _one(draw, [one for one in inside if one[1] in _OPTIONAL])
        _at(unit, path)[_one(draw, _OPTIONAL[name])] = None if _chance(draw, 2) else _one(draw, HOSTILE)
        return unit
    if _chance(draw, 4):
        *above, key = _one(draw, [path for path in places if type(_at(unit, path)) in (int, float)])
        _at(unit, above)[key] = _one(draw, ILLEGAL_QUALITIES)
        return unit
    *above, key = _one(draw, places)
    at = _at(unit, above)
    if isinstance(at, dict) and _chance(draw, 4):
        del at[key]
    else:
        at[key] = _one(draw, HOSTILE)
    return unit


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _quality(draw: Draw) -> float:
    return draw(st.floats(0, 1)) if draw(_small) == 9 else _one(draw, QUALITIES)


def _min_quality(draw: Draw, stored: Sequence[float]) -> Any:
    if _chance(draw, 12):
        return _one(draw, ILLEGAL_QUALITIES)
    if not stored:
        return 0.5
    # Next to one that is stored, too: a limit that is inclusive is told from one that is not.
    return _one(draw, (*stored, 0.5, 0, 1, math.nextafter(_one(draw, stored), _one(draw, (0.0, 1.0)))))


def _query(draw: Draw, texts: Sequence[Sequence[str]]) -> str:
    """A text that is found, nearly found, or must not be found because it spans two texts of one record."""
    if _chance(draw, 25):
        return _one(draw, ILLEGAL_TEXTS)
    own = [one for one in texts if any(one)]
    if not own or _chance(draw, 5):
        return _text(draw)
    record = _one(draw, own)
    kind = draw(_small)
    if kind < 2 and len(record) > 1:
        index = draw(st.integers(0, len(record) - 2))
        left, right = record[index], record[index + 1]
        return left[-2:] + _one(draw, ("", " ", "\n", ",", "\x1f", '","')) + right[:2]
    text = _one(draw, [one for one in record if one])
    start = draw(st.integers(0, min(len(text) - 1, 8)))
    length = _one(draw, (1, 2, 3, 4, len(text)))
    return _near(draw, text[start : start + length])


# --- skills ----------------------------------------------------------------------------------------


def _skill(draw: Draw, model: Model) -> Any:
    flags = draw(st.integers(0, 511))
    return StoredSkill(
        id=_id(draw, [record.id for record in model.skills.records]),
        name=_text(draw),
        description=_text(draw) if flags & 1 else "",
        content=_text(draw) if flags & 2 else "",
        version=_one(draw, TEXTS) if flags & 4 else None,
        author=_one(draw, TEXTS) if flags & 8 else None,
        domain=_one(draw, DOMAINS) if flags & 16 else None,
        tags=tuple(draw(_texts) for _ in range(draw(st.integers(0, 3)))) if flags & 32 else (),
        files={_key(draw): draw(_texts) for _ in range(draw(st.integers(0, 2)))} if flags & 64 else {},
        visibility=_one(draw, ("network", "org", "private")) if flags & 128 else "network",
        quality_score=_quality(draw),
        created_at=_moment(draw) if flags & 256 else model.now,
        updated_at=model.now,
    )


def _bad_skill(draw: Draw, model: Model) -> Any:
    skill = _skill(draw, model)
    text: tuple[Any, ...] = (*ILLEGAL_TEXTS, None, 1, b"a", ["a"])
    wrong: dict[str, Sequence[Any]] = {
        "id": ILLEGAL_IDS,
        "name": text,
        "description": text,
        "content": (*text, HUGE),
        "version": (*ILLEGAL_TEXTS, 1, b"a"),
        "author": (*ILLEGAL_TEXTS, 1, []),
        "domain": (*ILLEGAL_TEXTS, 1, {}),
        "tags": ("a", None, ["\0"], [1], [None], {"a": 1}, [["a"]], ("\ud800",)),
        "files": (None, [], {"a": 1}, {"a": "\0"}, {"\0": "a"}, {1: "a"}, {"a": None}, {"a": HUGE}),
        "visibility": ("public", "", "Network", None, 1, "network "),
        "quality_score": ILLEGAL_QUALITIES,
        "created_at": ILLEGAL_MOMENTS,
        "updated_at": ILLEGAL_MOMENTS,
    }
    field = _one(draw, list(wrong))
    if _chance(draw, 12):
        return _one(draw, (None, {"id": "a"}, "a", [skill]))
    changes: dict[str, Any] = {field: _one(draw, wrong[field])}
    return replace(skill, **changes)


def _many(draw: Draw, one: Callable[[], Any], bad: Callable[[], Any], bulk: Callable[[int], Any]) -> Any:
    """A list of records: some, or a page and more, or some with a bad one among them, or no list at all."""
    kind = draw(_small)
    if kind < 4:
        return [one() for _ in range(draw(st.integers(0, 4)))]
    if kind < 8:
        return bulk(_one(draw, (3, 8, 21, 25)))
    if kind == 8 or not _chance(draw, 6):
        records = [one() for _ in range(draw(st.integers(0, 3)))]
        records.insert(draw(st.integers(0, len(records))), bad())
        return records
    return _one(draw, (None, "a", 3, [None]))


def _bulk_skills(draw: Draw, model: Model, count: int) -> list[StoredSkill]:
    """Many alike, with ties: what pages and order are proved on."""
    first = draw(st.integers(0, 3))
    qualities = _one(draw, ((0.5,), (0.5, 0.7), (0.0, -0.0), (1.0, 0.5, 0.5)))
    return [
        StoredSkill(
            id=f"bulk-{first + index}",
            name=f"a {index % 3}",
            description="b",
            content="",
            tags=("a", "A") if index % 2 else ("b",),
            quality_score=qualities[index % len(qualities)],
            created_at=model.now,
            updated_at=model.now,
        )
        for index in range(count)
    ]


def _skill_search(draw: Draw, model: Model) -> dict[str, Any]:
    records = model.skills.records
    flags = draw(st.integers(0, 15))
    arguments: dict[str, Any] = {}
    if flags & 1:
        arguments["query"] = _query(draw, [(r.name, r.description, *r.tags) for r in records])
    if flags & 2 and not _chance(draw, 2):
        stored = [record.domain for record in records if record.domain] or ["a"]
        arguments["domain"] = _near(draw, _one(draw, (*stored, "")))
    if flags & 4:
        tags = [tag for record in records for tag in record.tags] or ["a"]
        wanted = [_near(draw, _one(draw, tags)) for _ in range(draw(st.integers(0, 2)))]
        if _chance(draw, 15):
            arguments["tags"] = _one(draw, ("a", ["\0"], [1], 1, {"a": 1}, b"a", ["a", None]))
        else:
            arguments["tags"] = _one(draw, (list, tuple, set, frozenset))(wanted) if wanted else wanted
    if flags & 8 and not _chance(draw, 2):
        arguments["min_quality"] = _min_quality(draw, [record.quality_score for record in records])
    if _chance(draw, 15):
        name = _one(draw, ("query", "domain", "tags", "min_quality"))
        arguments[name] = _one(draw, (None, "", 0.5) if name == "min_quality" else (None, "", 1, "\0"))
    return {**arguments, **_page(draw, len(records))}


@st.composite
def skill_calls(draw: Draw, model: Model) -> Call:
    """A call of `skills`."""
    known = [record.id for record in model.skills.records]
    kind = draw(st.integers(0, 15))
    scribble = _chance(draw, 3)

    def call(method: str, **arguments: Any) -> Call:
        return Call("skills", method, arguments, scribble=scribble)

    if kind < 4:
        return call("create", skill=_skill(draw, model))
    if kind < 6:
        return call(
            "create_many",
            skills=_many(
                draw,
                lambda: _skill(draw, model),
                lambda: _bad_skill(draw, model),
                lambda count: _bulk_skills(draw, model, count),
            ),
        )
    if kind < 11:
        return call("search", **_skill_search(draw, model))
    if kind == 11:
        return call("delete", id=_read_id(draw, known))
    if kind == 12:
        return call("get_by_id", id=_read_id(draw, known))
    if kind == 13:
        return call("create", skill=_bad_skill(draw, model))
    if kind == 14:
        return call("scan", **_batch(draw))
    return _scan_during(draw, "skills", known, lambda: _skill_change(draw, model, known))


def _read_id(draw: Draw, known: Sequence[str]) -> Any:
    return _one(draw, ILLEGAL_IDS) if _chance(draw, 12) else _id(draw, known)


def _skill_change(draw: Draw, model: Model, known: Sequence[str]) -> Call:
    if known and not _chance(draw, 3):
        return Call("skills", "delete", {"id": _one(draw, known)})
    return Call("skills", "create", {"skill": _skill(draw, model)})


def _scan_during(draw: Draw, store: str, known: Sequence[object], change: Callable[[], Call]) -> Call:
    if not known:
        return Call(store, "scan", {})
    changes = tuple(change() for _ in range(draw(st.integers(1, 3))))
    size = _one(draw, (1, 2, 3, 500))
    after = draw(st.integers(1, min(len(known), 5)))
    return Call(store, "scan", {"batch_size": size}, after=after, changes=changes)


# --- knowledge -------------------------------------------------------------------------------------

AGENTS: tuple[str, ...] = ("a", "A", "a ", "é", "e\u0301", "a%", "_", "b", "x" * 512)


def _document(draw: Draw, kind: str, unit_id: str) -> dict[str, Any]:
    flags = draw(st.integers(0, 255))
    metadata: dict[str, Any] = {
        "created_at": _one(
            draw,
            ("2026-01-15T12:00:00Z", "2026-01-15T17:30:00+05:30", "0001-01-01T00:00:00.000001-05:00"),
        ),
        "task_domain": _one(draw, DOMAINS),
        "success": bool(flags & 1),
        "quality_score": _quality(draw),
        "visibility": "network",
        "privacy_level": "aggregated",
    }
    if flags & 2:
        metadata["agent_id"] = _one(draw, (*AGENTS, ""))
    if flags & 4:
        metadata[_one(draw, KEYS[:13]) if not _chance(draw, 6) else f"x{draw(_any_text)}"] = _json(draw)
    unit: dict[str, Any] = {
        "@context": "https://openknowledgepulse.org/schema/v1",
        "@type": kind,
        "id": unit_id,
        "metadata": metadata,
    }
    text = _text(draw) or "a"
    if kind == "ReasoningTrace":
        steps: list[dict[str, Any]] = [{"step_id": 0, "type": "thought"}]
        if flags & 8:
            steps = [
                {"step_id": _one(draw, (1, 0, 2**63 - 1)), "type": "tool_call", "content": draw(_texts)}
                for _ in range(draw(st.integers(1, 3)))
            ]
        if flags & 16:
            steps[-1] |= {
                "tool": {"name": ""},
                "input": _object(draw),
                "latency_ms": _one(draw, (0, 5e-324, 1e308)),
            }
        unit |= {
            "task": {"objective": text},
            "steps": steps,
            "outcome": {"result_summary": "", "confidence": _quality(draw)},
        }
        if flags & 32:
            unit["knowledge_graph_delta"] = {
                "entities": [],
                "relationships": [{"fact": "", "valid_from": "a"}],
            }
    elif kind == "ToolCallPattern":
        tool: dict[str, Any] = {"name": "a"}
        if flags & 16:
            tool["input_template"] = _object(draw)
        unit |= {
            "name": text,
            "description": draw(_texts),
            "trigger_conditions": {"task_types": [""]},
            "tool_sequence": [{"step": "", "execution": "parallel", "tools": [tool] if flags & 8 else []}],
            "performance": {"avg_ms": _one(draw, (0, 0.5)), "success_rate": 1, "uses": 2**53 + 1},
        }
    else:
        step: dict[str, Any] = {"step": "a", "instruction": ""}
        if flags & 8:
            step["criteria"] = {_key(draw): draw(_texts)}
        if flags & 16:
            step["conditions"] = {_key(draw): {"action": "", "sla_min": _number(draw)}}
        unit |= {
            "name": text,
            "domain": draw(_texts) or "a",
            "source": {"type": "human_expert", "expert_id": "", "credentials": ["", "a"]},
            "decision_tree": [step],
        }
        if flags & 32:
            unit["validation"] = {"test_cases": [{"input": _object(draw), "expected_output": {}}]}
    if flags & 64:
        unit = {_one(draw, ("a", "zz", "$x", "é")): _json(draw), **unit}
    if flags & 128:
        unit = dict(reversed(unit.items()))
    return unit


def _entry(draw: Draw, model: Model, stored_id: str | None = None) -> Any:
    known = [record.id for record in model.knowledge.records]
    if stored_id is None and known and draw(_small) < 5:
        stored_id = _one(draw, known)
    kind = _one(draw, list(ID_PREFIXES))
    if stored_id is not None:
        kind = next(name for name, prefix in ID_PREFIXES.items() if stored_id.startswith(prefix))
    unit_id = stored_id or (ID_PREFIXES[kind] + _new_id(draw))[:LONGEST_ID]
    return StoredKnowledgeUnit(
        id=unit_id,
        unit=_document(draw, kind, unit_id),
        visibility=_one(draw, ("network", "org", "private")),
        created_at=_moment(draw),
        updated_at=model.now,
    )


def _bad_entry(draw: Draw, model: Model) -> Any:
    entry = _entry(draw, model)
    kind = draw(_small)
    if kind < 6:
        return replace(entry, unit=_hurt(draw, entry.unit))
    if kind == 6:
        unit = dict(entry.unit)
        unit[_one(draw, ("a", "$x"))] = _one(draw, (*HOSTILE, _deep(draw), HUGE))
        return replace(entry, unit=unit)
    if kind == 7:
        prefix = ID_PREFIXES[entry.unit["@type"]]
        bad: tuple[Any, ...] = (
            prefix,
            "kp:other:a",
            "a",
            prefix.upper() + "a",
            prefix + "x" * 512,
            *ILLEGAL_IDS,
        )
        unit_id = _one(draw, bad)
        return replace(entry, id=unit_id, unit={**entry.unit, "id": unit_id})
    wrong: dict[str, Sequence[Any]] = {
        "id": (*ILLEGAL_IDS, entry.id + " "),
        "unit": (None, [], "a", {}, 1),
        "visibility": ("public", None, 1),
        "created_at": ILLEGAL_MOMENTS,
        "updated_at": ILLEGAL_MOMENTS,
    }
    field = _one(draw, list(wrong))
    changes: dict[str, Any] = {field: _one(draw, wrong[field])}
    return None if _chance(draw, 12) else replace(entry, **changes)


def _bulk_units(draw: Draw, model: Model, count: int) -> list[StoredKnowledgeUnit]:
    first = draw(st.integers(0, 3))
    qualities = _one(draw, ((0.5,), (0.5, 0.7), (0.0, -0.0), (1, 0.5, 0.5)))
    entries = []
    for index in range(count):
        unit_id = f"kp:pattern:bulk-{first + index}"
        unit = {
            "@context": "https://openknowledgepulse.org/schema/v1",
            "@type": "ToolCallPattern",
            "id": unit_id,
            "metadata": {
                "created_at": "2026-01-15T12:00:00Z",
                "task_domain": ("a", "A", "b")[index % 3],
                "success": True,
                "quality_score": qualities[index % len(qualities)],
                "visibility": "network",
                "privacy_level": "aggregated",
                "agent_id": "a",
            },
            "name": f"a {index % 3}",
            "description": "b",
            "trigger_conditions": {"task_types": ["a"]},
            "tool_sequence": [{"step": "a", "execution": "parallel", "tools": []}],
            "performance": {"avg_ms": 0, "success_rate": 1, "uses": 0},
        }
        entries.append(StoredKnowledgeUnit(id=unit_id, unit=unit, created_at=model.now, updated_at=model.now))
    return entries


def _knowledge_search(draw: Draw, model: Model) -> dict[str, Any]:
    records = model.knowledge.records
    flags = draw(st.integers(0, 15))
    arguments: dict[str, Any] = {}
    if flags & 1:
        arguments["query"] = _query(draw, [unit_texts(record.unit) for record in records])
    if flags & 2 and not _chance(draw, 2):
        stored = [record.unit["metadata"]["task_domain"] for record in records] or ["a"]
        arguments["domain"] = _near(draw, _one(draw, (*stored, "")))
    if flags & 4:
        wanted = [_one(draw, list(ID_PREFIXES)) for _ in range(draw(st.integers(0, 2)))]
        if _chance(draw, 10):
            arguments["types"] = _one(draw, ("ReasoningTrace", ["reasoningtrace"], [""], [1], 1, ["\0"]))
        else:
            arguments["types"] = _one(draw, (list, tuple, set, frozenset))(wanted)
    if flags & 8 and not _chance(draw, 2):
        stored_qualities = [record.unit["metadata"]["quality_score"] for record in records]
        arguments["min_quality"] = _min_quality(draw, stored_qualities)
    return {**arguments, **_page(draw, len(records))}


@st.composite
def knowledge_calls(draw: Draw, model: Model, vector_search: bool = False) -> Call:
    """A call of `knowledge`; `search_similar` only where it must be refused."""
    known = [record.id for record in model.knowledge.records]
    kind = draw(st.integers(0, 17))
    scribble = _chance(draw, 3)

    def call(method: str, **arguments: Any) -> Call:
        return Call("knowledge", method, arguments, scribble=scribble)

    if kind < 3:
        return call("create", entry=_entry(draw, model))
    if kind in (4, 5):
        return call(
            "create_many",
            entries=_many(
                draw,
                lambda: _entry(draw, model),
                lambda: _bad_entry(draw, model),
                lambda count: _bulk_units(draw, model, count),
            ),
        )
    if 5 < kind < 10:
        return call("search", **_knowledge_search(draw, model))
    if kind == 10:
        return call("delete", id=_read_id(draw, known))
    if kind == 11:
        return call("get_by_id", id=_read_id(draw, known))
    if kind == 3 or 11 < kind < 14:
        return call("create", entry=_bad_entry(draw, model))
    if kind == 14 or (kind == 16 and model.knowledge.records):
        agents = [
            r.unit["metadata"]["agent_id"]
            for r in model.knowledge.records
            if "agent_id" in r.unit["metadata"]
        ]
        wanted = _one(draw, [*agents, *AGENTS])
        bad = _chance(draw, 12)
        return call(
            "get_by_agent_id", agent_id=_one(draw, ILLEGAL_IDS) if bad else _near(draw, wanted) or "a"
        )
    if kind == 15:
        return call("scan", **_batch(draw))
    if not known and not vector_search and _chance(draw, 4):
        return call("search_similar", text="a")
    return _scan_during(draw, "knowledge", known, lambda: _unit_change(draw, model, known))


@st.composite
def hurt_units(draw: Draw, model: Model) -> list[Call]:
    """Creates of one good unit, each time with another part of it hurt: what the schemas say is much."""
    entry = _entry(draw, model)
    units = [_hurt(draw, entry.unit) for _ in range(6)]
    return [Call("knowledge", "create", {"entry": replace(entry, unit=unit)}) for unit in units]


def _unit_change(draw: Draw, model: Model, known: Sequence[str]) -> Call:
    if known and not _chance(draw, 3):
        return Call("knowledge", "delete", {"id": _one(draw, known)})
    return Call("knowledge", "create", {"entry": _entry(draw, model)})


# --- reputation ------------------------------------------------------------------------------------

DELTAS: tuple[Any, ...] = (
    1.0, 0.5, -1.0, 0.0, -0.0, 1, 0, -1, 0.1, 0.2, -0.3,
    5e-324, -5e-324, 2**53 + 1, 1e308, -1.797e308, 2**63 - 1,
    -(2**63), 1e16,
)  # fmt: skip
ILLEGAL_DELTAS: tuple[Any, ...] = (
    float("nan"), float("inf"), float("-inf"), 2**63, -(2**63) - 1, True, None, "1", [],
)  # fmt: skip
REASONS: tuple[str, ...] = (
    "", "a", "Validated", "validated", "VALIDATED", "Validated: a",
    "x Validated y", "InValidated", "Vali dated", "%",
    "Validate\u0064", "Validаted",
)  # fmt: skip


@st.composite
def reputation_calls(draw: Draw, model: Model) -> Call:
    """A call of `reputation`."""
    agents = [agent.agent_id for agent in model.reputation.agents]
    units = [vote.unit_id for vote in model.reputation.votes]
    kind = draw(st.integers(0, 17))
    scribble = _chance(draw, 3)

    def call(method: str, **arguments: Any) -> Call:
        return Call("reputation", method, arguments, scribble=scribble)

    huge = [agent.agent_id for agent in model.reputation.agents if agent.score > 1e307]
    if huge and kind == 0:
        return call("upsert", agent_id=_one(draw, huge), delta=1.797e308, reason="")
    if kind < 5:
        return call(
            "upsert",
            agent_id=_id(draw, agents),
            delta=draw(_any_number) if _chance(draw, 8) else _one(draw, DELTAS),
            reason=_one(draw, REASONS),
        )
    if kind == 5:
        arguments = {"agent_id": _id(draw, agents), "delta": _one(draw, (1.0, -0.5)), "reason": "a"}
        return Call("reputation", "upsert", arguments, times=_one(draw, (2, 21, 49, 50, 51)))
    if kind == 6:
        arguments = {"agent_id": _id(draw, agents), "delta": 1.0, "reason": "a"}
        name = _one(draw, list(arguments))
        wrong: dict[str, Sequence[Any]] = {
            "agent_id": ILLEGAL_IDS,
            "delta": ILLEGAL_DELTAS,
            "reason": (*ILLEGAL_TEXTS, None, 1, HUGE),
        }
        arguments[name] = _one(draw, wrong[name])
        return call("upsert", **arguments)
    if kind < 9:
        return call("get", agent_id=_read_id(draw, agents))
    if kind < 11:
        agent_id = _read_id(draw, agents)
        total = len([owner for owner, _ in model.reputation.history if owner == agent_id])
        return call("get_history", agent_id=agent_id, **_page(draw, total))
    if kind == 11:
        return call("get_leaderboard", **_page(draw, len(agents)))
    if kind == 12:
        return call("get_all")
    if kind == 13:
        return call("record_vote", vote=_vote(draw, model))
    if kind == 14:
        if _chance(draw, 3):
            return call("get_votes")
        return call("get_votes", unit_id=None if _chance(draw, 10) else _read_id(draw, units))
    if kind == 15:
        return call("can_vote", agent_id=_read_id(draw, agents))
    if kind == 16:
        return call("scan", **_batch(draw))
    return _scan_during(
        draw,
        "reputation",
        agents,
        lambda: Call(
            "reputation",
            "upsert",
            {"agent_id": _id(draw, agents), "delta": _one(draw, (1.0, -1.0)), "reason": "a"},
        ),
    )


def _vote(draw: Draw, model: Model) -> Any:
    vote = ValidationVote(
        validator_id=_one(draw, IDS),
        target_id=_one(draw, IDS),
        unit_id=_id(draw, [vote.unit_id for vote in model.reputation.votes]),
        valid=_chance(draw, 2),
        timestamp=_moment(draw),
    )
    if not _chance(draw, 5):
        return vote
    wrong: dict[str, Sequence[Any]] = {
        "validator_id": ILLEGAL_IDS,
        "target_id": ILLEGAL_IDS,
        "unit_id": ILLEGAL_IDS,
        "valid": (1, 0, None, "true"),
        "timestamp": ILLEGAL_MOMENTS,
    }
    field = _one(draw, list(wrong))
    changes: dict[str, Any] = {field: _one(draw, wrong[field])}
    return None if _chance(draw, 12) else replace(vote, **changes)


# --- API keys --------------------------------------------------------------------------------------

UNKNOWN_KEYS: tuple[str, ...] = (
    "", "kp_", "kp_" + "0" * 64, "kp_" + "0" * 63, "kp_" + "0" * 65, "KP_" + "0" * 64,
    "a", "\0", "\ud800", "x" * 2000,
    "%", "kp_%", "é",
)  # fmt: skip


@st.composite
def key_calls(draw: Draw, model: Model, saved: Sequence[str]) -> Call:
    """A call of `api_keys`; `saved` are the names under which earlier calls saved their keys."""
    agents = [key.record.agent_id for key in model.api_keys.keys]
    kind = draw(st.integers(0, 15))

    def call(method: str, **arguments: Any) -> Call:
        return Call("api_keys", method, arguments)

    if kind < 4 or (not saved and kind < 8):
        scopes = _one(draw, (list, tuple, set, frozenset))(
            _one(draw, (("read",), ("write", "read"), ("admin", "read", "write"), ("read", "read")))
        )
        arguments = {
            "agent_id": _id(draw, agents),
            "scopes": scopes,
            "tier": _one(draw, ("free", "pro", "enterprise")),
        }
        return Call("api_keys", "create", arguments, save=f"key{len(saved) + 1}")
    if kind == 4:
        arguments = {"agent_id": "a", "scopes": ["read"], "tier": "free"}
        wrong: dict[str, Sequence[Any]] = {
            "agent_id": ILLEGAL_IDS,
            "scopes": (
                [],
                (),
                "read",
                None,
                ["Read"],
                ["read", ""],
                [None],
                {"read": 1},
                [["read"]],
                ["read", "a"],
            ),
            "tier": ("", "Free", "anonymous", None, 1, "free "),
        }
        name = _one(draw, list(wrong))
        arguments[name] = _one(draw, wrong[name])
        return call("create", **arguments)
    if kind < 9:
        return call("verify", raw_key=_key_text(draw, saved, "raw_key"))
    if kind < 12:
        return call("revoke", key_prefix=_key_text(draw, saved, "record.key_prefix"))
    if kind < 14:
        return call("get_by_agent_id", agent_id=_read_id(draw, agents))
    if kind == 14:
        return call("scan", **_batch(draw))

    def change() -> Call:
        if saved and _chance(draw, 2):
            return call("revoke", key_prefix=Ref(_one(draw, saved), "record.key_prefix"))
        return call("create", agent_id="a", scopes=["read"], tier="free")

    return _scan_during(draw, "api_keys", agents, change)


def _key_text(draw: Draw, saved: Sequence[str], part: str) -> Any:
    if not saved or _chance(draw, 6):
        bad: tuple[Any, ...] = (*UNKNOWN_KEYS, None, 1, b"kp_")
        return _one(draw, bad if part == "raw_key" else (*bad, "x" * 513))
    name = _one(draw, saved)
    kind = draw(_small)
    if kind == 9:
        other = "raw_key" if part != "raw_key" else _one(draw, ("record.key_prefix", "record.key_hash"))
        return Ref(name, other)
    if kind == 8:
        return Ref(name, part, *_one(draw, (("", " "), (" ", ""), ("", "\n"), ("", "0"), ("", "%"))))
    return Ref(name, part)


# --- rate limits -----------------------------------------------------------------------------------

LONGEST_BURST = 60
"""What empties the small buckets, and does not take a durable store a second."""

CALLERS: tuple[str, ...] = ("a", "A", "a ", "é", "e\u0301", "x" * 512)
TIER_NAMES: tuple[str, ...] = (
    "anonymous",
    "free",
    "pro",
    "enterprise",
    "free",
    "pro",
    "",
    "Free",
    "gold",
    "free ",
)


def _bucket(draw: Draw, model: Model) -> tuple[str, str, str]:
    """Whose bucket, at which tier, for which method: mostly one in use, at its own tier."""
    buckets = model.rate_limit.buckets
    if not buckets or _chance(draw, 4):
        if _chance(draw, 3):
            return _one(draw, CALLERS), _one(draw, TIER_NAMES), _one(draw, ("GET", "POST"))
        tier, method = _one(draw, (("free", "POST"), ("anonymous", "GET"), ("pro", "POST"), ("free", "GET")))
        return "a", tier, method
    identifier, method = _one(draw, list(buckets))
    capacity = buckets[identifier, method].capacity
    own = [tier for tier, limits in LIMITS.items() if limits[method] == capacity]
    return identifier, own[0] if not _chance(draw, 4) else _one(draw, TIER_NAMES), method


@st.composite
def rate_calls(draw: Draw, model: Model) -> Call:
    """A call of `rate_limit`, or a burst of them."""
    struck = [identifier for identifier, _ in model.rate_limit.violations]
    kind = draw(st.integers(0, 15))
    if kind < 9:
        identifier, tier, method = _bucket(draw, model)
        arguments: dict[str, Any] = {"identifier": identifier, "tier": tier, "method": method}
        times = _one(draw, (1, 1, 1, 2, 5))
        if kind < 3:
            # To the edge of empty, which only whole bursts reach.
            bucket = model.rate_limit.buckets.get((identifier, method))
            left = LIMITS.get(tier, LIMITS["anonymous"])[method] if bucket is None else int(bucket.tokens)
            if left <= LONGEST_BURST:
                times = max(1, left + _one(draw, (1, 0, -1, 2)))
        return Call("rate_limit", "consume", arguments, times=times)
    if kind == 9:
        arguments = {"identifier": "a", "tier": "free", "method": "GET"}
        wrong: dict[str, Sequence[Any]] = {
            "identifier": ILLEGAL_IDS,
            "tier": (None, 1, ["free"]),
            "method": ("get", "PUT", "", None, "GET ", 1, "DELETE"),
        }
        name = _one(draw, list(wrong))
        arguments[name] = _one(draw, wrong[name])
        return Call("rate_limit", "consume", arguments)
    if kind < 12:
        identifier = _one(draw, ILLEGAL_IDS) if _chance(draw, 12) else _one(draw, ("a", "a", *CALLERS))
        return Call("rate_limit", "record_429", {"identifier": identifier}, times=_one(draw, (1, 1, 3)))
    identifier = _one(draw, struck) if struck and not _chance(draw, 5) else _read_id(draw, CALLERS)
    ages = [model.now - moment for owner, moment in model.rate_limit.violations if owner == identifier]
    tick = timedelta(microseconds=_one(draw, (0, 1, -1)))
    windows: list[Any] = [age + tick for age in ages]
    windows += [
        timedelta(hours=1) + tick,
        timedelta(minutes=1),
        timedelta(days=1),
        timedelta(0),
        timedelta(-1),
    ]
    windows += [timedelta.max, timedelta.min, timedelta(hours=1)]
    window = _one(draw, (None, 60, 60.0, "1 h")) if _chance(draw, 15) else _one(draw, windows)
    return Call("rate_limit", "get_429_count", {"identifier": identifier, "window": window})


# --- audit log -------------------------------------------------------------------------------------

ACTIONS: tuple[str, ...] = ("a", "A", "", "a ", "a%", "é", "e\u0301", "b")


@st.composite
def audit_calls(draw: Draw, model: Model) -> Call:
    """A call of `audit_log`, or a burst of them."""
    kind = draw(st.integers(0, 13))
    scribble = _chance(draw, 3)
    arguments: dict[str, Any] = {
        "action": _one(draw, ACTIONS),
        "agent_id": _one(draw, AGENTS),
        "resource_type": "",
        "resource_id": "a",
        "ip": "",
    }
    if kind < 4:
        arguments |= {"resource_type": draw(_texts), "resource_id": _one(draw, IDS), "ip": draw(_texts)}
        if not _chance(draw, 3):
            arguments["details"] = _one(draw, (None, {})) if _chance(draw, 3) else _object(draw)
        return Call("audit_log", "log", arguments, scribble=scribble)
    if kind == 4:
        return Call("audit_log", "log", arguments, times=_one(draw, (2, 3, 21)))
    if kind == 5:
        text: tuple[Any, ...] = (*ILLEGAL_TEXTS, None, 1)
        wrong: dict[str, Sequence[Any]] = {
            "action": text,
            "agent_id": ILLEGAL_IDS,
            "resource_type": text,
            "resource_id": ILLEGAL_IDS,
            "ip": text,
            "details": (
                [],
                "a",
                1,
                *({"a": bad} for bad in HOSTILE),
                {"a": HUGE},
                {1: 2},
                {"a": _deep(draw)},
            ),
        }
        name = _one(draw, list(wrong))
        arguments[name] = _one(draw, wrong[name])
        return Call("audit_log", "log", arguments)
    if kind < 11:
        return Call("audit_log", "query", _audit_query(draw, model), scribble=scribble)
    if kind < 13:
        return Call("audit_log", "scan", _batch(draw), scribble=scribble)
    return _scan_during(
        draw, "audit_log", model.audit_log.scan(), lambda: Call("audit_log", "log", arguments)
    )


def _audit_query(draw: Draw, model: Model) -> dict[str, Any]:
    entries = model.audit_log.entries
    flags = draw(st.integers(0, 15))
    query: dict[str, Any] = {}
    if flags & 1:
        stored = [entry.agent_id for entry in entries] or ["a"]
        query["agent_id"] = None if _chance(draw, 10) else _near(draw, _one(draw, stored))[:512] or "a"
    if flags & 2:
        # Not the empty text: whether that is an action or no filter is nowhere said.
        query["action"] = _one(draw, (*filter(None, ACTIONS), None))
    for name, flag in (("since", 4), ("until", 8)):
        if not flags & flag:
            continue
        if _chance(draw, 12):
            query[name] = _one(draw, ILLEGAL_MOMENTS)
        elif entries and not _chance(draw, 5):
            moment = _one(draw, entries).timestamp + timedelta(microseconds=_one(draw, (0, 0, 1, -1)))
            offset = _one(draw, (timedelta(0), timedelta(hours=5, minutes=30), timedelta(hours=-12)))
            query[name] = moment.astimezone(timezone(offset))
        else:
            query[name] = _moment(draw)
    return {**query, **_page(draw, len(entries))}


# --- the clock, and closed handles -----------------------------------------------------------------

_TICKS = (timedelta(0), timedelta(microseconds=1), timedelta(microseconds=-1))
_FORWARDS = (
    timedelta(seconds=1),
    timedelta(microseconds=1),
    timedelta(milliseconds=200),
    timedelta(seconds=2),
    timedelta(seconds=59, microseconds=999999),
    timedelta(seconds=60),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=30),
    timedelta(days=90),
    timedelta(days=91),
)
_BACKWARDS = (
    timedelta(microseconds=-1),
    timedelta(seconds=-1),
    timedelta(milliseconds=-1700),
    timedelta(seconds=-61),
    timedelta(days=-1),
    timedelta(days=-40),
)
_NEAR = timedelta(days=200)

_Edge = tuple[datetime, Call]


def _edges(model: Model) -> list[list[_Edge]]:
    """When something that is stored changes its answer, each instant with the call that tells; by kind."""
    read_log = Call("audit_log", "query", {"limit": 1000})
    entries = [(entry.timestamp + AUDIT_LIFE, read_log) for entry in model.audit_log.entries]
    agents = [
        (agent.first_seen + VOTING_AGE, Call("reputation", "can_vote", {"agent_id": agent.agent_id}))
        for agent in model.reputation.agents
    ]
    violations = []
    for identifier, moment in model.rate_limit.violations:
        for age, window in (
            (VIOLATION_LIFE, timedelta(hours=2)),
            (timedelta(minutes=1), timedelta(minutes=1)),
            (timedelta(0), timedelta(hours=1)),
        ):
            arguments = {"identifier": identifier, "window": window}
            violations.append((moment + age, Call("rate_limit", "get_429_count", arguments)))
    buckets: list[_Edge] = []
    for (identifier, method), bucket in model.rate_limit.buckets.items():
        tier = next(name for name, limits in LIMITS.items() if limits[method] == bucket.capacity)
        arguments = {"identifier": identifier, "tier": tier, "method": method}
        consume = Call("rate_limit", "consume", arguments)
        next_token = bucket.full_after(int(bucket.tokens) + 1)
        # A third of a token leaves a level that no binary fraction says exactly.
        levels = (bucket.full_after(), next_token, next_token / 3, timedelta(0))
        buckets += [(bucket.since + after, consume) for after in levels]
    kinds: list[list[_Edge]] = [entries, agents, violations, buckets]
    near = [[edge for edge in kind if abs(edge[0] - model.now) < _NEAR] for kind in kinds]
    return [kind for kind in near if kind]


@st.composite
def clock_moves(draw: Draw, model: Model) -> tuple[datetime, Call | None]:
    """Where to set the clock, and what to call then: to the edge of something stored, or somewhere else;
    never so far back that what has expired would be young again.
    """
    kinds = _edges(model)
    probe: Call | None = None
    kind = draw(_small)
    if kinds and kind < 6:
        edge, probe = _one(draw, _one(draw, kinds))
        to = edge + _one(draw, _TICKS)
    else:
        to = model.now + _one(draw, _BACKWARDS if kind > 7 else _FORWARDS)
    return max(to, model.earliest()), probe


CLOSED_CALLS: dict[str, tuple[Call, ...]] = {
    "skills": (
        Call("skills", "create_many", {"skills": []}),
        Call("skills", "get_by_id", {"id": "a"}),
        Call("skills", "search"),
        Call("skills", "delete", {"id": "a"}),
        Call("skills", "scan"),
    ),
    "knowledge": (
        Call("knowledge", "create_many", {"entries": []}),
        Call("knowledge", "get_by_id", {"id": "a"}),
        Call("knowledge", "search"),
        Call("knowledge", "delete", {"id": "a"}),
        Call("knowledge", "get_by_agent_id", {"agent_id": "a"}),
        Call("knowledge", "scan"),
    ),
    "reputation": (
        Call("reputation", "upsert", {"agent_id": "a", "delta": 1.0, "reason": "a"}),
        Call("reputation", "get", {"agent_id": "a"}),
        Call("reputation", "get_history", {"agent_id": "a"}),
        Call("reputation", "get_leaderboard"),
        Call("reputation", "get_all"),
        Call("reputation", "get_votes"),
        Call("reputation", "can_vote", {"agent_id": "a"}),
        Call("reputation", "scan"),
    ),
    "api_keys": (
        Call("api_keys", "create", {"agent_id": "a", "scopes": ["read"], "tier": "free"}),
        Call("api_keys", "verify", {"raw_key": "a"}),
        Call("api_keys", "revoke", {"key_prefix": "a"}),
        Call("api_keys", "get_by_agent_id", {"agent_id": "a"}),
        Call("api_keys", "scan"),
    ),
    "rate_limit": (
        Call("rate_limit", "consume", {"identifier": "a", "tier": "free", "method": "GET"}),
        Call("rate_limit", "record_429", {"identifier": "a"}),
        Call("rate_limit", "get_429_count", {"identifier": "a", "window": timedelta(minutes=1)}),
    ),
    "audit_log": (
        Call(
            "audit_log",
            "log",
            {"action": "a", "agent_id": "a", "resource_type": "a", "resource_id": "a", "ip": "a"},
        ),
        Call("audit_log", "query"),
        Call("audit_log", "scan"),
    ),
}
"""Good calls, all of which a closed handle refuses."""
