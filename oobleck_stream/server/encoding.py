"""Converts samples to bytes, as float32 or int16."""

from __future__ import annotations

import numpy as np

from oobleck_stream.arrays import FloatArray

WIDTHS = {"f32": 4, "s16": 2}
"""Bytes per value, keyed by the name of the sample format."""


def sample_bytes(audio: FloatArray, sample: str) -> bytes:
    """Convert samples to little-endian bytes with interleaved channels.

    Parameters
    ----------
    audio : (n, channels) float32
        Full scale is 1.0.
    sample : {"f32", "s16"}
        With ``"f32"``, the samples are unchanged. With ``"s16"``, they are clipped at full scale
        and rounded to the nearest int16.

    Returns
    -------
    bytes
        The length is ``n * channels * WIDTHS[sample]``.
    """
    if sample == "f32":
        return np.ascontiguousarray(audio, "<f4").tobytes()
    scaled: FloatArray = np.clip(audio, -1.0, 1.0) * np.float32(32767)
    return np.rint(scaled).astype("<i2").tobytes()
