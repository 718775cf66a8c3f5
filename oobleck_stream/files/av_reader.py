"""Reads sound in formats that libsndfile lacks and FFmpeg supports, such as M4A and videos."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import InputError

HINTED = (".m4a", ".m4b", ".mp4", ".mov", ".aac", ".mkv", ".webm", ".wma", ".avi", ".3gp")
"""Common suffixes of such files. If PyAV is not installed, the message about a file with one of
these suffixes names the extra to install."""

FORMATS = (
    "aac,ac3,eac3,aiff,amr,ape,asf,avi,caf,dsf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpc,mpc8,mpeg,mpegts,ogg,tta,w64,wav,wv"
)
"""FFmpeg's names of the containers that are read. Playlists are not among them, because they make
FFmpeg read other files and addresses."""

MAX_PADDING = 4096
"""A codec pads its last frame. If at most this many samples exceed the stated length, they count as
padding and are dropped."""

ROUNDING_SECONDS = 0.001
"""Containers round lengths to a millisecond, so samples up to this many seconds beyond the stated
length are kept."""

SHORT_SECONDS = 0.1
"""If a sound is shorter than its container states by more than this many seconds, it was cut
off."""


class AvSound:
    """Reads sound with PyAV (the extra ``av``). If a file has several sounds, FFmpeg chooses one.

    Parameters
    ----------
    path : str

    Attributes
    ----------
    samplerate, channels : int
    samples : int or None
        The length that the container states, which may be inexact. None if it states no length, or
        if the container is not of MP4's family.

    Raises
    ------
    InputError
        If the file has no sound, or if nothing of it can be decoded.
    ImportError
        If PyAV is not installed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        first = next(self._frames(), None)
        if first is None:
            raise InputError(f"{path}: holds no samples; at least one was expected")
        # The container's rate is not used, because some codecs double it.
        self.samplerate, self.channels = _form(first)
        self.samples = round(self._seconds * self.samplerate) if self._seconds else None

    def blocks(self, size: int) -> Iterator[FloatArray]:
        """Yield the samples from the beginning in blocks (size, channels) float32.

        Only the last block may have another length.

        Raises
        ------
        InputError
            If the file is damaged or cut off, or if its sample rate or channels change.
        """
        waiting: list[FloatArray] = []
        yielded = count = 0
        for frame in self._frames():
            if _form(frame) != (self.samplerate, self.channels):
                raise InputError(f"{self._path}: its sample rate or channels change")
            waiting.append(_samples(frame))
            count += len(waiting[-1])
            if count >= size + MAX_PADDING:
                block = np.concatenate(waiting)
                yield block[:size]
                yielded, count, waiting = yielded + size, count - size, [block[size:]]
        rest, stated = np.concatenate(waiting), self.samples
        if stated is not None:
            if yielded + count < stated - SHORT_SECONDS * self.samplerate:
                raise InputError(
                    f"{self._path}: cut off after {yielded + count} of {stated} samples"
                )
            end = stated + math.ceil(ROUNDING_SECONDS * self.samplerate)
            if 0 < yielded + count - end <= MAX_PADDING:
                rest = rest[: end - yielded]
        yield rest

    def _frames(self) -> Iterator[Any]:
        """Decode the file from the beginning, and yield its frames."""
        import av

        # Without the prefix ``file:``, FFmpeg could mistake a path with a colon for an address.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        frames = 0
        try:
            with av.open(f"file:{self._path}", options=options, metadata_errors="replace") as file:
                stream = file.streams.best("audio")
                if stream is None:
                    what = "has no sound" if file.streams.video else "not a sound file"
                    raise InputError(f"{self._path}: {what}")
                # Only the containers of MP4's family state the exact length of each stream.
                self._seconds = 0.0
                if "mp4" in file.format.name and stream.duration and stream.time_base:
                    self._seconds = float(stream.duration * stream.time_base)
                for frame in file.decode(stream):
                    if isinstance(frame, av.AudioFrame) and frame.samples:
                        yield frame
                        frames += 1
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            what = "damaged or cut off" if frames else "not a sound file"
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self._path}: {what} ({reason})") from error


def _form(frame: Any) -> tuple[int, int]:
    """The sample rate and the number of channels of a frame."""
    return frame.sample_rate, frame.layout.nb_channels


def _samples(frame: Any) -> FloatArray:
    """The samples of a frame as (n, channels) float32."""
    stored = frame.to_ndarray()
    channels = frame.layout.nb_channels
    rows = stored.T if frame.format.is_planar else stored.reshape(-1, channels)
    if rows.dtype.kind == "f":
        return np.ascontiguousarray(rows, np.float32)
    full = 2.0 ** (8 * rows.dtype.itemsize - 1)
    middle = full if rows.dtype.kind == "u" else 0.0
    return np.ascontiguousarray((rows.astype(np.float64) - middle) / full, np.float32)
