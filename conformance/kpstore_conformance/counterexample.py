"""A history that a store answered wrongly, as a scenario file that shows it again."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any

from kpstore import StoredKnowledgeUnit, StoredSkill, ValidationVote
from kpstore_conformance.history import (
    IDENTITY,
    Advance,
    Bounds,
    Call,
    Close,
    Observation,
    Open,
    Raised,
    Ref,
    Reopen,
    Returned,
    SetClock,
    Step,
    Symbol,
)

__all__ = ["METHOD_CLAUSES", "Unwritable", "scenario_text"]

METHOD_CLAUSES: dict[str, tuple[str, ...]] = {
    "skills.create": ("SKILL-1", "GEN-4"),
    "skills.create_many": ("SKILL-7",),
    "skills.get_by_id": ("SKILL-2", "GEN-4"),
    "skills.search": ("SKILL-3", "SKILL-4", "SKILL-5", "PAGE-1", "PAGE-3"),
    "skills.delete": ("SKILL-6",),
    "skills.scan": ("PAGE-4",),
    "knowledge.create": ("KNOW-1", "GEN-4"),
    "knowledge.create_many": ("KNOW-2",),
    "knowledge.get_by_id": ("KNOW-2", "GEN-4"),
    "knowledge.search": ("KNOW-3", "KNOW-4", "KNOW-5", "PAGE-1", "PAGE-3"),
    "knowledge.search_similar": ("KNOW-7",),
    "knowledge.get_by_agent_id": ("KNOW-6",),
    "knowledge.delete": ("KNOW-2",),
    "knowledge.scan": ("PAGE-4",),
    "reputation.upsert": ("REP-1",),
    "reputation.get": ("REP-1", "REP-2"),
    "reputation.get_history": ("REP-2", "PAGE-1"),
    "reputation.get_leaderboard": ("REP-3", "PAGE-1"),
    "reputation.get_all": ("REP-3",),
    "reputation.record_vote": ("REP-4",),
    "reputation.get_votes": ("REP-4",),
    "reputation.can_vote": ("REP-5",),
    "reputation.scan": ("PAGE-4",),
    "api_keys.create": ("KEY-1", "KEY-2"),
    "api_keys.verify": ("KEY-3", "KEY-4"),
    "api_keys.revoke": ("KEY-4",),
    "api_keys.get_by_agent_id": ("KEY-5",),
    "api_keys.scan": ("PAGE-4",),
    "rate_limit.consume": ("RATE-1", "RATE-2", "RATE-3"),
    "rate_limit.record_429": ("RATE-5",),
    "rate_limit.get_429_count": ("RATE-5",),
    "audit_log.log": ("AUDIT-1",),
    "audit_log.query": ("AUDIT-2", "AUDIT-3", "PAGE-1"),
    "audit_log.scan": ("PAGE-4", "AUDIT-3"),
}
"""The clauses that a wrong answer of each method speaks of."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_/.-]*\Z")
_RESERVED = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
"""What YAML takes for no text, in any spelling; the last six words are YAML 1.1's, of many editors."""
_LONG = 200  # characters of a text, beyond which it is said by `$repeat`
_DEEP = 20  # levels, beyond which a value is said by `$nested`
_SKILL_DEFAULTS: dict[str, Any] = {
    "version": None,
    "author": None,
    "domain": None,
    "tags": (),
    "files": {},
    "visibility": "network",
}


def scenario_text(
    start: datetime,
    steps: Sequence[Step],
    expected: Sequence[Sequence[Observation]],
    *,
    failing: int,
    title: str,
    why: str,
) -> str:
    """The scenario file of a history whose last step is answered wrongly.

    Args:
        start: where the clock starts.
        steps: the history.
        expected: what each step must give, as the model played it.
        failing: which observation of the last step is the wrong one.
        title: one line.
        why: what came instead, for the reader.

    Raises:
        Unwritable: something in the history cannot be said in a scenario file.
    """
    try:
        return _Writer(steps, expected, failing).file(start, title, why)
    except RecursionError:
        raise Unwritable("nested too deeply") from None


class Unwritable(Exception):  # noqa: N818 - what it is
    """A history holds what no scenario file can say."""


class _Writer:
    def __init__(
        self, steps: Sequence[Step], expected: Sequence[Sequence[Observation]], failing: int
    ) -> None:
        self._steps = steps
        self._expected = expected
        self._failing = failing
        self._names: dict[str, str] = {}  # symbol -> what a scenario calls it
        self._needed: set[str] = set()

    def file(self, start: datetime, title: str, why: str) -> str:
        last = self._steps[-1]
        clauses: Collection[str] = ("GEN-10",)
        if isinstance(last, Call):
            clauses = METHOD_CLAUSES[f"{last.store}.{last.method}"]
            if isinstance(self._final(), Raised):
                clauses = (*clauses, "GEN-5" if self._final_error() == "ValidationError" else "GEN-6")
        # The last step first: it tells what the ones before it have to save.
        self._name_results()
        tail = self._last_lines()
        body = [line for index in range(len(self._steps) - 1) for line in self._lines(index)]
        lines = [
            "# A history that a random search found and shortened. Keep it with the fix.",
            "format: 1",
            f"title: {_text(title)}",
            f"clauses: [{', '.join(dict.fromkeys(clauses))}]",
            f'clock: "{start.isoformat()}"',
            "scenarios:",
            f"  - name: {_text(title)}",
            f"    why: {_text(why)}",
            "    steps:",
            *(f"      {line}" for line in (*body, *tail)),
        ]
        return "\n".join(lines) + "\n"

    def _final(self) -> Observation | None:
        observed = self._expected[-1]
        return observed[self._failing] if self._failing < len(observed) else None

    def _final_error(self) -> str:
        final = self._final()
        return final.error if isinstance(final, Raised) else ""

    def _name_results(self) -> None:
        entries = keys = 0
        for call, outcome in self._calls_before_the_last():
            if not isinstance(outcome, Returned):
                continue
            if call.method == "create" and call.store == "api_keys":
                keys += 1
                name = call.save or f"key_{keys}"
                for part in ("raw_key", "record.key_hash", "record.key_prefix"):
                    self._names[f"{part} of key {keys}"] = f"{name}.{part}"
            elif call.method == "log":
                entries += 1
                self._names[f"id of entry {entries}"] = f"entry_{entries}.id"

    def _calls_before_the_last(self) -> Iterator[tuple[Call, Observation]]:
        """What was called and what came of it, in the order in which it was."""
        for step, observed in zip(self._steps[:-1], self._expected[:-1], strict=True):
            if isinstance(step, Call):
                calls = (step, *step.changes) if step.changes else (step,) * len(observed)
                yield from zip(calls, observed, strict=False)

    # --- steps -----------------------------------------------------------------------------------

    def _lines(self, index: int) -> list[str]:
        step, observed = self._steps[index], self._expected[index]
        if not isinstance(step, Call):
            return [f"- {_move(step)}"]
        if step.changes:
            return self._call_lines(step, self._outcome_lines(step, observed[0]), observed[1:])
        outcomes = [self._outcome_lines(step, one) for one in observed]
        # Each entry and key has a name of its own: where calls come to the same, none of them is saved.
        if step.times > 1 and step.save is None and outcomes.count(outcomes[0]) == len(outcomes):
            inner = self._call_lines(step, outcomes[0])
            return [
                "- repeat:",
                f"    times: {step.times}",
                "    steps:",
                *(f"      {line}" for line in inner),
            ]
        return [line for outcome in outcomes for line in self._call_lines(step, outcome)]

    def _outcome_lines(self, step: Call, observed: Observation) -> list[str]:
        """That the call is refused, if it is, and under which name its result is kept, if it is needed."""
        save = self._save_of(step, observed)
        return [*_error_lines(observed), *([f"save: {save}"] if save else [])]

    def _save_of(self, step: Call, observed: Observation) -> str | None:
        """The name to save a result under, if anything after it speaks of it."""
        if not isinstance(observed, Returned):
            return None
        if step.method == "log" and isinstance(observed.value.id, Symbol):
            name = self._names.get(observed.value.id)
            return name.partition(".")[0] if name is not None and name in self._needed else None
        if step.method == "create" and step.store == "api_keys":
            name = self._names.get(observed.value.raw_key, "").partition(".")[0]
            refers = any(needed.partition(".")[0] == name for needed in self._needed)
            return name if refers or name in self._referred() else None
        return None

    def _referred(self) -> set[str]:
        calls = [step for step in self._steps if isinstance(step, Call)]
        calls += [change for call in calls for change in call.changes]
        return {value.name for call in calls for value in call.arguments.values() if isinstance(value, Ref)}

    def _last_lines(self) -> list[str]:
        step, observed = self._steps[-1], self._expected[-1]
        if not isinstance(step, Call):
            # A move itself failed: opening or closing is all that can.
            return [f"- {_move(step)}", "- skills.scan: {}", "  expect: {$type: list}"]
        lines: list[str] = []
        if step.times > 1 and self._failing > 0:
            before = Call(step.store, step.method, step.arguments, step.handle, self._failing, step.scribble)
            writer = _Writer([before], [list(observed[: self._failing])], 0)
            lines += writer._lines(0)
        if step.changes:
            return self._call_lines(step, self._judgement(observed[0]), observed[1:])
        return [*lines, *self._call_lines(step, self._judgement(observed[self._failing]))]

    def _judgement(self, expected: Observation) -> list[str]:
        if isinstance(expected, Raised):
            if not expected.paths:
                return [f"error: {expected.error}"]
            named = "|".join(map(re.escape, sorted(expected.paths)))
            return [f"error: {{class: {expected.error}, field: {{$regex: {_text(f'^({named})')}}}}}"]
        if isinstance(expected.value, Bounds):
            return [f"expect: {self._bounds(expected.value)}"]
        return [f"expect: {self._matcher(expected.value)}"]

    def _bounds(self, bounds: Bounds) -> str:
        """Every survivor once and in order; the field that says which it is stands for the record."""
        field = IDENTITY[bounds.store]
        items = ", ".join(f"{{{field}: {self._matcher(one)}}}" for one in bounds.survivors)
        return f"{{$in_order: [{items}], $unique: {field}}}"

    def _call_lines(
        self, step: Call, judgement: Sequence[str], changed: Sequence[Observation] = ()
    ) -> list[str]:
        arguments = [f"    {name}: {_argument(value)}" for name, value in step.arguments.items()]
        action = f"{step.store}.{step.method}:"
        lines = [f"- {action}", *arguments] if arguments else [f"- {action} {{}}"]
        if step.handle != "main":
            lines.append(f"  on: {step.handle}")
        if step.scribble:
            lines.append("  scribble: [arguments, result]")
        if step.changes:
            lines += ["  during:", f"    after: {step.after}", "    steps:"]
            for index, change in enumerate(step.changes):
                outcome = self._outcome_lines(change, changed[index]) if index < len(changed) else []
                lines += [f"      {line}" for line in self._call_lines(change, outcome)]
        return [*lines, *(f"  {line}" for line in judgement)]

    # --- expectations ------------------------------------------------------------------------------

    def _matcher(self, value: Any) -> str:
        if not self._has_unknown(value):
            return f"{{$exact: {self._value(value)}}}"
        if isinstance(value, Symbol):
            return "{$type: text}"
        if is_dataclass(value):
            inner = {one.name: getattr(value, one.name) for one in fields(value)}
            return _flow_map({name: self._matcher(item) for name, item in inner.items()})
        return _flow_list([self._matcher(item) for item in value])

    def _has_unknown(self, value: Any) -> bool:
        if isinstance(value, Symbol):
            return value not in self._names
        if is_dataclass(value):
            return any(self._has_unknown(getattr(value, one.name)) for one in fields(value))
        return isinstance(value, (list, tuple)) and any(map(self._has_unknown, value))

    def _value(self, value: Any) -> str:
        """An expected value: records as mappings of their fields, symbols as what was saved."""
        if isinstance(value, Symbol):
            name = self._names[value]
            self._needed.add(name)
            return f'"${{{name}}}"'
        if is_dataclass(value):
            return _flow_map({one.name: self._value(getattr(value, one.name)) for one in fields(value)})
        if isinstance(value, (list, tuple)):
            return _flow_list([self._value(item) for item in value])
        return _value(value)


def _error_lines(observed: Observation) -> list[str]:
    return [f"error: {observed.error}"] if isinstance(observed, Raised) else []


def _move(step: SetClock | Advance | Open | Close | Reopen) -> str:
    if isinstance(step, SetClock):
        return f'set_clock: "{step.to.isoformat()}"'
    if isinstance(step, Advance):
        return f"advance: {_duration(step.by)}"
    return f"{type(step).__name__.lower()}: {step.handle}"


# --- values ----------------------------------------------------------------------------------------


def _argument(value: Any) -> str:
    if isinstance(value, Ref):
        before, after = value.before.replace("${", "$${"), value.after.replace("${", "$${")
        return _quoted(f"{before}${{{value.name}.{value.part}}}{after}")
    record = _record(value)
    if record is not None:
        return record
    if type(value) in (list, tuple) and any(_record(item) is not None for item in value):
        items = _flow_list([_record(item) or _raw(item) for item in value])
        return items if type(value) is list else f"{{$tuple: {items}}}"
    return _raw(value)


def _raw(value: Any) -> str:
    """What is no record where a record may be wanted: never to be taken for a builder's mapping."""
    if isinstance(value, (dict, list)) or value is None:
        return f"{{$literal: {_value(value, literal=True)}}}" if _is_plain(value) else _value(value)
    return _value(value)


def _record(value: Any) -> str | None:
    if type(value) is StoredSkill:
        shown = {one.name: getattr(value, one.name) for one in fields(value)}
        for name, default in _SKILL_DEFAULTS.items():
            if type(shown[name]) is type(default) and shown[name] == default:
                del shown[name]
        return _flow_map({name: _value(item) for name, item in shown.items()})
    if type(value) is StoredKnowledgeUnit:
        names = {"unit": "document"}
        return _flow_map({names.get(o.name, o.name): _value(getattr(value, o.name)) for o in fields(value)})
    if type(value) is ValidationVote:
        return _flow_map({one.name: _value(getattr(value, one.name)) for one in fields(value)})
    return None


def _is_plain(value: Any) -> bool:
    """Whether `$literal` can say it."""
    if value is None or type(value) in (bool, int, float):
        return True
    if type(value) is str:
        return len(value) <= _LONG
    if _nesting(value) > _DEEP:
        return False
    if type(value) is list:
        return all(map(_is_plain, value))
    return type(value) is dict and all(_is_plain(key) and _is_plain(item) for key, item in value.items())


def _value(value: Any, *, literal: bool = False) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _text(value, literal=literal)
    if isinstance(value, datetime):
        kind = "$naive" if value.tzinfo is None else "$time"
        return f'{{{kind}: "{value.isoformat()}"}}'
    if isinstance(value, timedelta):
        return f"{{$duration: {_duration(value)}}}"
    if isinstance(value, bytes):
        return f'{{$bytes: "{value.hex()}"}}'
    if type(value) is list:
        depth = _nesting(value)
        if depth > _DEEP and not literal:
            return f"{{$nested: {{depth: {depth}, kind: list}}}}"
        return _flow_list([_value(item, literal=literal) for item in value])
    if type(value) is tuple:
        return f"{{$tuple: {_flow_list([_value(item) for item in value])}}}"
    if type(value) in (set, frozenset):
        return f"{{$set: {_flow_list([_value(item) for item in sorted(value, key=repr)])}}}"
    if type(value) is dict:
        return _mapping(value, literal=literal)
    return "{$object: true}"


def _mapping(value: Mapping[Any, Any], *, literal: bool) -> str:
    depth = _nesting(value)
    if depth > _DEEP and not literal:
        return f"{{$nested: {{depth: {depth}, kind: mapping}}}}"
    special = any(isinstance(key, str) and key.startswith("$") for key in value)
    if special and not literal:
        if not _is_plain(value):
            raise Unwritable("a key that begins with `$`, over what only a constructor can make")
        return f"{{$literal: {_mapping(value, literal=True)}}}"
    return _flow_map({key: _value(item, literal=literal) for key, item in value.items()}, literal=literal)


def _nesting(value: Any) -> int:
    """How deep a value is that is nothing but nesting, as `$nested` makes it; else 0."""
    depth = 1
    while isinstance(value, (list, dict)) and len(value) == 1:
        if isinstance(value, dict):
            if "k" not in value:
                return 0
            value = value["k"]
        else:
            value = value[0]
        depth += 1
    return depth if value in ([], {}) else 0


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "." in text or "e" in text else f"{text}.0"


def _duration(value: timedelta) -> str:
    """`-30 days 1 us`: a sign, then its parts."""
    micros = abs(value // timedelta(microseconds=1))
    parts = []
    for unit, size in (("days", 86400 * 10**6), ("s", 10**6), ("us", 1)):
        count, micros = divmod(micros, size)
        if count:
            parts.append(f"{count} {unit}")
    return ("-" if value < timedelta(0) else "") + (" ".join(parts) or "0 s")


def _flow_list(items: Sequence[str]) -> str:
    return f"[{', '.join(items)}]"


def _flow_map(entries: Mapping[Any, str], *, literal: bool = False) -> str:
    return "{" + ", ".join(f"{_value(key, literal=literal)}: {item}" for key, item in entries.items()) + "}"


def _text(text: str, *, literal: bool = False) -> str:
    if len(text) > _LONG and not literal and len(set(text)) == 1:
        return f"{{$repeat: {{text: {_text(text[0])}, times: {len(text)}}}}}"
    if _PLAIN.match(text) and text.lower() not in _RESERVED:
        return text
    return _quoted(text if literal else text.replace("${", "$${"))


def _quoted(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    # Marks, spaces and the unprintable would be misread, or changed by an editor.
    if character != " " and unicodedata.category(character)[0] in "MCZ":
        code = ord(character)
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return character
