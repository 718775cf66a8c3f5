"""Translates a program into the sequence of kernel launches that executes it."""

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
from oobleck_stream.engine.cuda.schemes import combine_kernel, transform_kernel
from oobleck_stream.engine.cuda.tiles import Cut, Tile, choose

MAX_BLOCKS = 256
"""Maximum number of thread blocks that share one move."""


@dataclass(frozen=True)
class Buffers:
    """The device memory that the kernels read and write.

    Parameters
    ----------
    steps, moves : (steps, FIELDS) and (moves, MOVE_FIELDS) int64
    streams : (group,) int64
        Indices of the audio streams of the group: the streams that run the program together.
    source, target : (n,) float32
        Input and output rows of the group, stream after stream. Each stream has `source_floats`
        floats of input and `target_floats` floats of output.
    arenas : (n,) float32
        The arenas of all streams, one after another; each has `arena_floats` floats.
    parameters : (n,) float32
        The packed parameters.
    sums : (n,) float32
        Working memory for the parts of split sums.
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
    """One launch: the kernel, the grid of blocks, the threads per block, and the arguments."""

    kernel: Any
    blocks: tuple[int, int, int]
    threads: int
    arguments: tuple[Any, ...]

    def enqueue(self, cuda_stream: Any) -> None:
        """Enqueue the kernel on a CUDA stream."""
        self.kernel[self.blocks, self.threads, cuda_stream](*self.arguments)


def cuts(
    steps: IntArray, group: int, tiles: tuple[Tile, ...], multiprocessors: int
) -> list[Cut | None]:
    """Return the `Cut` of each step for a group of streams; None for a step without a product."""
    found: list[Cut | None] = []
    for step in steps:
        if step[table.LAYER] == table.MOVES_ALONE or step[table.WEIGHTS] == table.NONE:
            found.append(None)
            continue
        rows, taps, channels, columns = (
            int(step[field]) for field in (table.ROWS, table.TAPS, table.CHANNELS, table.COLUMNS)
        )
        points = bool(step[table.TILE] > 1)
        phases = 1 if points else int(step[table.PHASES])
        cut = choose(tiles, group * rows, phases, taps, channels, columns, multiprocessors, points)
        found.append(cut)
    return found


def max_sums(steps: IntArray, cut: list[Cut | None], group: int) -> int:
    """Return the largest number of floats that the parts of split sums occupy in any step."""
    sizes = [
        group * _sums(step) * part.splits
        for step, part in zip(steps, cut, strict=True)
        if part is not None and part.splits > 1
    ]
    return max(sizes, default=0)


def _sums(step: IntArray) -> int:
    """Number of sums of a step in one stream. All phases of a tile use the same sums."""
    phases = 1 if step[table.TILE] > 1 else step[table.PHASES]
    return int(step[table.ROWS] * phases * step[table.COLUMNS])


def launches(
    steps: IntArray,
    moves: IntArray,
    cut: list[Cut | None],
    group: int,
    buffers: Buffers,
    threads: int,
) -> Iterator[Launch]:
    """Yield the launches of a program, in order.

    Parameters
    ----------
    steps, moves : (steps, FIELDS) and (moves, MOVE_FIELDS) int64
    cut : list of (Cut or None)
        The `Cut` of each step.
    group : int
        Number of streams.
    buffers : Buffers
    threads : int
        Number of threads per block, for the kernels that have no tile.
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
        tile = int(step[table.TILE])
        if step[table.LAYER] == table.MOVES_ALONE:
            pass
        elif step[table.POINTS] != table.NONE:
            yield Launch(
                transform_kernel(tile),
                (-(-group * int(step[table.ROWS] * step[table.CHANNELS]) // threads), 1, 1),
                threads,
                (b.steps, index, b.streams, b.arenas, b.arena_floats),
            )
        # For split sums and for the copy of the input rows, the epilogue is a separate kernel.
        elif part is None or part.splits > 1:
            yield Launch(
                combine_kernel(tile) if tile > 1 else finish_kernel(),
                (-(-group * _sums(step) // threads), 1, 1),
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
                    1 if part is None else part.splits,
                    b.source_floats,
                ),
            )
        if step[table.MOVES] > 0:
            first = int(step[table.FIRST_MOVE])
            yield move_launch(moves, first, int(step[table.MOVES]), group, buffers, threads)


def move_launch(
    moves: IntArray, first: int, count: int, group: int, buffers: Buffers, threads: int
) -> Launch:
    """Return the launch that executes `count` moves, from `first` on, in all streams of a group."""
    some = moves[first : first + count]
    displacements = np.abs(some[:, table.ORIGIN] - some[:, table.TO])
    # A thread copies a chain of elements (see `moves_kernel`). If a move writes zeros, each element
    # counts as a chain.
    chains = np.where(some[:, table.ORIGIN] == table.NONE, some[:, table.SIZE], displacements)
    max_chains = int(np.minimum(chains, some[:, table.SIZE]).max())
    blocks = min(MAX_BLOCKS, max(1, -(-max_chains // threads)))
    arguments = (buffers.moves, first, buffers.streams, buffers.arenas, buffers.arena_floats)
    return Launch(moves_kernel(), (blocks, count, group), threads, arguments)
