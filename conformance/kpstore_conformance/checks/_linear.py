"""Whether a history of concurrent calls on one object equals some order of the calls one after another that
keeps the order of those that did not overlap (Herlihy and Wing, 1990), by trying the orders.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from time import CLOCK_MONOTONIC, clock_gettime
from typing import Any

LARGEST_SEARCH = 100_000
"""How many beginnings of orders are tried at most: hundreds of times what the checks' histories take."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made: what it was given and gave; `began` and `ended` in seconds, on the clock that all
    processes of a machine share.
    """

    who: str
    name: str
    given: Any
    gave: Any
    began: float
    ended: float


Model = Callable[[Hashable, Call], tuple[bool, Hashable]]
"""From the object's state and a call to whether the call could give what it gave, and the state after it."""


def now() -> float:
    """The time on that clock."""
    return clock_gettime(CLOCK_MONOTONIC)


async def recorded(
    history: list[Call], who: str, name: str, given: Any, call: Callable[[], Awaitable[Any]]
) -> Any:
    """Make the call and note it in the history."""
    began = now()
    gave = await call()
    history.append(Call(who, name, given, gave, began, now()))
    return gave


def order_of(history: Sequence[Call], start: Hashable, model: Model) -> list[Call] | None:
    """An order of the calls that explains what they gave, or None where there is none.

    Bounded by the calls that overlap, not by the length of the history: of those that are left, only a call
    that began before all others ended can be the next.

    Raises:
        RuntimeError: too many calls overlap for all orders to be tried.
    """
    calls = sorted(history, key=lambda call: call.began)
    hopeless: set[tuple[frozenset[int], Hashable]] = set()

    # Each level: the calls left, the state, and the candidates for the next call that are still to be tried.
    def candidates(left: frozenset[int]) -> list[int]:
        horizon = min(calls[number].ended for number in left)
        return [number for number in sorted(left) if calls[number].began <= horizon]

    everything = frozenset(range(len(calls)))
    if not calls:
        return []
    path: list[int] = []
    stack = [(everything, start, candidates(everything))]
    begun = 0
    while stack:
        left, state, to_try = stack[-1]
        if not to_try:
            hopeless.add((left, state))
            stack.pop()
            if path:
                path.pop()
            continue
        number = to_try.pop(0)
        possible, after = model(state, calls[number])
        rest = left - {number}
        if not possible or (rest, after) in hopeless:
            continue
        begun += 1
        if begun > LARGEST_SEARCH:
            raise RuntimeError(f"undecided after {LARGEST_SEARCH:,} beginnings of orders")
        path.append(number)
        if not rest:
            return [calls[number] for number in path]
        stack.append((rest, after, candidates(rest)))
    return None


def timeline(history: Sequence[Call]) -> str:
    """The history for a person: a line per call, in the order in which they began, in microseconds."""
    calls = sorted(history, key=lambda call: call.began)
    start = calls[0].began if calls else 0.0
    return "\n".join(
        f"  {(call.began - start) * 1e6:9.0f} – {(call.ended - start) * 1e6:9.0f}  {call.who:<10}"
        f" {call.name}({'' if call.given is None else call.given}) -> {call.gave}"
        for call in calls
    )


def assert_linearizable(what: str, history: Sequence[Call], start: Hashable, model: Model) -> None:
    """Fail with the history where no order of its calls explains it."""
    if order_of(history, start, model) is None:
        raise AssertionError(f"{what}: no order of these calls explains what they gave\n{timeline(history)}")
