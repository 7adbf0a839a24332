"""Realistic records in any number: what searches and speeds are measured on.

Texts come from a chain of word pairs learned from the packaged skills, real English prose, so that words and
phrases are as frequent as they are in such prose; one word in thirty is drawn from an endless list of names
instead, so that the vocabulary grows with the data as vocabularies do. Record `n` of a seed is the same
whatever was generated before it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

from kpstore import StoredKnowledgeUnit, StoredSkill
from kpstore_conformance.suite import packaged_scenarios

__all__ = ["AGENTS", "DOMAINS", "TAGS", "agent", "skills", "text", "unit_id", "units"]

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When record 0 was created; each one after it a second later."""

DOMAINS = (
    *("web-development", "data-engineering", "machine-learning", "security", "devops", "testing", "design"),
    *("writing", "research", "finance", "law", "medicine", "support", "sales", "logistics", "education"),
    *("robotics", "embedded", "networking", "databases", "compilers", "games", "translation", "geography"),
)
"""Domains, the most frequent first."""

AGENTS = 500
"""How many agents the units come from; a few of them write most."""

TAGS = tuple(f"{kind}-{topic}" for kind in ("how-to", "guide", "tool") for topic in DOMAINS)
"""Tags of skills, the most frequent first."""

_KINDS = (
    "ReasoningTrace",
    "ReasoningTrace",
    "ReasoningTrace",
    "ToolCallPattern",
    "ToolCallPattern",
    "ExpertSOP",
)
_PREFIXES = {"ReasoningTrace": "kp:trace:", "ToolCallPattern": "kp:pattern:", "ExpertSOP": "kp:sop:"}
_NAMES_SHARE = 1 / 30
_SYLLABLES = tuple(
    f"{start}{end}" for start in "bcdfghklmnprstvz" for end in ("a", "e", "i", "o", "u", "an", "er", "is")
)


def agent(number: int) -> str:
    """The id of an agent, 0 the most frequent one."""
    return f"kp:agent:{number:04d}"


def unit_id(number: int, seed: int = 0) -> str:
    """The id of unit `number`."""
    return f"{_PREFIXES[_kind(_dice(seed, 'unit', number))]}{seed}-{number:07d}"


def units(count: int, *, start: int = 0, seed: int = 0) -> Iterator[StoredKnowledgeUnit]:
    """`count` knowledge units, of 400 to 800 bytes of JSON mostly, from number `start` on."""
    for number in range(start, start + count):
        dice = _dice(seed, "unit", number)
        kind = _kind(dice)
        at = START + timedelta(seconds=number)
        id = f"{_PREFIXES[kind]}{seed}-{number:07d}"
        domain = _skewed(dice, DOMAINS)
        unit = {
            "@context": "https://openknowledgepulse.org/schema/v1",
            "@type": kind,
            "id": id,
            "metadata": {
                "created_at": at.isoformat(),
                "agent_id": agent(int(AGENTS * dice.random() ** 2)),
                "task_domain": domain,
                "success": dice.random() < 0.8,
                "quality_score": round(dice.betavariate(5, 2), 3),
                "visibility": "network",
                "privacy_level": "aggregated",
            },
            **_content(kind, domain, dice),
        }
        yield StoredKnowledgeUnit(id, unit, "network", at, at)


def skills(count: int, *, start: int = 0, seed: int = 0) -> Iterator[StoredSkill]:
    """`count` skills of about 1 kB, from number `start` on."""
    for number in range(start, start + count):
        dice = _dice(seed, "skill", number)
        at = START + timedelta(seconds=number)
        yield StoredSkill(
            id=f"kp:skill:{seed}-{number:07d}",
            name=text(dice, 3),
            description=text(dice, 20),
            content=f"# {text(dice, 3)}\n\n{text(dice, 100)}\n",
            author=agent(dice.randrange(AGENTS)),
            domain=_skewed(dice, DOMAINS),
            tags=tuple(dict.fromkeys(_skewed(dice, TAGS) for _ in range(3))),
            quality_score=round(dice.betavariate(5, 2), 3),
            created_at=at,
            updated_at=at,
        )


def text(dice: random.Random, words: int) -> str:
    """So many words of prose."""
    starts, chain = _chain()
    found = []
    word = dice.choice(starts)
    for _ in range(words):
        if dice.random() < _NAMES_SHARE:
            found.append(_name(int(20 * dice.paretovariate(0.5))))
            continue
        found.append(word)
        followers, weights = chain[word]
        word = dice.choices(followers, cum_weights=weights)[0]
    return " ".join(found)


def _dice(seed: int, what: str, number: int) -> random.Random:
    return random.Random(f"{seed} {what} {number}")  # noqa: S311  # repeatable, not secret


def _kind(dice: random.Random) -> str:
    return dice.choice(_KINDS)


def _skewed(dice: random.Random, items: tuple[str, ...]) -> str:
    """One of the items, the n-th about 1/n times as often as the first."""
    return items[int((len(items) + 1) ** dice.random()) - 1]


def _content(kind: str, domain: str, dice: random.Random) -> dict[str, Any]:
    if kind == "ReasoningTrace":
        return {
            "task": {"objective": text(dice, 8)},
            "steps": [
                {"step_id": 0, "type": "thought", "content": text(dice, dice.randint(8, 16))},
                {"step_id": 1, "type": "observation", "content": text(dice, dice.randint(6, 12))},
            ],
            "outcome": {"result_summary": text(dice, 6), "confidence": round(dice.random(), 2)},
        }
    if kind == "ToolCallPattern":
        return {
            "name": text(dice, 4),
            "description": text(dice, dice.randint(12, 28)),
            "trigger_conditions": {"task_types": [domain]},
            "tool_sequence": [{"step": "1", "execution": "sequential", "tools": [{"name": "search"}]}],
            "performance": {
                "avg_ms": dice.randint(5, 5000),
                "success_rate": 0.9,
                "uses": dice.randint(0, 999),
            },
        }
    return {
        "name": text(dice, 5),
        "domain": domain,
        "source": {"type": "human_expert", "expert_id": agent(dice.randrange(AGENTS)), "credentials": []},
        "decision_tree": [{"step": "1", "instruction": text(dice, 16)}],
    }


def _name(rank: int) -> str:
    """The name of that rank; each has its own."""
    digits = []
    while True:
        rank, digit = divmod(rank, len(_SYLLABLES))
        digits.append(_SYLLABLES[digit])
        if rank == 0:
            return "".join(digits).capitalize() + ("x" if len(digits) == 1 else "")


@cache
def _chain() -> tuple[list[str], dict[str, tuple[list[str], list[int]]]]:
    """Every word in the packaged skills, and for each one those that follow it, with weights that add up."""
    found: list[str] = []
    for file in sorted((packaged_scenarios() / "data" / "skills").glob("*/SKILL.md")):
        found.extend(re.findall(r"[A-Za-z][A-Za-z'’-]*[.,:;]?", file.read_text(encoding="utf-8")))
    counts: dict[str, dict[str, int]] = {}
    for word, following in [*pairwise(found), (found[-1], found[0])]:
        followers = counts.setdefault(word, {})
        followers[following] = followers.get(following, 0) + 1
    return found, {
        word: (list(followers), list(accumulate(followers.values()))) for word, followers in counts.items()
    }
