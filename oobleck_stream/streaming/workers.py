"""Threads that help a push: asleep until there is a program, never waited for.

The thread that pushes leads and can do all the work alone; followers take jobs from the same
program while it runs. So a follower that the system wakes late costs nothing, several threads may
push at once, and after a fork the child makes itself new followers.

Numba's threading layers were tried first, with the products alone of a push of one frame (Stable
Audio Open, two cores): `omp` 20.2 ms (if told to wait passively before it is loaded), `workqueue`
21.6 ms; a whole push with these followers takes 19 ms. Beside a process that takes one core:
32.4, 35.6 and 32.8 ms. But a fork after `omp`'s first use kills the child, two threads in
`workqueue` abort the process, and `tbb` is not found in a virtual environment.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import aligned_zeros
from oobleck_stream.packed import FloatArray

IntArray = npt.NDArray[np.int64]


def default_threads() -> int:
    """Threads of a push when none are asked for: OOBLECK_STREAM_THREADS, or the cores allowed."""
    asked = os.environ.get("OOBLECK_STREAM_THREADS", "").strip()
    if asked:
        return checked_threads(asked, "OOBLECK_STREAM_THREADS")
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def checked_threads(threads: Any, name: str = "threads") -> int:
    """A number of threads from 1 to 256, or ``ValueError``."""
    try:
        count = int(threads)
    except (TypeError, ValueError):
        count = 0
    if not 1 <= count <= 256:
        raise ValueError(f"{name} must be a whole number from 1 to 256, not {threads!r}")
    return count


def scratch_memory() -> FloatArray:
    """Working memory of one thread."""
    from oobleck_stream.kernels.cpu.program import SCRATCH_BYTES

    return aligned_zeros(SCRATCH_BYTES // 4)


class _Follower:
    """A daemon thread that joins the programs it is told of."""

    def __init__(self, number: int) -> None:
        self.tasks: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        name = f"oobleck_stream follower {number}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        from oobleck_stream.kernels.cpu.program import run

        scratch = scratch_memory()
        while True:
            steps, moves, streams, parameters, control, ticket = self.tasks.get()
            address = control.ctypes.data
            run(steps, moves, streams, parameters, address, ticket, scratch.ctypes.data, False)


_followers: list[_Follower] = []
_growing = threading.Lock()
_generation = 0


def process_generation() -> int:
    """Number of forks between the process that imported this module and this one."""
    return _generation


def _forget_followers() -> None:
    """In a forked child no follower exists, and the lock may be held by a thread of the parent."""
    global _growing, _generation
    _growing = threading.Lock()
    _followers.clear()
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_followers)


def run_program(
    steps: IntArray,
    moves: IntArray,
    streams: IntArray,
    parameters: int,
    control: IntArray,
    ticket: int,
    scratch: FloatArray,
    threads: int,
) -> None:
    """Run a program on this thread and at most ``threads - 1`` followers; back when it is done.

    Parameters
    ----------
    steps, moves, streams : int64 arrays
        As `oobleck_stream.kernels.cpu.program.run` takes them.
    parameters : int
        Address of the packed parameters.
    control : int64 array
        The control block; this program's counters in it are zero.
    ticket : int
        Larger than 0 and new on this control block.
    scratch : float32 array
        `scratch_memory` of this thread's own.
    threads : int
        Threads at most, this one included.
    """
    from oobleck_stream.kernels.cpu.program import run

    if threads > 1:
        if len(_followers) < threads - 1:
            with _growing:
                while len(_followers) < threads - 1:
                    _followers.append(_Follower(len(_followers) + 1))
        for follower in _followers[: threads - 1]:
            if follower.tasks.empty():
                follower.tasks.put((steps, moves, streams, parameters, control, ticket))
    address = control.ctypes.data
    run(steps, moves, streams, parameters, address, ticket, scratch.ctypes.data, True)
