"""How text is compared, in the library and in every backend."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby

__all__ = ["PART", "fold", "parts"]

# Sorting a run of combining marks takes `unicodedata.normalize` quadratic time: 4 minutes
# for a text of 1 MB that is one run. Longer runs than this are put in order here first.
_LONG_RUN = 32
_MAYBE_LONG_RUN = re.compile(f"[\u0300-\U0010ffff]{{{_LONG_RUN + 1},}}")  # no mark is below U+0300
# Characters folded at a time where the event loop has to turn in between: 1 ms for the worst of them.
PART = 16 * 1024
# None of these combines with what is before it: all below U+0300, Greek, Cyrillic, kana, ideographs, Hangul.
_CUT = re.compile("[\0-\u02ff\u0370-\u0482\u048a-\u052f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]")


def fold(text: str) -> str:
    """The form under which two texts compare as equal: NFC, then full Unicode case folding.

    `fold("STRASSE") == fold("straße")`, `fold("e\\u0301") == fold("É")`.
    Source: the contract's definition of Fold.
    """
    if text.isascii():  # both steps are the identity on ASCII but for the case
        return text.lower()
    if len(text) > _LONG_RUN:
        text = _MAYBE_LONG_RUN.sub(_order_marks, text)
    return unicodedata.normalize("NFC", text).casefold()


def parts(text: str) -> Iterator[str]:
    """The text in parts of 16k characters, whose folds put together are the fold of the whole.

    A part ends before a character that does not combine with what is before
    it, of most scripts; a text without them is one part, however long.
    """
    start = 0
    while len(text) - start > PART:
        cut = _CUT.search(text, start + PART)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _order_marks(match: re.Match[str]) -> str:
    """Long runs of marks in canonical order: stably by their class. The text stays canonically equivalent."""
    ordered = []
    for is_mark, run in groupby(match[0], lambda character: unicodedata.combining(character) != 0):
        characters = "".join(run)
        if is_mark and len(characters) > _LONG_RUN:
            marks = "".join(unicodedata.normalize("NFD", mark) for mark in characters)
            classes: dict[int, list[str]] = {}
            for mark in marks:
                classes.setdefault(unicodedata.combining(mark), []).append(mark)
            characters = "".join("".join(classes[each]) for each in sorted(classes))
        ordered.append(characters)
    return "".join(ordered)
