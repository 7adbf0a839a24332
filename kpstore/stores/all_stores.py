"""The six stores of one backend, open together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from kpstore.records import Capability
from kpstore.stores.api_keys import ApiKeyStore
from kpstore.stores.audit_log import AuditLogStore
from kpstore.stores.knowledge import KnowledgeStore
from kpstore.stores.rate_limit import RateLimitStore
from kpstore.stores.reputation import ReputationStore
from kpstore.stores.skills import SkillStore


class AllStores:
    """The six stores, the name of their backend and what it can do (clause GEN-1).

    Args:
        backend: the backend's name.
        capabilities: what it promises beyond the clauses for all.
        close: closes the backend; called once at most.

    The other arguments are the stores. All stores share one `StoreContext`.
    """

    def __init__(
        self,
        *,
        skills: SkillStore,
        knowledge: KnowledgeStore,
        reputation: ReputationStore,
        api_keys: ApiKeyStore,
        rate_limit: RateLimitStore,
        audit_log: AuditLogStore,
        backend: str,
        capabilities: frozenset[Capability],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.skills = skills
        self.knowledge = knowledge
        self.reputation = reputation
        self.api_keys = api_keys
        self.rate_limit = rate_limit
        self.audit_log = audit_log
        self.backend = backend
        self.capabilities = capabilities
        self._close = close

    def __repr__(self) -> str:
        return f"AllStores(backend={self.backend!r})"

    async def close(self) -> None:
        """Close the backend; further calls do nothing. Any other call afterwards is a `StoreClosedError`."""
        await self._close()

    async def __aenter__(self) -> AllStores:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
