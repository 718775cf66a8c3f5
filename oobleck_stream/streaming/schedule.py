"""Programs of a stack of layers, kept for the next push in the same situation.

What a push does depends on its length and on how full the windows are, which in a steady stream is
the same before every push, and the same in every stream that is fed alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from oobleck_stream.packed import PackedNetwork
from oobleck_stream.streaming.layout import Layout
from oobleck_stream.streaming.plan import IntArray
from oobleck_stream.streaming.planner import write_program
from oobleck_stream.streaming.progress import Counts, Progress

MOST_PROGRAMS = 64
"""Programs that are kept."""

MOST_SITUATIONS = 4096
"""Situations that are told apart at the same time."""

Situation = tuple[bool, tuple[tuple[int, int], ...]]
"""Whether nothing has come yet; each layer's fill, and the rows that it has yet to drop."""


@dataclass(frozen=True, eq=False)
class Program:
    """All that a push does.

    Parameters
    ----------
    steps, moves : int64 arrays
        As `oobleck_stream.kernels.steps` describes them.
    counts : (3, layers) int64
        What the push adds to a stream's counts.
    """

    steps: IntArray
    moves: IntArray
    counts: Counts

    @property
    def rows_out(self) -> int:
        """Rows that it gives out."""
        return int(self.counts[2, -1])


@dataclass(eq=False)
class Schedule:
    """Finds or writes programs.

    Parameters
    ----------
    network : PackedNetwork
    layout : Layout
    """

    network: PackedNetwork
    layout: Layout
    _programs: dict[tuple[int, int], tuple[Program, int]] = field(default_factory=dict)
    _situations: dict[Situation, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def situation(self, counts: Counts) -> int:
        """A number for how full the windows are, and how many rows layers have yet to drop.

        Streams with the same number run the same programs.
        """
        if len(self._situations) >= MOST_SITUATIONS:
            self._situations.clear()
            self._programs.clear()
        received, blocks, _ = counts.tolist()
        fill = tuple(
            (rows - done * layer.advance, max(0, layer.trim - done * layer.phases))
            for rows, done, layer in zip(received, blocks, self.layout.layers, strict=True)
        )
        situation = received[0] == 0, fill
        return self._situations.setdefault(situation, next(self._numbers))

    def program(self, situation: int, counts: Counts, rows: int, last: bool) -> tuple[Program, int]:
        """The program of a push, and the situation after it.

        Parameters
        ----------
        situation : int
        counts : (3, layers) int64
            Of a stream in that situation.
        rows : int
            At most `layout.entry`.
        last : bool
            Whether the input ends with them.
        """
        known = self._programs.get((situation, rows))
        if known is not None and not last:
            return known
        progress = Progress.at(counts)
        steps, moves = write_program(self.layout, self.network.places, progress, rows, last)
        program = Program(steps, moves, progress.counts - counts)
        after = self.situation(progress.counts)
        if not last:
            if len(self._programs) >= MOST_PROGRAMS:
                self._programs.clear()
            self._programs[situation, rows] = program, after
        return program, after
