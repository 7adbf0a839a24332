"""Queries drawn from the texts that are searched, by how many of them they find."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice

__all__ = ["Queries"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_STOP_WORDS = 60
_RARE_WORDS = 1000
_INFIXES = 1000
_TRIES = 10_000  # to find a phrase that was not asked yet
_EDGE = 3  # a phrase begins and ends up to so many characters beyond its words


class Queries:
    """Draws queries of each kind.

    Args:
        texts: a sample of the texts that are searched.
        dice: makes the choices.
    """

    def __init__(self, texts: Iterable[str], dice: random.Random) -> None:
        self._texts = list(texts)
        self._dice = dice
        found = [Counter({word.casefold() for word in _WORD.findall(text)}) for text in self._texts]
        share = Counter[str]()
        for words in found:
            share.update(words)
        by_frequency = [word for word, _ in share.most_common()]
        self._stop_words = frozenset(by_frequency[:_STOP_WORDS])
        count = len(self._texts)
        self._frequent = [word for word in by_frequency if 0.15 <= share[word] / count <= 0.45]
        self._frequent = self._frequent[:20] or by_frequency[:10]
        vocabulary = " ".join(share)
        once = (word for word in by_frequency if share[word] == 1 and len(word) > 4)
        # Not those that are a part of other words: a query finds them there as well.
        self._rare = list(islice((word for word in once if vocabulary.count(word) == 1), _RARE_WORDS))
        within = Counter(
            infix
            for word in share
            for infix in {word[at : at + size] for size in (4, 5) for at in range(len(word) - size + 1)}
        )
        self._infixes = [infix for infix, _ in within.most_common(_INFIXES)]
        self._unasked: list[str] = []
        self._asked: set[str] = set()

    def characters(self) -> str:
        """One to three characters that stand somewhere in a text."""
        text = self._dice.choice(self._texts)
        size = self._dice.randint(1, 3)
        at = self._dice.randrange(max(1, len(text) - size))
        return text[at : at + size]

    def frequent_word(self) -> str:
        """A word in about a third of the texts."""
        return self._dice.choice(self._frequent)

    def rare_word(self) -> str:
        """A word that one text of the sample has."""
        return self._dice.choice(self._rare)

    def cold_phrase(self) -> str:
        """A piece of a text that is two or three stop words and a few letters around them. None comes
        twice before there are no others.
        """
        for _ in range(_TRIES):
            phrase = self._phrase()
            if phrase and phrase not in self._asked:
                break
        else:
            self._asked.clear()
        self._asked.add(phrase)
        return phrase

    def _phrase(self) -> str:
        """Empty if the place that was drawn has other words too."""
        text = self._dice.choice(self._texts)
        words = list(_WORD.finditer(text))
        size = self._dice.randint(2, 3)
        first = self._dice.randrange(max(1, len(words) - size))
        window = words[first : first + size]
        if not all(word[0].casefold() in self._stop_words for word in window):
            return ""
        start = max(0, window[0].start() - self._dice.randint(0, _EDGE))
        return text[start : window[-1].end() + self._dice.randint(0, _EDGE)]

    def infix(self) -> str:
        """Four or five letters within words, out of the thousand that are in the most words. None comes twice
        before all have come.
        """
        if not self._unasked:
            self._unasked = self._dice.sample(self._infixes, len(self._infixes))
        return self._unasked.pop()

    def absent(self) -> str:
        """Two frequent words with a letter between them, which no text has."""
        one, other = self._dice.choice(self._frequent), self._dice.choice(self._frequent)
        return f"{one}q{self._dice.randrange(1_000_000)}q{other}"
