"""Samples as bytes: float32 or int16."""

from __future__ import annotations

import numpy as np

from oobleck_stream.arrays import FloatArray

WIDTHS = {"f32": 4, "s16": 2}
"""The sample formats, and their bytes per value."""


def sample_bytes(audio: FloatArray, sample: str) -> bytes:
    """Convert samples to little-endian bytes, channels interleaved.

    Parameters
    ----------
    audio : (n, channels) float32
        Full scale is 1.0.
    sample : {"f32", "s16"}
        float32 without any change, or int16: clipped at full scale and rounded to nearest.

    Returns
    -------
    bytes
        ``n * channels * WIDTHS[sample]`` of them.
    """
    if sample == "f32":
        return np.ascontiguousarray(audio, "<f4").tobytes()
    scaled: FloatArray = np.clip(audio, -1.0, 1.0) * np.float32(32767)
    return np.rint(scaled).astype("<i2").tobytes()
