"""From the start of the process to the first sample, and the memory that it takes and keeps."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.memory import Memory, is_mapped, resident_memory
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.model import Model

Facts = dict[str, Any]

MOST_FRAMES = 200
"""Single frames after the first sample, to see whether the memory grows."""


def random_latents(model: Model, frames: int) -> FloatArray:
    """Standard normal latents (frames, latent_dim), the same every time."""
    shape = frames, model.latent_dim
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def measure_start(
    make_model: Callable[[], Model], warm_kernels: Callable[[], None], threads: int, seconds: float
) -> tuple[Model, Facts]:
    """Make the model, warm the kernels, decode the first sample, then some more frames.

    Parameters
    ----------
    make_model : callable
        Loads the model, or makes one.
    warm_kernels : callable
        Compiles all kernels or loads them from their cache.
    threads : int
    seconds : float
        The frames behind the first sample end at `MOST_FRAMES`, or else after these.

    Returns
    -------
    model : Model
    facts : dict
        Seconds of each part, and bytes of memory.
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
    while decoder.frames_in < first + MOST_FRAMES and time.perf_counter() - sounding < seconds:
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
    """Functions that this process compiled because the cache on disk did not have them."""
    from oobleck_stream.engine.cpu.interpreter import run

    return sum(run.stats.cache_misses.values())


def since_process_start() -> float | None:
    """Seconds since this process began, to a hundredth; None where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return None
