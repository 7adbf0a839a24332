"""Documents in the order of their keys: what the tree says, and that it stays one."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from pyroaring import BitMap

from kpstore.index import order as module
from kpstore.index.order import _LEAF_LIMIT, Order, _Leaf, _Node, integer_key, quality_key
from kpstore.index.pages import PAGE_BITS

MOST = 2**64 - 1
# Far apart, next to each other, and at both ends.
KEYS = (0, 1, 2, 3, 2**63 - 1, 2**63, 2**63 + 1, MOST - 1, MOST, *(7 << shift for shift in range(4, 60, 7)))
POSITIONS = (*range(40), *range(4090, 4102), *range(3 << PAGE_BITS, (3 << PAGE_BITS) + 12))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What matters at a hundred documents, at a few."""
    monkeypatch.setattr(module, "_LEAF_LIMIT", 4)
    monkeypatch.setattr(module, "_FEW", 3)
    monkeypatch.setattr(module, "_AT_ONCE", 2)


def check_tree(order: Order, known: dict[int, int]) -> None:
    """Every document is where its key belongs, no leaf of several keys is large, and no page is left over."""

    def check(node: _Node) -> set[int]:
        if isinstance(node, _Leaf):
            keys = [known[position] for position in node.members]
            assert keys
            assert node.low <= min(keys)
            assert max(keys) <= node.high
            assert node.low == node.high or len(keys) <= module._LEAF_LIMIT
            return set(node.members)
        lows, highs = check(node.low), check(node.high)
        for side, positions in enumerate((lows, highs)):
            for position in positions:
                key = known[position]
                assert key >> node.bit & 1 == side
                assert key >> node.bit + 1 == node.key >> node.bit + 1
                assert node.lowest <= key <= node.highest
        assert node.highest - node.lowest == (2 << node.bit) - 1
        assert set(node.members) == lows | highs
        return lows | highs

    assert (set() if order._root is None else check(order._root)) == known.keys()
    assert set(order.members) == known.keys()
    assert order._keys.keys() == {position >> PAGE_BITS for position in known}
    assert {len(page) for page in order._keys.values()} <= {1 << PAGE_BITS}
    for position, key in known.items():
        assert order.key(position) == key


def check_answers(order: Order, known: dict[int, int], dice: random.Random) -> None:
    """The same as of a sorted list."""
    ranked = sorted(known, key=lambda position: (-known[position], position))
    for among in (None, BitMap(dice.sample(POSITIONS, dice.randrange(40)))):
        of_these = [position for position in ranked if among is None or position in among]
        for offset, end in (
            (0, 1),
            (0, 1000),
            (3, 3),
            *(sorted(dice.choices(range(60), k=2)) for _ in "abc"),
        ):
            inside = min(end, len(of_these))
            here = None if among is None else among & order.members
            assert order.page(here, offset, inside) == of_these[offset:inside]
        for least in dice.sample(KEYS, 3):
            assert order.count(among, least) == sum(known[position] >= least for position in of_these)
        assert order.count(among) == len(of_these)
    for _ in range(4):
        least, most = sorted(max(0, dice.choice(KEYS) - dice.randrange(2)) for _ in "ab")
        expected = [position for position, key in known.items() if least <= key <= most]
        assert sorted(order.between(least, most)) == sorted(expected)
        assert len(order._parts(least, most)) <= len(known)
    for count in (0, 1, 2, 7, 100):
        lowest = order.last(count)
        assert [known[position] for position in lowest] == sorted(known.values())[:count]
        assert len(set(lowest)) == len(lowest)
    assert len(order._parts(0, MOST)) == bool(known)  # with one look at the root


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(12))
def test_it_answers_like_a_sorted_list_through_a_random_history(seed: int) -> None:
    dice = random.Random(seed)
    keys = dice.sample(KEYS, dice.randrange(1, len(KEYS)))  # few make for equal ones
    order, known = Order(), dict[int, int]()
    for _ in range(150):
        position = dice.choice(POSITIONS)
        if position in known:
            order.remove(position)
            del known[position]
        if dice.random() < 0.7:
            known[position] = dice.choice(keys)
            order.add(position, known[position])
        check_tree(order, known)
        check_answers(order, known, dice)
    for position in dice.sample(list(known), len(known)):
        order.remove(position)
        del known[position]
        check_tree(order, known)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("first", [0, 1])
def test_one_that_is_filled_at_once_is_like_one_that_grew(seed: int, first: int) -> None:
    dice = random.Random(seed)
    chosen = dice.sample(POSITIONS, 50) if seed else []
    positions = sorted(position + (first << PAGE_BITS) for position in chosen)
    keys = dice.sample(KEYS, dice.randrange(1, len(KEYS)))
    known = {position: dice.choice(keys) for position in positions}
    order = Order()
    for _ in order.fill(np.array(positions, np.uint32), np.array(list(known.values()), np.uint64)):
        pass
    check_tree(order, known)
    check_answers(order, known, dice)
    for position in positions:
        order.remove(position)
        del known[position]
        order.add(position + 1000, known.setdefault(position + 1000, dice.choice(keys)))
        check_tree(order, known)


@pytest.mark.parametrize(
    "qualities",
    [[0.5], [0.0, -0.0, 1.0], [n / 100 for n in range(101)], None, [-1e308, 1e308, -0.5, 7.25, 5e-324]],
    ids=["one", "zeros", "hundredths", "any", "out of range"],
)
@pytest.mark.parametrize("seed", range(2))
def test_pages_and_counts_are_those_of_the_sorted_list(qualities: list[float] | None, seed: int) -> None:
    dice = random.Random(seed)
    order, known = Order(), dict[int, float]()

    def draw() -> float:
        return dice.random() if qualities is None else dice.choice(qualities)

    for step in range(4000):
        if known and dice.random() < 0.3:
            position = dice.choice(list(known))
            order.remove(position)
            del known[position]
        position = step if dice.random() < 0.9 else step * 100_000
        if position not in known:
            known[position] = draw()
            order.add(position, quality_key(known[position]))
    for _ in range(40):
        share = dice.choice([None, 0.001, 0.05, 0.5, 1.0])
        among = None if share is None else BitMap(one for one in known if dice.random() < share)
        expected = sorted(
            (one for one in known if among is None or one in among), key=lambda one: (-known[one], one)
        )
        offset = dice.randint(0, len(expected) + 2)
        end = offset + dice.randint(0, 50)
        assert order.page(among, offset, end) == expected[offset:end]
        least = dice.choice([None, draw(), dice.uniform(-0.1, 1.1)])
        counted = order.count(among, 0 if least is None else quality_key(least))
        assert counted == sum(least is None or known[one] >= least for one in expected)
        low, high = sorted((draw(), draw()))
        inside = {one for one, quality in known.items() if low <= quality <= high}
        assert set(order.between(quality_key(low), quality_key(high))) == inside
        lowest = [known[one] for one in order.last(17)]
        assert lowest == sorted(known.values())[:17]
    keys = {position: quality_key(quality) for position, quality in known.items()}
    check_tree(order, keys)
    for position in list(keys):
        order.remove(position)
        del keys[position]
        if len(keys) % 400 == 0 or len(keys) < 60:
            check_tree(order, keys)
    assert order.count(None) == 0
    assert not order._keys
    assert order.page(None, 0, 10) == []


@pytest.mark.parametrize("highest", [False, True])
def test_a_page_of_a_sparse_set_does_not_look_into_every_leaf(
    highest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(0)
    order, keys = Order(), {position: dice.randrange(10**6) for position in range(20_000)}
    for position, key in keys.items():
        order.add(position, key)
    ranked = sorted(keys, key=lambda position: (-keys[position], position))
    these = set(ranked[:400] if highest else dice.sample(ranked, 400))
    sorted_at_once: list[int] = []
    sort = order._sorted

    def noted(members: BitMap) -> list[int]:
        sorted_at_once.append(len(members))
        return sort(members)

    monkeypatch.setattr(order, "_sorted", noted)
    for offset, end in ((0, 100), (150, 250), (390, 400)):
        sorted_at_once.clear()
        page = order.page(BitMap(these), offset, end)
        assert page == [position for position in ranked if position in these][offset:end]
        assert sum(sorted_at_once) <= (end - offset) + 2 * module._FEW
        # A leaf has 2 of 400 on average; where all are next to each other, up to 128.
        assert len(sorted_at_once) <= 8


def test_a_leaf_is_parted_when_it_is_full_of_several_keys() -> None:
    for extra in (0, 1, _LEAF_LIMIT - 1, _LEAF_LIMIT):
        order = Order()
        for position in range(_LEAF_LIMIT):
            order.add(position, position)
        assert isinstance(order._root, _Leaf)
        order.add(_LEAF_LIMIT, extra)
        assert not isinstance(order._root, _Leaf)
        assert order.last(2) == ([0, 1] if extra else [0, _LEAF_LIMIT])


def test_a_leaf_of_one_key_is_never_parted_but_gets_a_neighbour() -> None:
    for key, best in ((4, 0), (6, 2 * _LEAF_LIMIT)):
        order = Order()
        for position in range(2 * _LEAF_LIMIT):
            order.add(position, 5)
        assert isinstance(order._root, _Leaf)
        order.add(2 * _LEAF_LIMIT, key)
        assert not isinstance(order._root, _Leaf)
        assert order.page(None, 0, 1) == [best]
        assert order.count(None, 5) == 2 * _LEAF_LIMIT + (key > 5)


def test_a_key_beyond_all_others_is_put_beside_them() -> None:
    keys = {position: position for position in range(3 * _LEAF_LIMIT)}
    for beyond in (1 << 20, 1 << 40, 1 << 60):
        keys[len(keys)] = beyond
    order = Order()
    for position, key in keys.items():
        order.add(position, key)
    check_tree(order, keys)


def test_a_page_of_the_lowest_passes_over_all_others() -> None:
    order = Order()
    for position in range(2000):
        order.add(position, position)
    assert order.page(BitMap(range(600)), 0, 3) == [599, 598, 597]
    assert order.page(BitMap(range(600)), 300, 302) == [299, 298]


def test_keys_leave_with_the_last_position_near_them() -> None:
    order = Order()
    for position in (0, 1, 4096, 8192):
        order.add(position, 7)
    for position, left in ((0, 3), (8192, 2), (1, 1), (4096, 0)):
        order.remove(position)
        assert len(order._keys) == left


def test_a_leaf_that_has_one_key_left_stays_one() -> None:
    order = Order()
    order.add(0, 1)
    for position in range(1, _LEAF_LIMIT):
        order.add(position, 1 << 40)
    order.remove(0)
    for position in range(_LEAF_LIMIT, 2 * _LEAF_LIMIT):
        order.add(position, 1 << 40)
    assert isinstance(order._root, _Leaf)
    assert order.page(None, 0, 2 * _LEAF_LIMIT) == list(range(1, 2 * _LEAF_LIMIT))


def test_keys_are_ordered_as_the_numbers_are() -> None:
    numbers = [
        -math.inf,
        -1e300,
        -1.5,
        math.nextafter(-1, -2),
        -1.0,
        -5e-324,
        0.0,
        5e-324,
        0.5,
        1.0,
        math.inf,
    ]
    found = [quality_key(number) for number in numbers]
    assert all(0 <= low < high <= MOST for low, high in pairwise(found))
    assert quality_key(-0.0) == quality_key(0.0)
    assert [integer_key(number) for number in (-(2**63), -1, 0, 2**63 - 1)] == [0, 2**63 - 1, 2**63, MOST]
