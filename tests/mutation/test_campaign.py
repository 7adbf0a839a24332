"""What a campaign is made of: the samples that it takes, and the explanations that it reads."""

from __future__ import annotations

from collections import Counter

import yaml

from mutation.campaign import EXPLAINED, sample

_IDS = [f"{number:016x}" for number in range(1000)]


def test_a_sample_is_the_same_every_time_and_part_of_a_larger_one() -> None:
    small, large = sample(_IDS, 0.1, 1), sample(_IDS, 0.3, 1)
    assert (len(small), len(large)) == (100, 300)
    assert small == sample(_IDS[::-1], 0.1, 1)
    assert small < large < sample(_IDS, 1, 1) == frozenset(_IDS)


def test_another_seed_takes_another_sample() -> None:
    assert sample(_IDS, 0.1, 1) != sample(_IDS, 0.1, 2)


def test_a_sample_of_few_is_not_empty() -> None:
    assert len(sample(_IDS[:3], 0.1, 1)) == 1


def test_no_mutant_is_explained_twice() -> None:
    explained = Counter(
        (file, operator, change)
        for group in yaml.safe_load(EXPLAINED.read_text(encoding="utf-8"))
        for file, mutants in group["mutants"].items()
        for mutant in mutants
        for operator, change in mutant.items()
    )
    assert [key for key, times in explained.items() if times > 1] == []
