"""The errors a store raises; every one derives from `KpStoreError` (clause GEN-6)."""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "ConfigurationError",
    "DataCorruptionError",
    "KpStoreError",
    "SchemaVersionError",
    "StoreClosedError",
    "ValidationError",
]


class KpStoreError(Exception):
    """Base of every error that kpstore raises. A driver's exception is its `__cause__`."""


class ConfigurationError(KpStoreError):
    """A setting does not parse, or names a backend that is not there; the message names the variable."""


class ValidationError(KpStoreError):
    """The caller's input breaks a rule; nothing was written.

    `field` is the path of the offending value (`skill.quality_score`,
    `entry.unit.steps[2].step_id`), `rule` what it must be. The value itself is
    never part of the message, since it may be a secret.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule

    def __reduce__(self) -> tuple[type[ValidationError], tuple[str, str]]:
        return (type(self), (self.field, self.rule))


class StoreClosedError(KpStoreError):
    """The store was used after `close()`."""


class BackendUnavailableError(KpStoreError):
    """The backend cannot be reached, is busy past its time-out, out of space or read-only.

    The message says which of these it is, and what to do about it.
    """


class DataCorruptionError(KpStoreError):
    """The file, or a row in it, cannot be read. The message names the file."""


class SchemaVersionError(KpStoreError):
    """The data was written by a newer version of kpstore; it was left as it is."""
