"""From the network's sample rate to the device's, chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from oobleck_stream.packed import FloatArray
from oobleck_stream.player.errors import OutputError


class Resampler:
    """Converts a stream of samples with soxr, in its highest quality.

    Parameters
    ----------
    rate_in, rate_out : int
        Samples a second.
    channels : int
        Audio channels.

    Raises
    ------
    OutputError
        When soxr is not installed.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        try:
            import soxr
        except ImportError as error:
            raise OutputError(
                f"the output device can't do {rate_in} Hz, and nothing resamples: pip install soxr"
            ) from error
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
