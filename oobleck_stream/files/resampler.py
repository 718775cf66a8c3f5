"""From one sample rate to another, chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr

from oobleck_stream.arrays import FloatArray


class Resampler:
    """Converts a stream of samples with soxr, in its highest quality.

    Parameters
    ----------
    rate_in, rate_out : int
        Samples a second.
    channels : int
        Audio channels.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._stream: Any = soxr.ResampleStream(
            rate_in, rate_out, channels, dtype="float32", quality="VHQ"
        )
        self._channels = channels

    def convert(self, samples: FloatArray, last: bool = False) -> FloatArray:
        """What can be given out now; with `last`, the rest, and the stream is new again.

        Parameters
        ----------
        samples : (n, channels) float32
        last : bool

        Returns
        -------
        (m, channels) float32
        """
        converted: FloatArray = self._stream.resample_chunk(samples, last=last)
        if last:
            self.clear()
        return converted.astype(np.float32, copy=False)

    def clear(self) -> None:
        """Forget what was put in."""
        self._stream.clear()
