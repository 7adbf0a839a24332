"""Where a `GramIndex` finds the texts of its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kpstore.index.pages import PAGE_BITS, Pages

_NONE: dict[int, bytes] = {}


class Texts(Protocol):
    """The texts that documents have now, by position."""

    def put(self, position: int, text: bytes) -> None:
        """A document has this text from now on."""

    def remove(self, position: int) -> None:
        """A document is gone; it may not have been there."""

    def of(self, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        """These documents, those of them that are there, and their texts."""

    def containing(self, query: bytes, positions: Sequence[int]) -> list[int]:
        """Those of these documents whose text contains the query, in their order."""


class KeptTexts:
    """The texts themselves, in memory."""

    def __init__(self) -> None:
        self._texts: Pages[bytes] = Pages()

    def put(self, position: int, text: bytes) -> None:
        """A document has this text from now on."""
        self._texts[position] = text

    def remove(self, position: int) -> None:
        """A document is gone; it may not have been there."""
        if self._texts.get(position) is not None:
            self._texts.pop(position)

    def of(self, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        """These documents, those of them that are there, and their texts."""
        found = ((position, self._texts.get(position)) for position in positions)
        return [(position, text) for position, text in found if text is not None]

    def containing(self, query: bytes, positions: Sequence[int]) -> list[int]:
        """Those of these documents whose text contains the query, in their order."""
        page = self._texts.page
        # The dearest loop of all: what `get` does is written out.
        return [each for each in positions if query in page(each >> PAGE_BITS, _NONE).get(each, b"")]
