"""The tasks of a run. Each can be pickled, and running one twice does no harm."""

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
    """What is known of a long input after it was opened.

    Attributes
    ----------
    source : Source
    frames : int
        Latent frames to encode or decode.
    samples : int
        Samples of the input itself at the network's rate.
    scratch : bool
        Whether its samples are read from a scratch file, because they can't be read from the
        middle of the input exactly: it is resampled, or compressed with loss.
    changes : tuple of str
        How the input is converted.
    """

    source: Source
    frames: int = 0
    samples: int = 0
    scratch: bool = False
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Encode or decode short inputs. Long ones among them are only opened."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The name of the batch's record."""
        text = json.dumps([source.identity for source in self.sources])
        return "batch-" + hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Prepare:
    """Convert a long input that can't be cut exactly, from its start, to a scratch file."""

    piece: Piece


@dataclass(frozen=True)
class Unit:
    """Encode or decode the frames from `first` up to `last` of a long input."""

    piece: Piece
    first: int
    last: int


@dataclass(frozen=True)
class Join:
    """Make the items of a long input of its parts; `parts` are their first and last frames."""

    piece: Piece
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pack:
    """Write a file of several items.

    Attributes
    ----------
    output : str
        The file's name.
    lines : tuple of Line
        The items, sorted by key. Each is either in a file of its own, or in the older file of the
        same name.
    """

    output: str
    lines: tuple[Line, ...]


Task: TypeAlias = Batch | Prepare | Unit | Join | Pack


@dataclass(frozen=True)
class Result:
    """What a task has done.

    Attributes
    ----------
    lines : tuple of Line
        Items that are finished, and inputs that failed.
    pieces : tuple of Piece
        Long inputs that were opened.
    record : str
        The record that contains the lines; empty if there is none.
    seconds : float
        Sound that was encoded or decoded.
    bytes : int
        Bytes of inputs that this was.
    """

    lines: tuple[Line, ...] = ()
    pieces: tuple[Piece, ...] = ()
    record: str = ""
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Span:
    """An item of a piece: its number, and its frames from `first` up to `last`."""

    number: int
    first: int
    last: int
    count: int = field(default=1)


def item_spans(frames: int, split: int | None) -> list[Span]:
    """Cut the frames of a piece into items."""
    size = split or max(1, frames)
    starts = range(0, max(1, frames), size)
    return [
        Span(number, first, min(first + size, frames), len(starts))
        for number, first in enumerate(starts)
    ]


def unit_spans(frames: int, unit: int) -> tuple[tuple[int, int], ...]:
    """Cut the frames of a piece into parts of at most `unit` frames, of about equal length."""
    parts = -(-frames // unit)
    ends = [frames * number // parts for number in range(parts + 1)]
    return tuple(itertools.pairwise(ends))
