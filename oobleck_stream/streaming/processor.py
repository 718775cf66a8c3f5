"""The CPU's engine: arenas in memory, programs run by threads."""

from __future__ import annotations

import numpy as np

from oobleck_stream.arrays import aligned_zeros
from oobleck_stream.packed import FloatArray
from oobleck_stream.streaming.plan import IntArray
from oobleck_stream.streaming.workers import process_generation, run_program, scratch_memory


class Processor:
    """The CPU's engine.

    Parameters
    ----------
    parameters : (n,) float32
        Of the network, packed.
    streams : int
    floats : int
        Length of each stream's arena.
    threads : int
        Threads of a run.
    """

    def __init__(self, parameters: FloatArray, streams: int, floats: int, threads: int) -> None:
        self._parameters = parameters
        self._threads = threads
        self._arenas = aligned_zeros(streams, floats)
        self._control = np.zeros(0, np.int64)
        self._generation = process_generation()
        self._ticket = 0
        self._scratch: FloatArray | None = None
        self._last_steps: IntArray | None = None

    def run(
        self,
        steps: IntArray,
        moves: IntArray,
        streams: IntArray,
        rows: FloatArray,
        out: FloatArray,
    ) -> None:
        """Run a program on some streams, as `Engine.run` describes it."""
        from oobleck_stream.kernels.cpu.program import LINE, control_words

        words = control_words(len(steps))
        if words > len(self._control) or self._generation != process_generation():
            # After a fork the old block may still count followers that run only in the parent.
            self._control = np.zeros(2 * words, np.int64)
            self._generation = process_generation()
        self._control[LINE // 8 : words] = 0
        if self._scratch is None:
            self._scratch = scratch_memory()
        self._ticket += 1
        self._last_steps = steps
        table = np.empty((len(streams), 3), np.int64)
        for column, array, chosen in (
            (0, self._arenas, streams),
            (1, rows, np.arange(len(streams))),
            (2, out, np.arange(len(streams))),
        ):
            table[:, column] = array.ctypes.data + chosen * array.strides[0]
        run_program(
            steps,
            moves,
            table,
            self._parameters.ctypes.data,
            self._control,
            self._ticket,
            self._scratch,
            self._threads,
        )

    def read(self, stream: int, start: int, size: int) -> FloatArray:
        """A copy of some floats of an arena."""
        return self._arenas[stream, start : start + size].copy()

    def write(self, stream: int, start: int, values: FloatArray) -> None:
        """Overwrite some floats of an arena."""
        self._arenas[stream, start : start + len(values)] = values

    def step_times(self) -> list[tuple[int, float]]:
        """Where the time of the last program went: each step's layer, and its share.

        The layer is -1 for the rows' way in and for moves alone. Two layers that are made
        together share their time in proportion to their multiplications. All shares are 0 on a
        processor whose clock can't be read.
        """
        from oobleck_stream.kernels import steps as table
        from oobleck_stream.kernels.cpu.program import LINE, STARTED, TIME

        steps = self._last_steps
        if steps is None:
            return []
        ends = self._control[(LINE + TIME) // 8 :: 2 * LINE // 8][: len(steps)]
        times = np.diff(ends, prepend=self._control[STARTED // 8]).astype(np.float64)
        work = steps[:, table.TAPS] * steps[:, table.CHANNELS] * steps[:, table.COLUMNS]
        for first in np.flatnonzero(steps[:, table.JOINED]):
            pair = slice(first, first + 2)
            times[pair] = times[pair].sum() * work[pair] / work[pair].sum()
        shares = times / max(1, times.sum())
        return [
            (max(-1, int(layer)), float(share))
            for layer, share in zip(steps[:, table.LAYER], shares, strict=True)
        ]
