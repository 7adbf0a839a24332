"""The size of a history's entry: what is sure to fit is not measured, and all else is."""

from __future__ import annotations

import pytest

from kpstore import Settings, ValidationError, create_store


@pytest.mark.parametrize("character", ["x", "\x01", "語"])
async def test_an_entry_is_measured_as_it_is_written(character: str) -> None:
    size = {"x": 1, "\x01": len(r"\u0001"), "語": 3}[character]
    async with create_store("memory", settings=Settings(max_record_bytes=12_000)) as stores:
        with pytest.raises(ValidationError, match="reason"):  # with a time and a number it is larger
            await stores.reputation.upsert("a", 1, character * (11_999 // size))
        assert await stores.reputation.get("a") is None
        await stores.reputation.upsert("a", 1, character * (11_850 // size))
