"""What the six stores have in common: the clock, the closed flag, limits, decoding."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any, Generic, TypeVar

import msgspec

from kpstore.clock import Clock, system_clock, to_micros
from kpstore.errors import ConfigurationError, DataCorruptionError, StoreClosedError, ValidationError
from kpstore.stores import rules
from kpstore.text import PART, fold, parts
from kpstore.turns import Turns

T = TypeVar("T")
R = TypeVar("R")

# As many records as are made in one go when everything is listed, whatever size a batch may have. Each takes
# 2 to 8 us, and a thread that makes them has the interpreter's lock meanwhile.
SCAN_BATCH = 100

# Decoding a body of hundreds of thousands of small containers sets off the garbage collector again and
# again, which then takes twice as long as the decoding. From this size on it waits until that is done.
_LARGE_BODY = 64 * 1024

encode = msgspec.json.Encoder().encode


@contextmanager
def _collector_paused() -> Iterator[None]:
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass(slots=True)
class StoreContext:
    """What one open set of stores shares.

    Args:
        clock: where time comes from.
        max_record_bytes: the largest record, as JSON in UTF-8.
        location: where the data is (`memory`, a file's path, a URL), for error messages.
    """

    clock: Clock = system_clock
    max_record_bytes: int = 1024 * 1024
    location: str = "memory"
    closed: bool = field(default=False, init=False)

    def check_open(self) -> None:
        """Raise `StoreClosedError` after `close()`."""
        if self.closed:
            raise StoreClosedError("the store is closed; open another one with create_store()")

    def now(self) -> datetime:
        """The clock's time in UTC; a `ConfigurationError` if the clock shows a naive one."""
        current = self.clock()
        if not isinstance(current, datetime) or current.utcoffset() is None:
            raise ConfigurationError("the clock must return an aware datetime (one with a time zone)")
        return rules.moment(current, "clock")

    def now_micros(self) -> int:
        """The clock's time in microseconds since 1970."""
        return to_micros(self.now())


class Store:
    """Base of the six stores: public methods hold the rules, methods with a leading `_` are hooks."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def _check_open(self) -> None:
        self._context.check_open()

    def _text(self, value: object, field: str) -> str:
        """As `rules.text`, for a text of a record: one that cannot fit in it is not even looked at."""
        return rules.short_text(value, field, self._context.max_record_bytes)

    def _optional_text(self, value: object, field: str) -> str | None:
        """The same, or `None`."""
        return None if value is None else self._text(value, field)

    def _encode(self, record: object, field: str) -> bytes:
        """The record as canonical JSON: UTF-8, no white space, keys in their own order."""
        body = encode(record)
        if len(body) > self._context.max_record_bytes:
            raise rules.too_large(field, self._context.max_record_bytes)
        # The encoder's buffer has slack, which a copy of exactly these bytes has not.
        return bytes(memoryview(body))


class Codec(Generic[R]):
    """Decodes the bodies that a backend kept, and says which file is damaged when one cannot be read."""

    def __init__(self, record: type[R], context: StoreContext) -> None:
        self._type = record
        self._decoder = msgspec.json.Decoder(record)
        self._context = context

    def decode(self, body: bytes) -> R:
        """The record in `body`; a `DataCorruptionError` if there is none."""
        try:
            if len(body) < _LARGE_BODY:
                return self._decoder.decode(body)
            with _collector_paused():
                return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError):
            return self._decode_leniently(body)

    def _decode_leniently(self, body: bytes) -> R:
        # Other writers' JSON may hold what ours never does, such as lone surrogates: still readable.
        try:
            return msgspec.convert(json.loads(body), self._type)
        except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
            raise DataCorruptionError(
                f"{self._context.location}: a row that should hold a {self._type.__name__} cannot be read: "
                f"{type(error).__name__}"
            ) from error

    async def decode_all(self, bodies: Iterable[bytes]) -> list[R]:
        """Every record in `bodies`, in order, while the event loop goes on turning."""
        records = []
        turns = Turns()
        for body in bodies:
            records.append(self.decode(body))
            if turns.is_due:
                await turns.give()
        return records


async def walk(
    context: StoreContext,
    batch_size: object,
    last: Callable[[], Awaitable[int]],
    batch: Callable[[int, int, int], Awaitable[list[tuple[int, T]]]],
    *,
    at_most: int | None = None,
) -> AsyncIterator[T]:
    """Every record in insertion order, one batch in memory at a time (clause PAGE-4).

    A record keeps its position while it exists, and positions only grow, so
    that going on after the last one seen neither skips nor repeats, whatever is
    created, replaced or deleted meanwhile. `last` gives the highest position in
    use, `batch(after, until, limit)` the records with `after < position <= until`,
    of which it is never asked for more than `at_most`.
    """
    context.check_open()
    size = rules.integer(batch_size, "batch_size", 1)
    if at_most is not None:
        size = min(size, at_most)
    after, until = -1, await last()
    turns = Turns()
    while after < until:
        context.check_open()
        found = await batch(after, until, size)
        if not found:
            break
        for position, item in found:
            context.check_open()
            yield item  # which the caller decodes: its time counts too
            after = position
            if turns.is_due:
                await turns.give()
    context.check_open()  # it may have been closed while the last record was looked at


async def numbered(items: object, field: str) -> AsyncIterator[tuple[int, object]]:
    """The items of any iterable but a text or a mapping, while the event loop goes on turning."""
    if issubclass(type(items), (str, bytes, dict)):
        raise ValidationError(field, "must be a list of records")
    try:
        # A list may change while we wait; a generator may be long, and is not gone through in one go.
        whole: Any = list.copy(items) if rules.is_a(items, list) else items
        source: Iterator[object] = iter(whole)
    except Exception as error:
        raise ValidationError(field, "must be a list of records") from error
    turns = Turns()
    for index in count():
        try:
            item = next(source)
        except StopIteration:
            return
        except Exception as error:  # the caller's own, which is not one of a store
            raise ValidationError(field, "cannot be read to its end") from error
        yield index, item
        if turns.is_due:
            await turns.give()


async def fold_all(texts: Iterable[str]) -> tuple[str, ...]:
    """The folded texts, while the event loop goes on turning."""
    folded = []
    turns = Turns()
    for text in texts:
        folded_parts = []
        for part in parts(text):
            if len(part) > 4 * PART and not part.isascii():
                folded_parts.append(await asyncio.to_thread(fold, part))
            else:
                folded_parts.append(fold(part))
            if turns.is_due:
                await turns.give()
        folded.append("".join(folded_parts))
    return tuple(folded)


def sort_quality(value: Any) -> float:
    """The number by which a record is ordered; 0 where an old record has none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0.0
    return float(value)
