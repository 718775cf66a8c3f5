"""Makes the header of a WAV file, whose length may be unknown."""

from __future__ import annotations

import struct

UNKNOWN_SIZE = 0xFFFFFFFF
"""The size in a WAV header that means an unknown size. Players expect it in a stream."""

HEADER_BYTES = 44
PCM, FLOAT = 1, 3


def wav_header(samplerate: int, channels: int, width: int, samples: int | None) -> bytes:
    """Return the 44 bytes that precede the samples in a WAV file.

    Parameters
    ----------
    samplerate : int
    channels : int
    width : int
        Bytes per value: 2 and 3 are integers, 4 is float32.
    samples : int or None
        Number of samples in the whole file. If it is None, or if the file would exceed 4 GiB, the
        sizes are `UNKNOWN_SIZE`, which makes readers read to the end.
    """
    size = UNKNOWN_SIZE if samples is None else samples * channels * width
    if size > UNKNOWN_SIZE - HEADER_BYTES:
        size = riff = UNKNOWN_SIZE
    else:
        # A chunk of odd size is followed by a byte of padding.
        riff = size + size % 2 + HEADER_BYTES - 8
    kind = FLOAT if width == 4 else PCM
    layout = (kind, channels, samplerate, samplerate * channels * width, channels * width)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16)
        + struct.pack("<HHIIHH", *layout, 8 * width)
        + struct.pack("<4sI", b"data", size)
    )
