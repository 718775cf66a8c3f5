"""Measures how many sessions this machine can decode in real time, before the first one opens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder

BLOCK_SAMPLES = 2048
"""Approximate number of samples that a steady push decodes. It is rounded to whole frames."""

MAX_SLOTS = 64
MEASURED_PUSHES = 5
SMOOTHING = 0.1
"""The weight of the newest tick in the running averages of `Load`, between 0 and 1."""


def block_frames(model: Model) -> int:
    """Return the number of frames that a steady push has for each stream."""
    return max(1, round(BLOCK_SAMPLES / model.hop))


@dataclass
class Load:
    """The tick times, measured at the start and corrected while the server runs.

    Attributes
    ----------
    block_seconds : float
        Duration of the sound that a steady push decodes.
    counts, seconds : sequence of int and float
        The numbers of streams that were measured, ascending from 1, and for each of them the time
        of a steady push for that many streams.
    limit : float
        The share of `block_seconds` that a tick may take.
    ratio : float
        The time of a tick now, divided by its time at the start.
    recent : float
        Running average of the latest ticks' times, in seconds.
    late : int
        Number of ticks that took longer than `block_seconds`.
    """

    block_seconds: float
    counts: Sequence[int]
    seconds: Sequence[float]
    limit: float = 0.85
    ratio: float = 1.0
    recent: float = 0.0
    late: int = 0

    def expected(self, streams: int) -> float:
        """Seconds that a tick for `streams` streams took at the start, without `ratio`."""
        if streams <= 0:
            return 0.0
        if streams > self.counts[-1]:
            return self.seconds[-1] * streams / self.counts[-1]
        return float(np.interp(streams, self.counts, self.seconds))

    def share(self, streams: int) -> float:
        """The share of real time that `streams` streams take. 1 means all of it."""
        return self.expected(streams) * self.ratio / self.block_seconds

    def admits(self, streams: int) -> bool:
        """Whether `streams` streams can play at the same time. One stream is always admitted."""
        return streams <= 1 or self.share(streams) <= self.limit

    def capacity(self, slots: int) -> int:
        """The largest number of streams, up to `slots`, that is admitted."""
        return max(count for count in range(1, slots + 1) if self.admits(count))

    def measured(self, streams: int, seconds: float) -> None:
        """Record that a tick for `streams` streams took `seconds`."""
        self.recent += SMOOTHING * (seconds - self.recent)
        expected = self.expected(streams)
        if expected > 0:
            # Limit the effect of a single tick that waited for another process.
            newest = min(seconds / expected, 4 * self.ratio)
            self.ratio += SMOOTHING * (newest - self.ratio)
        if seconds > self.block_seconds:
            self.late += 1

    @classmethod
    def unlimited(cls, model: Model) -> Load:
        """Return a load that admits every session, for when the user chose the number of slots."""
        seconds = block_frames(model) * model.hop / model.samplerate
        return cls(seconds, [1], [0.0])


def measure_load(
    model: Model, threads: int | None, limit: float, most: int = MAX_SLOTS
) -> tuple[Load, int]:
    """Time steady pushes with a growing number of streams, until they take too long.

    Parameters
    ----------
    model : Model
    threads : int, optional
    limit : float
        As `Load.limit`.
    most : int
        Maximum number of streams to try.

    Returns
    -------
    load : Load
    slots : int
        The number of streams that the load admits.
    """
    block = block_frames(model)
    load = Load(block * model.hop / model.samplerate, [], [], limit)
    counts: list[int] = []
    seconds: list[float] = []
    count = 1
    while True:
        counts.append(count)
        seconds.append(_push_seconds(model, count, threads, block))
        if count >= most or seconds[-1] > limit * load.block_seconds:
            break
        count = min(2 * count, most)
    load.counts, load.seconds = counts, list(np.maximum.accumulate(seconds))
    return load, load.capacity(most)


def _push_seconds(model: Model, count: int, threads: int | None, block: int) -> float:
    decoder = MultiStreamDecoder(model, count, threads)
    latents = np.random.default_rng(0).standard_normal((count, block, model.latent_dim), np.float32)
    for _ in range(-(-(model.context + 2) // block)):
        decoder.push(latents)
    times = []
    for _ in range(MEASURED_PUSHES):
        start = time.perf_counter()
        decoder.push(latents)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
