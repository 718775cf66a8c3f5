"""Whether a stream may be used: not after its flush, nor after an interruption."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Gate:
    """What decoders and encoders refuse until they are reset.

    Parameters
    ----------
    flushed : bool
        Whether the stream has been flushed.
    broken : bool
        Whether an exception left the arithmetic half done; true while it works.
    """

    flushed: bool = False
    broken: bool = False

    def require_open(self, action: str) -> None:
        """``RuntimeError`` naming the action, after a flush or an interruption."""
        self.require_whole(action)
        if self.flushed:
            raise RuntimeError(f"{action} after flush: reset() begins a new stream")

    def require_whole(self, action: str) -> None:
        """``RuntimeError`` naming the action, after an interruption."""
        if self.broken:
            raise RuntimeError(f"{action} after an interrupted push: reset() begins a new stream")
