"""How many sessions this machine can decode in real time, measured before the first one comes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder

BLOCK_SAMPLES = 2048
"""Samples of a steady push, rounded to whole frames."""

MAX_SLOTS = 64
MEASURED_PUSHES = 5
SMOOTHING = 0.1
"""Share of the newest tick in the running ratio of measured and expected times."""


def block_frames(model: Model) -> int:
    """Return the number of frames of a steady push."""
    return max(1, round(BLOCK_SAMPLES / model.hop))


@dataclass
class Load:
    """Tick times, measured at the start and corrected by those of the running server.

    Attributes
    ----------
    block_seconds : float
        How long the sound of a steady push lasts.
    counts, seconds : sequence of int and float
        For some numbers of streams, ascending from 1, the time of a steady push for all of them.
    limit : float
        The share of `block_seconds` that a tick may take.
    ratio : float
        How much longer ticks take now than at the start.
    recent : float
        Seconds of the latest ticks, smoothed.
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
        """Seconds of a tick of that many streams, without the ratio."""
        if streams <= 0:
            return 0.0
        if streams > self.counts[-1]:
            return self.seconds[-1] * streams / self.counts[-1]
        return float(np.interp(streams, self.counts, self.seconds))

    def share(self, streams: int) -> float:
        """The share of real time that this many streams take; 1 is all of it."""
        return self.expected(streams) * self.ratio / self.block_seconds

    def admits(self, streams: int) -> bool:
        """Whether that many streams can play at once. One always can, however slowly."""
        return streams <= 1 or self.share(streams) <= self.limit

    def capacity(self, slots: int) -> int:
        """How many streams are admitted, at most `slots`."""
        return max(count for count in range(1, slots + 1) if self.admits(count))

    def measured(self, streams: int, seconds: float) -> None:
        """A tick of that many streams took so long."""
        self.recent += SMOOTHING * (seconds - self.recent)
        expected = self.expected(streams)
        if expected > 0:
            # One tick that waited for another process does not count for ten.
            newest = min(seconds / expected, 4 * self.ratio)
            self.ratio += SMOOTHING * (newest - self.ratio)
        if seconds > self.block_seconds:
            self.late += 1

    @classmethod
    def unlimited(cls, model: Model) -> Load:
        """A load that admits every session, for a number of slots that the user chose."""
        seconds = block_frames(model) * model.hop / model.samplerate
        return cls(seconds, [1], [0.0])


def measure_load(
    model: Model, threads: int | None, limit: float, most: int = MAX_SLOTS
) -> tuple[Load, int]:
    """Time steady pushes of more and more streams, until they take too long.

    Parameters
    ----------
    model : Model
    threads : int, optional
    limit : float
        As `Load.limit`.
    most : int
        Number of streams at which to stop.

    Returns
    -------
    load : Load
    slots : int
        How many streams are admitted.
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
