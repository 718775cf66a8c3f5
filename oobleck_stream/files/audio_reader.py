"""Reads audio files in blocks, with the sample rate and channels that a network requires."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_samples
from oobleck_stream.errors import InputError
from oobleck_stream.files import axis_order
from oobleck_stream.files.cut_off import require_bytes, require_samples
from oobleck_stream.formats.flat import read_flat

if TYPE_CHECKING:
    from oobleck_stream.files.av_reader import AvSound
    from oobleck_stream.files.resampler import Resampler

BLOCK = 2**16
"""Number of samples that are read at a time."""

STANDARD_ERROR = 2

MAX_RATIO = 64
"""Maximum ratio of a file's sample rate to a network's, or the reverse. Resampling can make a block
longer by this factor."""

EXACT_FORMATS = frozenset({"AIFF", "AU", "CAF", "FLAC", "RF64", "W64", "WAV", "WAVEX"})
EXACT_SUBTYPES = frozenset(
    {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
)
"""File formats and sample formats in which reading can start at any sample. In these, libsndfile
finds the exact position of each sample, or of the block that contains the sample."""


def libsndfile_name(path: str) -> str | bytes:
    """Return the path, on POSIX as bytes: soundfile can't encode names that are not UTF-8."""
    return os.fsencode(path) if os.name == "posix" else path


class AudioFile:
    """An audio file in any format that libsndfile reads, or PyAV if it is installed.

    Parameters
    ----------
    path : str or Path
    file : BinaryIO, optional
        An open file to read instead of `path`, which is then only a name for messages.

    Attributes
    ----------
    samplerate, channels : int
        The file's sample rate in hertz, and its number of channels.
    samples : int or None
        The file's length in samples. If PyAV reads the file, this is the length that the file
        states, which may be inexact. None if the file states no length.

    Raises
    ------
    InputError
        If the file can't be read, is not an audio file or has no samples. Also if it was cut off,
        so that it has fewer samples than it states.
    """

    def __init__(self, path: str | Path, file: BinaryIO | None = None) -> None:
        self.name = str(path)
        try:
            # Python's error messages are more precise than libsndfile's.
            if file is None:
                require_bytes(path)
        except OSError as error:
            raise InputError(f"{path}: can't be read: {error.strerror}") from error
        self._av: AvSound | None = None
        sound: Any
        try:
            with _without_notes():
                self._file = sound = soundfile.SoundFile(file or libsndfile_name(self.name))
            if sound.format == "RAW":
                raise ValueError("libsndfile takes anything whose name ends in .au or .vox")
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            self._av = sound = _opened_by_av(self.name, error)
            self.samples: int | None = self._av.samples
        else:
            self.samples = self._file.frames
            require_samples(self.name, self._file)
        self.samplerate: int = sound.samplerate
        self.channels: int = sound.channels

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._av is None:
            self._file.close()

    @property
    def is_cuttable(self) -> bool:
        """Whether reading from the middle gives the same samples as reading from the start."""
        if self._av is not None:
            return False
        return self._file.format in EXACT_FORMATS and self._file.subtype in EXACT_SUBTYPES

    def length(self, samplerate: int) -> int | None:
        """Number of samples that `blocks` returns at a sample rate; None if unknown.

        The result may be off by one if the audio is resampled, and by more if PyAV reads the file.
        """
        if self.samples is None:
            return None
        return math.ceil(self.samples * samplerate / self.samplerate)

    def changes(self, samplerate: int, channels: int) -> list[str]:
        """Return how `blocks` converts the file's audio, one phrase for each conversion."""
        found = []
        if self.channels < channels:
            found.append(f"mono on all {channels} channels")
        elif self.channels > channels:
            found.append("the mean of both channels")
        if self.samplerate != samplerate:
            found.append(f"resampled from {self.samplerate} to {samplerate} Hz")
        return found

    def blocks(self, samplerate: int, channels: int, start: int = 0) -> Iterator[FloatArray]:
        """Read the file in blocks of (n, channels) float32.

        Mono is copied to all channels. For one channel, stereo is converted to the mean of both
        channels.

        Parameters
        ----------
        samplerate, channels : int
            The result's sample rate and channels.
        start : int
            Index in the file of the first sample to read. With another value than 0, the samples
            may differ from those of a full read, unless `is_cuttable` is true and nothing is
            resampled. Files that PyAV reads are always read from the beginning.

        Raises
        ------
        InputError
            If the channels or the sample rate can't be converted. While the blocks are read, also
            if the file ends too early, or if a stored or a resampled sample is not finite.
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
            return self._converted(channels, None, start)
        from oobleck_stream.files.resampler import Resampler

        resampler = Resampler(self.samplerate, samplerate, channels)
        converted = self._converted(channels, resampler, start)
        return _finite(converted, f"{self.name}: resampled ")

    def _converted(
        self, channels: int, resampler: Resampler | None, start: int
    ) -> Iterator[FloatArray]:
        for samples in _finite(self._stored(start), f"{self.name}: ", start):
            if self.channels < channels:
                samples = np.repeat(samples, channels, axis=1)
            elif self.channels > channels:
                # Halve both channels first, because their sum could overflow.
                samples = np.sum(samples * np.float32(0.5), axis=1, keepdims=True)
            yield resampler.convert(samples) if resampler else samples
        if resampler:
            yield resampler.convert(np.empty((0, channels), np.float32), last=True)

    def _stored(self, start: int) -> Iterator[FloatArray]:
        """Yield the file's samples in blocks, without conversion."""
        if self._av is not None:
            yield from self._av.blocks(BLOCK)
            return
        quiet = _without_notes if self._file.format == "MP3" else contextlib.nullcontext
        done, moved = start, False
        while done < self._file.frames:
            try:
                with quiet():
                    if not moved:
                        self._file.seek(start)
                        moved = True
                    samples = self._file.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise InputError(
                    f"{self.name}: damaged or cut off somewhere after sample {done}"
                ) from error
            if len(samples) == 0:
                raise InputError(f"{self.name}: ends after {done} of {self.samples} samples")
            yield samples
            done += len(samples)


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Discard what is printed to standard error in the block.

    mpg123 prints notes about damaged frames, and libsndfile does not let them be turned off.
    """
    try:
        before = os.dup(STANDARD_ERROR)
    except OSError:  # Standard error is closed.
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), STANDARD_ERROR)
        yield
    finally:
        os.dup2(before, STANDARD_ERROR)
        os.close(before)


def _opened_by_av(name: str, refusal: Exception) -> AvSound:
    """Open with PyAV a file that libsndfile refuses. Without PyAV, raise an `InputError`."""
    from oobleck_stream.files.av_reader import HINTED, AvSound

    if importlib.util.find_spec("av") is None:
        hint = ""
        if Path(name).suffix.lower() in HINTED:
            hint = "; pip install 'oobleck_stream[av]' reads M4A, and the sound of videos"
        raise InputError(
            f"{name}: not a sound file (WAV, FLAC, OGG, MP3, AIFF... were expected){hint}"
        ) from refusal
    return AvSound(name)


class FlatAudio:
    """Reads audio from a flat `.bin` file, which states neither sample rate nor channels.

    The samples are stored channels first.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputError
        If the file can't be read, or is not a flat file.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self._numbers = read_flat(path)

    def length(self, samplerate: int) -> None:
        """Return None, because the length is unknown without the number of channels."""

    def changes(self, samplerate: int, channels: int) -> list[str]:
        """Return one phrase with the sample rate and number of channels that are assumed."""
        return [f"assumed to be {samplerate} Hz with {channels} channels, channels first"]

    def blocks(self, samplerate: int, channels: int) -> Iterator[FloatArray]:
        """Read the file from the beginning in blocks of (n, channels) float32.

        Raises
        ------
        InputError
            If the file's number of values is not a multiple of `channels`. While the blocks are
            read, also if a sample is not finite.
        """
        samples = axis_order.flat_frames(self._numbers, channels, "ct", self.name, "channels")
        cut = (samples[first : first + BLOCK] for first in range(0, len(samples), BLOCK))
        return _finite(cut, f"{self.name}: ")


def _finite(blocks: Iterable[FloatArray], prefix: str, done: int = 0) -> Iterator[FloatArray]:
    """Yield the same blocks in C order. A sample that is not finite raises an `InputError`.

    `done` is the index of the first sample, for the message.
    """
    for block in blocks:
        try:
            samples = checked_samples(block, done)
        except ValueError as error:
            raise InputError(f"{prefix}{error}") from None
        yield samples
        done += len(samples)
