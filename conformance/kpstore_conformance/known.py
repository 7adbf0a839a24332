"""The known-failing file: cases that are known to fail, each with a reason, an issue and a date at which
it ends.

    known_failing:
      - case: "rate_limit/refill/*"     # `*` and `?` are wildcards; brackets mean themselves
        reason: the bucket loses a token when it is shared
        issue: https://example.org/issues/12
        expires: 2027-01-31
    flaky: []                           # the same shape

All of them run. A known failure does not fail the run; but the run fails where a known-failing case
passes, and where an entry matches no case or is past its date. What is flaky may pass or fail, and is
reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from kpstore_conformance.scenario.yaml_nodes import ListNode, MapNode, Node, Problem, ScalarNode, parse

__all__ = ["Known", "KnownEntry", "KnownFileError", "load_known", "matches"]

_LISTS = ("known_failing", "flaky")
_KEYS = ("case", "reason", "issue", "expires")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


class KnownFileError(Exception):
    """A known-failing file is refused; `problems` holds every reason, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(character) or re.escape(character) for character in glob), re.DOTALL)


def matches(glob: str, case_id: str) -> bool:
    """Whether a case's id is `glob`, in which `*` stands for any text and `?` for one character."""
    return glob == case_id or _pattern(glob).fullmatch(case_id) is not None


@dataclass(frozen=True, slots=True)
class KnownEntry:
    """One entry: the cases that `case` matches may fail (`flaky`: may do either) until the end of
    `expires` (UTC).
    """

    case: str
    reason: str
    issue: str
    expires: date
    flaky: bool
    file: Path
    line: int

    def expired(self, today: date) -> bool:
        """Whether its date has passed."""
        return today > self.expires

    @property
    def kind(self) -> str:
        """`flaky` or `known failing`."""
        return "flaky" if self.flaky else "known failing"


@dataclass(frozen=True, slots=True)
class Known:
    """The entries of a known-failing file; without a file, none."""

    entries: tuple[KnownEntry, ...] = ()
    today: date = date.min

    def entry_for(self, case_id: str) -> KnownEntry | None:
        """The first entry in force for a case, if any."""
        return next(
            (one for one in self.entries if not one.expired(self.today) and matches(one.case, case_id)), None
        )

    def problems(self, case_ids: Collection[str] | None) -> list[str]:
        """What is wrong with the entries themselves, a line each.

        Args:
            case_ids: every case of the suite; None where only a part of it is known, so that an entry
            without a
                match proves nothing.
        """
        found = []
        for entry in self.entries:
            where = f"{entry.file}:{entry.line}"
            if entry.expired(self.today):
                found.append(f"{where}: {entry.kind} {entry.case!r} is past its date, {entry.expires}")
            if case_ids is not None and not any(matches(entry.case, one) for one in case_ids):
                found.append(f"{where}: {entry.kind} {entry.case!r} matches no case")
        return found


def load_known(path: Path, today: date | None = None) -> Known:
    """Read a known-failing file.

    Raises:
        KnownFileError: it cannot be read, or breaks a rule; all problems at once.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise KnownFileError([Problem(path, 1, 1, f"cannot be read: {reason}")]) from error
    problems: list[Problem] = []
    root = parse(data, path, problems.append)
    entries: list[KnownEntry] = []
    if root is not None:
        entries = _Reader(path, problems).read(root)
    if problems:
        raise KnownFileError(sorted(problems, key=lambda one: (one.line, one.column)))
    return Known(tuple(entries), today or datetime.now(UTC).date())


class _Reader:
    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self._path = path
        self._problems = problems

    def _problem(self, node: Node, message: str) -> None:
        self._problems.append(Problem(self._path, node.line, node.column, message))

    def read(self, root: Node) -> list[KnownEntry]:
        entries: list[KnownEntry] = []
        if not isinstance(root, MapNode):
            self._problem(root, f"the file is a mapping with the keys {' and '.join(_LISTS)}")
            return entries
        for key, value in root:
            if not self._allowed(key, _LISTS):
                continue
            if isinstance(value, ScalarNode) and value.value is None:
                continue
            if not isinstance(value, ListNode):
                self._problem(value, f"{key.value} is a list of entries")
                continue
            found = (self._entry(item, flaky=key.value == "flaky") for item in value.items)
            entries.extend(entry for entry in found if entry is not None)
        return entries

    def _allowed(self, key: ScalarNode, names: tuple[str, ...]) -> bool:
        if key.value in names:
            return True
        near = get_close_matches(str(key.value), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(names)}"
        self._problem(key, f"unknown key {key.value!r}; {hint}")
        return False

    def _entry(self, node: Node, *, flaky: bool) -> KnownEntry | None:
        if not isinstance(node, MapNode):
            self._problem(node, f"an entry is a mapping with the keys {', '.join(_KEYS)}")
            return None
        before = len(self._problems)
        for key, _ in node:
            self._allowed(key, _KEYS)
        case = self._text(node, "case", _no_rule)
        reason = self._text(node, "reason", _no_rule)
        issue = self._text(node, "issue", _is_link)
        expires = self._text(node, "expires", _is_date)
        if len(self._problems) > before:
            return None
        return KnownEntry(case, reason, issue, date.fromisoformat(expires), flaky, self._path, node.line)

    def _text(self, node: MapNode, key: str, rule: Callable[[str], str | None]) -> str:
        value = node.get(key)
        if value is None:
            self._problem(node, f"the key {key!r} is missing")
            return ""
        if not isinstance(value, ScalarNode) or not isinstance(value.value, str) or not value.value.strip():
            self._problem(value, f"{key} must be a text")
            return ""
        text = value.value.strip()
        complaint = rule(text)
        if complaint is not None:
            self._problem(value, f"{key} {text!r}: {complaint}")
        return text


def _no_rule(text: str) -> None:
    return None


def _is_link(text: str) -> str | None:
    return None if re.match(r"https?://\S+\Z", text) else "must be the link of an issue, https://…"


def _is_date(text: str) -> str | None:
    try:
        if not _DATE.match(text):
            raise ValueError
        date.fromisoformat(text)
    except ValueError:
        return "must be a date, as in 2027-01-31"
    return None
