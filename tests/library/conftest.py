"""Shared by the tests of the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpstore import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a SQLite file that is not there yet."""
    return Settings(sqlite_path=str(tmp_path / "kpstore.db"))
