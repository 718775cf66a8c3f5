"""Latents that arrive on standard input: an `.npy` stream, or raw little-endian float32 frames."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import InputError
from oobleck_stream.files import layout as layouts
from oobleck_stream.files.latents import as_decoded, cut
from oobleck_stream.files.layout import Layout
from oobleck_stream.files.npy import MAGIC, Header, Readable, exactly, read_header, read_numbers

PIECE = 1 << 16
RAW_FRAME = np.dtype("<f4")


class LatentPipe:
    """Frames from a pipe, handed on as they arrive.

    Parameters
    ----------
    source : Readable
        Unbuffered: its `read` waits for something, not for all that was asked for.
    name : str
        For messages.
    """

    def __init__(self, source: Readable, name: str = "standard input") -> None:
        self.name = name
        self.metadata: Mapping[str, str] = {}
        self._source = source
        self._ahead = b""

    @functools.cached_property
    def header(self) -> Header | None:
        """What an `.npy` stream announces, None for raw frames; waits for the first bytes."""
        self._ahead = exactly(self, len(MAGIC))
        return read_header(self, self.name) if self._ahead == MAGIC else None

    def read(self, size: int = PIECE) -> bytes:
        """At least one byte unless the pipe has ended, and at most `size`."""
        if self._ahead:
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            return piece
        return self._source.read(size)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """What the header announces; None for raw frames."""
        return self.header.shape if self.header else None

    def fits(self, latent_dim: int) -> bool:
        """Whether frames of this size may come."""
        return self.header is None or layouts.fits(self.header.shape, latent_dim, self.name)

    def count(self, latent_dim: int, layout: Layout | None = None) -> int | None:
        """Number of frames that the header announces; None without one."""
        if self.header is None:
            return None
        return layouts.time_first(self.header.shape, latent_dim, layout, self.name)[0]

    def blocks(
        self, latent_dim: int, layout: Layout | None = None, size: int = 32
    ) -> Iterator[FloatArray]:
        """Whatever frames have arrived, in blocks of (at most `size`, latent_dim) float32.

        Raises
        ------
        InputError
            As for `LatentFile.frames`; and when the pipe ends within a frame, or before the number
            of frames that its header announces.
        """
        if self.header is None:
            if layout == "ct":
                raise InputError(f"{self.name}: raw frames come one after another: --layout tc")
            return self._rows(latent_dim, RAW_FRAME, None, size)
        header = self.header
        count, time_leads = layouts.time_first(header.shape, latent_dim, layout, self.name)
        if count == 0:
            raise InputError(f"{self.name}: holds no frames; at least one was expected")
        if time_leads != header.fortran:
            return self._rows(latent_dim, header.dtype, count, size)
        return self._transposed(header, latent_dim, layout, size)

    def _rows(
        self, latent_dim: int, dtype: np.dtype[Any], count: int | None, size: int
    ) -> Iterator[FloatArray]:
        """Frames that stand one after another; `count` of them, or as many as come."""
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
        """Frames as float32; where one is bad, those before it come first."""
        try:
            block = as_decoded(frames, first, self.name)
        except InputError:
            yield from cut(frames, 1, self.name, first)
        else:
            yield block

    def _transposed(
        self, header: Header, latent_dim: int, layout: Layout | None, size: int
    ) -> Iterator[FloatArray]:
        """Channels first: the first frame is whole only when everything is there."""
        array = read_numbers(self, header, self.name)
        frames = layouts.frames_view(array, latent_dim, layout, self.name)
        yield from cut(frames, size, self.name)


def _shortfall(got: int, count: int | None, within: bool) -> str:
    """What is missing when a pipe ends too early."""
    if got == 0 and not within:
        return "ended before the first frame; at least one was expected"
    if count is None:
        return f"ended in the middle of frame {got}"
    return f"ended after {got} of {count} frames"
