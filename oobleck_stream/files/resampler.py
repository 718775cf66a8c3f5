"""Converts the sample rate of a sound, chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr

from oobleck_stream.arrays import FloatArray


class Resampler:
    """Converts the sample rate of a stream with soxr at its highest quality (VHQ).

    Parameters
    ----------
    rate_in, rate_out : int
        Sample rates in hertz.
    channels : int
        Number of audio channels.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._stream: Any = soxr.ResampleStream(
            rate_in, rate_out, channels, dtype="float32", quality="VHQ"
        )
        self._channels = channels

    def convert(self, samples: FloatArray, last: bool = False) -> FloatArray:
        """Convert the next samples.

        Parameters
        ----------
        samples : (n, channels) float32
        last : bool
            Whether the stream ends with these samples. If it does, all remaining samples are
            returned, and the next call begins a new stream.

        Returns
        -------
        (m, channels) float32
        """
        converted: FloatArray = self._stream.resample_chunk(samples, last=last)
        if last:
            self.clear()
        return converted.astype(np.float32, copy=False)

    def clear(self) -> None:
        """Discard the samples of the current stream and begin a new one."""
        self._stream.clear()
