"""A decoder that knows how fast it is."""

from __future__ import annotations

import time
from typing import Any

from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.packed import FloatArray

MEMORY = 0.9
"""Weight of what came before in the running real-time factor."""


class TimedDecoder(StreamingDecoder):
    """A `StreamingDecoder` that measures its pushes.

    Attributes
    ----------
    real_time_factor : float
        Seconds that a second of sound takes, lately; 0.0 before the first push.
    """

    real_time_factor = 0.0

    def push(self, frames: Any) -> FloatArray:
        """As `StreamingDecoder.push`."""
        start = time.perf_counter()
        before = self.frames_in
        chunk = super().push(frames)
        if sound := (self.frames_in - before) * self.hop / self.samplerate:
            factor = (time.perf_counter() - start) / sound
            weight = MEMORY if self.real_time_factor else 0.0
            self.real_time_factor = weight * self.real_time_factor + (1 - weight) * factor
        return chunk
