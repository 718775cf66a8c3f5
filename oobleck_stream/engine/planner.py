"""Plans the program of one push: which rows of which layers to compute, and where to write them.

Every layer has a window in the arena: the input rows that it still needs, followed by the new ones.
A step computes the blocks of a layer that have become possible and writes them into the next
layer's window; afterwards a move shifts the consumed rows out of the layer's own window. A long
push runs depth first, in pieces that fit the cache, so memory does not grow with its length. The
cuts of the input decide which rows a step computes, never how a row is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from oobleck_stream.arrays import IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.arena import ArenaLayout, Counters
from oobleck_stream.engine.packed import PackedNetwork, ParameterOffsets
from oobleck_stream.engine.program import Program

MAX_PROGRAMS = 64
"""Programs kept for reuse."""

MAX_PLAN_KEYS = 4096
"""Plan keys kept at the same time."""

FUSED_REACH = 3
"""A step that is joined with the next one writes windows up to two layers further, so the windows
of a layer this much further down are not touched."""

Move = tuple[int, int, int]
PlanKey = tuple[bool, tuple[tuple[int, int], ...]]
"""Whether no row has come yet; for each layer the rows in its window, and those still to drop."""

_EMPTY_STEP = [0] * table.FIELDS
for _offset in (table.WEIGHTS, table.BIAS, table.RESIDUAL, table.RAW, table.SNAKED):
    _EMPTY_STEP[_offset] = table.NONE


@dataclass(eq=False)
class Planner:
    """Plans programs for streams of a network, and keeps them for the next push like it.

    A program depends on the length of the push and on how full the windows are. In a steady stream
    the windows are equally full before every push, so one program serves all of its pushes, and
    those of every other stream in lockstep.

    Parameters
    ----------
    network : PackedNetwork
    layout : ArenaLayout
    """

    network: PackedNetwork
    layout: ArenaLayout
    _programs: dict[tuple[int, int], tuple[Program, int]] = field(default_factory=dict)
    _keys: dict[PlanKey, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def key(self, counts: IntArray) -> int:
        """A number for how full the windows are; streams with the same number share programs.

        Parameters
        ----------
        counts : (3, layers) int64
        """
        if len(self._keys) >= MAX_PLAN_KEYS:
            self._keys.clear()
            self._programs.clear()
        received, blocks, _ = counts.tolist()
        fill = tuple(
            (rows - done * layer.stride_in, max(0, layer.trim - done * layer.phases))
            for rows, done, layer in zip(received, blocks, self.layout.layers, strict=True)
        )
        return self._keys.setdefault((received[0] == 0, fill), next(self._numbers))

    def program(self, key: int, counts: IntArray, rows: int, last: bool) -> tuple[Program, int]:
        """The program of a push, and the plan key of the stream after it.

        Parameters
        ----------
        key : int
            The stream's plan key before the push.
        counts : (3, layers) int64
            The stream's counters before the push.
        rows : int
            Number of input rows, at most `layout.entry`.
        last : bool
            Whether the input ends with them.
        """
        known = self._programs.get((key, rows))
        if known is not None and not last:
            return known
        counters = Counters.at(counts)
        steps, moves = plan(self.layout, self.network.offsets, counters, rows, last)
        program = Program(steps, moves, counters.counts - counts)
        after = self.key(counters.counts)
        if not last:
            if len(self._programs) >= MAX_PROGRAMS:
                self._programs.clear()
            self._programs[key, rows] = program, after
        return program, after


def plan(
    layout: ArenaLayout,
    offsets: Sequence[ParameterOffsets],
    counters: Counters,
    rows: int,
    last: bool,
    stops: Sequence[int] | None = None,
) -> tuple[IntArray, IntArray]:
    """The steps and moves of a push; `counters` is advanced as if they had run.

    Parameters
    ----------
    layout : ArenaLayout
    offsets : sequence of ParameterOffsets
        Where each layer's parameters start.
    counters : Counters
        The stream's, before the push.
    rows : int
        Number of input rows, at most `layout.entry`.
    last : bool
        Whether the input ends with them.
    stops : sequence of int, optional
        Blocks at which each layer stops, where not all possible ones are needed.

    Returns
    -------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
    """
    push = _Push(layout, offsets, counters, stops)
    if rows:
        if counters.received[0] == 0:
            push.begin()
        push.enter(rows)
    if rows or last:
        push.run_layer(0, last)
    return push.tables.arrays()


class _Push:
    """One push while it is planned."""

    def __init__(
        self,
        layout: ArenaLayout,
        offsets: Sequence[ParameterOffsets],
        counters: Counters,
        stops: Sequence[int] | None = None,
    ) -> None:
        self.tables = _Tables()
        self._layers, self._layout = layout.layers, layout
        self._offsets, self._counters, self._stops = offsets, counters, stops
        self._first_out = counters.produced[-1]

    def begin(self) -> None:
        """Write the zeros that pad the start of every layer's input."""
        for index, layer in enumerate(self._layers):
            size = layer.left_padding * layer.inputs
            self.tables.move(index, self._layout.windows[index], table.NONE, size)
        self.tables.settle()

    def enter(self, rows: int) -> None:
        """Copy the new rows into the first layer's window, through its Snake if it has one."""
        inputs = self._layers[0].inputs
        fields = {
            table.ROWS: rows,
            table.LAST_ROW: rows,
            table.PHASES: 1,
            table.COLUMNS: inputs,
            table.INPUT_STRIDE: inputs,
        }
        self.tables.add(-1, fields | self._output(-1, self._counters.received[0]))
        self._counters.received[0] += rows

    def run_layer(self, index: int, ends: bool) -> None:
        """Plan a layer that got new rows, or the end of its input, and all layers after it."""
        layer, counters = self._layers[index], self._counters
        received = counters.received[index]
        if ends:
            self._end(index)
        due = layer.last_block(received) if ends else layer.due_blocks(received)
        if self._stops is not None:
            due = min(due, self._stops[index])
        while True:
            count = min(due - counters.blocks[index], self._layout.limits[index])
            if count > 0:
                self._step(index, count)
            finished = counters.blocks[index] >= due
            if index + 1 < len(self._layers) and (count > 0 or (ends and finished)):
                self.run_layer(index + 1, ends and finished)
            if finished:
                return

    def _end(self, index: int) -> None:
        """Write the zeros that pad the end of a layer's input, as far as its last block reaches."""
        layer, counters = self._layers[index], self._counters
        rows = counters.kept(index, layer)
        counters.complete[index] = True
        zeros = (counters.kept(index, layer) - rows) * layer.inputs
        end = self._layout.windows[index] + rows * layer.inputs
        self.tables.settle()
        self.tables.move(index, end, table.NONE, zeros)
        self.tables.settle()

    def _step(self, index: int, count: int) -> None:
        """Plan the next `count` blocks of a layer."""
        layer, offsets, counters = self._layers[index], self._offsets[index], self._counters
        window = self._layout.windows[index]
        first = counters.blocks[index] * layer.phases - layer.trim
        end = first + count * layer.phases
        if counters.complete[index]:
            end = min(end, layer.output_length(counters.received[index]))
        fields = {
            table.ROWS: count,
            table.PHASES: layer.phases,
            # Of the rows computed, those before the first sample and behind the last are dropped.
            table.FIRST_ROW: max(0, -first),
            table.LAST_ROW: max(0, end - first),
            table.TAPS: layer.taps,
            table.CHANNELS: layer.inputs,
            table.COLUMNS: layer.outputs,
            table.INPUT: window,
            table.INPUT_STRIDE: layer.inputs * layer.stride_in,
            table.TAP_STRIDE: layer.inputs * (1 if layer.transposed else layer.dilation),
            table.WEIGHTS: offsets.weights,
            table.BIAS: offsets.bias,
            table.TANH: int(layer.tanh),
        }
        skip = self._layout.skips[index - 1] if layer.residual else None
        if skip is not None:
            fields[table.RESIDUAL] = skip
        fields |= self._output(index, first)
        if self._joins(index):
            self.tables.join(index, fields)
        else:
            self.tables.add(index, fields)

        # Shift what is still needed to the start of the window, and of the skip rows.
        used = count * layer.stride_in * layer.inputs
        counters.blocks[index] += count
        self.tables.move(index, window, window + used, counters.kept(index, layer) * layer.inputs)
        new = max(0, end - max(0, first))
        if skip is not None:
            rest = counters.received[index - 1] - counters.produced[index] - new
            self.tables.move(index, skip, skip + new * layer.outputs, rest * layer.outputs)
        counters.produced[index] += new
        if index + 1 < len(self._layers):
            counters.received[index + 1] += new

    def _output(self, index: int, first: int) -> dict[int, int]:
        """The fields that say where a layer's output rows go, the first of them being `first`."""
        if index + 1 == len(self._layers):
            width = self._layers[index].outputs
            offset = (first - self._first_out) * width
            return {table.OUTPUT_STRIDE: width, table.RAW: offset, table.TO_TARGET: 1}
        following, counters = self._layers[index + 1], self._counters
        width = following.inputs
        rows = first - counters.origin(index + 1, following)
        window = self._layout.windows[index + 1] + rows * width
        if not following.snake:
            return {table.OUTPUT_STRIDE: width, table.RAW: window}
        offsets = self._offsets[index + 1]
        fields = {
            table.OUTPUT_STRIDE: width,
            table.SNAKED: window,
            table.ALPHA: offsets.alpha,
            table.INVERSE_BETA: offsets.inverse_beta,
        }
        skip = self._layout.skips[index + 1]
        if skip is not None:
            fields[table.RAW] = skip + (first - counters.produced[index + 2]) * width
        return fields

    def _joins(self, index: int) -> bool:
        """Whether a layer is computed together with the one before it, chunk by chunk.

        True for the end of a residual unit: the layer is pointwise, consumes exactly the rows that
        the layer before it has just written, is narrow enough for the first-level cache, and is the
        only reader of those rows.
        """
        if index == 0 or self._layout.skips[index] is not None:
            return False
        layer, previous = self._layers[index], self._layers[index - 1]
        pointwise = layer.kernel == layer.stride == 1 and layer.padding == 0
        all_of_them = self._layout.limits[index] >= self._layout.limits[index - 1]
        narrow = layer.inputs <= table.MAX_JOINED
        simple = not (previous.transposed or previous.residual or self._joins(index - 1))
        return pointwise and not layer.transposed and all_of_them and narrow and simple


class _Tables:
    """The two tables of a program while they are written.

    Consumed rows are shifted out of a window later: together with the next step if that step does
    not touch the window, else in a step without a product.
    """

    def __init__(self) -> None:
        self._steps: list[list[int]] = []
        self._moves: list[Move] = []
        self._waiting: list[Move] = []
        self._waiting_layer = -1
        self._added = -1

    def add(self, layer: int, fields: dict[int, int]) -> None:
        """Append the step of a layer (-1: the copy of the new rows)."""
        independent = layer > self._waiting_layer or layer + FUSED_REACH < self._waiting_layer
        if self._waiting and not independent:
            self.settle()
        self._append(_step(layer, fields))
        self._added = len(self._steps) - 1

    def join(self, layer: int, fields: dict[int, int]) -> None:
        """Put a step of one tap and one phase behind the last added one, to be computed with it."""
        self._steps[self._added][table.JOINED] = 1
        self._steps.insert(self._added + 1, _step(layer, fields))

    def move(self, layer: int, to: int, origin: int, size: int) -> None:
        """Move `size` floats once the last step, which is of `layer`, is done."""
        if size > 0 and to != origin:
            self._waiting.append((to, origin, size))
            self._waiting_layer = layer

    def settle(self) -> None:
        """Have all moves done before whatever is planned next."""
        if self._waiting:
            self._append(_step(table.MOVES_ALONE, {}))

    def _append(self, step: list[int]) -> None:
        step[table.FIRST_MOVE] = len(self._moves)
        step[table.MOVES] = len(self._waiting)
        self._moves += self._waiting
        self._waiting = []
        self._steps.append(step)

    def arrays(self) -> tuple[IntArray, IntArray]:
        """The steps and the moves."""
        self.settle()
        steps = np.array(self._steps, np.int64).reshape(-1, table.FIELDS)
        return steps, np.array(self._moves, np.int64).reshape(-1, table.MOVE_FIELDS)


def _step(layer: int, fields: dict[int, int]) -> list[int]:
    step = _EMPTY_STEP.copy()
    step[table.LAYER] = layer
    for name, value in fields.items():
        step[name] = value
    return step
