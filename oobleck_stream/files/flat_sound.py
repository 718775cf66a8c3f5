"""Sound in a reference file, which says neither its channels nor its sample rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_samples
from oobleck_stream.errors import InputError
from oobleck_stream.files import layout as layouts
from oobleck_stream.files.flat import read_flat

BLOCK = 2**16


class FlatSound:
    """A `.bin` file of sound, channels first; taken to be what a network wants.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputError
        When it can't be read, or is no reference file.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self._numbers = read_flat(path)

    def length(self, samplerate: int) -> None:
        """Not known before the channels are."""

    def changes(self, samplerate: int, channels: int) -> list[str]:
        """What it is taken to be."""
        return [f"taken to be {samplerate} Hz, {channels} channels one after the other"]

    def blocks(self, samplerate: int, channels: int) -> Iterator[FloatArray]:
        """The sound from the beginning, in blocks of (n, channels) float32.

        Raises
        ------
        InputError
            When its numbers can't be so many channels; while reading, when one is not finite.
        """
        samples = layouts.flat_frames(self._numbers, channels, "ct", self.name, "channels")
        return self._checked(samples)

    def _checked(self, samples: FloatArray) -> Iterator[FloatArray]:
        for first in range(0, len(samples), BLOCK):
            block = np.ascontiguousarray(samples[first : first + BLOCK])
            try:
                yield checked_samples(block, first)
            except ValueError as error:
                raise InputError(f"{self.name}: {error}") from None
