"""Plans a provisional end: output rows that are computed before they are final.

A provisional end is what the stream would return if its input ended after the rows received so far,
or after some more copies of the last row. It is computed by a flush that is limited to the
requested output rows. The flush works on copies of the ends of the windows, in a part of the arena
after the windows, so the stream itself is not changed. Final rows are read from the windows and
never computed again.

Only the rows on which the requested rows depend are computed. They are found by tracing the
requested rows back through the layers. Near the input, these rows follow the final rows without a
gap. Near the output, there may be a gap after the final rows; then no final rows are copied, and
the rows in the gap are not computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.arrays import IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.arena import ALIASING_PAD, ArenaLayout, Counters
from oobleck_stream.engine.packed import ParameterOffsets
from oobleck_stream.engine.planner import Move, plan, step_row
from oobleck_stream.engine.program import Program
from oobleck_stream.network import Layer


@dataclass(frozen=True)
class Blocks:
    """The blocks of each layer that a range of output rows depends on and that are not final.

    Parameters
    ----------
    starts, stops : tuple of int
        For each layer, the first block, and the block after the last.
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        joined: Sequence[bool],
        counters: Counters,
        held: int,
        first: int,
        end: int,
    ) -> Blocks:
        """Trace the output rows ``first, ..., end - 1`` back to the input.

        Parameters
        ----------
        layers : sequence of Layer
        joined : sequence of bool
            Whether each layer is computed together with the one before it.
        counters : Counters
            The stream's counters. The blocks that they count are final.
        held : int
            Number of copies of the last input row that are appended to the input.
        first, end : int
            The range of output rows. Rows after the provisional end are left out.
        """
        lengths = [counters.received[0] + held]
        for layer in layers:
            lengths.append(layer.output_length(lengths[-1]))
        starts, stops = [], []
        for index in range(len(layers) - 1, -1, -1):
            layer, final = layers[index], counters.blocks[index]
            stop = max(final, -(-(min(end, lengths[index + 1]) + layer.trim) // layer.phases))
            # A row may belong to any tile that begins at most `spread` rows before this row.
            begin = (first + layer.trim - layer.spread) // layer.phases
            start = min(stop, max(final, begin))
            starts.append(start)
            stops.append(stop)
            first = max(0, start * layer.stride_in - layer.left_padding)
            end = (stop - 1) * layer.stride_in - layer.left_padding + layer.reach + 1
        starts.reverse()
        for index, layer in enumerate(layers[:-1]):
            if joined[index + 1]:
                # The joined layer takes all rows that the layer before it computes.
                starts[index + 1] = max(0, starts[index] * layer.phases - layer.trim)
        return cls(tuple(starts), tuple(reversed(stops)))

    def multiplications(self, layers: Sequence[Layer]) -> int:
        """Number of multiply-adds to compute these blocks."""
        return sum(
            (stop - start) * layer.multiplications
            for start, stop, layer in zip(self.starts, self.stops, layers, strict=True)
        )


def layers_read(layers: Sequence[Layer], blocks: Blocks, counters: Counters) -> int:
    """Number of leading layers on whose final rows the provisional rows depend.

    The layers after these need to be computed only for the exact output. A layer with a residual is
    counted if the layer before it is counted.
    """
    # If a layer starts at its first block that is not final, the next layer reads final rows of
    # this layer.
    count = max(
        [
            index + 1
            for index in range(len(layers) - 1)
            if blocks.starts[index] == counters.blocks[index]
        ],
        default=0,
    )
    while count < len(layers) and layers[count].residual:
        count += 1
    return count


def without_products(program: Program, depth: int) -> Program:
    """Return a program with all moves, but only the products of the first `depth` layers."""
    steps = program.steps.copy()
    left_out = steps[:, table.LAYER] >= depth
    steps[left_out, table.LAYER] = table.MOVES_ALONE
    steps[left_out, table.ROWS] = steps[left_out, table.JOINED] = 0
    steps[left_out, table.POINTS] = table.NONE
    kept = ~left_out | (steps[:, table.MOVES] > 0)
    return Program(steps[kept], program.moves, program.counts)


def scratch_layout(layout: ArenaLayout) -> ArenaLayout:
    """The layout of the copies of windows, which are stored after the windows of `layout`.

    A step may write a few rows before the first row that is needed. So there is room for such rows
    before every window and before its skip rows.
    """
    windows: list[int] = []
    skips: list[int | None] = []
    end, arriving = layout.floats, layout.entry
    for index, layer in enumerate(layout.layers):
        before = sum(one.phases + one.spread for one in layout.layers[max(0, index - 2) : index])
        windows.append(end + _whole_lines(before, layer.inputs))
        rows = 2 * layer.reach + arriving + layout.early[index] + layer.stride_in + 2
        end = windows[-1] + _whole_lines(rows, layer.inputs)
        skip = None
        if layout.skips[index] is not None:
            skip = end + ALIASING_PAD + _whole_lines(before + layer.left_padding, layer.inputs)
            end = skip + _whole_lines(rows, layer.inputs)
        skips.append(skip)
        arriving = layout.limits[index] * layer.phases
    return dataclasses.replace(layout, windows=tuple(windows), skips=tuple(skips), floats=end)


def plan_provisional(
    layout: ArenaLayout,
    scratch: ArenaLayout,
    offsets: Sequence[ParameterOffsets],
    counters: Counters,
    blocks: Blocks,
    held: int,
    front: tuple[int, int] = (0, 0),
) -> Program:
    """Plan the program that computes a provisional end.

    Parameters
    ----------
    layout : ArenaLayout
        The layout of the stream's windows.
    scratch : ArenaLayout
        What `scratch_layout` returns for `layout`.
    offsets : sequence of ParameterOffsets
        Where each layer's parameters start.
    counters : Counters
        The stream's counters, which are not changed. The stream must have received at least one
        row.
    blocks : Blocks
        The blocks to compute.
    held : int
        Number of copies of the last input row that are appended to the input. If this is not 0, the
        first layer must have no Snake.
    front : (int, int)
        Number of layers that are already computed, and number of input rows of the layer after
        them. These rows are in the scratch window of that layer.

    Returns
    -------
    Program
        The program. Its `counts` contain the number of its output rows and nothing else. The index
        of the first output row is ``blocks.starts[-1]``, because the last layer is not transposed.
    """
    ahead = counters_ahead(layout.layers, counters, blocks)
    done, received = front
    moves = [_copies(layout, scratch, counters, ahead, done + 1 if done else 0)]
    if done:
        ahead.received[done] = received
    else:
        moves.append(repeats(scratch, ahead, ahead.received[0], held))
        ahead.received[0] += held
    first = ahead.produced[-1]
    stops = [*blocks.starts[:done], *blocks.stops[done:]]
    steps, later = plan(scratch, offsets, ahead, 0, last=True, stops=stops)
    counts = np.zeros((3, len(layout.layers)), np.int64)
    counts[2, -1] = ahead.produced[-1] - first
    return Program(*_preceded(steps, later, moves), counts)


def counters_ahead(layers: Sequence[Layer], counters: Counters, blocks: Blocks) -> Counters:
    """Counters as if each layer had computed all blocks before its first block in `blocks`."""
    produced = [
        max(0, start * layer.phases - layer.trim)
        for start, layer in zip(blocks.starts, layers, strict=True)
    ]
    received = [counters.received[0], *produced[:-1]]
    return Counters(received, list(blocks.starts), produced, [False] * len(layers))


def _copies(
    layout: ArenaLayout, scratch: ArenaLayout, counters: Counters, ahead: Counters, first: int
) -> list[Move]:
    """The moves that copy the needed final rows, from layer `first` on, into scratch windows."""
    moves = []
    for index, layer in list(enumerate(layout.layers))[first:]:
        origin, row = counters.origin(index, layer), ahead.origin(index, layer)
        source = layout.windows[index] + (row - origin) * layer.inputs
        end = counters.received[index] + layout.early[index]
        moves.append((scratch.windows[index], source, (end - row) * layer.inputs))
        skip, skip_copy = layout.skips[index], scratch.skips[index]
        if skip is not None and skip_copy is not None:
            row = ahead.produced[index + 1]
            source = skip + (row - counters.produced[index + 1]) * layer.inputs
            moves.append((skip_copy, source, (end - row) * layer.inputs))
    return [(to, source, size) for to, source, size in moves if size > 0]


def repeats(layout: ArenaLayout, counters: Counters, received: int, held: int) -> list[Move]:
    """The moves that repeat the last of `received` input rows in the first window."""
    layer = layout.layers[0]
    last = received - 1 - counters.origin(0, layer)
    row = layout.windows[0] + last * layer.inputs
    return [(row + number * layer.inputs, row, layer.inputs) for number in range(1, held + 1)]


def moves_alone(first: int, count: int) -> IntArray:
    """A step, (1, FIELDS), that only makes `count` moves, beginning with move `first`."""
    fields = {table.FIRST_MOVE: first, table.MOVES: count}
    return np.array([step_row(table.MOVES_ALONE, fields)], np.int64)


def _preceded(
    steps: IntArray, moves: IntArray, groups: list[list[Move]]
) -> tuple[IntArray, IntArray]:
    """Insert groups of moves, one after another, before all steps; return both tables."""
    for group in reversed(groups):
        if group:
            steps = np.concatenate([moves_alone(len(moves), len(group)), steps])
            moves = np.concatenate([moves, np.array(group, np.int64)])
    return steps, moves


def _whole_lines(rows: int, width: int) -> int:
    """Size of `rows` rows of `width` floats, in floats, rounded up to whole cache lines."""
    return -(-rows * width // table.LANES) * table.LANES
