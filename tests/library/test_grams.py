"""The trie of frequent strings: how its work is cut into steps, and when it is done at all."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable

import numpy as np
import pytest
from pyroaring import BitMap

from kpstore.index import Block, GramIndex, KeptTexts, grams
from kpstore.index.frames import Nodes

WORDS = ("alpha", "beta", "gamma", "the", "of", "in", "index")


def put_all(index: GramIndex, texts: Iterable[bytes]) -> None:
    for position, text in enumerate(texts):
        index.put(position, text)


def filled(count: int, bound: int | None = None) -> GramIndex:
    dice = random.Random(3)
    index = GramIndex(bound)
    put_all(index, (" ".join(dice.choices(WORDS, k=4)).encode() for _ in range(count)))
    return index


def found_in(steps: Generator[None, None, BitMap]) -> tuple[int, set[int]]:
    """How often a query gave others their turn, and what it found."""
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return turns, set(done.value)
        turns += 1


class Forgotten(KeptTexts):
    """Texts that are kept, but of which nobody knows what they were."""

    def put(self, position: int, text: bytes) -> None:
        """Replace a text."""
        super().put(position, text)

    def remove(self, position: int) -> None:
        """Remove a text."""
        super().remove(position)


def test_work_goes_on_for_as_long_as_it_may() -> None:
    index = filled(1000)
    assert index.work(60.0) is False
    assert index.pending == 0


def test_many_documents_are_taken_in_together() -> None:
    index = filled(3000)
    steps = 0
    while index.work(0):
        steps += 1
    assert 100 < steps < 1500  # one by one it would be ten for each


def parts_saved(index: GramIndex) -> tuple[list[Nodes], list[Block]]:
    frames, blocks = [], []
    for one in index.save():
        if isinstance(one, bytes):
            blocks.append(one)
        else:
            frames.append(one)
    return frames, blocks


def loaded(index: GramIndex, bound: int) -> GramIndex:
    """A new one, from what the index saves."""
    frames, blocks = parts_saved(index)
    again = GramIndex(bound)
    again.begin(index.believed, index.deep, blocks.__getitem__)
    for frame in frames:
        again.load(frame)
    return again


def saved(index: GramIndex) -> tuple[list[int], list[int], list[int]]:
    """How many nodes each frame has, and each block, and how many bytes that one has."""
    frames, blocks = parts_saved(index)
    counts = np.concatenate([np.frombuffer(frame.counts, np.uint32) for frame in frames]).tolist()
    assert len(counts) == len(blocks)
    return [len(frame.letters) for frame in frames], counts, list(map(len, blocks))


def test_frames_and_blocks_hold_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def filling(total: int, size: int) -> list[int]:
        return [size] * (total // size) + [total % size] * (total % size > 0)

    index = filled(3000, 4)
    index.work(60.0)
    monkeypatch.setattr(grams, "_PER_FRAME", 1024)
    lengths, counts, blocks = saved(index)
    total = sum(lengths)
    assert total == sum(counts) > 2000
    assert all(size < grams._BLOCK_BYTES + 10_000 for size in blocks)
    assert counts != filling(total, grams._PER_BLOCK)
    monkeypatch.setattr(grams, "_BLOCK_BYTES", 1 << 30)
    lengths, counts, _ = saved(index)
    assert counts == filling(total, grams._PER_BLOCK)
    assert lengths == filling(total, 1024)
    monkeypatch.setattr(grams, "_PER_BLOCK", 7)
    monkeypatch.setattr(grams, "_PER_FRAME", 20)
    assert saved(index)[0] == filling(total, 21)
    monkeypatch.setattr(grams, "_PER_FRAME", 1024)
    monkeypatch.setattr(grams, "_BLOCK_BYTES", 1)
    lengths, counts, _ = saved(index)
    assert counts == [1] * total
    assert lengths == filling(total, 1024)


def test_what_is_pending_is_counted_once() -> None:
    index = filled(10)
    assert index.pending == 10
    index.work(60.0)
    index.put(3, b"replaced")
    assert index.pending == 1
    index.put(11, b"new")
    index.remove(4)
    assert index.pending == 3
    index.work(60.0)
    assert index.pending == 0


@pytest.mark.parametrize(("per_unknown", "fewest"), [(1_000_000, 5), (40, 1)])
def test_documents_of_unknown_texts_are_purged_once_they_are_many(
    monkeypatch: pytest.MonkeyPatch, per_unknown: int, fewest: int
) -> None:
    monkeypatch.setattr(grams, "_FEWEST_UNKNOWN", fewest)
    monkeypatch.setattr(grams, "_SETS_PER_UNKNOWN", per_unknown)
    index = GramIndex(4, Forgotten())
    put_all(index, (b"some text %d" % number for number in range(100)))
    index.work(60.0)
    limit = max(fewest, index._postings.sets // per_unknown)
    assert 5 <= limit < 90
    for position in range(limit - 1):
        index.remove(position)
    assert index.work(60.0) is False
    assert index.pending == 0
    assert len(index._stale) == limit - 1
    index.put(99, b"another text")  # replaced, not removed: the same
    assert index.pending == limit
    assert index.work(60.0) is False
    assert not index._stale
    assert found_in(index.find(b"some text"))[1] == set(range(limit - 1, 99))
    assert found_in(index.find(b"another"))[1] == {99}


class HalfForgotten(KeptTexts):
    """Texts that are kept, but of which only half are known when they go."""

    def remove(self, position: int) -> bytes | None:
        """Remove a text; the one that it was, if the position is odd."""
        old = super().remove(position)
        return old if position % 2 else None


def test_documents_that_leave_by_their_texts_do_not_count_as_unknown() -> None:
    index = GramIndex(4, HalfForgotten())
    put_all(index, (b"some text %d" % number for number in range(200)))
    index.work(60.0)
    for position in range(120):
        index.remove(position)
    assert index.pending == 60
    index.work(60.0)
    assert index.pending == 0
    assert list(index._stale) == list(range(0, 120, 2))


def test_documents_may_leave_while_the_trie_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "_MANY", 1000)
    monkeypatch.setattr(grams, "_SAMPLE", 500)
    index = filled(5000)
    for _ in range(3):
        index.work(0)
    assert index._laid_out_for == 5000
    for position in range(4900):
        index.remove(position)
    index.work(60.0)
    assert set(index._in_trie) == set(range(4900, 5000))
    texts = filled(5000)._new
    assert found_in(index.find(b"a"))[1] == {one for one in range(4900, 5000) if b"a" in texts[one]}


@pytest.mark.parametrize("count", [255, 256, 257, 512, 1000])
def test_a_query_gives_others_a_turn_for_every_256_documents(count: int) -> None:
    index = GramIndex(10_000)
    put_all(index, [b"some text"] * count)
    turns, found = found_in(index.find(b"some text"))
    assert found == set(range(count))
    assert turns == (0 if count <= 256 else -(-count // 256))  # those that are new
    index.work(60.0)
    turns, found = found_in(index.find(b"some text"))
    assert found == set(range(count))
    assert turns == count // 256


def test_a_query_hears_of_changes_when_another_one_has_ended() -> None:
    index = GramIndex(10_000)
    put_all(index, [b"some text"] * 1000)
    index.work(60.0)
    first, second = index.find(b"some text"), index.find(b"text")
    next(first)
    next(second)
    assert found_in(first)[1] == set(range(1000))
    index.put(0, b"another")  # at which the second one has looked
    assert found_in(second)[1] == set(range(1, 1000))
    assert not index._watchers


@pytest.mark.parametrize("texts", [KeptTexts, Forgotten])
def test_work_says_that_there_is_more_as_long_as_there_is(
    texts: type[KeptTexts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(grams, "_FEWEST_UNKNOWN", 1)
    index = GramIndex(4, texts())
    put_all(index, (b"some text %d" % number for number in range(1000)))
    while index.work(0):
        pass
    assert index.pending == 0
    for position in range(1000):
        index.remove(position)
    while index.work(0):
        pass
    assert index.pending == 0
    assert not index._stale


# Which nodes there are ----------------------------------------------------------


def nodes_of(index: GramIndex) -> tuple[set[bytes], dict[bytes, int]]:
    """The strings that have nodes, and those that are extended with the size of their postings."""
    nodes = range(1, index._nodes)
    sizes = {index._string(node): len(index._postings.get(node)) for node in nodes if index._row_of[node]}
    return {index._string(node) for node in nodes}, sizes


def parts_of(word: bytes, longest: int) -> set[bytes]:
    ends = range(1, longest + 1)
    return {word[at : at + length] for at in range(len(word)) for length in ends if at + length <= len(word)}


@pytest.mark.parametrize("at_once", [True, False])
def test_what_has_a_larger_posting_than_the_bound_is_extended_and_nothing_else(at_once: bool) -> None:
    words = [b"uvw"] * 51 + [b"xyz"] * 50 + [b"kl"] * 50 + [b"km"] * 10
    index = GramIndex(50)
    for position, word in enumerate(words):
        index.put(position, word)
        if not at_once:
            index.work(60.0)
    index.work(60.0)
    nodes, extended = nodes_of(index)
    assert extended == dict.fromkeys(parts_of(b"uvw", 3), 51) | {b"k": 60}
    assert nodes == extended.keys() | {b"x", b"y", b"z", b"l", b"m", b"kl", b"km"}


def test_no_string_is_longer_than_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "_MAX_DEPTH", 5)
    index = GramIndex(50)
    put_all(index, [b"abcdefgh"] * 60)
    index.work(60.0)
    for position in range(60, 70):  # to nodes that are there
        index.put(position, b"abcdefgh")
    index.work(60.0)
    nodes, extended = nodes_of(index)
    assert nodes == parts_of(b"abcdefgh", 5)
    assert extended.keys() == parts_of(b"abcdefgh", 4)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_long_strings_are_extended_as_long_as_their_postings_have_room(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "_DEEP", 2)
    monkeypatch.setattr(grams, "_DEEP_SHARE", share)
    index = GramIndex(50)
    put_all(index, [b"ab"] * 55 + [b"ac"] * 110)
    index.work(60.0)
    _, extended = nodes_of(index)
    short = {b"a": 165, b"b": 55, b"c": 110}
    assert extended == short | ({b"ab": 55, b"ac": 110} if share == 1 else {b"ab": 55})
    assert index.deep == (165 if share == 1 else 55)


def test_all_long_strings_count_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "_DEEP", 2)
    index = GramIndex(50)
    put_all(index, [b"abcd"] * 55)
    index.work(60.0)
    _, extended = nodes_of(index)
    assert extended == dict.fromkeys(parts_of(b"abcd", 4), 55)
    assert index.deep == 55 * len({b"ab", b"bc", b"cd", b"abc", b"bcd", b"abcd"})


def test_tables_grow_by_steps_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "_ROWS", 4)
    monkeypatch.setattr(grams, "_NODES", 4)
    index = filled(500, 4)
    index.work(60.0)
    again = loaded(index, 4)
    assert nodes_of(again) == nodes_of(index)


@pytest.mark.parametrize(
    ("documents", "most", "sought"),
    [
        (0, 256, 256),
        (100_000, 500, 256),
        (400_000, 2000, 320),
        (999_999, 4999, 799),
        (1_000_000, 5000, 800),
        (5_000_000, 5000, 800),
    ],
)
def test_postings_grow_with_the_number_of_documents(documents: int, most: int, sought: int) -> None:
    bounds = grams._bounds_for(documents)
    assert (bounds.most, bounds.sought) == (most, sought)
    assert (bounds.of(False), bounds.of(True)) == bounds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one two", ["o", "t"]),
        (" 2nd, (x) v1.2 it's web-page", ["2", "x", "v", "2", "i", "s", "w", "p"]),
        ("übel für él", ["ü", "f", "é"]),
        ("слово и слово", ["с", "и", "с"]),
        ("日本語 ok", ["日", "本", "語", "o"]),
        # The least and the greatest bytes within characters, and the last one of two bytes.
        ("xÀb xÿb a\x7fb", ["x", "x", "a", "b"]),
        ("a\u07c0b aअb", ["a", "a", "अ"]),
        ("it’s — “so”", ["i", "s", "s"]),
        ("", []),
    ],
)
def test_where_words_begin(text: str, words: list[str]) -> None:
    for before in b"", b"abc\xff":
        data = before + text.encode() + b"\xff"
        places = np.flatnonzero(grams._begins_word(np.frombuffer(data, np.uint8))).tolist()
        found = [data[place:-1].decode()[0] for place in places if place >= len(before)]
        assert found == words
        assert (0 in places) == bool(before or text[:1].isalnum())


@pytest.mark.parametrize("text", [b"\xe2", b"a\xe2\x80", b"\x80", b"\xc3"])
def test_a_text_that_is_no_utf_8_is_found_as_any_other(text: bytes) -> None:
    """Such as that of a row that another program wrote."""
    index = GramIndex(2)
    put_all(index, [text] * 10)
    index.work(60.0)
    assert found_in(index.find(text))[1] == set(range(10))


@pytest.mark.parametrize(
    ("string", "is_word", "otherwise"),
    [
        ("a", True, True),
        ("a ", True, True),
        (", ", True, True),
        ("日本", True, True),
        ("ÀÀ", True, True),
        ("ÿÿ", True, True),
        ("\x7f\x7f\x7f", False, False),
        ("sea", True, False),
        ("日本語", True, False),
        ("слово", True, False),
        ("broad-sheet's_2.0", False, False),  # 17 bytes
        ("broad-sheet's_2.", True, False),
        ("sea ", False, False),
        ("a b", False, False),
        ("a/b", False, False),
    ],
)
def test_which_strings_are_sought(string: str, is_word: bool, otherwise: bool) -> None:
    assert grams._is_sought(string.encode(), True) is is_word
    assert grams._is_sought(string.encode(), False) is otherwise


def strings_with_rows(index: GramIndex) -> set[bytes]:
    return {index._string(node) for node in index._node_of[1 : index._rows].tolist()}


SEARCHED = [
    *[b"undersea x%d" % n for n in range(30)],
    *[b"seaside y%d" % n for n in range(30)],
    *[b"derby z%d" % n for n in range(3)],
]
BEGINNINGS = {word[:end] for word in (b"seaside", b"undersea") for end in range(1, len(word))}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("is_laid_out", [True, False])
def test_a_word_is_followed_further_than_what_is_within_words(
    at_once: bool, is_laid_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as more than 20 documents have it, and not 40; whichever way its node came to be."""
    if is_laid_out:
        monkeypatch.setattr(grams, "_MANY", 50)
        monkeypatch.setattr(grams, "_SAMPLE", 30)
    monkeypatch.setattr(grams, "_bounds_for", lambda documents: grams._Bounds(40, 20))
    index = GramIndex()
    for position, text in enumerate(SEARCHED):
        index.put(position, text)
        if not at_once:
            index.work(60.0)
    index.work(60.0)
    within = {b"easid", b"aside", b"ndersea", b"der", b"rsea"}
    assert (index._laid_out_for > 0) == (is_laid_out and at_once)
    rows = strings_with_rows(index)
    assert rows >= BEGINNINGS
    assert not within & rows


def test_what_is_laid_out_is_what_will_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "_SAMPLE", 30)
    monkeypatch.setattr(grams, "_bounds_for", lambda documents: grams._Bounds(40, 20))
    index = GramIndex()
    put_all(index, SEARCHED)
    for _ in index._lay_out():
        assert not index._in_trie
    rows = strings_with_rows(index)
    assert rows >= BEGINNINGS
    assert not {b"easid", b"ndersea", b"derby"} & rows


def test_what_is_not_sought_is_followed_once_it_is_in_more_documents_than_its_bound() -> None:
    index = GramIndex()
    index._fixed_bounds = grams._Bounds(40, 20)
    for position in range(41):
        index.put(position, b"undersea")
        index.work(60.0)
        rows = strings_with_rows(index)
        assert (b"undersea" in rows) == (position + 1 > 20)
        assert (b"nde" in rows) == (b"ndersea" in rows) == (position + 1 > 40)


def test_a_saved_index_knows_what_is_sought() -> None:
    index = GramIndex(3)
    put_all(index, SEARCHED)
    index.work(60.0)
    again = loaded(index, 3)
    for one in index, again:
        assert {one._string(node) for node in np.flatnonzero(one._is_sought).tolist()} >= {
            b"sea",
            b"undersea",
            b"x1",
        }
        assert not {one._string(node) for node in np.flatnonzero(~one._is_sought).tolist()} & {
            b"sea",
            b"se",
            b"x1",
        }
    assert index._is_sought[1 : index._nodes].tolist() == again._is_sought[1 : again._nodes].tolist()


def test_a_string_that_comes_later_is_followed_further_if_it_begins_words_there() -> None:
    index = GramIndex()
    index._fixed_bounds = grams._Bounds(40, 20)
    for position in range(21):
        index.put(position, b"set")
    index.work(60.0)
    assert b"se" in strings_with_rows(index)
    together = b"unsealed", b"used", b"a sedan", b"unsewn", b"sewing", b"osef"
    for text, count in zip(together, (25, 25, 9, 25, 8, 25), strict=True):  # 9 of 34 are more than a quarter
        for _ in range(count):
            position += 1
            index.put(position, text)
    index.work(60.0)
    rows = strings_with_rows(index)
    assert b"sed" in rows
    assert not {b"sea", b"sew", b"sef"} & rows


@pytest.mark.parametrize(("beginning", "others"), [(1, 3), (2, 6), (1, 4)])
def test_what_follows_a_string_where_it_often_begins_words(beginning: int, others: int) -> None:
    texts = [b"seal"] * beginning + [b"unseal"] * others + [b"set", b"se"]
    parts = [
        grams._following(b"se", list(enumerate(some)))
        for some in (texts[: beginning + 1], texts[beginning + 1 :])
    ]
    is_often = beginning * 4 >= beginning + others
    found = {byte: begins for byte, _, begins in grams._next_bytes(parts)}
    assert found == {ord("a"): is_often, ord("t"): True}
    found = {byte: begins for byte, _, begins in grams._next_bytes([part.after(ord("a")) for part in parts])}
    assert found == {ord("l"): is_often}
