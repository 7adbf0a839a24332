"""Where time comes from: a `Clock` is any callable that returns an aware `datetime` (clause GEN-9)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from kpstore.errors import ConfigurationError

__all__ = ["Clock", "ManualClock", "from_micros", "system_clock", "to_micros"]

Clock = Callable[[], datetime]
"""A callable without arguments that returns the current time as an aware `datetime`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def system_clock() -> datetime:
    """The system's clock, in UTC."""
    return datetime.now(UTC)


class ManualClock:
    """A clock that moves only when told to.

    Args:
        start: the first time it shows; an aware `datetime`. A
            `ConfigurationError` if naive.
    """

    def __init__(self, start: datetime) -> None:
        self._now = _aware(start)

    def __call__(self) -> datetime:
        """The time it shows, in UTC."""
        return self._now

    def __repr__(self) -> str:
        return f"ManualClock({self._now.isoformat()})"

    def advance(self, by: timedelta) -> None:
        """Move by `by`; a negative duration turns the clock back."""
        self._now = self._now + by

    def set(self, to: datetime) -> None:
        """Show `to` from now on: an aware `datetime`, earlier or later."""
        self._now = _aware(to)


def _aware(value: datetime) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigurationError("a clock needs an aware datetime (one with a time zone)")
    return value.astimezone(UTC)


def to_micros(moment: datetime) -> int:
    """Whole microseconds since 1970-01-01T00:00:00Z of an aware `moment`; exact, unlike `timestamp()`."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The UTC `datetime` that many microseconds after 1970-01-01T00:00:00Z."""
    return _EPOCH + timedelta(microseconds=micros)
