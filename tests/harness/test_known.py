"""The known-failing file is strict, and its entries cannot outlive their reason."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from kpstore_conformance.known import KnownFileError, load_known, matches

TODAY = date(2027, 1, 1)

GOOD = """\
known_failing:
  - case: "rate_limit/*"
    reason: it loses a token
    issue: https://example.org/issues/1
    expires: 2027-01-01
flaky:
  - case: skills/delete/a deleted skill is gone
    reason: it depends on the weather
    issue: https://example.org/issues/2
    expires: 2026-12-31
"""


@pytest.mark.parametrize(
    ("glob", "case", "expected"),
    [
        ("a/b/c", "a/b/c", True),
        ("a/*", "a/b/c[x=1]", True),
        ("*/c[x=?]", "a/b/c[x=1]", True),
        ("a/b/c[x=1]", "a/b/c[x=1]", True),
        ("a/b/c[x=1]", "a/b/cx", False),
        ("a/b", "a/b/c", False),
        ("b/c", "a/b/c", False),
        ("a.b*", "axb", False),
        ("A/*", "a/b", False),
    ],
)
def test_brackets_in_a_glob_mean_themselves(glob: str, case: str, expected: bool) -> None:
    assert matches(glob, case) is expected


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "known.yaml"
    path.write_text(text, "utf-8")
    return path


def test_an_entry_is_in_force_until_the_end_of_its_date(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    on_its_day = load_known(path, TODAY).entry_for("rate_limit/x")
    assert on_its_day is not None
    assert (on_its_day.reason, on_its_day.issue, on_its_day.flaky, on_its_day.line) == (
        "it loses a token",
        "https://example.org/issues/1",
        False,
        2,
    )
    assert load_known(path, date(2027, 1, 2)).entry_for("rate_limit/x") is None
    assert load_known(path, TODAY).entry_for("skills/delete/a deleted skill is gone") is None


def test_an_entry_past_its_date_and_one_that_matches_nothing_are_problems(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    known = load_known(path, TODAY)
    flaky = "flaky 'skills/delete/a deleted skill is gone'"
    assert known.problems({"rate_limit/x"}) == [
        f"{path}:7: {flaky} is past its date, 2026-12-31",
        f"{path}:7: {flaky} matches no case",
    ]
    assert known.problems({"skills/delete/a deleted skill is gone"}) == [
        f"{path}:2: known failing 'rate_limit/*' matches no case",
        f"{path}:7: {flaky} is past its date, 2026-12-31",
    ]
    # Of a part of the suite one cannot say that an entry matches nothing.
    assert known.problems(None) == [f"{path}:7: {flaky} is past its date, 2026-12-31"]


def test_all_problems_of_a_file_come_at_once_each_in_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
known_failling: []
known_failing:
  - case: x
    reasn: y
    issue: 12
    expires: 2027-02-30
  - word
flaky:
  case: x
""",
    )
    with pytest.raises(KnownFileError) as caught:
        load_known(path, TODAY)
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "1:1: unknown key 'known_failling'; did you mean 'known_failing'?",
        "3:5: the key 'reason' is missing",
        "4:5: unknown key 'reasn'; did you mean 'reason'?",
        "5:12: issue must be a text",
        "6:14: expires '2027-02-30': must be a date, as in 2027-01-31",
        "7:5: an entry is a mapping with the keys case, reason, issue, expires",
        "9:3: flaky is a list of entries",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "1:1: the file is a mapping with the keys known_failing and flaky"),
        ("known_failing: [\n", "2:1: YAML: "),
        ("", "1:1: the file is empty"),
        (
            GOOD.replace("https://example.org/issues/1", "JIRA-1"),
            "4:12: issue 'JIRA-1': must be the link of an issue",
        ),
        (GOOD.replace("it loses a token", '" "'), "3:13: reason must be a text"),
    ],
)
def test_what_is_no_known_failing_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(KnownFileError) as caught:
        load_known(path, TODAY)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(KnownFileError, match="cannot be read: No such file"):
        load_known(tmp_path / "nowhere.yaml")


def test_empty_lists_know_nothing(tmp_path: Path) -> None:
    assert load_known(write(tmp_path, "known_failing:\nflaky: []\n")).entries == ()
