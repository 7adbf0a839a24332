"""API keys where chance has to be forced, or a key has to be bent (clauses KEY-1, KEY-3)."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from kpstore_conformance.check import Lab, check

__all__: list[str] = []


@contextmanager
def _source_that_repeats_itself(times: int) -> Iterator[list[int]]:
    """Let the first `times` values of the system's random source begin with the same four bytes.

    Every cryptographic source in Python draws from one of these four; the list counts the draws.
    """
    draws: list[int] = []
    urandom = os.urandom
    beginning = urandom(4)  # the 8 digits of a prefix

    def repeated(size: int) -> bytes:
        draws.append(size)
        value = urandom(size)
        return value if len(draws) > times else (beginning + value[4:])[:size]

    def token_bytes(nbytes: int | None = None) -> bytes:
        return repeated(32 if nbytes is None else nbytes)

    def token_hex(nbytes: int | None = None) -> str:
        return token_bytes(nbytes).hex()

    with (
        patch.object(os, "urandom", repeated),
        patch.object(random, "_urandom", repeated),
        patch.object(secrets, "token_bytes", token_bytes),
        patch.object(secrets, "token_hex", token_hex),
    ):
        yield draws


@check(clauses=["KEY-1"], name="a prefix that is taken is drawn again")
async def collision_draws_again(lab: Lab) -> None:
    """When the random source repeats itself, no two keys of a store get the same prefix."""
    stores = await lab.open()
    with _source_that_repeats_itself(4) as draws:
        keys = [await stores.api_keys.create(f"agent-{number}", ["read"], "free") for number in range(3)]
    assert draws, "no key was drawn from the system's random source"
    prefixes = [key.record.key_prefix for key in keys]
    assert len(set(prefixes)) == len(prefixes), f"{len(prefixes)} keys share {len(set(prefixes))} prefixes"
    for key in keys:
        record = await stores.api_keys.verify(key.raw_key)
        assert record == key.record, f"the key of {key.record.agent_id} does not verify as its own"


@check(clauses=["KEY-1"], name="a thousand keys share nothing")
async def keys_are_distinct(lab: Lab) -> None:
    """Of a thousand keys no two are alike, and their digits are spread evenly."""
    stores = await lab.open()
    keys = [await stores.api_keys.create("agent", ["read"], "free") for _ in range(1000)]
    assert len({key.raw_key for key in keys}) == 1000
    assert len({key.record.key_prefix for key in keys}) == 1000
    digits = "".join(key.raw_key[3:] for key in keys)
    for digit in "0123456789abcdef":
        share = digits.count(digit) / len(digits)
        # 64,000 draws of 16: a share of 0.0625 with a deviation of 0.00096; ten of those are allowed.
        assert abs(share - 1 / 16) < 0.0096, f"{share:.4f} of the digits are {digit}"


_BENT: dict[str, Callable[[str], Any]] = {
    "in capitals": str.upper,
    "with capital digits": lambda key: key[:3] + key[3:].upper(),
    "with a capital prefix": lambda key: key[:3].upper() + key[3:],
    "with a space after it": lambda key: key + " ",
    "with a space before it": lambda key: " " + key,
    "with a line feed": lambda key: key + "\n",
    "with U+0000": lambda key: key + "\0",
    "without its prefix": lambda key: key[3:],
    "without its last digit": lambda key: key[:-1],
    "with one more digit": lambda key: key + "0",
    "with its digits reversed": lambda key: key[:3] + key[:2:-1],
    "its first 11 characters": lambda key: key[:11],
    "with full-width digits": lambda key: key.translate({ord(d): ord(d) + 0xFEE0 for d in "0123456789"}),
    "with a lone surrogate": lambda key: key + "\ud800",
    "as a header": lambda key: f"Bearer {key}",
}


@check(clauses=["KEY-3"], name="a key that is bent in any way does not verify")
async def bent_keys_do_not_verify(lab: Lab) -> None:
    """Only exactly the key that was made verifies: nothing is trimmed, folded or completed."""
    stores = await lab.open()
    key = await stores.api_keys.create("agent", ["read"], "free")
    for how, bend in _BENT.items():
        assert await stores.api_keys.verify(bend(key.raw_key)) is None, f"the key {how} verifies"
    assert await stores.api_keys.verify(key.record.key_hash) is None, "the hash of the key verifies"
    assert await stores.api_keys.verify(key.raw_key) == key.record
