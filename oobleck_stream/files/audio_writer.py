"""Writes audio files while the audio is computed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_reader import libsndfile_name
from oobleck_stream.files.quantization import WIDTHS, Bits, count_clipped, quantized
from oobleck_stream.files.resampler import Resampler
from oobleck_stream.formats.atomic import atomic_file, refusing_unwritable
from oobleck_stream.formats.mp3 import missing_bytes

PIECE = 1 << 14
"""Number of samples passed to libsndfile per call. Its Vorbis encoder puts them on the stack."""

MAX_WAV_BYTES = 2**32 - 2**16
"""Maximum size in bytes of the samples in a WAV file. The sizes in its header have 32 bits, which
limits the file to 4 GiB. The rest is left for the header.
"""

HEADER_BYTES = 4096
"""Number of bytes at the start of a WAV file that contain all chunks before the samples."""

SYSTEM_ERROR = 2
"""libsndfile's error code SF_ERR_SYSTEM: a system call failed, for example on a full disk."""

SUBTYPES: dict[str, dict[Bits, str]] = {
    ".wav": {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"},
    ".flac": {"16": "PCM_16", "24": "PCM_24"},
    ".ogg": {"float": "VORBIS"},
    ".opus": {"float": "OPUS"},
    ".mp3": {"float": "MPEG_LAYER_III"},
}

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""The sample rates that Opus encodes. Sound with any other rate is resampled to 48000 Hz."""


class AudioWriter:
    """Writes a sound file, which appears only when it is complete.

    The writer is a context manager. At the end of the block, the file is renamed to `path`. If an
    exception ends the block, the unfinished file is removed.

    Parameters
    ----------
    path : str or Path
        The suffix selects the format: ``.wav``, ``.flac``, ``.ogg`` (Vorbis), ``.opus`` or
        ``.mp3``.
    samplerate : int
        Sample rate in hertz.
    channels : int
        Number of audio channels.
    bits : {"16", "24", "float"}, optional
        Sample format. The default is "16", except for OGG, Opus and MP3 files, which have only
        "float".
    samples : int, optional
        The number of samples that will be written, if it is known. A WAV file gets an RF64 header
        if these samples take about 4 GiB or more.

    Attributes
    ----------
    samplerate : int
    file_samplerate : int
        The sample rate of the file. It can differ from `samplerate` only for Opus.
    written : int
        Number of samples written so far, at `samplerate`.
    clipped : int
        Number of values written so far that were beyond full scale and therefore clipped. Values in
        a float WAV file are never clipped.
    peak : float
        The largest absolute value written so far.

    Raises
    ------
    InputError
        If the file can't be written, or its format is unknown or does not support the sample
        format, channels or sample rate.
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
        self._container = {".ogg": "OGG", ".opus": "OGG"}.get(suffix, suffix[1:].upper())
        if not soundfile.check_format(self._container, subtypes[self.bits]):
            raise InputError(f"{path}: the installed libsndfile writes no {suffix} files")
        size = (samples or 0) * channels * WIDTHS[self.bits]
        if suffix == ".wav" and size > MAX_WAV_BYTES:
            self._container = "RF64"
        self.file_samplerate = samplerate
        self._resampler: Resampler | None = None
        if suffix == ".opus" and samplerate not in OPUS_RATES:
            self.file_samplerate = OPUS_RATES[-1]
            self._resampler = Resampler(samplerate, self.file_samplerate, channels)
        self._stored = 0
        with ExitStack() as stack:
            with refusing_unwritable(path):
                self._part = str(stack.enter_context(atomic_file(self.path)).name)
            self._sound = self._open(subtypes[self.bits])
            stack.push(self._finish)
            self._output = stack.pop_all()

    @property
    def seconds(self) -> float:
        """Seconds of audio written so far."""
        return self.written / self.samplerate

    @property
    def room(self) -> int:
        """How many more samples fit into the file. Only WAV files have a limit, which is 4 GiB."""
        if self._container != "WAV":
            return sys.maxsize
        return MAX_WAV_BYTES // (WIDTHS[self.bits] * self.channels) - self.written

    def _open(self, subtype: str) -> Any:
        """Open the empty temporary file with libsndfile, which writes the header."""
        try:
            return soundfile.SoundFile(
                libsndfile_name(self._part),
                "w",
                self.file_samplerate,
                self.channels,
                subtype,
                format=self._container,
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            if getattr(error, "code", None) == SYSTEM_ERROR:
                raise self._failure() from error
            raise InputError(
                f"{self.path}: {self._container} can't hold {self.channels} channels at "
                f"{self.samplerate} Hz"
            ) from error

    def _failure(self) -> OSError:
        """Return the error for a failed write, for which libsndfile reports no reason."""
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
            If a sample is not finite (the message has its index), or the file has no `room` for
            the samples.
        OSError
            If writing fails. The message names the file.
        """
        if len(samples) == 0:
            return
        row = first_not_finite(samples)
        if row is not None:
            raise InputError(f"{self.path}: sample {self.written + row} is not finite")
        if len(samples) > self.room:
            raise InputError(f"{self.path}: a WAV file can't hold more than 4 GiB of sound")
        self.peak = max(self.peak, float(np.abs(samples).max()))
        self._store(self._resampler.convert(samples) if self._resampler else samples)
        self.written += len(samples)

    def _store(self, samples: FloatArray) -> None:
        """Pass samples to libsndfile. They have the file's sample rate."""
        for first in range(0, len(samples), PIECE):
            piece = self._quantized(samples[first : first + PIECE])
            try:
                self._sound.write(piece)
            except (soundfile.LibsndfileError, AssertionError) as error:
                raise self._failure() from error
            self._stored += len(piece)

    def _quantized(self, samples: FloatArray) -> Any:
        """Convert samples to the file's format, rounding to nearest and clipping at full scale."""
        if self._container in ("WAV", "RF64") and self.bits == "float":
            return samples
        self.clipped += count_clipped(samples)
        return (
            np.clip(samples, -1.0, 1.0) if self.bits == "float" else quantized(samples, self.bits)
        )

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file. If no exception ended the block, check that the file is complete."""
        resampler, self._resampler = self._resampler, None
        try:
            if resampler and kind is None:
                self._store(resampler.convert(np.empty((0, self.channels), np.float32), last=True))
        finally:
            try:
                self._sound.close()
            except soundfile.LibsndfileError as error:
                if kind is None:
                    raise self._failure() from error
        if kind is None:
            self._clear_time()
            self._require_complete()

    def _clear_time(self) -> None:
        """Clear the timestamp in a float WAV file, so that equal sounds give equal files."""
        if self._container not in ("WAV", "RF64"):
            return
        with open(self._part, "rb+") as file:
            # The chunk's name PEAK is followed by size, version and timestamp, of 4 bytes each.
            place = file.read(HEADER_BYTES).find(b"PEAK")
            if place >= 0:
                file.seek(place + 12)
                file.write(bytes(4))

    def _require_complete(self) -> None:
        """Check the size in the header, because libsndfile ignores write errors while closing."""
        kind = self.path.suffix[1:].upper()
        if self.written == 0 and kind in ("FLAC", "MP3", "OPUS"):
            raise InputError(f"{self.path}: a {kind} file can't hold 0 samples")
        if self._container == "MP3" and missing_bytes(self._part):
            raise self._failure()
        try:
            stored = soundfile.info(libsndfile_name(self._part)).frames
        except soundfile.LibsndfileError as error:
            raise self._failure() from error
        # Chunks are padded to an even size, so a WAV file of odd size lacks its last byte.
        odd = self._container in ("WAV", "RF64") and Path(self._part).stat().st_size % 2
        if stored != self._stored or odd:
            raise self._failure()

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._output.__exit__(*error)
