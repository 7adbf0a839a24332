"""The `KP_*` variables (clause CFG-3)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

from kpstore.errors import ConfigurationError

SYNCHRONOUS = ("full", "normal")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a backend needs to know. Each field is the variable of its name, `KP_` before it, in capitals.

    Raises:
        ConfigurationError: a value is not allowed; the message names the
            variable, the value (unless it is a secret) and what is allowed.
    """

    store_backend: str = "memory"
    sqlite_path: str = "knowledgepulse.db"
    sqlite_synchronous: str = "full"
    qdrant_url: str = "http://localhost:6333"
    qdrant_api_key: str | None = field(default=None, repr=False)
    max_record_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("store_backend", "sqlite_path", "sqlite_synchronous", "qdrant_url"):
            value = getattr(self, name)
            if name == "sqlite_path" and isinstance(value, os.PathLike):
                value = os.fspath(value)
                object.__setattr__(self, name, value)
            if not isinstance(value, str) or not value or "\0" in value:
                raise _refused(name, value, "a text that is not empty")
        object.__setattr__(self, "sqlite_synchronous", self.sqlite_synchronous.strip().lower())
        if self.sqlite_synchronous not in SYNCHRONOUS:
            raise _refused("sqlite_synchronous", self.sqlite_synchronous, " or ".join(SYNCHRONOUS))
        if not _is_http_url(self.qdrant_url):
            raise ConfigurationError(
                "KP_QDRANT_URL: the value is not an address; allowed: http://host:port or https://host:port"
                if "@" in self.qdrant_url  # it may hold a password
                else f"KP_QDRANT_URL={self.qdrant_url!r}: allowed: http://host:port or https://host:port"
            )
        if self.qdrant_api_key is not None and not isinstance(self.qdrant_api_key, str):
            raise ConfigurationError("KP_QDRANT_API_KEY: allowed: a text")
        size = self.max_record_bytes
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise _refused("max_record_bytes", size, "a whole number of bytes, at least 1")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in `environ` (default: the process's); an empty variable is unset."""
        environ = os.environ if environ is None else environ
        values: dict[str, str | int] = {}
        for each in fields(cls):
            variable = f"KP_{each.name.upper()}"
            given = environ.get(variable, "")
            # Spaces around a path are part of it.
            given = given if each.name == "sqlite_path" else given.strip()
            if given:
                values[each.name] = given
        if "max_record_bytes" in values:
            given = str(values["max_record_bytes"])
            if not (given.isascii() and given.isdigit()) or len(given) > 18:
                raise _refused("max_record_bytes", given, "a whole number of bytes, at least 1")
            values["max_record_bytes"] = int(given)
        return cls(**values)  # type: ignore[arg-type]  # each value has its field's type by now


def _refused(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"KP_{name.upper()}={value!r}: allowed: {allowed}")


def _is_http_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False
