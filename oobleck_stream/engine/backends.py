"""The engines that run programs, chosen by name: the CPU or a GPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray
from oobleck_stream.checks import is_whole
from oobleck_stream.engine.arena import ArenaLayout
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.program import Program
from oobleck_stream.errors import CudaUnavailable
from oobleck_stream.warning import warn_once

BACKENDS = ("cpu", "cuda")
CHOICES = ("auto", *BACKENDS)


MAX_THREADS = 256


def default_threads() -> int:
    """The default number of threads: $OOBLECK_STREAM_THREADS, or the number of available cores."""
    requested = os.environ.get("OOBLECK_STREAM_THREADS", "").strip()
    if requested:
        number = int(requested) if requested.isdecimal() else requested
        return checked_threads(number, "OOBLECK_STREAM_THREADS")
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def checked_threads(threads: Any, name: str = "threads") -> int:
    """Return `threads`; raise ``ValueError`` unless it is from 1 to `MAX_THREADS`."""
    if not (is_whole(threads) and 1 <= threads <= MAX_THREADS):
        raise ValueError(f"{name} must be a whole number from 1 to {MAX_THREADS}, not {threads!r}")
    return int(threads)


class Engine(Protocol):
    """Holds the arenas of one or more streams of a network, and runs programs on them."""

    def run(self, program: Program, streams: IntArray, rows: FloatArray, out: FloatArray) -> None:
        """Run a program on some streams; return when `out` is filled.

        Parameters
        ----------
        program : Program
        streams : (streams,) int64
            Indices of the streams, all in lockstep.
        rows : (streams, n, inputs) float32, C-contiguous within each stream
        out : (streams, program.rows_out, outputs) float32, C-contiguous within each stream
            Where the output rows are written.
        """

    def read(self, stream: int, start: int, size: int) -> FloatArray:
        """A copy of `size` floats of a stream's arena."""

    def write(self, stream: int, start: int, values: FloatArray) -> None:
        """Overwrite the floats of a stream's arena from `start` on."""

    def step_times(self) -> list[tuple[int, float]]:
        """Layer and share of time of each step of the last program; an empty list if unknown."""


@dataclass(frozen=True)
class Sizes:
    """Limits on the work that an engine is given at a time.

    Parameters
    ----------
    step_floats : int
        Maximum number of floats that a step reads or writes. A step of a single block may exceed
        this limit.
    max_shares : int
        `step_floats` is divided by the number of streams, but at most by this number.
    max_group : int
        Maximum number of streams in one run of a program.
    """

    step_floats: int
    max_shares: int
    max_group: int

    def floats_each(self, streams: int) -> int:
        """Maximum number of floats that a step reads or writes in each of `streams` streams."""
        return self.step_floats // min(streams, self.max_shares)


SIZES = {
    # The rows of a step take up to 1 MiB. Smaller steps read the weights more often, so they are
    # slower, even if a core's own cache has only 512 KiB. (On Zen 3, a push of four frames takes
    # 9 % longer with steps of 512 KiB, and 14 % longer with 256 KiB.) If `step_floats` were divided
    # by more than 8, the steps would be so short that shifting their overlap would cost more than
    # the cache saves. (With 16 streams, each would have an RTF of 0.34 instead of 0.32.)
    "cpu": Sizes(step_floats=2**18, max_shares=8, max_group=16),
    # Large enough to keep all multiprocessors busy.
    "cuda": Sizes(step_floats=2**22, max_shares=64, max_group=64),
}


def checked_backend(name: str) -> str:
    """Check that a backend can be used, and return its name; ``"auto"`` is returned unchanged.

    Raises
    ------
    ValueError
        If there is no backend with this name.
    CudaUnavailable
        If `name` is ``"cuda"`` and CUDA can't be used. The message says what is missing.
    """
    if name not in CHOICES:
        raise ValueError(f"unknown backend {name!r}; there are: {', '.join(CHOICES)}")
    if name == "cuda" and what_cuda_lacks():
        raise CudaUnavailable(what_cuda_lacks())
    return name


@functools.cache
def what_cuda_lacks() -> str:
    """Return why CUDA can't be used here; an empty string if a kernel could be compiled and run."""
    from oobleck_stream.engine.cuda.engine import CudaEngine

    try:
        CudaEngine(np.zeros(1, np.float32), streams=1, arena_floats=1).close()
    except CudaUnavailable as error:
        return str(error)
    return ""


def open_engine(
    backend: str,
    network: PackedNetwork,
    streams: int,
    threads: int,
    spare: Callable[[ArenaLayout], int] = lambda layout: 0,
    pairing: int = 1,
) -> tuple[str, ArenaLayout, Engine]:
    """Open an engine for the streams of a network.

    Parameters
    ----------
    backend : str
        One of `CHOICES`. ``"auto"`` is the GPU if it can be used. Otherwise it is the CPU, and a
        warning is given, but only once.
    network : PackedNetwork
    streams : int
        Number of streams.
    threads : int
        Maximum number of threads of a push on the CPU.
    spare : callable, optional
        ``spare(layout)`` takes the `ArenaLayout` and returns how many floats to append to each
        stream's arena. By default none are appended.
    pairing : int
        Number of frames that the first layers compute at once, see `ArenaLayout`.

    Returns
    -------
    backend : str
        One of `BACKENDS`.
    layout : ArenaLayout
        The layout of each stream's arena.
    engine : Engine

    Raises
    ------
    ValueError
        If there is no backend with this name.
    CudaUnavailable
        If `backend` is ``"cuda"`` and CUDA can't be used or the GPU has too little memory.
    """
    checked_backend(backend)
    if backend != "cpu":
        from oobleck_stream.engine.cuda.engine import CudaEngine

        size = SIZES["cuda"].floats_each(streams)
        layout = ArenaLayout.of(network.layers, size, join=False, pairing=pairing)
        try:
            checked_backend("cuda")
            floats = layout.floats + spare(layout)
            # The kernels of CUDA read float32.
            return "cuda", layout, CudaEngine(network.widened.data, streams, floats)
        except CudaUnavailable as error:
            if backend == "cuda":
                raise
            missing = str(error)
        warn_once(f"decoding on the CPU: {missing}")
    from oobleck_stream.engine.cpu.engine import CpuEngine

    layout = ArenaLayout.of(network.layers, SIZES["cpu"].floats_each(streams), pairing=pairing)
    floats = layout.floats + spare(layout)
    return "cpu", layout, CpuEngine(network.data, streams, floats, threads)
