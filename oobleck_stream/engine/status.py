"""The status of a stream, and checks whether the status permits an operation."""

from __future__ import annotations

from typing import Literal

Status = Literal["open", "flushed", "interrupted", "overflowed"]
"""The status of a stream.

``"flushed"`` means that the stream has received its last input. ``"interrupted"`` means that an
operation is changing the stream, or that an exception ended such an operation, so that the stream's
state may be inconsistent. ``"overflowed"`` means that the stream's output was not finite. In these
three cases the stream accepts no input until a reset, a restore or a seek.
"""


def status_of(flushed: bool) -> Status:
    """The status of a stream that is not interrupted."""
    return "flushed" if flushed else "open"


def require_open(status: Status, action: str) -> None:
    """Raise a ``RuntimeError`` that names the action, unless the stream is open."""
    require_complete(status, action)
    if status == "flushed":
        raise RuntimeError(f"{action} after flush: reset() begins a new stream")


def require_complete(status: Status, action: str) -> None:
    """Raise a ``RuntimeError`` that names the action if a stream was interrupted or overflowed."""
    if status == "interrupted":
        raise RuntimeError(f"{action} after an interrupted operation: reset() begins a new stream")
    if status == "overflowed":
        raise RuntimeError(f"{action} after output that is not finite: reset() begins a new stream")
