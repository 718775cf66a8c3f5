"""Waiting with a time limit.

`asyncio.wait_for` may swallow a cancellation that arrives together with the result (Python 3.10 and
3.11), after which a task that was cancelled runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def wait_until_set(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event; after some seconds, set it."""
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


async def within(seconds: float, coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Return what a coroutine returns; ``TimeoutError`` if that takes longer."""
    task = asyncio.ensure_future(coroutine)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()
