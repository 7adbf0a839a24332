"""Folding is NFC, then full case folding, at any length and however the text is cut."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kpstore.text import PART, fold, parts

# Marks of several classes, characters that decompose into marks, and starters between them.
MARKS = st.sampled_from("\u0301\u0316\u0327\u0345\u0344\u0f71\u0f72\u0f73\u3099\u05b0\U0001d165e\u1100\u1161")
TEXTS = st.one_of(st.text(), st.text(alphabet=MARKS, max_size=90))


def folded(text: str) -> str:
    """The definition, as the contract gives it."""
    return unicodedata.normalize("NFC", text).casefold()


@given(TEXTS)
@example("ſtraße İ ı Σς ŉ ﬁ ǰ ΐ \u1e9e")
@example("a" + "\u0301\u0316" * 40)
@example("\u0344" * 40)
@example("\u0f73" * 40 + "\u0f71")
def test_fold_is_nfc_then_casefold(text: str) -> None:
    assert fold(text) == folded(text)


@given(
    st.lists(st.sampled_from(["a", " ", "é", "e\u0301", "\u0316", "한", "\u1100\u1161", "ß", "\U0001d15e"]))
)
def test_the_folds_of_the_parts_are_the_fold_of_the_whole(pieces: list[str]) -> None:
    text = "".join(pieces) * 4000
    cut = list(parts(text))
    assert "".join(cut) == text
    assert "".join(map(fold, cut)) == folded(text)


@pytest.mark.parametrize("letter", "ßéωяか日한")
def test_parts_are_short_in_most_scripts(letter: str) -> None:
    assert max(map(len, parts(letter * 3 * PART))) == PART


def test_no_part_begins_with_what_combines_with_a_character_before_it() -> None:
    """Such a character is a mark, a vowel or final of Hangul, or the second one of a pair that is one."""
    characters = [chr(number) for number in range(0x110000) if not 0xD800 <= number < 0xE000]
    pairs = [unicodedata.decomposition(character).split() for character in characters]
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    combining = seconds | {chr(number) for number in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for character in characters:
        first = unicodedata.normalize("NFD", character)[0]
        if unicodedata.combining(first) or first in combining:
            # It is looked for right behind the least length of a part, and then nowhere.
            assert list(parts("x" * PART + character)) == ["x" * PART + character], hex(ord(character))


def test_parts_are_short_where_there_is_ascii() -> None:
    text = "é" * 100 + " " * 5 * PART
    assert max(map(len, parts(text))) <= 2 * PART


def test_a_long_run_of_marks_takes_no_quadratic_time() -> None:
    text = "a" + "\u0301\u0316" * 100_000
    start_s = time.process_time()
    found = fold(text)
    # 0.1 s; `unicodedata.normalize` alone takes minutes.
    assert time.process_time() - start_s < 5
    assert found == "á" + "\u0316" * 0 + found[1:]
    assert sorted(found[1:], key=unicodedata.combining) == list(found[1:])
