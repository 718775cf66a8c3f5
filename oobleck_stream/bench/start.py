"""Measures time and memory from the start of the process to the first sample."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.model import Model

Facts = dict[str, Any]

MAX_FRAMES = 200
"""Maximum number of frames decoded after the first sample to see whether the memory grows."""

SMAPS_ROLLUP = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True)
class Memory:
    """Resident memory of this process in bytes, split into anonymous memory and mapped files."""

    anonymous: int
    mapped: int


def random_latents(model: Model, frames: int) -> FloatArray:
    """Return standard normal latents (frames, latent_dim), the same for every call."""
    shape = frames, model.latent_dim
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def measure_start(
    make_model: Callable[[], Model], warm_kernels: Callable[[], None], threads: int, seconds: float
) -> tuple[Model, Facts]:
    """Create the model, load the kernels, and decode to the first sample and then beyond it.

    Parameters
    ----------
    make_model : callable
        Loads or creates the model.
    warm_kernels : callable
        Compiles all kernels or loads them from their cache.
    threads : int
    seconds : float
        Maximum time spent on decoding after the first sample. At most `MAX_FRAMES` frames are
        decoded in this time.

    Returns
    -------
    model : Model
    facts : dict
        The seconds that each part has taken, and the memory in bytes.
    """
    before = since_process_start()
    started = time.perf_counter()
    model = make_model()
    loaded = time.perf_counter()
    warm_kernels()
    warmed = time.perf_counter()
    decoder = StreamingDecoder(model, threads)
    frame = random_latents(model, 1)
    first = 1
    while not len(decoder.push(frame)):
        first += 1
    sounding = time.perf_counter()
    early = resident_memory()
    while decoder.frames_in < first + MAX_FRAMES and time.perf_counter() - sounding < seconds:
        decoder.push(frame)
    weights = model.decoder.data
    return model, {
        "process_to_command_seconds": before,
        "load_seconds": loaded - started,
        "kernels_seconds": warmed - loaded,
        "kernels_compiled": kernels_compiled(),
        "first_sample_seconds": sounding - warmed,
        "first_sample_frames": first,
        "total_seconds": None if before is None else before + sounding - started,
        "weights_bytes": weights.nbytes,
        "weights_mapped": is_mapped(weights),
        "memory_at_first_sample": _memory_facts(early),
        "frames_after": decoder.frames_in - first,
        "memory_after": _memory_facts(resident_memory()),
    }


def _memory_facts(memory: Memory | None) -> Facts | None:
    return None if memory is None else dataclasses.asdict(memory)


def kernels_compiled() -> int:
    """Return how many functions this process compiled because they were not cached on disk."""
    from oobleck_stream.engine.cpu.interpreter import run

    return sum(run.stats.cache_misses.values())


def since_process_start() -> float | None:
    """Return the seconds since this process started, to about 0.01 s. None outside Linux."""
    if sys.platform != "linux":
        return None
    try:
        # Field 22, `starttime` (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html). The
        # process name before it may contain spaces, but ends with the last parenthesis.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def resident_memory() -> Memory | None:
    """Return the memory that is resident now. None outside Linux."""
    try:
        lines = SMAPS_ROLLUP.read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return Memory(sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"])


def is_mapped(array: FloatArray) -> bool:
    """Return whether an array is a view of a memory-mapped file, not of anonymous pages."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False
