"""What a benchmark measures: a model that decodes, or a model that encodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.start import random_latents
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.encoder import StreamingEncoder
from oobleck_stream.model import Model
from oobleck_stream.network import Layer, first_row, multiplications, rows_needed
from oobleck_stream.validation.stages import Half, half_of

LOUDNESS = np.float32(0.3)
"""Standard deviation of the noise that is encoded."""


@dataclass(frozen=True)
class Task:
    """Decoding or encoding with a model. The work is counted in latent frames.

    Parameters
    ----------
    model : Model
    half : {"decoder", "encoder"}
    """

    model: Model
    half: Half = "decoder"

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers of the decoder or the encoder."""
        return half_of(self.model, self.half).layers

    @property
    def rows_in(self) -> int:
        """Number of input rows per frame."""
        return 1 if self.half == "decoder" else self.model.hop

    @property
    def rows_out(self) -> int:
        """Number of output rows per frame."""
        return self.model.hop if self.half == "decoder" else 1

    @property
    def context(self) -> int:
        """Number of frames on each side that a frame's output depends on."""
        if self.half == "decoder":
            return self.model.context
        before, after = -first_row(self.layers, 0), rows_needed(self.layers, 0)
        return max(-(-before // self.rows_in), -(-after // self.rows_in) - 1)

    @property
    def operations(self) -> int:
        """Floating-point operations per frame. A multiply-add counts as two."""
        return 2 * multiplications(self.layers, self.rows_in)

    def rows(self, frames: int) -> FloatArray:
        """Return random input rows of `frames` frames, the same for every call."""
        if self.half == "decoder":
            return random_latents(self.model, frames)
        shape = frames * self.rows_in, self.model.channels
        return LOUDNESS * np.random.default_rng(0).standard_normal(shape, np.float32)

    def whole(self, rows: FloatArray, threads: int | None = None) -> FloatArray:
        """Return the output of a whole piece: samples, or means and scales."""
        compute = self.model.decode if self.half == "decoder" else self.model.encoder_rows
        return compute(rows, threads=threads)

    def push(self, threads: int, pairing: int = 1) -> Callable[[FloatArray], FloatArray]:
        """Open a stream, and return the function that pushes rows into it."""
        if self.half == "decoder":
            return StreamingDecoder(self.model, threads, pairing=pairing).push
        return StreamingEncoder(self.model, threads).push
