"""Sound files written while the sound is being made."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import soundfile

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.files.errors import refusing_unwritable
from oobleck_stream.formats.atomic import atomic_file

Bits = Literal["16", "24", "float"]

PIECE = 1 << 14
"""Samples handed to libsndfile at once: its Vorbis encoder keeps them on the stack."""

LONGEST_WAV = 2**32 - 2**16
SYSTEM_ERROR = 2
"""libsndfile's code for what the operating system refused, such as writing on a full disk."""

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
        self._container = suffix[1:].upper()
        if suffix == ".wav" and samples and samples * channels * 4 > LONGEST_WAV:
            self._container = "RF64"
        with ExitStack() as stack:
            with refusing_unwritable(path):
                self._part = str(stack.enter_context(atomic_file(self.path)).name)
            self._sound = self._open(subtypes[self.bits])
            stack.push(self._finish)
            self._output = stack.pop_all()

    @property
    def seconds(self) -> float:
        """Length of what has been written."""
        return self.written / self.samplerate

    @property
    def room(self) -> int:
        """Samples that still fit into the file: 4 GiB of them into a WAV file, else any number."""
        if self._container != "WAV":
            return sys.maxsize
        width = {"16": 2, "24": 3, "float": 4}[self.bits]
        return LONGEST_WAV // (width * self.channels) - self.written

    def _open(self, subtype: str) -> Any:
        """Let libsndfile open the file, which is empty, and write a header."""
        try:
            return soundfile.SoundFile(
                self._part, "w", self.samplerate, self.channels, subtype, format=self._container
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            if getattr(error, "code", None) == SYSTEM_ERROR:
                raise self._failure() from error
            raise InputError(
                f"{self.path}: {self._container} can't hold {self.channels} channels at "
                f"{self.samplerate} Hz"
            ) from error

    def _failure(self) -> OSError:
        """What to raise where libsndfile could not write; it does not say why."""
        return OSError(f"{self.path}: writing failed (is the disk full?)")

    def write(self, samples: FloatArray) -> None:
        """Append samples.

        Parameters
        ----------
        samples : (n, channels) float32
            Full scale is 1.0.

        Raises
        ------
        InputError
            When a sample is not finite, which is named, or when there is no `room` for them.
        OSError
            When the disk is full or gone; it names the file.
        """
        if len(samples) == 0:
            return
        row = first_not_finite(samples)
        if row is not None:
            raise InputError(f"{self.path}: sample {self.written + row} is not finite")
        if len(samples) > self.room:
            raise InputError(f"{self.path}: a WAV file can't hold more than 4 GiB of sound")
        self.peak = max(self.peak, float(np.abs(samples).max()))
        for first in range(0, len(samples), PIECE):
            piece = self._quantized(samples[first : first + PIECE])
            try:
                self._sound.write(piece)
            except (soundfile.LibsndfileError, AssertionError) as error:
                raise self._failure() from error
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

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the sound, and unless writing failed require that all of it is in the file."""
        try:
            self._sound.close()
        except soundfile.LibsndfileError as broken:
            if kind is None:
                raise self._failure() from broken
        if kind is None:
            self._require_whole()

    def _require_whole(self) -> None:
        """Read the header back: libsndfile reports no error of what it writes while closing."""
        if self.written == 0 and self._container == "FLAC":
            raise InputError(f"{self.path}: a FLAC file can't hold 0 samples")
        try:
            stored = soundfile.info(self._part).frames
        except soundfile.LibsndfileError as error:
            raise self._failure() from error
        # Chunks of a WAV file end at even bytes.
        odd = self._container in ("WAV", "RF64") and Path(self._part).stat().st_size % 2
        if stored != self.written or odd:
            raise self._failure()

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._output.__exit__(kind, error, traceback)
