"""The documentation says what is so: links lead somewhere, scenarios are in order, the reference is whole."""

import ast
import asyncio
import doctest
import io
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from kpstore_conformance.scenario import CLAUSES, load_file
from kpstore_conformance.scenario.budget import BUDGET_KEYS, BUDGET_NAMES
from kpstore_conformance.scenario.builders import ENTRY_KEYS, SKILL_KEYS, VOTE_KEYS
from kpstore_conformance.scenario.catalogue import DATA_SETS
from kpstore_conformance.scenario.document import FILE_KEYS, SCENARIO_KEYS
from kpstore_conformance.scenario.matchers import MATCHERS
from kpstore_conformance.scenario.steps import GIVEN, MODIFIERS, STEPS
from kpstore_conformance.scenario.values import CONSTRUCTORS

from kpstore import __version__

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("examples/**/*.md")])
REFERENCE = TOP / "docs/scenario-format.md"

FENCE = re.compile(r'^```(\w*)(?: title="([^"\n]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(TOP).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, _, text in FENCE.findall(page.read_text("utf-8")) if found == language]


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
    if re.search(r"^format: 1$", text, re.MULTILINE) and "REP-99" not in text  # that one shows mistakes
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
    "names of a budget": BUDGET_NAMES,
    "data sets": DATA_SETS,
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
    named = set(re.findall(rf"\b(?:{groups})-\d+\b", FENCE.sub("", page.read_text("utf-8"))))
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


HOME = "/home/ada/tutorial"


def replayed(page: Path, folder: Path) -> str:
    """The page with its files written to a folder and its commands run there, and what they print now."""

    def replay(fence: re.Match[str]) -> str:
        language, title, text = fence.groups()
        if title:
            file = folder / title
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, "utf-8")
        if language != "console":
            return fence[0]
        commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        shown = "".join(f"$ {command}\n{shell(command, folder)}" for command in commands)
        return f"```console\n{shown}```"

    return FENCE.sub(replay, page.read_text("utf-8"))


def shell(command: str, folder: Path) -> str:
    """What a command prints in this environment, without what differs from run to run."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("KP_", "PYTEST_"))}
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=clean | {"PATH": path, "COLUMNS": "80", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    text = done.stdout.replace(str(folder), HOME).replace(f"conformance {__version__}", "conformance 0.1.0")
    text = re.sub(r"(?m)^(  time +)[\d.]+ s$", r"\g<1>0.1 s", text)
    return re.sub(r"(?m) +$", "", text)


@pytest.mark.parametrize("page", [TOP / "docs/write-a-scenario.md"], ids=name)
def test_commands_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    """`KP_UPDATE_DOCS=1` writes what they print into the page instead."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios/probation.yaml").touch()
    came = replayed(page, tmp_path)
    if os.environ.get("KP_UPDATE_DOCS"):
        page.write_text(came, "utf-8")
    assert came.splitlines() == page.read_text("utf-8").splitlines()
