"""Converts samples to the sample formats of files and pipes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray

Bits = Literal["16", "24", "float"]

WIDTHS: dict[Bits, int] = {"16": 2, "24": 3, "float": 4}
"""Bytes per value."""


def quantized(samples: FloatArray, bits: Bits) -> npt.NDArray[Any]:
    """Round samples to the nearest value of a sample format, and clip them at full scale.

    Parameters
    ----------
    samples : (n, channels) float32
        Full scale is 1.0.
    bits : {"16", "24", "float"}

    Returns
    -------
    (n, channels) array
        For "16", int16. For "24", int32 with the 24 bits at the upper end, as libsndfile expects
        them. For "float", the samples themselves, neither rounded nor clipped.
    """
    if bits == "float":
        return samples
    full = 2 ** (int(bits) - 1)
    scaled = samples.astype(np.float64) * full
    steps: npt.NDArray[np.float64] = np.rint(scaled).clip(-full, full - 1)
    if bits == "16":
        return steps.astype(np.int16)
    return np.left_shift(steps.astype(np.int32), 8)


def quantized_bytes(samples: FloatArray, bits: Bits) -> bytes:
    """Return the quantized samples as little-endian bytes, channels interleaved."""
    values = quantized(samples, bits)
    if bits != "24":
        return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    octets = np.ascontiguousarray(values, "<i4").view(np.uint8).reshape(-1, 4)
    return octets[:, 1:].tobytes()


def count_clipped(samples: FloatArray) -> int:
    """Return how many values are beyond full scale."""
    return int(np.count_nonzero(np.abs(samples) > 1.0))
