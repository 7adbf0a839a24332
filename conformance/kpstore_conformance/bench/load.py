"""The section `load`: all stores at once, called by many clients; the curve of throughput against latency.

Closed loop: each of so many clients calls again as soon as it is answered. Open loop: calls arrive at a
share of the highest throughput that the closed loop reached, whether or not those before them have been
answered.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter
from typing import ClassVar, Protocol

from kpstore import AllStores, Capability, Settings, StoredKnowledgeUnit
from kpstore_conformance import dataset
from kpstore_conformance.bench.documents import Knowledge
from kpstore_conformance.bench.measure import Call, Timed, collector_held, open_loop, run, until
from kpstore_conformance.bench.result import LoadPoint, pass_of
from kpstore_conformance.bench.section import Operation, Report, side_by_side
from kpstore_conformance.latency.stopwatch import StopWatch
from kpstore_conformance.target import BackendAdapter

__all__ = ["MIXES", "Curve", "Load", "Traffic", "by_clients", "curve"]

MIXES = {"read": 0.0, "mixed": 0.2, "write": 1.0}
"""The mixes, and the share of writes in each."""

SHARES = (0.25, 0.5, 0.75, 0.9)
"""The open loop's rates, as shares of the peak."""

_PEOPLE = 1000  # agents, keys and buckets that calls are about
_POOL = 1000  # units that writers take their contents from
_HEAD_START_S = 0.2  # for all processes to be ready to start together
_MOST_REST_S = 120.0  # a backend that is still at work then always is


class Load(Knowledge):
    """Knowledge units of the size given, and a thousand each of agents, keys and buckets."""

    name: ClassVar[str] = "load"

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self.raw_keys: list[str] = []

    async def fill(self, stores: AllStores, report: Report) -> float:
        """The units in bulk, all else one by one."""

        async def create(number: int) -> None:
            made = await stores.api_keys.create(dataset.agent(number), ["read"], "pro")
            self.raw_keys.append(made.raw_key)

        seconds = await super().fill(stores, report)
        people = range(_PEOPLE)
        await side_by_side(create, people)
        await side_by_side(
            lambda number: stores.reputation.upsert(dataset.agent(number), number, "Made"), people
        )
        return seconds

    def operations(self, stores: AllStores) -> list[Operation]:
        """None: a load has a curve instead."""
        return []


class Traffic:
    """Draws calls as a registry's clients make them.

    Args:
        stores: what is called.
        section: what they hold.
        part: 0, or the number of the process; each creates units of its own.
    """

    def __init__(self, stores: AllStores, section: Load, part: int = 0) -> None:
        self._stores = stores
        self._section = section
        self._dice = random.Random(f"{section.seed} traffic {part}")  # noqa: S311  # repeatable, not secret
        self._pool = list(dataset.units(_POOL, start=section.size, seed=section.seed))
        self._numbers = (f"{part}-{number}" for number in count())

    def draw(self, writes: float) -> Call:
        """The next call; a write with this probability."""
        dice, stores = self._dice, self._stores
        kind = dice.random()
        if dice.random() < writes:
            if kind < 0.4:
                return partial(stores.knowledge.create, self._unit())
            if kind < 0.7:
                return partial(stores.reputation.upsert, self._agent(), 0.5, "Validated")
            if kind < 0.9:
                return partial(stores.rate_limit.consume, self._agent(), "enterprise", "GET")
            return partial(stores.audit_log.log, "unit.get", self._agent(), "unit", "kp:trace:1", "192.0.2.1")
        if kind < 0.5:
            return partial(
                stores.knowledge.get_by_id, dataset.unit_id(self._section.number(), self._section.seed)
            )
        if kind < 0.7:
            return partial(stores.api_keys.verify, dice.choice(self._section.raw_keys))
        if kind < 0.9:
            query = self._section.queries.frequent_word() if kind < 0.8 else self._section.queries.rare_word()
            return partial(stores.knowledge.search, query=query)
        return stores.reputation.get_leaderboard

    def _agent(self) -> str:
        return dataset.agent(self._dice.randrange(_PEOPLE))

    def _unit(self) -> StoredKnowledgeUnit:
        made = self._dice.choice(self._pool)
        id = f"{made.id}-{next(self._numbers)}"
        return replace(made, id=id, unit={**made.unit, "id": id})


async def by_clients(draw: Callable[[], Call], clients: int, seconds: float) -> Timed:
    """So many clients, each of which calls again as soon as it is answered, for so long.

    A call counts from when its client was ready to make it: the time in which the event loop was busy
    with the others' is its own too.
    """
    latencies = array("d")
    start = perf_counter()
    end = start + seconds

    async def client() -> None:
        while (ready := perf_counter()) < end:
            await asyncio.sleep(0)  # a store that never waits would let nobody else call
            await draw()()
            latencies.append(perf_counter() - ready)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return Timed(latencies, perf_counter() - start)


@dataclass(frozen=True, slots=True)
class _Order:
    """What a process is to do, from when on: a number of clients, or a rate."""

    writes: float
    clients: int | None
    per_second: float | None
    seconds: float
    start: float


class _Member(Protocol):
    """Who takes part in a load: this process, or another one."""

    async def rest(self) -> None:
        """Return when its stores have done what they do by themselves after they were called."""

    async def follow(self, order: _Order) -> Timed:
        """Do as told."""


class _Here:
    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    async def rest(self) -> None:
        with closing(StopWatch()) as watch:
            await watch.rest(_MOST_REST_S)

    async def follow(self, order: _Order) -> Timed:
        draw = partial(self._traffic.draw, order.writes)
        with collector_held():
            if order.clients is not None:
                await until(order.start)
                return await by_clients(draw, order.clients, order.seconds)
            assert order.per_second is not None
            calls = [draw() for _ in range(max(1, int(order.per_second * order.seconds)))]
            await until(order.start)
            return await open_loop(calls, order.per_second)


class _Elsewhere:
    """Another process, at the other end of a pipe (see `_help`)."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def rest(self) -> None:
        self._pipe.send(_REST)
        await asyncio.to_thread(self._pipe.recv)

    async def follow(self, order: _Order) -> Timed:
        self._pipe.send(order)
        timed: Timed = await asyncio.to_thread(self._pipe.recv)
        return timed


_REST = "rest"


@dataclass(frozen=True, slots=True)
class Curve:
    """What curves to draw.

    Attributes:
        mixes: names out of `MIXES`.
        clients: how many at a time.
        processes: how many share the load, where the backend lets several; 1 is this one.
        seconds: how long each point takes.
    """

    mixes: tuple[str, ...]
    clients: tuple[int, ...]
    processes: int
    seconds: float


async def curve(
    wanted: Curve,
    stores: AllStores,
    section: Load,
    adapter: BackendAdapter,
    settings: Settings,
    report: Callable[[str], None],
) -> list[LoadPoint]:
    """The points of the curves: each mix by each number of clients, and at shares of its peak; and the same
    again by several processes. `report` is told of each point before it is measured.
    """
    points = []
    several = wanted.processes if Capability.MULTI_PROCESS in stores.capabilities else 1
    for processes in sorted({1, several}):
        async with AsyncExitStack() as stack:
            here = _Here(Traffic(stores, section))
            team: list[_Member] = [here]
            if processes > 1:
                helpers = [_helper(adapter, settings, section, part) for part in range(1, processes + 1)]
                team = [await stack.enter_async_context(helper) for helper in helpers]
            for mix in wanted.mixes:
                measure = partial(_point, here, team, mix, wanted.seconds)
                closed = []
                for clients in wanted.clients:
                    if clients >= processes:
                        report(f"{mix}, {clients} clients")
                        closed.append(await measure(clients=clients))
                points += closed
                peak = max((point.per_second for point in closed), default=0.0)
                for share in SHARES if closed else ():
                    report(f"{mix}, {share:.0%} of the peak")
                    points.append(await measure(per_second=share * peak))
    return points


async def _point(
    here: _Member,
    team: list[_Member],
    mix: str,
    seconds: float,
    *,
    clients: int | None = None,
    per_second: float | None = None,
) -> LoadPoint:
    await asyncio.gather(*(member.rest() for member in {here, *team}))
    start = perf_counter() + (_HEAD_START_S if len(team) > 1 else 0.0)
    orders = [
        _Order(
            MIXES[mix],
            None if clients is None else clients // len(team) + (number < clients % len(team)),
            None if per_second is None else per_second / len(team),
            seconds,
            start,
        )
        for number in range(len(team))
    ]
    done = await asyncio.gather(*(member.follow(order) for member, order in zip(team, orders, strict=True)))
    latencies = [latency for each in done for latency in each.latencies_s]
    whole = pass_of(latencies, max(each.seconds for each in done))
    return LoadPoint(
        mix=mix,
        processes=len(team),
        clients=clients,
        offered_per_second=per_second,
        calls=whole.calls,
        per_second=whole.calls / whole.seconds,
        p50_us=whole.p50_us,
        p99_us=whole.p99_us,
        max_us=whole.max_us,
    )


@asynccontextmanager
async def _helper(
    adapter: BackendAdapter, settings: Settings, section: Load, part: int
) -> AsyncIterator[_Member]:
    """A process of its own with a handle on the same data, which follows orders."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_help, args=(adapter, settings, section, part, theirs))
    process.start()
    theirs.close()

    try:
        await asyncio.to_thread(ours.recv)  # it is ready
        yield _Elsewhere(ours)
        ours.send(None)
        await asyncio.to_thread(process.join)
    finally:
        ours.close()
        process.terminate()


def _help(adapter: BackendAdapter, settings: Settings, section: Load, part: int, pipe: Connection) -> None:
    async def serve() -> None:
        async with await adapter.open(settings, section.clock) as stores:
            here = _Here(Traffic(stores, section, part))
            pipe.send(None)
            while (order := await asyncio.to_thread(pipe.recv)) is not None:
                pipe.send(await (here.rest() if order == _REST else here.follow(order)))

    with suppress(EOFError, KeyboardInterrupt):  # whoever gave the orders is gone
        run(serve())
