"""Reads the inputs and the scratch files of tasks: latents and sound."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.dataset.places import is_remote
from oobleck_stream.dataset.sources import Source
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_reader import AudioFile
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.latents_reader import LatentFile, cut, read_latents

BLOCK = 2**17
"""Number of floats that are read at a time."""

DECODED = 32
"""Number of latent frames that are decoded at a time."""


@contextmanager
def open_sound(source: Source) -> Iterator[AudioFile]:
    """Open an audio file on a disk or in a store. Only the parts that are needed are read.

    Raises
    ------
    InputError
        If the file can't be read, or is not an audio file.
    """
    if not is_remote(source.address):
        with AudioFile(source.address) as sound:
            yield sound
        return
    with source.open() as file, AudioFile(source.address, file) as sound:
        yield sound


def padded_blocks(
    blocks: Iterator[FloatArray], samples: int, silence: int, channels: int
) -> Iterator[FloatArray]:
    """Yield the first `samples` samples of `blocks`, and then `silence` samples of silence."""
    left = samples
    for block in blocks:
        yield block[:left]
        left -= min(left, len(block))
        if left == 0:
            break
    while silence > 0:
        count = min(max(1, BLOCK // channels), silence)
        yield np.zeros((count, channels), np.float32)
        silence -= count


def read_rows(file: BinaryIO, first: int, last: int, width: int) -> Iterator[FloatArray]:
    """Yield the rows ``[first, last)`` of a scratch file or a part, as (n, width) float32.

    Raises
    ------
    EOFError
        If the file is too short.
    """
    file.seek(4 * width * first)
    while first < last:
        count = min(max(1, BLOCK // width), last - first)
        data = file.read(4 * width * count)
        if len(data) < 4 * width * count:
            raise EOFError(f"{getattr(file, 'name', 'a scratch file')} is too short")
        yield np.frombuffer(data, "<f4").reshape(count, width).astype(np.float32, copy=False)
        first += count


class LatentRows:
    """Reads frames from a file of latents.

    Parameters
    ----------
    source : Source
    latent_dim : int
    order : {"tc", "ct"} or None
        The axis order. None means that it is inferred from the shape.

    Raises
    ------
    InputError
        If the file can't be read, or has no frames of size `latent_dim`.
    """

    def __init__(self, source: Source, latent_dim: int, order: AxisOrder | None) -> None:
        self._name = source.address
        self._rows: npt.NDArray[Any] = _latents(source).view(latent_dim, order)
        if len(self._rows) == 0:
            raise InputError(f"{self._name}: holds no frames; at least one was expected")

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, first: int, last: int) -> Iterator[FloatArray]:
        """Yield the frames ``[first, last)`` in blocks.

        Raises
        ------
        InputError
            If a frame is not finite as float32.
        """
        return cut(self._rows[first:last], DECODED, self._name, first)


def _latents(source: Source) -> LatentFile:
    return _downloaded(source) if is_remote(source.address) else read_latents(source.address)


@functools.lru_cache(maxsize=1)
def _downloaded(source: Source) -> LatentFile:
    """Return the latents in a remote file.

    The file is downloaded to a temporary folder, which is removed before this function returns. The
    most recent result is cached, because consecutive tasks are often parts of the same input.
    """
    suffix = os.path.splitext(source.address)[1].lower()
    with tempfile.TemporaryDirectory(prefix="oobleck-") as folder:
        path = os.path.join(folder, "latents" + suffix)
        try:
            with source.open() as remote, open(path, "wb") as local:
                shutil.copyfileobj(remote, local)
        except OSError as error:
            raise InputError(f"{source.address}: can't be read: {error}") from error
        try:
            found = read_latents(path)
            if sys.platform == "win32":  # Windows can't remove a mapped file.
                array = np.array(found.array)
                return LatentFile(found.name, found.shape, lambda: array, found.metadata)
            _ = found.array
        except InputError as error:
            raise InputError(str(error).replace(path, source.address)) from error
        return found
