"""Sound files read in blocks, as a network wants its sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_samples
from oobleck_stream.errors import InputError

if TYPE_CHECKING:
    from oobleck_stream.files.resampler import Resampler

BLOCK = 2**16

MAX_RATIO = 64
"""Between the sample rates of a file and a network: a resampled block is that many times larger."""


class SoundSource:
    """A sound file of any format that libsndfile reads.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    samplerate, channels, samples : int
        As the file has them.

    Raises
    ------
    InputError
        When there is no such file, it is no sound file, or it holds no sound.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            # Python says better than libsndfile what is wrong.
            Path(path).open("rb").close()
        except OSError as error:
            raise InputError(f"{path}: can't be read: {error.strerror}") from error
        try:
            self._file = soundfile.SoundFile(self.name)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not a sound file (WAV, FLAC, OGG, MP3, AIFF... were expected)"
            ) from error
        self.samplerate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.samples: int = self._file.frames
        if self.samples == 0:
            raise InputError(f"{path}: holds no samples; at least one was expected")

    def length(self, samplerate: int) -> int:
        """Samples at a sample rate, to within one where it is not the file's."""
        return math.ceil(self.samples * samplerate / self.samplerate)

    def changes(self, samplerate: int, channels: int) -> list[str]:
        """What `blocks` does to the file's sound, in a few words each."""
        found = []
        if self.channels < channels:
            found.append(f"mono on all {channels} channels")
        elif self.channels > channels:
            found.append("the mean of both channels")
        if self.samplerate != samplerate:
            found.append(f"resampled from {self.samplerate} to {samplerate} Hz")
        return found

    def blocks(self, samplerate: int, channels: int) -> Iterator[FloatArray]:
        """The sound from the beginning, in blocks of (n, channels) float32.

        Mono is given to all channels, and stereo becomes mono as the mean of its two channels.

        Raises
        ------
        InputError
            When the channels or the sample rate can't be made to fit; while reading, when the file
            ends too early or a sample is not finite, as stored or as resampled.
        """
        if self.channels not in (1, channels) and (self.channels, channels) != (2, 1):
            raise InputError(
                f"{self.name}: has {self.channels} channels; {channels} were expected, or "
                + ("2" if channels == 1 else "mono")
            )
        lowest, highest = math.ceil(samplerate / MAX_RATIO), samplerate * MAX_RATIO
        if not lowest <= self.samplerate <= highest:
            raise InputError(
                f"{self.name}: has {self.samplerate} Hz; {lowest} to {highest} Hz were expected"
            )
        if samplerate == self.samplerate:
            return self._converted(channels, None)
        from oobleck_stream.files.resampler import Resampler

        resampler = Resampler(self.samplerate, samplerate, channels)
        return self._finite(self._converted(channels, resampler), "resampled ")

    def _converted(self, channels: int, resampler: Resampler | None) -> Iterator[FloatArray]:
        for samples in self._finite(self._stored()):
            if self.channels < channels:
                samples = np.repeat(samples, channels, axis=1)
            elif self.channels > channels:
                samples = np.sum(samples * np.float32(0.5), axis=1, keepdims=True)
            yield resampler.convert(samples) if resampler else samples
        if resampler:
            yield resampler.convert(np.empty((0, channels), np.float32), last=True)

    def _stored(self) -> Iterator[FloatArray]:
        """The file's samples as they are."""
        self._file.seek(0)
        done = 0
        while done < self.samples:
            try:
                samples = self._file.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise InputError(
                    f"{self.name}: damaged or cut off somewhere after sample {done}"
                ) from error
            if len(samples) == 0:
                raise InputError(f"{self.name}: ends after {done} of {self.samples} samples")
            yield samples
            done += len(samples)

    def _finite(self, blocks: Iterable[FloatArray], kind: str = "") -> Iterator[FloatArray]:
        """The same blocks; `InputError` names the first sample that is not finite."""
        done = 0
        for block in blocks:
            try:
                samples = checked_samples(block, done)
            except ValueError as error:
                raise InputError(f"{self.name}: {kind}{error}") from None
            yield samples
            done += len(samples)
