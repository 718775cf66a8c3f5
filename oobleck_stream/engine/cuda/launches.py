"""From a program's tables to the kernels that are launched for it, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from oobleck_stream.arrays import IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.cuda.epilogue import finish_kernel
from oobleck_stream.engine.cuda.moves import moves_kernel
from oobleck_stream.engine.cuda.product import product_kernel
from oobleck_stream.engine.cuda.tiles import Cut, Tile, choose

MOST_BLOCKS = 256
"""Blocks of threads that one move is spread over at most."""


@dataclass(frozen=True)
class Buffers:
    """What the kernels read and write, all on the device.

    Parameters
    ----------
    steps, moves : (steps, FIELDS) and (moves, MOVE_FIELDS) int64
    streams : (group,) int64
        Which arenas take part.
    source, target : float32
        The rows of the group, one stream's behind the other's, `source_floats` and `target_floats`
        each.
    arenas : float32
        All streams' arenas, `arena_floats` each.
    parameters : float32
    sums : float32
        Room for the sums of split taps.
    """

    steps: Any
    moves: Any
    streams: Any
    source: Any
    source_floats: int
    target: Any
    target_floats: int
    arenas: Any
    arena_floats: int
    parameters: Any
    sums: Any


@dataclass(frozen=True)
class Launch:
    """A kernel, its blocks of threads, the threads of one, and its arguments."""

    kernel: Any
    blocks: tuple[int, int, int]
    threads: int
    arguments: tuple[Any, ...]

    def go(self, stream: Any) -> None:
        """Put it on a stream."""
        self.kernel[self.blocks, self.threads, stream](*self.arguments)


def cuts(
    steps: IntArray, group: int, tiles: tuple[Tile, ...], multiprocessors: int
) -> list[Cut | None]:
    """How each step is cut; None for those without a product."""
    found: list[Cut | None] = []
    for step in steps:
        if step[table.LAYER] == table.MOVES_ALONE or step[table.WEIGHTS] == table.NONE:
            found.append(None)
            continue
        rows, phases, taps, channels, columns = (
            int(step[field])
            for field in (table.ROWS, table.PHASES, table.TAPS, table.CHANNELS, table.COLUMNS)
        )
        found.append(choose(tiles, group * rows, phases, taps, channels, columns, multiprocessors))
    return found


def most_sums(steps: IntArray, cut: list[Cut | None], group: int) -> int:
    """Floats that the sums of split taps take at most."""
    sizes = [
        group * int(step[table.ROWS] * step[table.PHASES] * step[table.COLUMNS]) * part.splits
        for step, part in zip(steps, cut, strict=True)
        if part is not None and part.splits > 1
    ]
    return max(sizes, default=0)


def launches(
    steps: IntArray,
    moves: IntArray,
    cut: list[Cut | None],
    group: int,
    buffers: Buffers,
    threads: int,
) -> Iterator[Launch]:
    """All launches of a program in their order.

    `threads` are those of a block of the kernels that have no tile.
    """
    b = buffers
    for index, (step, part) in enumerate(zip(steps, cut, strict=True)):
        if part is not None:
            yield Launch(
                product_kernel(part.tile),
                (part.row_tiles, part.column_tiles, part.splits),
                part.tile.threads,
                (
                    b.steps,
                    index,
                    b.streams,
                    b.arenas,
                    b.arena_floats,
                    b.parameters,
                    b.target,
                    b.target_floats,
                    b.sums,
                ),
            )
        if step[table.LAYER] != table.MOVES_ALONE and (part is None or part.splits > 1):
            numbers = group * int(step[table.ROWS] * step[table.PHASES] * step[table.COLUMNS])
            yield Launch(
                finish_kernel(),
                (-(-numbers // threads), 1, 1),
                threads,
                (
                    b.steps,
                    index,
                    b.streams,
                    b.source,
                    b.arenas,
                    b.arena_floats,
                    b.target,
                    b.target_floats,
                    b.parameters,
                    b.sums,
                    b.source_floats,
                ),
            )
        if step[table.MOVES] > 0:
            first = int(step[table.FIRST_MOVE])
            yield move_launch(moves, first, int(step[table.MOVES]), group, buffers, threads)


def move_launch(
    moves: IntArray, first: int, count: int, group: int, buffers: Buffers, threads: int
) -> Launch:
    """One launch for `count` moves from number `first` on, of all streams of a group."""
    some = moves[first : first + count]
    far = np.abs(some[:, table.ORIGIN] - some[:, table.TO])
    alone = np.where(some[:, table.ORIGIN] == table.NONE, some[:, table.SIZE], far)
    most = int(np.minimum(alone, some[:, table.SIZE]).max())
    blocks = min(MOST_BLOCKS, max(1, -(-most // threads)))
    arguments = (buffers.moves, first, buffers.streams, buffers.arenas, buffers.arena_floats)
    return Launch(moves_kernel(), (blocks, count, group), threads, arguments)
