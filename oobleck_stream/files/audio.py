"""Sound files written while the sound is being made."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import soundfile

from oobleck_stream.arrays import FloatArray
from oobleck_stream.files.errors import InputError
from oobleck_stream.finite import first_not_finite

Bits = Literal["16", "24", "float"]

PIECE = 1 << 14
"""Samples handed to libsndfile at once: its Vorbis encoder keeps them on the stack."""

LONGEST_WAV = 2**32 - 2**16
SUBTYPES: dict[str, dict[Bits, str]] = {
    ".wav": {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"},
    ".flac": {"16": "PCM_16", "24": "PCM_24"},
    ".ogg": {"float": "VORBIS"},
}


class AudioWriter:
    """Writes a WAV, FLAC or OGG file; under its own name it appears only when it is whole.

    A context manager: left in good order it puts the file in place, left by an exception it
    removes what was written.

    Parameters
    ----------
    path : str or Path
        Its ending chooses the format.
    samplerate : int
        Samples a second.
    channels : int
        Audio channels.
    bits : {"16", "24", "float"}, optional
        Of a sample; by default 16 (in an OGG file, whose codec has no bits, float).
    samples : int, optional
        How many will come, where that is known: a WAV file of more than 4 GiB gets RF64's header.

    Attributes
    ----------
    written : int
        Samples so far.
    clipped : int
        Numbers beyond full scale so far, cut to it. In a float WAV file nothing is ever cut.
    peak : float
        The largest absolute value so far.

    Raises
    ------
    InputError
        When the file can't be written, the ending is unknown, or the format has no such bits.
    """

    def __init__(
        self,
        path: str | Path,
        samplerate: int,
        channels: int,
        bits: Bits | None = None,
        samples: int | None = None,
    ) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in SUBTYPES:
            raise InputError(f"{path}: a name ending in {', '.join(SUBTYPES)} was expected")
        subtypes = SUBTYPES[suffix]
        self.bits: Bits = next(iter(subtypes)) if bits is None else bits
        if self.bits not in subtypes:
            raise InputError(
                f"{path}: {suffix} files have samples of {' or '.join(subtypes)} bits, "
                f"not {self.bits}"
            )
        self.samplerate, self.channels = samplerate, channels
        self.written = self.clipped = 0
        self.peak = 0.0
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        container = suffix[1:].upper()
        if container == "WAV" and samples and samples * channels * 4 > LONGEST_WAV:
            container = "RF64"
        self._file = self._open(subtypes[self.bits], container)

    @property
    def seconds(self) -> float:
        """Length of what has been written."""
        return self.written / self.samplerate

    def _open(self, subtype: str, container: str) -> Any:
        """Make the file under its temporary name."""
        try:
            if self.path.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            # Python says better than libsndfile what is wrong.
            self._part.open("wb").close()
        except OSError as error:
            raise InputError(f"{self.path}: can't be written: {error.strerror}") from error
        try:
            return soundfile.SoundFile(
                str(self._part), "w", self.samplerate, self.channels, subtype, format=container
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            self._part.unlink()
            raise InputError(
                f"{self.path}: {container} can't hold {self.channels} channels at "
                f"{self.samplerate} Hz"
            ) from error

    def write(self, samples: FloatArray) -> None:
        """Append samples.

        Parameters
        ----------
        samples : (n, channels) float32
            Full scale is 1.0.

        Raises
        ------
        InputError
            When a sample is not finite; the sample is named.
        OSError
            When the disk is full or gone.
        """
        if len(samples) == 0:
            return
        row = first_not_finite(samples)
        if row is not None:
            raise InputError(f"{self.path}: sample {self.written + row} is not finite")
        self.peak = max(self.peak, float(np.abs(samples).max()))
        for first in range(0, len(samples), PIECE):
            piece = self._quantized(samples[first : first + PIECE])
            try:
                self._file.write(piece)
            except (soundfile.LibsndfileError, AssertionError) as error:
                raise OSError(f"{self.path}: writing failed (is the disk full?)") from error
            self.written += len(piece)

    def _quantized(self, samples: FloatArray) -> Any:
        """Samples in the file's own numbers, rounded to the nearest, cut at full scale."""
        if self.bits == "float" and self.path.suffix.lower() == ".wav":
            return samples
        self.clipped += int(np.count_nonzero(np.abs(samples) > 1.0))
        if self.bits == "float":
            return np.clip(samples, -1.0, 1.0)
        full = 2 ** (int(self.bits) - 1)
        steps = np.rint(samples.astype(np.float64) * full).clip(-full, full - 1)
        # libsndfile takes 24 bits as the upper ones of 32.
        return steps.astype(np.int16) if self.bits == "16" else steps.astype(np.int32) << 8

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)
