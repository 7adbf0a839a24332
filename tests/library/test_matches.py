"""What matches a query, for a backend that has no index and asks each document or entry."""

from __future__ import annotations

import pytest

from kpstore.stores import AuditDocument, AuditQuery, Document, DocumentQuery

SINCE, UNTIL = 10**15, 10**15 + 5
ENTRY = AuditDocument(b"", "ada", "read", int(f"{SINCE}"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (AuditQuery(None, None, SINCE - 1, None), True),
        (AuditQuery(None, None, SINCE, None), True),
        (AuditQuery(None, None, SINCE + 1, None), False),
        (AuditQuery(None, None, 0, SINCE - 1), False),
        (AuditQuery(None, None, 0, SINCE), True),
        (AuditQuery(None, None, 0, SINCE + 1), True),
        (AuditQuery("".join("ada"), None, 0, None), True),
        (AuditQuery("abe", None, 0, None), False),
        (AuditQuery("abc", None, 0, None), False),
        (AuditQuery("aaa", None, 0, None), False),
        (AuditQuery(None, "".join("read"), 0, None), True),
        (AuditQuery(None, "write", 0, None), False),
        (AuditQuery(None, "audit", 0, None), False),
        (AuditQuery("ada", "read", SINCE, SINCE), True),
        (AuditQuery("ada", "write", SINCE, SINCE), False),
        (AuditQuery("bob", "read", SINCE, SINCE), False),
    ],
)
def test_an_entry_matches_if_all_that_is_asked_for_holds(query: AuditQuery, expected: bool) -> None:
    assert query.matches(ENTRY) is expected


SKILL = Document("id", b"", 0.5, ("some text", "more"), "maths", frozenset({"one", "two"}), "A", None)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (DocumentQuery(), True),
        (DocumentQuery(text="me te"), True),
        (DocumentQuery(text="textmore"), False),
        (DocumentQuery(domain="".join("maths")), True),
        (DocumentQuery(domain="law"), False),
        (DocumentQuery(domain="music"), False),
        (DocumentQuery(tags=frozenset({"two", "three"})), True),
        (DocumentQuery(tags=frozenset({"three"})), False),
        (DocumentQuery(types=frozenset({"A", "B"})), True),
        (DocumentQuery(types=frozenset({"B"})), False),
        (DocumentQuery(min_quality=0.4), True),
        (DocumentQuery(min_quality=float("0.5")), True),
        (DocumentQuery(min_quality=0.6), False),
        (DocumentQuery("more", "maths", frozenset({"one"}), frozenset({"A"}), 0.5), True),
        (DocumentQuery("less", "maths", frozenset({"one"}), frozenset({"A"}), 0.5), False),
        (DocumentQuery("more", "law", frozenset({"one"}), frozenset({"A"}), 0.5), False),
        (DocumentQuery("more", "maths", frozenset({"three"}), frozenset({"A"}), 0.5), False),
        (DocumentQuery("more", "maths", frozenset({"one"}), frozenset({"B"}), 0.5), False),
        (DocumentQuery("more", "maths", frozenset({"one"}), frozenset({"A"}), 0.6), False),
    ],
)
def test_a_document_matches_if_all_that_is_asked_for_holds(query: DocumentQuery, expected: bool) -> None:
    assert query.matches(SKILL) is expected
