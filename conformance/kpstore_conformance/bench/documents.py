"""The sections of the two stores that are searched: `knowledge` and `skills`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, ClassVar

from kpstore import AllStores, StoredKnowledgeUnit, StoredSkill
from kpstore_conformance import dataset
from kpstore_conformance.bench.measure import Call
from kpstore_conformance.bench.queries import Queries
from kpstore_conformance.bench.section import Batch, Operation, Report, Section, side_by_side, walk

__all__ = ["Knowledge", "Skills", "searched_texts"]

_BULK = 5000  # records per create_many while filling
_BATCH = 200  # records per create_many that is timed
_SCANNED = 5000
_SAMPLE = 3000  # records whose texts queries are drawn from
_KINDS = ("ReasoningTrace", "ToolCallPattern", "ExpertSOP")


def searched_texts(record: StoredKnowledgeUnit | StoredSkill) -> list[str]:
    """The texts of a generated record that a query looks into (clauses SKILL-4, KNOW-4)."""
    if isinstance(record, StoredSkill):
        return [record.name, record.description, *record.tags]
    unit = record.unit
    if unit["@type"] == "ReasoningTrace":
        return [unit["task"]["objective"], *(step["content"] for step in unit["steps"])]
    return [unit["name"], unit["description" if unit["@type"] == "ToolCallPattern" else "domain"]]


class Documents(Section):
    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self._next = size  # the first record that was not made yet
        sample = range(size) if size <= _SAMPLE else self.dice.sample(range(size), _SAMPLE)
        self.queries = Queries(
            (" / ".join(searched_texts(self._record(number))) for number in sample), self.dice
        )

    @abstractmethod
    def _records(self, count: int, start: int) -> Iterator[Any]:
        """Records by number."""

    @abstractmethod
    def _store(self, stores: AllStores) -> Any:
        """The store under test."""

    @abstractmethod
    def _filters(self) -> dict[str, Any]:
        """A combination of all filters but the query."""

    @abstractmethod
    def _as(self, record: Any, content: Any) -> Any | None:
        """`record` with the content of another one; None if they are of different kinds."""

    def _record(self, number: int) -> Any:
        return next(self._records(1, number))

    def _new(self, count: int) -> list[Any]:
        self._next += count
        return list(self._records(count, self._next - count))

    async def fill(self, stores: AllStores, report: Report) -> float:
        """Records 0 to `size`, by create_many; making them does not count."""
        store = self._store(stores)
        seconds = 0.0
        for start in range(0, self.size, _BULK):
            records = list(self._records(min(_BULK, self.size - start), start))
            before = perf_counter()
            await store.create_many(records)
            seconds += perf_counter() - before
            report(len(records))
        return seconds

    def operations(self, stores: AllStores) -> list[Operation]:
        """Reads, searches of every kind, and writes, each of which is undone after its pass."""
        store = self._store(stores)

        def reading(what: str, make: Callable[[int], Sequence[Call]], **more: Any) -> Operation:
            async def batch(count: int) -> Batch:
                return Batch(make(count))

            return Operation(f"{self.name}/{what}", batch, **more)

        def searching(what: str, arguments: Callable[[], dict[str, Any]], **more: Any) -> Operation:
            return reading(
                f"search/{what}",
                lambda count: [partial(store.search, **arguments()) for _ in range(count)],
                **more,
            )

        queries = self.queries
        scanned = min(_SCANNED, self.size)
        return [
            reading(
                "get",
                lambda count: [
                    partial(store.get_by_id, self._record(self.number()).id) for _ in range(count)
                ],
            ),
            searching("all", dict),
            searching("characters", lambda: {"query": queries.characters()}),
            searching("frequent_word", lambda: {"query": queries.frequent_word()}),
            searching("rare_word", lambda: {"query": queries.rare_word()}),
            searching("word_and_filters", lambda: {"query": queries.frequent_word(), **self._filters()}),
            searching("filters", self._filters),
            Operation(f"{self.name}/search/deep_offset", partial(self._deep_offsets, store)),
            searching("cold_phrase", lambda: {"query": queries.cold_phrase()}, fresh=True),
            # Few enough that in five passes none comes twice.
            searching("infix", lambda: {"query": queries.infix()}, fresh=True, most_calls=60),
            searching("no_match", lambda: {"query": queries.absent()}, fresh=True),
            reading(
                "scan",
                lambda count: [lambda: walk(store.scan(), scanned)] * count,
                most_calls=5,
                records_per_call=scanned,
            ),
            Operation(f"{self.name}/create", partial(self._creations, store), writes=True),
            Operation(f"{self.name}/replace", partial(self._replacements, store), writes=True),
            Operation(f"{self.name}/delete", partial(self._deletions, store), writes=True),
            Operation(
                f"{self.name}/create_many",
                partial(self._bulk_creations, store),
                writes=True,
                most_calls=5,
                records_per_call=_BATCH,
            ),
        ]

    async def _deep_offsets(self, store: Any, count: int) -> Batch:
        """In turns far into everything, and half-way into what has a frequent word."""
        calls: list[Call] = []
        totals: dict[str, int] = {}
        while len(calls) < count:
            word = self.queries.frequent_word()
            if word not in totals:
                totals[word] = (await store.search(query=word, limit=0)).total
            calls.append(partial(store.search, offset=self.dice.randrange(self.size // 4, self.size)))
            calls.append(partial(store.search, query=word, offset=totals[word] // 2))
        return Batch(calls[:count])

    async def _creations(self, store: Any, count: int) -> Batch:
        records = self._new(count)
        return Batch([partial(store.create, record) for record in records], _deleting(store, records))

    async def _bulk_creations(self, store: Any, count: int) -> Batch:
        records = self._new(count * _BATCH)
        parts = [records[at : at + _BATCH] for at in range(0, len(records), _BATCH)]
        return Batch([partial(store.create_many, part) for part in parts], _deleting(store, records))

    async def _replacements(self, store: Any, count: int) -> Batch:
        old = [self._record(number) for number in self._several(count)]
        return Batch(
            [partial(store.create, self._replacement(record)) for record in old], _restoring(store, old)
        )

    async def _deletions(self, store: Any, count: int) -> Batch:
        old = [self._record(number) for number in self._several(count)]
        return Batch([partial(store.delete, record.id) for record in old], _restoring(store, old))

    def _several(self, count: int) -> list[int]:
        """Different records, `count` of them or as many as there are."""
        return self.dice.sample(range(self.size), min(count, self.size))

    def _replacement(self, record: Any) -> Any:
        while (made := self._as(record, self._new(1)[0])) is None:
            pass
        return made


def _deleting(store: Any, records: list[Any]) -> Callable[[], Any]:
    async def undo() -> None:
        await side_by_side(lambda number: store.delete(records[number].id), range(len(records)))

    return undo


def _restoring(store: Any, records: list[Any]) -> Callable[[], Any]:
    async def undo() -> None:
        await store.create_many(records)

    return undo


class Knowledge(Documents):
    """Knowledge units: three types, two dozen domains, five hundred agents."""

    name: ClassVar[str] = "knowledge"

    def _records(self, count: int, start: int) -> Iterator[StoredKnowledgeUnit]:
        return dataset.units(count, start=start, seed=self.seed)

    def _store(self, stores: AllStores) -> Any:
        return stores.knowledge

    def _filters(self) -> dict[str, Any]:
        return {
            "types": [self.dice.choice(_KINDS)],
            "domain": self.dice.choice(dataset.DOMAINS),
            "min_quality": round(self.dice.uniform(0.3, 0.9), 2),
        }

    def _as(self, record: StoredKnowledgeUnit, content: StoredKnowledgeUnit) -> StoredKnowledgeUnit | None:
        if record.unit["@type"] != content.unit["@type"]:
            return None
        return replace(content, id=record.id, unit={**content.unit, "id": record.id})

    def operations(self, stores: AllStores) -> list[Operation]:
        """Those of all documents, and the units of an agent: one of the half that has written least."""

        async def by_agent(count: int) -> Batch:
            agents = [self.dice.randrange(dataset.AGENTS // 2, dataset.AGENTS) for _ in range(count)]
            return Batch([partial(stores.knowledge.get_by_agent_id, dataset.agent(each)) for each in agents])

        return [Operation("knowledge/by_agent", by_agent), *super().operations(stores)]


class Skills(Documents):
    """Skills of about 1 kB."""

    name: ClassVar[str] = "skills"

    def _records(self, count: int, start: int) -> Iterator[StoredSkill]:
        return dataset.skills(count, start=start, seed=self.seed)

    def _store(self, stores: AllStores) -> Any:
        return stores.skills

    def _filters(self) -> dict[str, Any]:
        return {
            "tags": self.dice.sample(dataset.TAGS, 2),
            "domain": self.dice.choice(dataset.DOMAINS),
            "min_quality": round(self.dice.uniform(0.3, 0.9), 2),
        }

    def _as(self, record: StoredSkill, content: StoredSkill) -> StoredSkill:
        return replace(content, id=record.id)
