"""Tracks are pieces of latents that a player can decode, usually from any sample on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray, is_foreign
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.latents_reader import read_latents
from oobleck_stream.layout import pieces_of_latents
from oobleck_stream.model import Model

FIRST_SECONDS = 0.1
"""Seconds of audio that the first push returns. This is short, so that playing starts soon."""

BLOCK_SECONDS = 0.2
"""Seconds of audio that each later push returns. This is longer, as larger pushes are cheaper."""

ENDLESS = 10**12
"""The number of repetitions that represents infinitely many."""


@runtime_checkable
class Track(Protocol):
    """A piece that can be played.

    Attributes
    ----------
    name : str
        Name to display.
    seekable : bool
        Whether the track can be played from any sample on, and more than once.
    length : int or None
        Number of samples of the whole piece. None if unknown.
    """

    name: str
    seekable: bool
    length: int | None

    def samples(self, decoder: StreamingDecoder, start: int) -> Iterator[FloatArray]:
        """Yield the decoded piece's samples from index `start` on, in chunks (n, channels)."""


class Frames(Protocol):
    """A sequence of latent frames that supports slicing."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]: ...


class StoredTrack:
    """A track whose latents are completely available.

    Parameters
    ----------
    frames : (frames, latent_dim) array of real numbers
        May be a memory map, or `Repeated`.
    length : int or None
        Number of samples that the frames decode to. None if the track is endless.
    name : str
        Name to display.
    """

    seekable = True

    def __init__(self, frames: Frames, length: int | None, name: str = "") -> None:
        self.name = name
        self.length = length
        self._frames = frames

    def samples(self, decoder: StreamingDecoder, start: int) -> Iterator[FloatArray]:
        """Yield samples as `Track.samples` does. The first push already returns samples."""
        frame, dropped = divmod(start, decoder.hop)
        rate = decoder.model.config.frame_rate
        end = frame + math.ceil(decoder.latency / decoder.hop + FIRST_SECONDS * rate)
        blocks = self._blocks(decoder.seek(frame), end, math.ceil(BLOCK_SECONDS * rate))
        for chunk in decoder.stream(blocks):
            yield chunk[dropped:]
            dropped = max(0, dropped - len(chunk))

    def _blocks(self, first: int, end: int, size: int) -> Iterator[npt.NDArray[Any]]:
        """Yield the frames from `first` to before `end`, then the rest in blocks of `size`."""
        while first < len(self._frames):
            yield self._frames[first:end]
            first, end = end, end + size


class LiveTrack:
    """A track whose latents arrive while they are played. It can be played only once.

    Parameters
    ----------
    blocks : iterable of (n, latent_dim) or (latent_dim,) arrays
    name : str
        Name to display.
    """

    seekable = False

    def __init__(self, blocks: Iterable[Any], name: str = "") -> None:
        self.name = name
        self.length: int | None = None
        self._blocks = iter(blocks)

    def samples(self, decoder: StreamingDecoder, start: int) -> Iterator[FloatArray]:
        """Yield samples as the frames arrive. Samples before `start` are dropped."""
        decoder.reset()
        dropped = start
        for chunk in decoder.stream(self._blocks):
            yield chunk[dropped:]
            dropped = max(0, dropped - len(chunk))


class Repeated:
    """Repeats frames as one continuous piece, without a seam between the repetitions.

    Parameters
    ----------
    frames : (frames, latent_dim) array
    times : float
        Number of repetitions. It may be infinite.
    """

    def __init__(self, frames: npt.NDArray[Any], times: float) -> None:
        self._frames = frames
        self._length = len(frames) * (ENDLESS if math.isinf(times) else int(times))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]:
        start, stop, _ = key.indices(self._length)
        return self._frames[np.arange(start, stop) % len(self._frames)]


def tracks_of(source: Any, model: Model, layout: AxisOrder | None = None) -> list[Track]:
    """Return the tracks of a source.

    Parameters
    ----------
    source : array_like, path, iterable of frames, Track, or sequence of such pieces
        An array or a tensor is a piece or a batch of pieces, as for `Model.decode`. A path names a
        file of latents. An iterable yields frames, or arrays of frames, during playback.
    model : Model
    layout : {"tc", "ct"}, optional
        The order of the axes of arrays and files: time first or channels first.
    """
    if isinstance(source, Track):
        return [source]
    if isinstance(source, str | Path):
        frames = read_latents(source).frames(model.latent_dim, layout)
        return [StoredTrack(frames, model.decoded_length(len(frames)), str(source))]
    if isinstance(source, Sequence) and source and _is_piece(source[0]):
        return [track for part in source for track in tracks_of(part, model, layout)]
    if isinstance(source, Sequence) or is_foreign(source) or isinstance(source, np.ndarray):
        latents = pieces_of_latents(source, model.latent_dim, layout)
        pieces = latents if latents.ndim == 3 else [latents]
        return [StoredTrack(piece, model.decoded_length(len(piece))) for piece in pieces]
    return [LiveTrack(source)]


def _is_piece(part: Any) -> bool:
    """Whether an element of a sequence is a piece rather than a frame."""
    return isinstance(part, Track | str | Path) or getattr(part, "ndim", 0) in (2, 3)
