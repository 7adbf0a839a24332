"""How text is compared, in the library and in every backend."""

from __future__ import annotations

import unicodedata

__all__ = ["fold"]


def fold(text: str) -> str:
    """The form under which two texts compare as equal: NFC, then full Unicode case folding.

    `fold("STRASSE") == fold("straße")`, `fold("e\\u0301") == fold("É")`.
    Source: the contract's definition of Fold.
    """
    if text.isascii():  # both steps are the identity on ASCII but for the case
        return text.lower()
    return unicodedata.normalize("NFC", text).casefold()
