"""The CPU engine: arenas in memory, and threads that run programs on them.

The thread that pushes is the leader, and can do all of the work alone. Other threads, the
followers, claim jobs from the same program while it runs. They sleep between programs, and no run
waits until a follower wakes up, so a follower that the system wakes late costs nothing. Several
threads may push at the same time. After a fork, the child process starts followers of its own.

Numba's own threading layers were measured for comparison (Stable Audio Open, push of one frame, two
cores). The products alone take 21.6 ms with `workqueue`, and 20.2 ms with `omp` if it is set,
before it is loaded, to wait passively. A whole push with these followers takes 19 ms. While another
process occupies one core, these times are 35.6 ms (`workqueue`), 32.4 ms (`omp`) and 32.8 ms (a
whole push). The layers also have defects: a fork after the first use of `omp` kills the child, two
threads in `workqueue` abort the process, and `tbb` is not found in a virtual environment.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray, aligned_zeros
from oobleck_stream.engine import program as table
from oobleck_stream.engine.cpu.interpreter import LINE, STARTED, TIME, control_words, run
from oobleck_stream.engine.cpu.jobs import SCRATCH_BYTES
from oobleck_stream.engine.program import Program


class CpuEngine:
    """The CPU engine; its methods are described in `oobleck_stream.engine.backends.Engine`.

    Parameters
    ----------
    parameters : (n,) float32
        The network's packed parameters.
    streams : int
        Number of streams.
    arena_floats : int
        Length of each stream's arena.
    threads : int
        Maximum number of threads of a run.
    """

    def __init__(
        self, parameters: FloatArray, streams: int, arena_floats: int, threads: int
    ) -> None:
        self._parameters = parameters
        self._threads = threads
        self._arenas = aligned_zeros(streams, arena_floats)
        self._control = np.zeros(0, np.int64)
        self._generation = _generation
        self._ticket = 0
        self._scratch: FloatArray | None = None
        self._last: Program | None = None

    def run(self, program: Program, streams: IntArray, rows: FloatArray, out: FloatArray) -> None:
        """Run a program on some streams; return when `out` is filled."""
        words = control_words(len(program.steps))
        if words > len(self._control) or self._generation != _generation:
            # After a fork, the old block may still count followers that exist only in the parent.
            self._control = np.zeros(2 * words, np.int64)
            self._generation = _generation
        self._control[LINE // 8 : words] = 0
        if self._scratch is None:
            self._scratch = _new_scratch()
        self._ticket += 1
        self._last = program
        # One row per stream: the addresses of its arena, of its input rows and of its output rows.
        addresses = np.empty((len(streams), 3), np.int64)
        positions = np.arange(len(streams))
        addresses[:, 0] = self._arenas.ctypes.data + streams * self._arenas.strides[0]
        addresses[:, 1] = rows.ctypes.data + positions * rows.strides[0]
        addresses[:, 2] = out.ctypes.data + positions * out.strides[0]
        run_program(
            program,
            addresses,
            self._parameters.ctypes.data,
            self._control,
            self._ticket,
            self._scratch,
            self._threads,
        )

    def read(self, stream: int, start: int, size: int) -> FloatArray:
        """Return a copy of `size` floats of a stream's arena, from `start` on."""
        return self._arenas[stream, start : start + size].copy()

    def write(self, stream: int, start: int, values: FloatArray) -> None:
        """Overwrite the floats of a stream's arena from `start` on."""
        self._arenas[stream, start : start + len(values)] = values

    def step_times(self) -> list[tuple[int, float]]:
        """Return, for every step of the last program, its layer and its share of the run time.

        The layer is -1 for the copy of the input rows and for steps that have only moves. The
        transform of a fast convolution and its products are reported as one step. The time of two
        layers that are computed together is divided in proportion to their multiplications. All
        shares are 0 if the processor's clock can't be read.
        """
        if self._last is None:
            return []
        steps = self._last.steps
        ends = self._control[(LINE + TIME) // 8 :: 2 * LINE // 8][: len(steps)]
        times = np.diff(ends, prepend=self._control[STARTED // 8]).astype(np.float64)
        work = steps[:, table.TAPS] * steps[:, table.CHANNELS] * steps[:, table.COLUMNS]
        work *= np.where(steps[:, table.TILE] > 1, 1, steps[:, table.PHASES])
        for first in np.flatnonzero(steps[:, table.JOINED]):
            pair = slice(first, first + 2)
            times[pair] = times[pair].sum() * work[pair] / work[pair].sum()
        transforms = steps[:, table.POINTS] != table.NONE
        times[1:][transforms[:-1]] += times[transforms]
        shares = times / max(1, times[~transforms].sum())
        return [
            (max(-1, int(layer)), float(share))
            for layer, share in zip(
                steps[~transforms, table.LAYER], shares[~transforms], strict=True
            )
        ]


def run_program(
    program: Program,
    addresses: IntArray,
    parameters: int,
    control: IntArray,
    ticket: int,
    scratch: FloatArray,
    threads: int,
) -> None:
    """Run a program on this thread and at most ``threads - 1`` followers; return when it is done.

    Parameters
    ----------
    program : Program
    addresses : (streams, 3) int64
        The addresses of each stream's arena, input rows and output rows.
    parameters : int
        Address of the packed parameters.
    control : int64 array
        The control block, see `oobleck_stream.engine.cpu.interpreter`. Its counters must be zero
        when the run begins.
    ticket : int
        The number of this run. It is greater than 0, and different from the ticket of every earlier
        run on this control block.
    scratch : float32 array
        Working memory of this thread.
    threads : int
        Maximum number of threads, including this one.
    """
    if threads > 1:
        for follower in _some_followers(threads - 1):
            if follower.tasks.empty():
                follower.tasks.put((program, addresses, parameters, control, ticket))
    _join_run(program, addresses, parameters, control, ticket, scratch, leader=True)


def _join_run(
    program: Program,
    addresses: IntArray,
    parameters: int,
    control: IntArray,
    ticket: int,
    scratch: FloatArray,
    leader: bool,
) -> None:
    run(
        program.steps,
        program.moves,
        addresses,
        parameters,
        control.ctypes.data,
        ticket,
        scratch.ctypes.data,
        leader,
    )


class _Follower:
    """A daemon thread that joins the runs in its queue."""

    def __init__(self, number: int) -> None:
        self.tasks: SimpleQueue[tuple[Program, IntArray, int, IntArray, int]] = SimpleQueue()
        name = f"oobleck_stream follower {number}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        scratch = _new_scratch()
        while True:
            _join_run(*self.tasks.get(), scratch, leader=False)


_followers: list[_Follower] = []
_growing = threading.Lock()
_generation = 0
"""Number of forks between the process that imported this module and this one."""


def _some_followers(count: int) -> list[_Follower]:
    if len(_followers) < count:
        with _growing:
            while len(_followers) < count:
                _followers.append(_Follower(len(_followers) + 1))
    return _followers[:count]


def _after_fork() -> None:
    """Discard the followers and the lock in a forked child.

    The followers' threads don't exist in the child. If another thread of the parent held the lock
    during the fork, the child's copy of the lock would never be released.
    """
    global _growing, _generation
    _growing = threading.Lock()
    _followers.clear()
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _new_scratch() -> FloatArray:
    """Working memory of one thread."""
    return aligned_zeros(SCRATCH_BYTES // 4)
