"""Samples as bytes: float32 or int16, raw or as a WAV file of which the length may be unknown."""

from __future__ import annotations

import struct

import numpy as np

from oobleck_stream.arrays import FloatArray

WIDTHS = {"f32": 4, "s16": 2}
"""The sample formats, and their bytes per value."""

UNKNOWN_SIZE = 0xFFFFFFFF
"""Stands for an unknown size in a WAV header, as players expect it of a stream."""

HEADER_BYTES = 44


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


def wav_header(samplerate: int, channels: int, sample: str, samples: int | None) -> bytes:
    """Return the 44 bytes that precede the samples in a WAV file.

    Parameters
    ----------
    samplerate : int
    channels : int
    sample : {"f32", "s16"}
    samples : int or None
        Samples of the whole file. If it is None, or the file would exceed 4 GiB, the sizes are
        `UNKNOWN_SIZE`: readers read to the end.
    """
    width = WIDTHS[sample]
    size = UNKNOWN_SIZE if samples is None else samples * channels * width
    if size > UNKNOWN_SIZE - HEADER_BYTES:
        size = riff = UNKNOWN_SIZE
    else:
        riff = size + HEADER_BYTES - 8
    kind = 3 if sample == "f32" else 1
    layout = (kind, channels, samplerate, samplerate * channels * width, channels * width)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16)
        + struct.pack("<HHIIHH", *layout, 8 * width)
        + struct.pack("<4sI", b"data", size)
    )
