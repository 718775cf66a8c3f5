"""The sources of frames: a client, or a piece. The instrument is in `instrument.py`."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_frames
from oobleck_stream.server.protocol import PUSH, ProtocolError


class Source(Protocol):
    """Supplies the frames of a session in order.

    Attributes
    ----------
    name : str
    """

    name: str

    @property
    def available(self) -> int:
        """Number of frames that can be taken now."""

    @property
    def ended(self) -> bool:
        """Whether no frames will follow the frames that are available."""

    def take(self, count: int) -> FloatArray:
        """Take the next `count` frames, (count, latent_dim) float32. They have to be available."""


class Pushed:
    """A source whose frames a client sends.

    Parameters
    ----------
    latent_dim : int
    window : int
        Maximum number of frames that wait to be taken.

    Attributes
    ----------
    received : int
        Number of frames received since the session began. This is also the next frame's index.
    taken : int
        Number of frames that were taken, or dropped by `clear`.
    """

    name = PUSH

    def __init__(self, latent_dim: int, window: int) -> None:
        self.received = self.taken = 0
        self._latent_dim = latent_dim
        self._window = window
        self._waiting: deque[FloatArray] = deque()
        self._complete = False

    @property
    def available(self) -> int:
        """As `Source.available`."""
        return self.received - self.taken

    @property
    def ended(self) -> bool:
        """As `Source.ended`."""
        return self._complete

    @property
    def frames_until(self) -> int:
        """One past the index of the last frame that the client may send."""
        return self.taken + self._window

    def put(self, first: int, frames: FloatArray) -> None:
        """Append frames. Frames that were received before are ignored.

        Parameters
        ----------
        first : int
            Index of the first of these frames in the session.
        frames : (n, latent_dim) float32

        Raises
        ------
        ProtocolError
            If a frame before them is missing, if they exceed `frames_until`, or if `end` was
            called.
        """
        if first > self.received:
            raise ProtocolError(
                "bad-frame", f"frame {self.received} was expected next, not frame {first}"
            )
        new = frames[self.received - first :]
        if not len(new):
            return
        if self._complete:
            raise ProtocolError("bad-frame", "frames after the end: send reset or seek first")
        if self.received + len(new) > self.frames_until:
            raise ProtocolError(
                "too-fast", f"frames below number {self.frames_until} were expected"
            )
        self._waiting.append(new)
        self.received += len(new)

    def end(self) -> None:
        """Note that no more frames will come."""
        self._complete = True

    def clear(self) -> None:
        """Drop the frames that were not taken yet. New frames may follow, even after `end`."""
        self._waiting.clear()
        self.taken = self.received
        self._complete = False

    def take(self, count: int) -> FloatArray:
        """As `Source.take`."""
        out = np.empty((count, self._latent_dim), np.float32)
        filled = 0
        while filled < count:
            piece = self._waiting.popleft()
            used = piece[: count - filled]
            out[filled : filled + len(used)] = used
            filled += len(used)
            if len(used) < len(piece):
                self._waiting.appendleft(piece[len(used) :])
        self.taken += count
        return out


class Stored:
    """A source that is a complete piece.

    Parameters
    ----------
    name : str
    frames : (frames, latent_dim) array of real numbers
        The frames, which are finite. This may be a memory map.
    position : int
        Index of the frame to take next.
    """

    def __init__(self, name: str, frames: npt.NDArray[Any], position: int = 0) -> None:
        self.name = name
        self.position = position
        self._frames = frames

    @property
    def available(self) -> int:
        """As `Source.available`."""
        return len(self._frames) - self.position

    @property
    def ended(self) -> bool:
        """As `Source.ended`. It is always true, because all frames are available."""
        return True

    def take(self, count: int) -> FloatArray:
        """As `Source.take`."""
        first = self.position
        self.position += count
        return checked_frames(self._frames[first : self.position], first)
