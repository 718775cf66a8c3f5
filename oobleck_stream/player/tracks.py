"""What is played: pieces of latents that give their samples from any place on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_latents
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.files.latents import read_latents
from oobleck_stream.model import Model

FIRST_SECONDS = 0.1
"""Sound that the first push gives: little, to start soon."""

BLOCK_SECONDS = 0.2
"""Sound that every other push gives: more, because larger pushes are cheaper."""


@runtime_checkable
class Track(Protocol):
    """One piece.

    Attributes
    ----------
    name : str
        To be shown.
    seekable : bool
        Whether it can be played from any place, and again.
    length : int or None
        Samples of the whole piece; None while it is not known.
    """

    name: str
    seekable: bool
    length: int | None

    def samples(self, decoder: StreamingDecoder, start: int) -> Iterator[FloatArray]:
        """The samples of the whole decode from number `start` on, chunk by chunk."""


class Frames(Protocol):
    """Latents of which slices can be had."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]: ...


class StoredTrack:
    """Latents that are all there.

    Parameters
    ----------
    frames : (frames, latent_dim) array of real numbers
        May be a memory map, or `Repeated`.
    length : int or None
        Samples that they decode to; None where it never ends.
    name : str
        To be shown.
    """

    seekable = True

    def __init__(self, frames: Frames, length: int | None, name: str = "") -> None:
        self.name = name
        self.length = length
        self._frames = frames

    def samples(self, decoder: StreamingDecoder, start: int) -> Iterator[FloatArray]:
        """The samples from number `start` on; the first push is large enough to give some."""
        frame, dropped = divmod(start, decoder.hop)
        rate = decoder.model.config.frame_rate
        end = frame + math.ceil(decoder.latency / decoder.hop + FIRST_SECONDS * rate)
        blocks = self._blocks(decoder.seek(frame), end, math.ceil(BLOCK_SECONDS * rate))
        for chunk in decoder.stream(blocks):
            yield chunk[dropped:]
            dropped = max(0, dropped - len(chunk))

    def _blocks(self, first: int, end: int, size: int) -> Iterator[npt.NDArray[Any]]:
        """The frames from `first` on: up to `end`, and then some at a time."""
        while first < len(self._frames):
            yield self._frames[first:end]
            first, end = end, end + size


class LiveTrack:
    """Latents that arrive while they are played, and are heard once.

    Parameters
    ----------
    blocks : iterable of (n, latent_dim) or (latent_dim,) arrays
    name : str
        To be shown.
    """

    seekable = False

    def __init__(self, blocks: Iterable[Any], name: str = "") -> None:
        self.name = name
        self.length: int | None = None
        self._blocks = iter(blocks)

    def samples(self, decoder: StreamingDecoder, start: int) -> Iterator[FloatArray]:
        """The samples as they become final; those before `start` are dropped."""
        decoder.reset()
        dropped = start
        for chunk in decoder.stream(self._blocks):
            yield chunk[dropped:]
            dropped = max(0, dropped - len(chunk))


class Repeated:
    """Frames over and over, as one endless piece: the network hears no seam.

    Parameters
    ----------
    frames : (frames, latent_dim) array
    times : float
        How often; may be infinite.
    """

    def __init__(self, frames: npt.NDArray[Any], times: float) -> None:
        self._frames = frames
        self._length = len(frames) * (10**12 if math.isinf(times) else int(times))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]:
        start, stop, _ = key.indices(self._length)
        return self._frames[np.arange(start, stop) % len(self._frames)]


def tracks_of(source: Any, model: Model) -> list[Track]:
    """Tracks of anything that can be played.

    Parameters
    ----------
    source : array_like, path, iterable of frames, Track, or sequence of such pieces
        An array is (frames, latent_dim); a path is a file of latents; an iterable gives frames,
        or arrays of frames, while it is played.
    model : Model
    """
    if isinstance(source, Track):
        return [source]
    if isinstance(source, str | Path):
        frames = read_latents(source).frames(model.latent_dim)
        return [StoredTrack(frames, model.decoded_length(len(frames)), str(source))]
    if isinstance(source, Sequence) and source and _is_piece(source[0]):
        return [track for part in source for track in tracks_of(part, model)]
    if isinstance(source, Sequence) or hasattr(source, "__array__"):
        frames = checked_latents(source, model.latent_dim)
        return [StoredTrack(frames, model.decoded_length(len(frames)))]
    return [LiveTrack(source)]


def _is_piece(part: Any) -> bool:
    """Whether a part of a sequence is a piece by itself, and not a frame."""
    return isinstance(part, Track | str | Path) or getattr(part, "ndim", 0) == 2
