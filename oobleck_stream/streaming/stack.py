"""A stack of layers as a stream: rows in, every row out as soon as the layers allow it.

Each layer has a window: the input rows it still needs, and behind them the new ones. A step runs a
layer over the blocks that are due and writes into the next layer's window; then what it used up is
moved out of its own. Large pushes run depth first in pieces that fit the cache, so the memory is
the same for every length. How the input is cut changes which rows a step computes, never how a row
is computed.
"""

from __future__ import annotations

import itertools
import threading

import numpy as np

from oobleck_stream.kernels.cpu import program
from oobleck_stream.network import Layer, due_rows, output_length
from oobleck_stream.packed import PANEL, FloatArray, PackedNetwork, aligned_zeros
from oobleck_stream.streaming.plan import IntArray, Plan
from oobleck_stream.streaming.progress import Progress, StackState
from oobleck_stream.streaming.workers import (
    checked_threads,
    default_threads,
    run_program,
    scratch_memory,
)

STEP_CELLS = 2**18
"""Floats a step reads or writes at most (1 MiB), unless a single block has more."""


MOST_PROGRAMS = 64
"""Programs a stack keeps for the next push of the same size in the same situation."""

MOST_SITUATIONS = 4096
"""Situations that are told apart at the same time."""


class Stack:
    """Streams a packed network over time-major rows.

    Parameters
    ----------
    network : PackedNetwork
        The layers and their parameters.
    threads : int, optional
        Threads of a push; `default_threads` when not given. The result does not depend on it.
    """

    def __init__(self, network: PackedNetwork, threads: int | None = None) -> None:
        layers = network.layers
        for previous, layer in itertools.pairwise(layers):
            if layer.residual and not previous.snake:
                raise ValueError(f"{layer.name} adds the input of {previous.name}: none is kept")
        self.network = network
        self.threads = default_threads() if threads is None else checked_threads(threads)
        self._limits = [_block_limit(layer) for layer in layers]
        self._entry = self._limits[0] * layers[0].advance
        arriving = [self._entry]
        arriving += [n * layer.phases for n, layer in zip(self._limits, layers, strict=True)]
        self._windows, self._skips = [], []
        for index, layer in enumerate(layers):
            # What is kept, what arrives, and the zeros of the end.
            rows = layer.span + arriving[index] + layer.span + layer.advance + 2
            self._windows.append(aligned_zeros(rows, layer.inputs))
            kept = index + 1 < len(layers) and layers[index + 1].residual
            rows = layer.span + arriving[index] + 2
            self._skips.append(aligned_zeros(rows, layer.inputs) if kept else None)
        most_zeros = max((layer.span + layer.advance + 2) * layer.inputs for layer in layers)
        self._zeros = aligned_zeros(most_zeros + PANEL)
        self._control = np.zeros(program.control_words(64), np.int64)
        self._ticket = 0
        self._scratch = scratch_memory()
        self._first_out = 0
        self._last_steps = np.empty((0, program.FIELDS), np.int64)
        self._programs: dict[tuple[int, int], tuple[IntArray, IntArray, Progress, int]] = {}
        self._situations: dict[tuple[tuple[int, bool], ...], int] = {}
        self._busy = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Back to before the first row."""
        self._progress = Progress.start(len(self.network.layers))
        self._situation: int | None = None
        for layer, window in zip(self.network.layers, self._windows, strict=True):
            window[: layer.before] = 0.0

    @property
    def rows_in(self) -> int:
        """Rows pushed so far."""
        return self._progress.received[0]

    @property
    def rows_out(self) -> int:
        """Rows given out so far."""
        return self._progress.produced[-1]

    def due(self, rows: int, last: bool = False) -> int:
        """Output rows that a push of `rows` rows gives; with `last`, all that are left."""
        reach = output_length if last else due_rows
        return reach(self.network.layers, self.rows_in + rows) - self.rows_out

    def push(
        self, rows: FloatArray, last: bool = False, out: FloatArray | None = None
    ) -> FloatArray:
        """Take in rows and give out every row that is now final.

        Parameters
        ----------
        rows : (n, inputs) float32, C-contiguous
        last : bool
            Whether the input ends with these rows; then everything withheld comes too.
        out : (due, outputs) float32, C-contiguous, optional
            Where to write.

        Returns
        -------
        (due, outputs) float32

        Raises
        ------
        RuntimeError
            When another thread is inside this stream.
        """
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two threads use one stream at the same time: give each its own")
        try:
            width = self.network.layers[-1].outputs
            if len(rows) <= self._entry:
                before = self.rows_out
                steps, moves = self._program(len(rows), last)
                if out is None:
                    out = np.empty((self.rows_out - before, width), np.float32)
                self._run(steps, moves, rows, out)
                return out
            if out is None:
                out = np.empty((self.due(len(rows), last), width), np.float32)
            begin = self.rows_out
            for first in range(0, len(rows), self._entry):
                piece = rows[first : first + self._entry]
                written = self.rows_out - begin
                steps, moves = self._program(len(piece), last and first + self._entry >= len(rows))
                self._run(steps, moves, piece, out[written:])
            return out
        finally:
            self._busy.release()

    def step_times(self) -> list[tuple[int, float]]:
        """Where the time of the last program went: each step's layer, and its share.

        A push of few rows is one program; of a long one this is the end. The layer is -1 for the
        rows' way in and for moves alone. Two layers that are made together share their time in
        proportion to their multiplications. All shares are 0 on a processor whose clock can't be
        read.
        """
        line, steps = program.LINE // 8, self._last_steps
        started = self._control[program.STARTED // 8]
        ends = self._control[line + program.TIME // 8 :: 2 * line][: len(steps)]
        times = np.diff(ends, prepend=started).astype(np.float64)
        work = steps[:, program.TAPS] * steps[:, program.CHANNELS] * steps[:, program.COLUMNS]
        for first in np.flatnonzero(steps[:, program.JOINED]):
            pair = slice(first, first + 2)
            times[pair] = times[pair].sum() * work[pair] / work[pair].sum()
        weights = self.network.data.ctypes.data
        layers = {
            weights + 4 * place.weights: index for index, place in enumerate(self.network.places)
        }
        return [
            (layers.get(int(step[program.WEIGHTS]), -1), float(share))
            for step, share in zip(steps, times / max(1, times.sum()), strict=True)
        ]

    def snapshot(self) -> StackState:
        """A deep copy of the state."""
        progress = self._progress
        windows = [window[: self._kept(i)].copy() for i, window in enumerate(self._windows)]
        skips = [
            None if skip is None else skip[: progress.received[i] - progress.produced[i + 1]].copy()
            for i, skip in enumerate(self._skips)
        ]
        return StackState(progress.copy(), tuple(windows), tuple(skips))

    def restore(self, state: StackState) -> None:
        """Take on a state that `snapshot` of a stack over the same layers gave."""
        self._progress = state.progress.copy()
        self._situation = None
        for buffers, kept in ((self._windows, state.windows), (self._skips, state.skips)):
            for buffer, rows in zip(buffers, kept, strict=True):
                if buffer is not None and rows is not None:
                    buffer[: len(rows)] = rows

    def _origin(self, index: int) -> int:
        """Number of the input row that stands first in a layer's window."""
        layer = self.network.layers[index]
        return self._progress.blocks[index] * layer.advance - layer.before

    def _kept(self, index: int) -> int:
        """Rows in a layer's window, with the zeros behind the last one once the input has ended."""
        layer, end = self.network.layers[index], self._progress.received[index]
        if self._progress.complete[index]:
            last_block = (layer.last_block(end) - 1) * layer.advance - layer.before
            end = max(end, last_block + layer.span + 1)
        return max(0, end - self._origin(index))

    def _run(self, steps: IntArray, moves: IntArray, rows: FloatArray, out: FloatArray) -> None:
        """Run a program that reads rows, at most an entry's, and writes to `out`."""
        words = program.control_words(len(steps))
        if words > len(self._control):
            self._control = np.zeros(2 * words, np.int64)
        self._control[program.LINE // 8 : words] = 0
        self._ticket += 1
        self._last_steps = steps
        run_program(
            steps,
            moves,
            rows.ctypes.data,
            out.ctypes.data,
            self._control,
            self._ticket,
            self._scratch,
            self.threads,
        )

    def _program(self, rows: int, last: bool) -> tuple[IntArray, IntArray]:
        """The program for a number of rows; the progress is then as if it had run.

        What it does depends on how full the windows are, which in a steady stream is the same
        before every push: so a program is kept for the next time.
        """
        if last:
            self._situation = None
            return self._write_program(rows, last)
        if len(self._situations) >= MOST_SITUATIONS:
            self._situations.clear()
            self._programs.clear()
            self._situation = None
        if self._situation is None:
            self._situation = self._find_situation()
        known = self._programs.get((self._situation, rows))
        if known is not None:
            steps, moves, more, self._situation = known
            self._progress.add(more)
            return steps, moves
        before, situation = self._progress.copy(), self._situation
        steps, moves = self._write_program(rows, last)
        self._situation = self._find_situation()
        more = self._progress.since(before)
        if len(self._programs) >= MOST_PROGRAMS:
            self._programs.clear()
        self._programs[situation, rows] = steps, moves, more, self._situation
        return steps, moves

    def _find_situation(self) -> int:
        """A number for how full the windows are, and which layers still drop their first rows."""
        progress = self._progress
        fill = tuple(
            (received - blocks * layer.advance, blocks * layer.phases < layer.trim)
            for received, blocks, layer in zip(
                progress.received, progress.blocks, self.network.layers, strict=True
            )
        )
        return self._situations.setdefault(fill, len(self._situations))

    def _write_program(self, rows: int, last: bool) -> tuple[IntArray, IntArray]:
        plan = Plan()
        self._first_out = self.rows_out
        if rows:
            self._plan_entry(plan, rows)
        if rows or last:
            self._plan_layer(plan, 0, last)
        return plan.tables()

    def _plan_entry(self, plan: Plan, rows: int) -> None:
        """Copy new rows into the first window, through its Snake."""
        inputs = self.network.layers[0].inputs
        fields = {
            program.ROWS: rows,
            program.LAST_ROW: rows,
            program.PHASES: 1,
            program.COLUMNS: inputs,
            program.INPUT_STRIDE: 4 * inputs,
            program.BIAS: self._zeros.ctypes.data,
        }
        plan.add(-1, fields | self._target(-1, self.rows_in))
        self._progress.received[0] += rows

    def _plan_layer(self, plan: Plan, index: int, ends: bool) -> None:
        """The steps of a layer whose input has got rows (or its end), and of all layers below."""
        layer, progress = self.network.layers[index], self._progress
        received = progress.received[index]
        if ends:
            self._plan_tail(plan, index)
        due = layer.last_block(received) if ends else layer.due_blocks(received)
        while True:
            count = min(due - progress.blocks[index], self._limits[index])
            if count > 0:
                self._plan_step(plan, index, count)
            finished = progress.blocks[index] >= due
            if index + 1 < len(self.network.layers) and (count > 0 or (ends and finished)):
                self._plan_layer(plan, index + 1, ends and finished)
            if finished:
                return

    def _plan_tail(self, plan: Plan, index: int) -> None:
        """End a layer's input: zeros behind the last row, as far as the last block reaches."""
        row_bytes = 4 * self.network.layers[index].inputs
        rows = self._kept(index)
        self._progress.complete[index] = True
        zeros = (self._kept(index) - rows) * row_bytes
        plan.settle()
        behind = self._windows[index].ctypes.data + rows * row_bytes
        plan.move(index, behind, self._zeros.ctypes.data, zeros)
        plan.settle()

    def _plan_step(self, plan: Plan, index: int, count: int) -> None:
        """Run a layer over its next `count` blocks."""
        layer, place, progress = (
            self.network.layers[index],
            self.network.places[index],
            self._progress,
        )
        data, window = self.network.data.ctypes.data, self._windows[index].ctypes.data
        row_bytes = 4 * layer.inputs
        first = progress.blocks[index] * layer.phases - layer.trim
        end = first + count * layer.phases
        if progress.complete[index]:
            end = min(end, layer.output_length(progress.received[index]))
        fields = {
            program.ROWS: count,
            program.PHASES: layer.phases,
            program.FIRST_ROW: max(0, -first),
            program.LAST_ROW: max(0, end - first),
            program.TAPS: layer.taps,
            program.CHANNELS: layer.inputs,
            program.COLUMNS: layer.outputs,
            program.INPUT: window,
            program.INPUT_STRIDE: row_bytes * layer.advance,
            program.TAP_STRIDE: row_bytes * (1 if layer.transposed else layer.dilation),
            program.WEIGHTS: data + 4 * place.weights,
            program.BIAS: data + 4 * place.bias,
            program.TANH: int(layer.tanh),
        }
        skip = self._skips[index - 1] if layer.residual else None
        if skip is not None:
            fields[program.RESIDUAL] = skip.ctypes.data
        fields |= self._target(index, first)
        if index > 0 and _joins(self.network.layers[index - 1], layer):
            plan.join(fields)
        else:
            plan.add(index, fields)

        used = count * layer.advance * row_bytes
        progress.blocks[index] += count
        plan.move(index, window, window + used, self._kept(index) * row_bytes)
        new = max(0, end - max(0, first))
        if skip is not None:
            rest = progress.received[index - 1] - progress.produced[index] - new
            row_bytes = 4 * layer.outputs
            plan.move(index, skip.ctypes.data, skip.ctypes.data + new * row_bytes, rest * row_bytes)
        progress.produced[index] += new
        if index + 1 < len(progress.received):
            progress.received[index + 1] += new

    def _target(self, index: int, first: int) -> dict[int, int]:
        """Where a layer's output rows go, the first of the step being row `first`."""
        layers = self.network.layers
        if index + 1 == len(layers):
            stride = 4 * layers[index].outputs
            place = (first - self._first_out) * stride
            return {program.OUTPUT_STRIDE: stride, program.PLAIN: place, program.LEAVES: 1}
        target = layers[index + 1]
        stride = 4 * target.inputs
        window = self._windows[index + 1].ctypes.data
        window += (first - self._origin(index + 1)) * stride
        if not target.snake:
            return {program.OUTPUT_STRIDE: stride, program.PLAIN: window}
        data, parameters = self.network.data.ctypes.data, self.network.places[index + 1]
        fields = {
            program.OUTPUT_STRIDE: stride,
            program.ACTIVE: window,
            program.ALPHA: data + 4 * parameters.alpha,
            program.INVERSE_BETA: data + 4 * parameters.inverse_beta,
        }
        skip = self._skips[index + 1]
        if skip is not None:
            kept = first - self._progress.produced[index + 2]
            fields[program.PLAIN] = skip.ctypes.data + kept * stride
        return fields


def _joins(previous: Layer, layer: Layer) -> bool:
    """Whether a layer is made with the one before it, chunk by chunk: the end of a residual unit.

    Its rows are those of the one before, and few enough numbers each to stay in the cache.
    """
    same_rows = not previous.transposed and layer.kernel == layer.stride == 1 and layer.snake
    return bool(same_rows) and layer.inputs <= program.MOST_JOINED


def _block_limit(layer: Layer) -> int:
    """Blocks of a layer that keep a step within `STEP_CELLS`."""
    most = max(layer.inputs * layer.advance, layer.outputs * layer.phases)
    return max(1, STEP_CELLS // most)
