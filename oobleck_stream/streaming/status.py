"""Whether a stream may go on: not after its flush, an interrupted operation or an overflow."""

from __future__ import annotations

from typing import Literal

Status = Literal["open", "flushed", "interrupted", "overflowed"]
"""A stream is ``"interrupted"`` while an operation changes it, and stays so if an exception ends
that operation. Only a reset opens it again, so it never goes on from a mixture of two states. It is
``"overflowed"`` after output that is not finite."""


def status_of(flushed: bool) -> Status:
    """The status of a stream that is complete."""
    return "flushed" if flushed else "open"


def require_open(status: Status, action: str) -> None:
    """``RuntimeError`` naming the action, after a flush, an interruption or an overflow."""
    require_complete(status, action)
    if status == "flushed":
        raise RuntimeError(f"{action} after flush: reset() begins a new stream")


def require_complete(status: Status, action: str) -> None:
    """``RuntimeError`` naming the action, after an interruption or an overflow."""
    if status == "interrupted":
        raise RuntimeError(f"{action} after an interrupted operation: reset() begins a new stream")
    if status == "overflowed":
        raise RuntimeError(f"{action} after output that is not finite: reset() begins a new stream")
