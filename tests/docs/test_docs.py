"""The documentation says what is so: links lead somewhere, scenarios are in order, the reference is whole."""

import ast
import asyncio
import doctest
import io
import re
import sys
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from kpstore_conformance.scenario import CLAUSES, load_file
from kpstore_conformance.scenario.builders import ENTRY_KEYS, SKILL_KEYS, VOTE_KEYS
from kpstore_conformance.scenario.document import BUDGET_KEYS, FILE_KEYS, SCENARIO_KEYS
from kpstore_conformance.scenario.matchers import MATCHERS
from kpstore_conformance.scenario.steps import GIVEN, MODIFIERS, STEPS
from kpstore_conformance.scenario.values import CONSTRUCTORS

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("examples/**/*.md")])
REFERENCE = TOP / "docs/scenario-format.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(TOP).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == language]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


SCENARIO_FILES = [
    pytest.param(text, id=f"{name(page)}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"))
    if re.search(r"^format: 1$", text, re.MULTILINE)
]


@pytest.mark.parametrize("text", SCENARIO_FILES)
def test_a_scenario_file_is_in_order(text: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(text, "utf-8")
    assert all(scenario.cases() for scenario in load_file(file).scenarios)


def test_there_are_scenario_files_to_check() -> None:
    assert len(SCENARIO_FILES) >= 3


WORDS: dict[str, Iterable[str]] = {
    "matchers": MATCHERS,
    "constructors": CONSTRUCTORS,
    "steps": STEPS,
    "modifiers": MODIFIERS,
    "given": GIVEN,
    "file": FILE_KEYS,
    "scenario": SCENARIO_KEYS,
    "skill": SKILL_KEYS,
    "entry": ENTRY_KEYS,
    "vote": VOTE_KEYS,
    "budget": BUDGET_KEYS,
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_the_reference_names_every_word_of_the_format(words: Iterable[str]) -> None:
    code = " ".join(
        re.findall(r"`[^`]+`|^```.*?^```", REFERENCE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
    missing = [word for word in words if not re.search(rf"(?<![\w$]){re.escape(word)}(?!\w)", code)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_clauses_that_are_named_exist(page: Path) -> None:
    groups = "|".join({clause.split("-")[0] for clause in CLAUSES})
    named = set(re.findall(rf"\b(?:{groups})-\d+\b", page.read_text("utf-8")))
    assert named <= CLAUSES.keys()


async def answer(example: doctest.Example, names: dict[str, Any]) -> str:
    """What `python -m asyncio` prints for an example."""
    out = io.StringIO()
    code = compile(example.source, "<example>", "single", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with redirect_stdout(out):
        try:
            await run(code, names)
        except Exception as error:
            out.write("Traceback (most recent call last):\n    ...\n")
            out.write("".join(traceback.format_exception_only(error)))
    return out.getvalue()


async def run(code: CodeType, names: dict[str, Any]) -> None:
    if (pending := eval(code, names)) is not None:
        await pending


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=name)
def test_a_prompt_answers_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "displayhook", sys.__displayhook__)
    examples = doctest.DocTestParser().get_examples("".join(blocks(page, "pycon")))
    assert len(examples) > 10

    async def session() -> None:
        names: dict[str, Any] = {"__name__": "__main__"}
        for example in examples:
            shown = example.want
            if example.exc_msg is not None:
                shown = f"Traceback (most recent call last):\n    ...\n{example.exc_msg}"
            came = await answer(example, names)
            assert doctest.OutputChecker().check_output(shown, came, doctest.ELLIPSIS), (example.source, came)

    asyncio.run(session())
