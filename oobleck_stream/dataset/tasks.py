"""Defines the tasks of a run. Tasks are picklable, and a task may run more than once."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TypeAlias

from oobleck_stream.dataset.records import Line
from oobleck_stream.dataset.sources import Source


@dataclass(frozen=True)
class Piece:
    """An input that was opened, with the facts that are known from then on.

    Attributes
    ----------
    source : Source
    frames : int
        Number of latent frames to encode or decode.
    samples : int
        Number of samples in the input itself, at the network's sample rate.
    scratch : bool
        Whether the samples are read from a scratch file. A scratch file is needed if reading from
        the middle of the input would not be exact, for instance because the input is resampled or
        has a lossy format.
    changes : tuple of str
        Phrases that say how the input is converted.
    """

    source: Source
    frames: int = 0
    samples: int = 0
    scratch: bool = False
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Encode or decode each input that turns out to be short. Long inputs are only opened."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The name of the batch's record."""
        text = json.dumps([source.identity for source in self.sources])
        return "batch-" + hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Prepare:
    """Convert a long input to a scratch file, because parts of the input can't be read exactly."""

    piece: Piece


@dataclass(frozen=True)
class Unit:
    """Encode or decode the frames ``[first, last)`` of a long input."""

    piece: Piece
    first: int
    last: int


@dataclass(frozen=True)
class Join:
    """Join the parts of a long input to items. Each part is a range of frames ``[first, end)``."""

    piece: Piece
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pack:
    """Write a file that holds several items.

    Attributes
    ----------
    output : str
        The name of the file.
    lines : tuple of Line
        The items, sorted by key. Each item is read from a file of its own, or from the older
        version of `output`.
    """

    output: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Clean:
    """Remove files and folders of unfinished work that are not needed any more.

    The task that used them last must not remove them, because it needs them if it is run again.
    """

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


Task: TypeAlias = Batch | Prepare | Unit | Join | Pack | Clean


@dataclass(frozen=True)
class Result:
    """The result of a task.

    Attributes
    ----------
    lines : tuple of Line
        The items that are finished, and the inputs that failed.
    pieces : tuple of Piece
        The long inputs that were opened.
    record : str
        The name of the record that contains `lines`. Empty if there is none.
    seconds : float
        Seconds of sound that were encoded or decoded.
    bytes : int
        Number of bytes of the inputs that were processed.
    """

    lines: tuple[Line, ...] = ()
    pieces: tuple[Piece, ...] = ()
    record: str = ""
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Span:
    """Item `number` (from 0) of the `count` items of a piece. It has frames ``[first, last)``."""

    number: int
    first: int
    last: int
    count: int = field(default=1)


def item_spans(frames: int, split: int | None) -> list[Span]:
    """Cut the frames of a piece into items of `split` frames, or one item if `split` is None."""
    size = split or max(1, frames)
    starts = range(0, max(1, frames), size)
    return [
        Span(number, first, min(first + size, frames), len(starts))
        for number, first in enumerate(starts)
    ]


def unit_spans(frames: int, unit: int) -> tuple[tuple[int, int], ...]:
    """Return parts (first, end) of a piece, of about equal length and at most `unit` frames."""
    parts = -(-frames // unit)
    ends = [frames * number // parts for number in range(parts + 1)]
    return tuple(itertools.pairwise(ends))
