"""Writes the program of one push: which rows of which layers are due, and where they go.

Each layer has a window: the input rows it still needs, and behind them the new ones. A step runs a
layer over the blocks that are due and writes into the next layer's window; then what it used up is
moved out of its own. Large pushes run depth first in pieces that fit the cache, so the memory is
the same for every length. How the input is cut changes which rows a step computes, never how a row
is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from oobleck_stream.kernels import steps
from oobleck_stream.packed import Place
from oobleck_stream.streaming.layout import Layout
from oobleck_stream.streaming.plan import IntArray, Plan
from oobleck_stream.streaming.progress import Progress


def write_program(
    layout: Layout, places: Sequence[Place], progress: Progress, rows: int, last: bool
) -> tuple[IntArray, IntArray]:
    """The steps and moves of a push; `progress` is then as if they had run.

    Parameters
    ----------
    layout : Layout
    places : sequence of Place
        Where each layer's parameters are.
    progress : Progress
        Of the stream before the push.
    rows : int
        At most `layout.entry`.
    last : bool
        Whether the input ends with them.
    """
    planner = _Planner(layout, places, progress)
    if rows:
        if progress.received[0] == 0:
            planner.begin()
        planner.enter(rows)
    if rows or last:
        planner.run_layer(0, last)
    return planner.plan.tables()


class _Planner:
    def __init__(self, layout: Layout, places: Sequence[Place], progress: Progress) -> None:
        self.plan = Plan()
        self._layers, self._layout = layout.layers, layout
        self._places, self._progress = places, progress
        self._first_out = progress.produced[-1]

    def begin(self) -> None:
        """The zeros before the first row of every layer."""
        for index, layer in enumerate(self._layers):
            size = layer.before * layer.inputs
            self.plan.move(index, self._layout.windows[index], steps.NONE, size)
        self.plan.settle()

    def enter(self, rows: int) -> None:
        """Copy new rows into the first window, through its Snake."""
        inputs = self._layers[0].inputs
        fields = {
            steps.ROWS: rows,
            steps.LAST_ROW: rows,
            steps.PHASES: 1,
            steps.COLUMNS: inputs,
            steps.INPUT_STRIDE: inputs,
        }
        self.plan.add(-1, fields | self._target(-1, self._progress.received[0]))
        self._progress.received[0] += rows

    def run_layer(self, index: int, ends: bool) -> None:
        """The steps of a layer whose input has got rows (or its end), and of all layers below."""
        layer, progress = self._layers[index], self._progress
        received = progress.received[index]
        if ends:
            self._end(index)
        due = layer.last_block(received) if ends else layer.due_blocks(received)
        while True:
            count = min(due - progress.blocks[index], self._layout.limits[index])
            if count > 0:
                self._step(index, count)
            finished = progress.blocks[index] >= due
            if index + 1 < len(self._layers) and (count > 0 or (ends and finished)):
                self.run_layer(index + 1, ends and finished)
            if finished:
                return

    def _end(self, index: int) -> None:
        """End a layer's input: zeros behind the last row, as far as the last block reaches."""
        layer, progress = self._layers[index], self._progress
        rows = progress.kept(index, layer)
        progress.complete[index] = True
        zeros = (progress.kept(index, layer) - rows) * layer.inputs
        behind = self._layout.windows[index] + rows * layer.inputs
        self.plan.settle()
        self.plan.move(index, behind, steps.NONE, zeros)
        self.plan.settle()

    def _step(self, index: int, count: int) -> None:
        """Run a layer over its next `count` blocks."""
        layer, place, progress = self._layers[index], self._places[index], self._progress
        window = self._layout.windows[index]
        first = progress.blocks[index] * layer.phases - layer.trim
        end = first + count * layer.phases
        if progress.complete[index]:
            end = min(end, layer.output_length(progress.received[index]))
        fields = {
            steps.ROWS: count,
            steps.PHASES: layer.phases,
            steps.FIRST_ROW: max(0, -first),
            steps.LAST_ROW: max(0, end - first),
            steps.TAPS: layer.taps,
            steps.CHANNELS: layer.inputs,
            steps.COLUMNS: layer.outputs,
            steps.INPUT: window,
            steps.INPUT_STRIDE: layer.inputs * layer.advance,
            steps.TAP_STRIDE: layer.inputs * (1 if layer.transposed else layer.dilation),
            steps.WEIGHTS: place.weights,
            steps.BIAS: place.bias,
            steps.TANH: int(layer.tanh),
        }
        skip = self._layout.skips[index - 1] if layer.residual else None
        if skip is not None:
            fields[steps.RESIDUAL] = skip
        fields |= self._target(index, first)
        if self._joins(index):
            self.plan.join(index, fields)
        else:
            self.plan.add(index, fields)

        used = count * layer.advance * layer.inputs
        progress.blocks[index] += count
        self.plan.move(index, window, window + used, progress.kept(index, layer) * layer.inputs)
        new = max(0, end - max(0, first))
        if skip is not None:
            rest = progress.received[index - 1] - progress.produced[index] - new
            self.plan.move(index, skip, skip + new * layer.outputs, rest * layer.outputs)
        progress.produced[index] += new
        if index + 1 < len(self._layers):
            progress.received[index + 1] += new

    def _target(self, index: int, first: int) -> dict[int, int]:
        """Where a layer's output rows go, the first of the step being row `first`."""
        if index + 1 == len(self._layers):
            width = self._layers[index].outputs
            place = (first - self._first_out) * width
            return {steps.OUTPUT_STRIDE: width, steps.PLAIN: place, steps.LEAVES: 1}
        target, progress = self._layers[index + 1], self._progress
        width = target.inputs
        behind = (first - progress.origin(index + 1, target)) * width
        window = self._layout.windows[index + 1] + behind
        if not target.snake:
            return {steps.OUTPUT_STRIDE: width, steps.PLAIN: window}
        parameters = self._places[index + 1]
        fields = {
            steps.OUTPUT_STRIDE: width,
            steps.ACTIVE: window,
            steps.ALPHA: parameters.alpha,
            steps.INVERSE_BETA: parameters.inverse_beta,
        }
        skip = self._layout.skips[index + 1]
        if skip is not None:
            fields[steps.PLAIN] = skip + (first - progress.produced[index + 2]) * width
        return fields

    def _joins(self, index: int) -> bool:
        """Whether a layer is made with the one before it, chunk by chunk: a residual unit's end.

        Its rows are those of the one before, always all of them, with few enough numbers each to
        stay in the cache, and nobody else needs them.
        """
        if index == 0 or self._layout.skips[index] is not None:
            return False
        layer, previous = self._layers[index], self._layers[index - 1]
        pointwise = layer.kernel == layer.stride == 1 and layer.padding == 0
        all_of_them = self._layout.limits[index] >= self._layout.limits[index - 1]
        narrow = layer.inputs <= steps.MOST_JOINED
        plain = not (previous.transposed or previous.residual or self._joins(index - 1))
        return pointwise and not layer.transposed and all_of_them and narrow and plain
