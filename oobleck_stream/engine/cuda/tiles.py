"""Tiles that a product can be cut into, and which one a step takes.

Every tile gives the same bits, so the choice is one of speed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LATENCY = 800
"""Cycles that a chunk of input rows and weights takes to come from memory."""

SECOND_PASS = 4000
"""Cycles that adding up the taps in a kernel of their own takes."""

SUMS_A_CYCLE = 2
"""Sums of split taps that a multiprocessor's share of the memory writes and reads back."""


@dataclass(frozen=True)
class Tile:
    """What a block of threads computes at once.

    Parameters
    ----------
    rows, columns : int
        Of output, in a block of threads.
    thread_rows, thread_columns : int
        Of these, in a thread; powers of two.
    depth : int
        Channels that are brought to shared memory at once.
    """

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    depth: int

    @property
    def threads(self) -> int:
        """Threads in a block."""
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)

    @property
    def cycles(self) -> float:
        """Cycles for a channel: four warps issue an instruction each."""
        reads = math.ceil(self.thread_rows / 4) + math.ceil(self.thread_columns / 4)
        each = self.thread_rows * self.thread_columns + reads + 0.5
        return self.threads / 32 * each / 4


@dataclass(frozen=True)
class Cut:
    """How a step is cut: its tile, blocks of threads along rows and columns, and split taps.

    Parameters
    ----------
    tile : Tile
    row_tiles : int
    column_tiles : int
        Those of all phases together.
    splits : int
        1, or as many as taps: then a tap's sums are made by blocks of their own and added later.
    """

    tile: Tile
    row_tiles: int
    column_tiles: int
    splits: int


TILES = (
    Tile(128, 128, 8, 8, 16),
    Tile(64, 64, 8, 4, 16),
    Tile(32, 32, 4, 2, 64),
    Tile(8, 32, 2, 1, 128),
    Tile(128, 16, 4, 4, 32),
)

TINY_TILES = (Tile(4, 4, 2, 2, 4), Tile(2, 4, 2, 1, 4))
"""For the simulator, where threads are dear."""


def choose(
    tiles: tuple[Tile, ...],
    rows: int,
    phases: int,
    taps: int,
    channels: int,
    columns: int,
    multiprocessors: int,
) -> Cut:
    """The cut of a step with the fewest cycles, by estimate.

    Parameters
    ----------
    tiles : tuple of Tile
    rows, phases, taps, channels, columns : int
        Of the step; `rows` are the blocks of all streams.
    multiprocessors : int
        Of the GPU.
    """
    best, fewest = None, math.inf
    for tile in tiles:
        row_tiles, column_tiles = -(-rows // tile.rows), phases * -(-columns // tile.columns)
        for splits in {1, taps}:
            waves = -(-row_tiles * column_tiles * splits // multiprocessors)
            each = max(waves * tile.cycles, LATENCY / tile.depth)
            chunks = -(-channels // tile.depth) * (taps // splits)
            cycles = each * chunks * tile.depth
            if splits > 1:
                sums = rows * phases * columns * splits
                cycles += SECOND_PASS + sums / (SUMS_A_CYCLE * multiprocessors)
            if cycles < fewest:
                best, fewest = Cut(tile, row_tiles, column_tiles, splits), cycles
    assert best is not None
    return best
