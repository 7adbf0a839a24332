"""Long loops let the event loop turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from kpstore import create_store
from kpstore.stores.documents import turn_if_large


async def test_a_scan_in_small_batches_lets_others_have_their_turn() -> None:
    async with create_store("memory") as stores:
        for number in range(3000):
            await stores.api_keys.create(f"agent{number}", ["read"], "free")
        turned = 0

        async def turn() -> None:
            nonlocal turned
            while True:
                turned += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(turn())
        await asyncio.sleep(0)
        before = turned
        # Each batch takes a fraction of a slice, all of them ten slices.
        assert len([one async for one in stores.api_keys.scan(batch_size=10)]) == 3000
        assert turned > before + 3
        other.cancel()


@pytest.mark.parametrize("more", [0, 1])
async def test_between_two_long_things_with_a_large_record_all_who_are_due_have_their_turn(more: int) -> None:
    due = asyncio.create_task(asyncio.sleep(0.001))
    await asyncio.sleep(0)
    time.sleep(0.005)  # the long thing
    await turn_if_large(bytes(64 * 1024 - 1))
    assert not due.done()
    start = time.perf_counter()
    await turn_if_large(bytes(64 * 1024 + more))
    assert due.done()
    assert time.perf_counter() - start < 0.5  # it does not wait for anything
