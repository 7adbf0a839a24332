"""The JSON, and the picture."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness.bench.results import operation, point, result, run
from kpstore_conformance.bench.cli import main
from kpstore_conformance.bench.picture import page
from kpstore_conformance.bench.result import Result, ResultError, read_result, schema, write_result
from kpstore_conformance.bench.rows import duration, rate, size, storage
from kpstore_conformance.bench.targets import judge


def rich_result() -> Result:
    sizes = (1000, 100_000)
    return result(
        *(
            run(
                operation("knowledge/get", 10.0 * factor, 11.0 * factor, open_us=20.0),
                operation("knowledge/create", 300.0, writes=True, stall_ms=9.0),
                backend=backend,
                size=size,
            )
            for backend, factor in (("memory", 1), ("sqlite", 10))
            for size in sizes
        ),
        run(
            section="load",
            load=[
                point("read", 100.0, clients=1),
                point("read", 180.0, clients=4, processes=2),
                point("read", 90.0),
            ],
        ),
    )


def test_what_is_written_is_read_and_fits_the_schema(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_result(rich_result(), file)
    assert read_result(file) == rich_result()
    jsonschema.validate(json.loads(file.read_bytes()), schema())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"unheard": 1}, "unheard"),
        ({"runs": 5}, "runs"),
    ],
)
def test_another_document_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_result(rich_result(), file)
    document = json.loads(file.read_bytes()) | change
    file.write_text(json.dumps(document))
    with pytest.raises(ResultError, match=message):
        read_result(file)
    if change != {"format": 2}:  # which the schema leaves to the reader
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema())


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff"])
def test_what_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(content, "latin-1")
    with pytest.raises(ResultError, match=r"a\.json"):
        read_result(file)


def test_the_schema_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "img"):
            self.found.append(tag)
        self.found += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data")]


def test_the_picture_needs_no_other_file() -> None:
    html = page(rich_result(), judge(rich_result()))
    references = _References()
    references.feed(html)
    assert references.found
    assert all(each.startswith("#") for each in references.found)
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_picture_shows_every_operation_backend_and_number() -> None:
    html = page(rich_result(), judge(rich_result()))
    assert html.count("<svg") == 2
    for word in ("get", "create", "memory", "sqlite", "10.0 µs", "100 µs", "missed", "2 processes", "100k"):
        assert word in html
    assert page(rich_result(), []) == page(rich_result(), [])


def test_the_picture_escapes_what_it_is_given() -> None:
    html = page(result(run(operation("knowledge/get", 1.0), backend="<b>&")), [])
    assert "<b>" not in html


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (duration(0.123), "0.12 µs"),
        (duration(12.34), "12.3 µs"),
        (duration(1234), "1.23 ms"),
        (duration(123_456), "123 ms"),
        (duration(12_345_678), "12.3 s"),
        (rate(1_234_567), "1,234,567"),
        (rate(0.456), "0.46"),
        (size(100_000), "100k"),
        (size(3_000_000), "3M"),
        (size(1234), "1234"),
        (storage(999), "999 B"),
        (storage(1234), "1.23 kB"),
        (storage(147_000_000), "147 MB"),
        (storage(1.5e9), "1.50 GB"),
        (storage(None), "–"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
