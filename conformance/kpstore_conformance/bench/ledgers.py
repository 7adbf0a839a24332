"""The sections of the four other stores: `reputation`, `api_keys`, `rate_limit` and `audit_log`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from kpstore import AllStores, ValidationVote
from kpstore_conformance.bench.measure import Call
from kpstore_conformance.bench.section import AT_ONCE, Batch, Operation, Report, Section, side_by_side, walk

__all__ = ["ApiKeys", "AuditLog", "RateLimit", "Reputation"]

_SCANNED = 5000


class _Ledger(Section):
    def _calls(self, what: str, call: Callable[[], Call], **more: Any) -> Operation:
        """An operation whose calls are drawn one by one."""

        async def make(count: int) -> Batch:
            return Batch([call() for _ in range(count)])

        return Operation(f"{self.name}/{what}", make, **more)

    def _adding(self, what: str, call: Callable[[], Call]) -> Operation:
        """A write that cannot be undone."""
        return self._calls(what, call, writes=True, fresh=True, most_calls=self.growing())

    def _scan(self, store: Any) -> Operation:
        count = min(_SCANNED, self.size)
        return self._calls(
            "scan", lambda: lambda: walk(store.scan(), count), most_calls=5, records_per_call=count
        )


class Reputation(_Ledger):
    """As many agents as records, half of them old enough to vote; one agent with a history of up to 10,000
    changes; a vote for every ten agents, ten votes a unit.
    """

    name: ClassVar[str] = "reputation"

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self._changes = min(10_000, size)
        self._votes = size // 10
        self._newcomers = 0

    async def fill(self, stores: AllStores, report: Report) -> float:
        """By upserts and votes of one record each."""
        store = stores.reputation
        half = self.size // 2

        def first(number: int) -> Awaitable[object]:
            return store.upsert(_agent(number), self.dice.randrange(1000), "Contributed a unit")

        seconds = await side_by_side(first, range(half), report)
        seconds += await side_by_side(
            lambda _: store.upsert("veteran", 1.0, "Validated"), range(self._changes)
        )
        self.clock.advance(timedelta(days=31))
        seconds += await side_by_side(first, range(half, self.size), report)
        return seconds + await side_by_side(lambda _: store.record_vote(self._vote()), range(self._votes))

    def _vote(self) -> ValidationVote:
        return ValidationVote(
            validator_id=_agent(self.number()),
            target_id=_agent(self.number()),
            unit_id=self._unit(),
            valid=self.dice.random() < 0.8,
            timestamp=self.clock(),
        )

    def _unit(self) -> str:
        return f"kp:trace:{self.dice.randrange(max(1, self._votes // 10))}"

    def _newcomer(self) -> str:
        self._newcomers += 1
        return f"newcomer-{self._newcomers}"

    def operations(self, stores: AllStores) -> list[Operation]:
        """Every method but get_all, which scan stands for."""
        store = stores.reputation
        deep = range(self.size // 4, max(self.size // 4 + 1, self.size * 3 // 4))
        reason = "Validated another unit"
        return [
            self._calls("get", lambda: partial(store.get, _agent(self.number()))),
            self._calls("leaderboard/first_page", lambda: store.get_leaderboard),
            self._calls(
                "leaderboard/deep_page", lambda: partial(store.get_leaderboard, offset=self.dice.choice(deep))
            ),
            self._calls(
                "history",
                lambda: partial(store.get_history, "veteran", offset=self.dice.randrange(self._changes)),
            ),
            self._calls("can_vote", lambda: partial(store.can_vote, _agent(self.number()))),
            self._calls("votes_of_unit", lambda: partial(store.get_votes, self._unit())),
            self._scan(store),
            self._calls(
                "upsert/known", lambda: partial(store.upsert, _agent(self.number()), 0.5, reason), writes=True
            ),
            self._calls(
                "upsert/long_history", lambda: partial(store.upsert, "veteran", 0.5, reason), writes=True
            ),
            self._adding("upsert/new", lambda: partial(store.upsert, self._newcomer(), 0.5, reason)),
            self._adding("record_vote", lambda: partial(store.record_vote, self._vote())),
        ]


class ApiKeys(_Ledger):
    """As many keys as records, five an agent."""

    name: ClassVar[str] = "api_keys"
    _known = 5000  # keys that verify is asked for

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self._raw_keys: list[str] = []

    async def fill(self, stores: AllStores, report: Report) -> float:
        """By one create each."""
        every = max(1, self.size // self._known)

        async def create(number: int) -> None:
            made = await stores.api_keys.create(self._agent(), ["read"], "pro")
            if number % every == 0:
                self._raw_keys.append(made.raw_key)

        return await side_by_side(create, range(self.size), report)

    def _agent(self) -> str:
        return _agent(self.dice.randrange(max(1, self.size // 5)))

    def operations(self, stores: AllStores) -> list[Operation]:
        """Every method."""
        store = stores.api_keys

        async def revocations(count: int) -> Batch:
            prefixes: list[str] = []

            async def create(_: int) -> None:
                made = await store.create(self._agent(), ["read"], "pro")
                prefixes.append(made.record.key_prefix)

            await side_by_side(create, range(count))
            return Batch([partial(store.revoke, prefix) for prefix in prefixes])

        return [
            self._calls("verify/known", lambda: partial(store.verify, self.dice.choice(self._raw_keys))),
            self._calls("verify/unknown", lambda: partial(store.verify, f"kp_{secrets.token_hex(32)}")),
            self._calls("by_agent", lambda: partial(store.get_by_agent_id, self._agent())),
            self._scan(store),
            self._adding("create", lambda: partial(store.create, self._agent(), ["read"], "pro")),
            Operation("api_keys/revoke", revocations, writes=True, fresh=True, most_calls=self.growing()),
        ]


class RateLimit(_Ledger):
    """As many buckets as records, none of them full, and a violation for every ten, ten an identifier."""

    name: ClassVar[str] = "rate_limit"

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self._violations = size // 10
        self._newcomers = 0

    async def fill(self, stores: AllStores, report: Report) -> float:
        """By one call each."""
        store = stores.rate_limit
        seconds = await side_by_side(
            lambda number: store.consume(_agent(number), "enterprise", "GET"), range(self.size), report
        )
        return seconds + await side_by_side(
            lambda _: store.record_429(self._violator()), range(self._violations)
        )

    def _violator(self) -> str:
        return _agent(self.dice.randrange(max(1, self._violations // 10)))

    def _newcomer(self) -> str:
        self._newcomers += 1
        return f"newcomer-{self._newcomers}"

    def operations(self, stores: AllStores) -> list[Operation]:
        """Every method."""
        store = stores.rate_limit
        hour = timedelta(hours=1)
        return [
            self._calls("count_429", lambda: partial(store.get_429_count, self._violator(), hour)),
            self._calls(
                "consume/known",
                lambda: partial(store.consume, _agent(self.number()), "enterprise", "GET"),
                writes=True,
            ),
            self._adding(
                "consume/new", lambda: partial(store.consume, self._newcomer(), "enterprise", "GET")
            ),
            self._adding("record_429", lambda: partial(store.record_429, self._violator())),
        ]


class AuditLog(_Ledger):
    """As many entries as records, over sixty days, of five hundred agents and eight actions."""

    name: ClassVar[str] = "audit_log"
    _agents = 500
    _actions = tuple(f"{what}.{done}" for what in ("skill", "unit") for done in ("get", "put", "cut", "find"))
    _days = 60

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self._since = self.clock()

    async def fill(self, stores: AllStores, report: Report) -> float:
        """By one log each, while time goes by."""
        step = timedelta(days=self._days) / -(-self.size // AT_ONCE)

        def goes_by(count: int) -> None:
            self.clock.advance(step)
            report(count)

        return await side_by_side(lambda _: self._entry(stores)(), range(self.size), goes_by)

    def _entry(self, stores: AllStores) -> Call:
        resource = f"kp:skill:{self.number()}"
        return partial(
            stores.audit_log.log, self._action(), self._agent(), "skill", resource, "192.0.2.1", {"n": 1}
        )

    def _agent(self) -> str:
        return _agent(self.dice.randrange(self._agents))

    def _action(self) -> str:
        return self.dice.choice(self._actions)

    def operations(self, stores: AllStores) -> list[Operation]:
        """Every method; each query counts its total."""
        store = stores.audit_log

        def week() -> dict[str, Any]:
            since = self._since + timedelta(days=self.dice.randrange(self._days - 7))
            return {"since": since, "until": since + timedelta(days=7)}

        def deep() -> int:
            return self.dice.randrange(self.size // 4, max(self.size // 4 + 1, self.size * 3 // 4))

        return [
            self._calls("query/all", lambda: store.query),
            self._calls("query/by_agent", lambda: partial(store.query, agent_id=self._agent())),
            self._calls("query/by_action", lambda: partial(store.query, action=self._action())),
            self._calls(
                "query/by_agent_and_range",
                lambda: partial(store.query, agent_id=self._agent(), **week()),
            ),
            self._calls("query/by_range", lambda: partial(store.query, **week())),
            self._calls("query/deep_offset", lambda: partial(store.query, offset=deep())),
            self._scan(store),
            self._adding("log", lambda: self._entry(stores)),
        ]


def _agent(number: int) -> str:
    return f"kp:agent:{number:07d}"
