"""A decoder that knows how fast it is."""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any

from oobleck_stream.arrays import FloatArray
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.model import Model

REMEMBERED = 9


class TimedDecoder(StreamingDecoder):
    """A `StreamingDecoder` that measures its pushes."""

    def __init__(self, model: Model, threads: int | None = None) -> None:
        super().__init__(model, threads)
        self._factors: deque[float] = deque(maxlen=REMEMBERED)
        self._factor = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds that a second of sound takes: the median of the last pushes, 0.0 before."""
        return self._factor

    def push(self, frames: Any) -> FloatArray:
        """As `StreamingDecoder.push`."""
        start, before = time.perf_counter(), self.frames_in
        chunk = super().push(frames)
        if sound := (self.frames_in - before) * self.hop / self.samplerate:
            self._factors.append((time.perf_counter() - start) / sound)
            self._factor = statistics.median(self._factors)
        return chunk
