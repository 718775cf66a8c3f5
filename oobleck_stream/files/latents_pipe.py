"""Reads latents from standard input: an `.npy` stream, or raw little-endian float32 frames."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import InputError
from oobleck_stream.files import axis_order
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.latents_reader import as_decoded, cut
from oobleck_stream.formats.npy import MAGIC, Header, Readable, exactly, read_header, read_numbers

PIECE = 1 << 16
"""Number of bytes that are read at a time."""

RAW_FRAME = np.dtype("<f4")


class LatentPipe:
    """Reads latent frames from a pipe, and passes them on as they arrive.

    Parameters
    ----------
    source : Readable
        An unbuffered source: `read` blocks until at least one byte is available, and may return
        fewer bytes than requested.
    name : str
        The source's name in error messages.
    """

    def __init__(self, source: Readable, name: str = "standard input") -> None:
        self.name = name
        self.metadata: Mapping[str, str] = {}
        self._source = source
        self._ahead = b""

    @functools.cached_property
    def header(self) -> Header | None:
        """The header of an `.npy` stream, or None for raw frames.

        The first access blocks until the header has arrived.
        """
        self._ahead = exactly(self, len(MAGIC))
        return read_header(self, self.name) if self._ahead == MAGIC else None

    def read(self, size: int = PIECE) -> bytes:
        """Read 1 to `size` bytes. At the end of the pipe, the result is empty."""
        if self._ahead:
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            return piece
        return self._source.read(size)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape that the header states; None for raw frames."""
        return self.header.shape if self.header else None

    def fits(self, latent_dim: int) -> bool:
        """Whether the pipe may have frames of `latent_dim` values; always true for raw frames."""
        return self.header is None or axis_order.fits(self.header.shape, latent_dim, self.name)

    def count(self, latent_dim: int, layout: AxisOrder | None = None) -> int | None:
        """The number of frames that the header states; None for raw frames."""
        if self.header is None:
            return None
        return axis_order.time_first(self.header.shape, latent_dim, layout, self.name)[0]

    def blocks(
        self, latent_dim: int, layout: AxisOrder | None = None, size: int = 32
    ) -> Iterator[FloatArray]:
        """Yield the frames as they arrive, in blocks (n, latent_dim) float32 with n <= `size`.

        Raises
        ------
        InputError
            For the reasons given for `LatentFile.frames`. Also if the pipe ends within a frame, or
            before it has delivered the number of frames that its header states.
        """
        if self.header is None:
            if layout == "ct":
                raise InputError(f"{self.name}: raw frames are stored time first (--layout tc)")
            return self._rows(latent_dim, RAW_FRAME, None, size)
        header = self.header
        count, is_time_first = axis_order.time_first(header.shape, latent_dim, layout, self.name)
        if count == 0:
            raise InputError(f"{self.name}: holds no frames; at least one was expected")
        if is_time_first != header.fortran:
            return self._rows(latent_dim, header.dtype, count, size)
        return self._transposed(header, latent_dim, layout, size)

    def _rows(
        self, latent_dim: int, dtype: np.dtype[Any], count: int | None, size: int
    ) -> Iterator[FloatArray]:
        """Yield `count` frames stored one after another; if it is None, all that arrive."""
        row, got, ahead = latent_dim * dtype.itemsize, 0, b""
        while count is None or got < count:
            room = size if count is None else min(size, count - got)
            piece = self.read(min(room * row, max(PIECE, row)) - len(ahead))
            if not piece:
                break
            ahead += piece
            whole = len(ahead) // row
            if whole:
                frames = np.frombuffer(ahead, dtype, whole * latent_dim).reshape(whole, -1)
                yield from self._decoded(frames, got)
                got, ahead = got + whole, ahead[whole * row :]
        if ahead or (count is not None and got < count) or got == 0:
            raise InputError(f"{self.name}: {_shortfall(got, count, bool(ahead))}")

    def _decoded(self, frames: npt.NDArray[Any], first: int) -> Iterator[FloatArray]:
        """Yield frames as float32.

        If a frame is not finite, an `InputError` is raised after the frames before it were yielded.
        """
        try:
            block = as_decoded(frames, first, self.name)
        except InputError:
            yield from cut(frames, 1, self.name, first)
        else:
            yield block

    def _transposed(
        self, header: Header, latent_dim: int, layout: AxisOrder | None, size: int
    ) -> Iterator[FloatArray]:
        """Yield frames that are stored channel by channel, after the whole array has been read."""
        array = read_numbers(self, header, self.name)
        frames = axis_order.frames_view(array, latent_dim, layout, self.name)
        yield from cut(frames, size, self.name)


def _shortfall(got: int, count: int | None, within: bool) -> str:
    """Return the error message for a pipe that ends too early, after `got` frames.

    `within` says whether the pipe ends in the middle of a frame.
    """
    if got == 0 and not within:
        return "ended before the first frame; at least one was expected"
    if count is None:
        return f"ended in the middle of frame {got}"
    return f"ended after {got} of {count} frames"
