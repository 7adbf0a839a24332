"""A raw key is seen once, in what `create` returns, and nowhere else: not in a log line, a repr, an error, a
traceback, a warning or a file; what is kept of it is its SHA-256.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import hashlib
import io
import logging
import pprint
import re
import traceback
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from kpstore import AllStores, ApiKeyRecord, KpStoreError, NewApiKey
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import gathered

_MASK = "kp_????????…"
_RAW_KEY = re.compile(r"kp_[0-9a-f]{64}")


def _forms(raw_key: str) -> dict[str, str]:
    """The texts by which the key could be known: it, its digits without the prefix, and other codings."""
    digits = raw_key.removeprefix("kp_")
    return {
        "the key": raw_key,
        "its digits": digits,
        "the digits beyond its prefix": digits[8:],
        "the key in base64": base64.b64encode(raw_key.encode()).decode().rstrip("="),
        "the key in capitals": digits.upper(),
        "the key backwards": digits[::-1],
    }


def _found(raw_keys: list[str], text: str, where: str) -> list[str]:
    """A line for each key that is in the text, in whatever form; without the key."""
    found = []
    for raw_key in raw_keys:
        for form, needle in _forms(raw_key).items():
            if needle in text:
                masked = text.replace(needle, _MASK)
                at = masked.index(_MASK)
                found.append(f"{form} is in {where}: {masked[max(0, at - 100) : at + 40]}")
                break
    return found


def _assert_none(found: list[str]) -> None:
    # Not an assert: what pytest shows of one must not show a key either.
    if found:
        raise AssertionError("\n".join(found[:20]))


@asynccontextmanager
async def _everything_said() -> AsyncIterator[io.StringIO]:
    """All that is logged by anybody from DEBUG on, printed, and warned of meanwhile, with asyncio's debug
    mode on and the values of all arguments shown.
    """
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)r %(exc_info)r"))
    root = logging.getLogger()
    loggers = [
        root,
        *(logging.getLogger(name) for name in ("aiosqlite", "asyncio", "kpstore", "qdrant_client")),
    ]
    levels = [logger.level for logger in loggers]
    disabled = logging.root.manager.disable
    loop = asyncio.get_running_loop()
    debug, slow = loop.get_debug(), loop.slow_callback_duration
    logging.disable(logging.NOTSET)
    handlers, root.handlers = root.handlers, [handler]  # nobody else need hear all this
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loop.set_debug(True)
    loop.slow_callback_duration = 0  # a line for every step of every task
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("always")
            yield said
        said.writelines(f"{warning.message}\n" for warning in warned)
    finally:
        loop.slow_callback_duration = slow
        loop.set_debug(debug)
        root.handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.disable(disabled)


@check(clauses=["GEN-11", "KEY-1"], name="no way of showing a new key or its record shows the raw key")
async def not_in_any_repr(lab: Lab) -> None:
    """repr, str, format, pprint, a copy's repr, an f-string of a container and a traceback's locals show a
    new key masked; the record does not hold it at all.
    """
    stores = await lab.open()
    new = await stores.api_keys.create("author", ["read", "write"], "pro")
    assert _RAW_KEY.fullmatch(new.raw_key), "the raw key is not kp_ and 64 lower-case hex digits"
    shown = {
        "repr": repr(new),
        "str": str(new),
        "format": f"{new}",
        "%r": "%r" % (new,),  # noqa: UP031  # the way of logging
        "pprint": pprint.pformat(new),
        "a container": repr([{"new": (new,)}]),
        "a copy": repr(copy.copy(new)),
        "a deep copy": repr(copy.deepcopy(new)),
        "the record": repr(new.record),
        "the record's fields": repr([getattr(new.record, name) for name in new.record.__slots__]),
        "a key made by hand": repr(NewApiKey(raw_key=new.raw_key, record=new.record)),
        "an error about it": repr(ValueError(new)),
    }
    _assert_none([line for how, text in shown.items() for line in _found([new.raw_key], text, how)])
    assert new.record.key_prefix == new.raw_key[:11]
    assert new.record.key_hash == hashlib.sha256(new.raw_key.encode()).hexdigest()


async def _use(stores: AllStores, raw_keys: list[str]) -> None:
    """Make keys and use them as one does, and as one should not."""
    made: list[NewApiKey] = []
    for tier in ("free", "pro", "enterprise"):
        new = await stores.api_keys.create("author", ["read"], tier)
        raw_keys.append(new.raw_key)
        made.append(new)
    assert await stores.api_keys.verify(made[0].raw_key) == made[0].record
    await asyncio.gather(*(stores.api_keys.verify(new.raw_key) for new in made * 3))
    task = asyncio.create_task(stores.api_keys.verify(made[1].raw_key))
    print(task)  # what somebody shows who looks for a fault
    await task
    assert await stores.api_keys.revoke(made[2].record.key_prefix)
    assert await stores.api_keys.verify(made[2].raw_key) is None
    await stores.api_keys.get_by_agent_id("author")
    await gathered(stores.api_keys.scan())
    await stores.audit_log.log("create", "author", "key", made[0].record.key_prefix, "::1")


def _mistakes(stores: AllStores, raw_key: str) -> dict[str, Callable[[], Any]]:
    """Calls that are wrong, or give the key where it does not belong; none stores it."""
    return {
        "verify of the key as bytes": lambda: stores.api_keys.verify(raw_key.encode()),  # type: ignore[arg-type]
        "verify of a list": lambda: stores.api_keys.verify([raw_key]),  # type: ignore[arg-type]
        "verify of a longer text": lambda: stores.api_keys.verify(raw_key + "0"),
        "verify with a surrogate": lambda: stores.api_keys.verify(raw_key + "\ud800"),
        "revoke of the whole key": lambda: stores.api_keys.revoke(raw_key),
        "revoke with U+0000": lambda: stores.api_keys.revoke(raw_key + "\0"),
        "revoke of a long text": lambda: stores.api_keys.revoke(raw_key * 20),
        "create with it as a scope": lambda: stores.api_keys.create("author", [raw_key], "free"),
        "create with it as the tier": lambda: stores.api_keys.create("author", ["read"], raw_key),
        "create with it as the scopes": lambda: stores.api_keys.create("author", raw_key, "free"),
        "create with it in a bad agent": lambda: stores.api_keys.create(raw_key * 9, ["read"], "free"),
        "get_by_agent_id": lambda: stores.api_keys.get_by_agent_id(raw_key),
        "consume with it as the method": lambda: stores.rate_limit.consume("caller", "free", raw_key),
        "upsert with it as the delta": lambda: stores.reputation.upsert("author", raw_key, "r"),  # type: ignore[arg-type]
        "log with it in bad details": lambda: stores.audit_log.log(
            "a", "author", "t", "r", "::1", {raw_key: float("nan")}
        ),
        "log with it in a list": lambda: stores.audit_log.log("a", "author", "t", "r", "::1", [raw_key]),  # type: ignore[arg-type]
        "search with it as a type": lambda: stores.knowledge.search(types=[raw_key]),
        "search with it as an offset": lambda: stores.skills.search(offset=raw_key),  # type: ignore[arg-type]
        "a skill's id": lambda: stores.skills.get_by_id(raw_key),
    }


@check(clauses=["GEN-11"], name="no log line, warning, error or traceback shows a raw key")
async def not_in_any_log(lab: Lab) -> None:
    """With all logging at DEBUG, a driver's and asyncio's debug mode included, the making, verifying and
    revoking of keys and every mistake with one, on open and on closed stores, say nothing that shows it.
    """
    raw_keys: list[str] = []
    texts: list[tuple[str, str]] = []
    async with _everything_said() as said:
        stores = await lab.open()
        await _use(stores, raw_keys)
        for when in ("open", "closed"):
            for what, call in _mistakes(stores, raw_keys[0]).items():
                try:
                    await call()
                except KpStoreError as error:
                    texts.append((f"{what}, {when}", "".join(traceback.format_exception(error))))
                    texts.append((f"{what}, {when}", f"{error!r} {error} {error.args} {vars(error)}"))
            await stores.close()
        await lab.close()
    assert len(texts) > 20, "hardly any mistake was an error: nothing was tried"
    found = [line for what, text in texts for line in _found(raw_keys, text, f"the error of {what}")]
    found += _found(raw_keys, said.getvalue(), "a log line")
    _assert_none(found)
    assert "asyncio" in said.getvalue(), "nothing at all was logged: nothing was tried"


@check(
    clauses=["GEN-11", "KEY-1"],
    requires=["inspector.raw"],
    name="no file holds a raw key, open or closed",
)
async def not_in_any_file(lab: Lab) -> None:
    """While the stores are open and after they are closed, no file of the backend holds a key in any form."""
    stores = await lab.open()
    raw_keys: list[str] = []
    await _use(stores, raw_keys)
    for when in ("open", "closed"):
        for raw_key in raw_keys:
            needles = {form: text.encode() for form, text in _forms(raw_key).items()}
            needles["the key's random bytes"] = bytes.fromhex(raw_key.removeprefix("kp_"))
            needles["the key in UTF-16"] = raw_key.encode("utf-16-le")
            for form, needle in needles.items():
                count = await lab.inspect_raw(needle)
                assert count == 0, f"{when}: {form} is {count} times in the files"
        await stores.close()


@check(
    clauses=["KEY-1"],
    requires=["inspector.raw", "durable"],
    name="the SHA-256 of each key is in the files",
)
async def hash_is_in_the_files(lab: Lab) -> None:
    """The SHA-256 of each key, as 64 hex digits, is what is found in the files: so the look that finds no raw
    key looks in the right place.
    """
    stores = await lab.open()
    raw_keys: list[str] = []
    await _use(stores, raw_keys)
    kept: list[ApiKeyRecord] = await stores.api_keys.get_by_agent_id("author")
    await stores.close()
    digests = [hashlib.sha256(raw_key.encode()).hexdigest() for raw_key in raw_keys]
    assert [record.key_hash for record in kept] == digests
    for digest in digests:
        assert await lab.inspect_raw(digest.encode()) > 0, "a key's SHA-256 is not in the files"


@check(clauses=["GEN-11", "KEY-1"], name="keys are drawn from all of the space, and no two are alike")
async def keys_are_random(lab: Lab) -> None:
    """Of 200 keys no two share a prefix or a quarter of their digits in the same place, and each of the 64
    digits takes each of the 16 values in some of them.
    """
    stores = await lab.open()
    keys = [(await stores.api_keys.create("author", ["read"], "free")).raw_key[3:] for _ in range(200)]
    assert len(set(keys)) == 200
    for place in range(64):
        values = {key[place] for key in keys}
        # That a value is not among 200 draws of 16: 16 * (15/16)**200 = 4e-5 for one place, 0.3 % for all 64.
        assert len(values) >= 15, f"digit {place} only takes the values {''.join(sorted(values))}"
    for quarter in range(4):
        parts = {key[16 * quarter : 16 * quarter + 16] for key in keys}
        assert len(parts) == 200, f"two keys have the same quarter {quarter}"
