"""The status of a stream, and the checks for operations that a status rules out."""

from __future__ import annotations

from typing import Literal

Status = Literal["open", "flushed", "interrupted", "overflowed"]
"""The status of a stream.

``"flushed"``: the stream has received its last input. ``"interrupted"``: an operation is changing
the stream, or was ended by an exception, so its state may be inconsistent. ``"overflowed"``: its
output was not finite. In all three, the stream takes no input before a reset, a restore or (in a
decoder) a seek.
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
    """Raise a ``RuntimeError`` that names the action, after an interruption or an overflow."""
    if status == "interrupted":
        raise RuntimeError(f"{action} after an interrupted operation: reset() begins a new stream")
    if status == "overflowed":
        raise RuntimeError(f"{action} after output that is not finite: reset() begins a new stream")
