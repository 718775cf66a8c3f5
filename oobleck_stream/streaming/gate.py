"""Whether a stream may be used: not after its flush, an interruption or an overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class Gate:
    """What decoders and encoders refuse until they are reset.

    Parameters
    ----------
    state : {"open", "flushed", "broken", "overflowed"}
        Broken while the arithmetic works, and for good when an exception left it half done. All
        streams that are pushed together have the same gate: they open in one moment. Overflowed
        when the output was not finite.
    """

    state: Literal["open", "flushed", "broken", "overflowed"] = "open"

    @classmethod
    def after(cls, flushed: bool) -> Gate:
        """The gate of a stream that is whole."""
        return cls("flushed" if flushed else "open")

    @property
    def flushed(self) -> bool:
        """Whether the stream has been flushed."""
        return self.state == "flushed"

    def require_open(self, action: str) -> None:
        """``RuntimeError`` naming the action, after a flush, an interruption or an overflow."""
        self.require_whole(action)
        if self.flushed:
            raise RuntimeError(f"{action} after flush: reset() begins a new stream")

    def require_whole(self, action: str) -> None:
        """``RuntimeError`` naming the action, after an interruption or an overflow."""
        if self.state == "broken":
            raise RuntimeError(f"{action} after an interrupted push: reset() begins a new stream")
        if self.state == "overflowed":
            raise RuntimeError(
                f"{action} after output that is not finite: reset() begins a new stream"
            )
