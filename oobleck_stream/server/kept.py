"""Keeps the frames that sessions have played, so that clients can save them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.formats.npy import write_npy

KEPT_BYTES = 512 * 2**20
"""Maximum bytes of frames that are kept, for all sessions together."""


@dataclass
class Pool:
    """The number of bytes that all sessions together may still keep."""

    room: int = KEPT_BYTES


@dataclass(eq=False)
class KeptFrames:
    """The frames of one session since its stream began.

    If the pool has no room for new frames, these and all later frames are not kept. The frames kept
    so far remain.

    Attributes
    ----------
    full : bool
        Whether the latest frames were not kept, because the pool had no room for them.
    """

    pool: Pool
    latent_dim: int
    full: bool = False
    _pieces: list[FloatArray] = field(default_factory=list)

    def add(self, frames: FloatArray) -> None:
        """Keep frames, (n, latent_dim) float32. The caller must not change them afterwards."""
        self.full = self.full or frames.nbytes > self.pool.room
        if not self.full:
            self.pool.room -= frames.nbytes
            self._pieces.append(frames)

    def clear(self) -> None:
        """Forget all frames."""
        self.pool.room += sum(piece.nbytes for piece in self._pieces)
        self._pieces.clear()
        self.full = False

    def as_npy(self) -> bytes:
        """Return the kept frames, (frames, latent_dim) float32, as the bytes of an `.npy` file."""
        frames = np.concatenate([np.empty((0, self.latent_dim), np.float32), *self._pieces])
        file = io.BytesIO()
        write_npy(file, frames)
        return file.getvalue()
