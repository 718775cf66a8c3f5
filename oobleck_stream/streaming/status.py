"""Whether a stream may go on: not after its flush, nor after an interrupted operation."""

from __future__ import annotations

from typing import Literal

Status = Literal["open", "flushed", "interrupted"]
"""A stream is ``"interrupted"`` while an operation changes it, and stays so if an exception ends
that operation. Only a reset opens it again, so it never goes on from a mixture of two states."""


def status_of(flushed: bool) -> Status:
    """The status of a stream that is not interrupted."""
    return "flushed" if flushed else "open"


def require_open(status: Status, action: str) -> None:
    """``RuntimeError`` naming the action, after a flush or an interruption."""
    require_complete(status, action)
    if status == "flushed":
        raise RuntimeError(f"{action} after flush: reset() begins a new stream")


def require_complete(status: Status, action: str) -> None:
    """``RuntimeError`` naming the action, after an interruption."""
    if status == "interrupted":
        raise RuntimeError(f"{action} after an interrupted operation: reset() begins a new stream")
