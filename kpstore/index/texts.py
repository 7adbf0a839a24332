"""Where a `GramIndex` finds the texts of its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kpstore.index.pages import PAGE_BITS, Pages

_NONE: dict[int, bytes] = {}


class Texts(Protocol):
    """The texts that documents have now, by position."""

    def put(self, position: int, text: bytes) -> bytes | None:
        """A document has this text from now on; the one that it had, if that is known."""

    def remove(self, position: int) -> bytes | None:
        """A document is gone, if it was there; the text that it had, if that is known."""

    def of(self, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        """These documents, those of them that are there, and their texts."""

    def containing(self, query: bytes, positions: Sequence[int]) -> list[int]:
        """Those of these documents whose text contains the query, in their order."""


class KeptTexts:
    """The texts themselves, in memory."""

    def __init__(self) -> None:
        self._texts: Pages[bytes] = Pages()

    def put(self, position: int, text: bytes) -> bytes | None:
        """A document has this text from now on; the one that it had."""
        old = self._texts.get(position)
        self._texts[position] = text
        return old

    def remove(self, position: int) -> bytes | None:
        """A document is gone, if it was there; the text that it had."""
        old = self._texts.get(position)
        if old is not None:
            self._texts.pop(position)
        return old

    def of(self, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        """These documents, those of them that are there, and their texts."""
        page = self._texts.page
        found = [(each, page(each >> PAGE_BITS, _NONE).get(each)) for each in positions]  # as below
        return [(each, text) for each, text in found if text is not None]

    def containing(self, query: bytes, positions: Sequence[int]) -> list[int]:
        """Those of these documents whose text contains the query, in their order."""
        page = self._texts.page
        # The dearest loop of all: what `get` does is written out.
        return [each for each in positions if query in page(each >> PAGE_BITS, _NONE).get(each, b"")]
