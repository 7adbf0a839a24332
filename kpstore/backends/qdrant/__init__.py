"""The Qdrant backend, for many machines: not implemented yet, and it says so."""

from __future__ import annotations

from kpstore.clock import Clock
from kpstore.errors import ConfigurationError
from kpstore.settings import Settings
from kpstore.stores import AllStores


async def open_store(settings: Settings, clock: Clock) -> AllStores:
    """Always a `ConfigurationError`: there is no Qdrant backend in this version."""
    raise ConfigurationError(
        "KP_STORE_BACKEND='qdrant': not implemented yet in this version of kpstore; "
        "use 'sqlite' for data that must last (several processes may share its file), or 'memory'"
    )
