"""Computes the provisional rows of the first layers together with the final rows.

The first layers of a decoder have few rows and most of the weights, so most of their time is spent
on reading the weights. If the provisional rows of a layer follow the final rows without a gap, one
step computes both, and the weights are read only once. The stream's own windows hold the
provisional rows until the next push overwrites them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oobleck_stream.arrays import IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.arena import ArenaLayout, Counters
from oobleck_stream.engine.planner import Move
from oobleck_stream.engine.program import Program
from oobleck_stream.engine.provisional import Blocks, counters_ahead, moves_alone, repeats


@dataclass(frozen=True)
class Push:
    """A push of one row that was planned without a provisional end.

    Parameters
    ----------
    layout : ArenaLayout
        The layout of the stream's windows.
    program : Program
        The program of the push.
    before, after : Counters
        The stream's counters before the push and after it.
    blocks : Blocks
        The blocks that the provisional end after the push needs.
    held : int
        Number of copies of the last input row that are appended to the input.
    """

    layout: ArenaLayout
    program: Program
    before: Counters
    after: Counters
    blocks: Blocks
    held: int

    def front(self, depth: int) -> int:
        """Number of leading layers, at most `depth`, whose provisional rows a push can compute too.

        In each of these layers, the provisional rows follow the final rows without a gap. The push
        has exactly one step for each of these layers, and this step computes no other layer. The
        layer after them has no residual.
        """
        layers, steps = self.layout.layers, self.program.steps
        count = 0
        while count < depth:
            own = steps[steps[:, table.LAYER] == count]
            follows = self.blocks.starts[count] == self.after.blocks[count]
            rows = self.blocks.stops[count] - self.before.blocks[count]
            if not (len(own) == 1 and follows and rows <= self.layout.limits[count]):
                break
            if own[0, table.JOINED] or layers[count].tile > 1:
                break
            count += 1
        while count and count < len(layers) and layers[count].residual:
            count -= 1
        return count if count < len(layers) else 0

    def with_front(self, front: int, scratch: ArenaLayout) -> tuple[Program, int]:
        """The program of the push, including the provisional rows of the first `front` layers.

        Returns
        -------
        program : Program
            It also copies the input of layer `front` into that layer's scratch window.
        received : int
            Number of input rows of that layer, including the provisional rows.
        """
        layers, layout = self.layout.layers, self.layout
        steps = self.program.steps.copy()
        ahead = counters_ahead(layers, self.after, self.blocks)
        fill = repeats(layout, self.before, self.after.received[0], self.held)
        received = self.after.received[0] + self.held
        for index in range(front):
            layer = layers[index]
            (at,) = np.flatnonzero(steps[:, table.LAYER] == index)
            # Write zeros after the input, as far as the last block reaches.
            origin, stop = self.before.origin(index, layer), self.blocks.stops[index]
            end = (stop - 1) * layer.stride_in - layer.left_padding + layer.reach + 1
            if end > received:
                start = layout.windows[index] + (received - origin) * layer.inputs
                fill.append((start, table.NONE, (end - received) * layer.inputs))
            first = self.before.blocks[index] * layer.phases - layer.trim
            received = min(stop * layer.phases - layer.trim, layer.output_length(received))
            steps[at, table.ROWS] = stop - self.before.blocks[index]
            steps[at, table.LAST_ROW] = max(0, received - first)
        (entered,) = np.flatnonzero(steps[:, table.LAYER] == -1)
        (done,) = np.flatnonzero(steps[:, table.LAYER] == front - 1)
        copies = self._copies(front, scratch, ahead, received)
        inserted = [(int(entered) + 1, fill), (int(done) + 1, copies)]
        return Program(
            *_inserted(steps, self.program.moves, inserted), self.program.counts
        ), received

    def _copies(
        self, index: int, scratch: ArenaLayout, ahead: Counters, received: int
    ) -> list[Move]:
        """The moves that copy the input of a layer into its scratch window."""
        layer, layout = self.layout.layers[index], self.layout
        first = ahead.origin(index, layer)
        source = layout.windows[index] + (first - self.before.origin(index, layer)) * layer.inputs
        moves = [(scratch.windows[index], source, (received - first) * layer.inputs)]
        skip, skip_copy = layout.skips[index], scratch.skips[index]
        if skip is not None and skip_copy is not None:
            first = ahead.produced[index + 1]
            source = skip + (first - self.before.produced[index + 1]) * layer.inputs
            moves.append((skip_copy, source, (received - first) * layer.inputs))
        return moves


def _inserted(
    steps: IntArray, moves: IntArray, groups: list[tuple[int, list[Move]]]
) -> tuple[IntArray, IntArray]:
    """Insert each group of moves before the step with the given index; return both tables."""
    for number, group in reversed(groups):
        if group:
            alone = moves_alone(len(moves), len(group))
            steps = np.concatenate([steps[:number], alone, steps[number:]])
            moves = np.concatenate([moves, np.array(group, np.int64)])
    return steps, moves
