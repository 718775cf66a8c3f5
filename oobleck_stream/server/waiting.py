"""Waiting with a time limit.

These functions replace `asyncio.wait_for`. In Python 3.10 and 3.11, that function may ignore a
cancellation that arrives together with the result, so that the cancelled task keeps running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def wait_until_set(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event. Set the event if it is not set within `seconds`."""
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


async def within(seconds: float, coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine. Raise ``TimeoutError`` after `seconds`."""
    task = asyncio.ensure_future(coroutine)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()
