"""Defines the tiles into which a product can be cut, and chooses a tile for each step.

The results are bit-identical for every tile, so the choice affects only the speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from oobleck_stream.engine.program import chain_length

LATENCY = 800
"""Latency, in cycles, of loading a chunk of input rows and weights from global memory."""

SECOND_PASS = 4000
"""Cycles of a separate kernel that adds up split sums, not counting its memory traffic."""

SUMS_A_CYCLE = 2
"""Number of parts of split sums that a multiprocessor can write and read back per cycle."""


@dataclass(frozen=True)
class Tile:
    """A block of the output that one block of threads computes.

    Parameters
    ----------
    rows, columns : int
        Size of the tile.
    thread_rows, thread_columns : int
        Number of rows and of columns that one thread computes. Both are powers of two.
    depth : int
        Number of channels that are copied to shared memory at a time.
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
        """Estimated cycles of a tile per channel, if a multiprocessor issues 4 warps per cycle."""
        reads = math.ceil(self.thread_rows / 4) + math.ceil(self.thread_columns / 4)
        # Fused multiply-adds, wide loads from shared memory, and the overhead of the loop.
        each = self.thread_rows * self.thread_columns + reads + 0.5
        return self.threads / 32 * each / 4


@dataclass(frozen=True)
class Cut:
    """How a step is distributed over blocks of threads.

    Parameters
    ----------
    tile : Tile
    row_tiles : int
        Tiles along the rows.
    column_tiles : int
        Tiles along the columns, counted over all phases.
    splits : int
        Number of parts into which every sum is split. If there are several, separate blocks of
        threads compute the parts, and a second kernel adds them up.
    """

    tile: Tile
    row_tiles: int
    column_tiles: int
    splits: int


TILES = (
    Tile(128, 128, 8, 8, 16),
    Tile(64, 64, 8, 4, 16),
    Tile(32, 32, 4, 2, 64),
    Tile(8, 32, 2, 1, 64),
    Tile(128, 16, 4, 4, 32),
)

TINY_TILES = (Tile(4, 4, 2, 2, 4), Tile(2, 4, 2, 1, 4))
"""Tiles for the simulator, where threads are expensive."""


def choose(
    tiles: tuple[Tile, ...],
    rows: int,
    phases: int,
    taps: int,
    channels: int,
    columns: int,
    multiprocessors: int,
    points: bool = False,
) -> Cut:
    """Choose the cut with which a step takes the fewest cycles, as far as they can be estimated.

    Parameters
    ----------
    tiles : tuple of Tile
    rows : int
        Number of blocks of output rows, counted over all streams.
    phases, taps, channels, columns : int
        Fields of the step.
    multiprocessors : int
        Number of multiprocessors of the GPU.
    points : bool
        Whether the taps are the points of a fast convolution, whose sums are always split.
    """
    chains = taps * -(-channels // chain_length(channels))
    best, fewest = None, math.inf
    for tile in tiles:
        row_tiles, column_tiles = -(-rows // tile.rows), phases * -(-columns // tile.columns)
        for splits in {taps if points else 1, chains}:
            waves = -(-row_tiles * column_tiles * splits // multiprocessors)
            each = max(waves * tile.cycles, LATENCY / tile.depth)
            chunks = -(-(-(-channels // tile.depth) * taps) // splits)
            cycles = each * chunks * tile.depth
            if splits > 1:
                sums = rows * phases * columns * splits
                cycles += SECOND_PASS + sums / (SUMS_A_CYCLE * multiprocessors)
            if cycles < fewest:
                best, fewest = Cut(tile, row_tiles, column_tiles, splits), cycles
    assert best is not None
    return best
