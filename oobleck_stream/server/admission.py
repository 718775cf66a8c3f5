"""Decides how many sessions this machine decodes in real time.

A steady push decodes one block of frames for each stream, when all streams are so far from their
start that a push always takes equally long. When the server starts, it times steady pushes for 1,
2, 4, 8, ... streams. The number of slots is the largest number of streams for which 9 of 10 pushes
take at most the share `Load.limit` of real time, 85 % by default.

While the server runs, it measures how long each tick takes (a block for every ready session). It
refuses a further session only if the ticks for all sessions would then take longer than real time.
The 15 % between the two limits are a margin: if ticks become somewhat slower, for example because
of the work for clients and the network, the server still admits sessions to all slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder

BLOCK_SAMPLES = 2048
"""Approximate number of samples per stream in a steady push, which has a whole number of frames."""

MAX_SLOTS = 64
MEASURED_PUSHES = 10
SLOW = 0.9
"""The quantile of the measured times that counts as the time of a push."""

SMOOTHING = 0.1
"""The weight of the newest tick in the running averages of `Load`, between 0 and 1."""


def block_frames(model: Model) -> int:
    """Return the number of frames per stream in a steady push."""
    return max(1, round(BLOCK_SAMPLES / model.hop))


def early_decoder(
    model: Model, streams: int, threads: int | None, look_ahead: int
) -> MultiStreamDecoder:
    """Return the decoder of early sessions. `look_ahead` is in samples."""
    return MultiStreamDecoder(model, streams, threads, look_ahead=look_ahead, exact=False)


@dataclass(frozen=True)
class PushTimes:
    """How long a steady push took when the server started, for some numbers of streams.

    Attributes
    ----------
    counts : sequence of int
        The numbers of streams, ascending from 1.
    seconds : sequence of float
        The time of a push for each of `counts`.
    """

    counts: Sequence[int] = (1,)
    seconds: Sequence[float] = (0.0,)

    def of(self, streams: int) -> float:
        """Return the seconds of a push for `streams` streams, interpolated or extrapolated."""
        if streams <= 0:
            return 0.0
        if streams > self.counts[-1]:
            return self.seconds[-1] * streams / self.counts[-1]
        return float(np.interp(streams, self.counts, self.seconds))

    @classmethod
    def measured(
        cls, model: Model, make: Callable[[int], MultiStreamDecoder], longest: float, most: int
    ) -> PushTimes:
        """Return the times of steady pushes for 1, 2, 4, 8, ... streams.

        `make` takes a number of streams and returns a decoder. The last number is `most`, or the
        first number of streams for which a push takes longer than `longest` seconds.
        """
        counts: list[int] = []
        seconds: list[float] = []
        count = 1
        while True:
            counts.append(count)
            seconds.append(_push_seconds(model, make(count)))
            if count >= most or seconds[-1] > longest:
                return cls(counts, list(np.maximum.accumulate(seconds)))
            count = min(2 * count, most)


def _push_seconds(model: Model, decoder: MultiStreamDecoder) -> float:
    """Return the `SLOW` quantile of the times of steady pushes, in seconds."""
    shape = decoder.streams, block_frames(model), model.latent_dim
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    settling = np.zeros((shape[0], settling_frames(model), shape[2]), np.float32)
    for frames in (settling, latents, latents):
        decoder.push(frames)
    times = []
    for _ in range(MEASURED_PUSHES):
        start = time.perf_counter()
        decoder.push(latents)
        times.append(time.perf_counter() - start)
    return float(np.quantile(times, SLOW))


def settling_frames(model: Model) -> int:
    """Return how many frames a stream must have received before all its pushes cost the same."""
    return 2 * model.context + 4


@dataclass
class Load:
    """The tick times, measured when the server starts and corrected while it runs.

    Attributes
    ----------
    block_seconds : float
        Duration of the sound that a steady push decodes.
    exact, early : PushTimes
        The times of pushes to exact streams and to early streams. By default they are 0, which
        admits every session.
    limit : float
        The share of `block_seconds` that the pushes for all slots may take.
    ratio : float
        How much longer ticks take now than when the server started. This is a running average of
        each tick's time divided by its `expected` time.
    recent : float
        Running average of the latest ticks' times, in seconds.
    late : int
        Number of ticks that took longer than `block_seconds`.
    """

    block_seconds: float
    exact: PushTimes = PushTimes()
    early: PushTimes = PushTimes()
    limit: float = 0.85
    ratio: float = 1.0
    recent: float = 0.0
    late: int = 0

    def expected(self, exact: int, early: int = 0) -> float:
        """Return the seconds of a tick for these numbers of streams, as measured at the start."""
        return self.exact.of(exact) + self.early.of(early)

    def share(self, exact: int, early: int = 0) -> float:
        """Return the share of real time that these numbers of streams take now. 1 is all of it."""
        return self.expected(exact, early) * self.ratio / self.block_seconds

    def admits(self, exact: int, early: int = 0) -> bool:
        """Whether these numbers of streams can play now. A single stream is always admitted."""
        return exact + early <= 1 or self.share(exact, early) <= 1

    def affords_early(self, exact: int, early: int) -> bool:
        """Whether these numbers of streams take at most the share `limit` of real time.

        This is required before an exact stream becomes early, because early streams take longer.
        """
        return self.share(exact, early) <= self.limit

    def capacity(self, slots: int) -> int:
        """Return how many exact streams, from 1 to `slots`, fit in `limit`. One always fits."""
        longest = self.limit * self.block_seconds
        return max(n for n in range(1, slots + 1) if n == 1 or self.exact.of(n) <= longest)

    def measured(self, exact: int, early: int, seconds: float) -> None:
        """Record that a tick for these numbers of streams took `seconds`."""
        self.recent += SMOOTHING * (seconds - self.recent)
        expected = self.expected(exact, early)
        if expected > 0:
            # Limit the effect of a single tick that waited for another process.
            newest = min(seconds / expected, 4 * self.ratio)
            self.ratio += SMOOTHING * (newest - self.ratio)
        if seconds > self.block_seconds:
            self.late += 1

    @classmethod
    def unlimited(cls, model: Model) -> Load:
        """Return a load that admits every session, for when the user chose the number of slots."""
        return cls(block_frames(model) * model.hop / model.samplerate)


def measure_load(
    model: Model,
    threads: int | None,
    limit: float,
    look_ahead: int | None = None,
    most: int = MAX_SLOTS,
) -> tuple[Load, int]:
    """Time steady pushes with a growing number of streams, until they take too long.

    Parameters
    ----------
    model : Model
    threads : int, optional
    limit : float
        As `Load.limit`.
    look_ahead : int, optional
        Look-ahead of early streams in samples. By default, no stream is early.
    most : int
        Maximum number of streams to try.

    Returns
    -------
    load : Load
    slots : int
        The number of exact streams within the limit.
    """
    load = Load(block_frames(model) * model.hop / model.samplerate, limit=limit)
    longest = limit * load.block_seconds
    exact = partial(MultiStreamDecoder, model, threads=threads)
    load.exact = PushTimes.measured(model, exact, longest, most)
    slots = load.capacity(most)
    if look_ahead is not None:
        early = partial(early_decoder, model, threads=threads, look_ahead=look_ahead)
        load.early = PushTimes.measured(model, early, longest, slots)
    return load, slots
