"""A ring of samples between two threads, without a lock."""

from __future__ import annotations

import numpy as np

from oobleck_stream.arrays import FloatArray


class Ring:
    """Samples from one writing thread to one reading thread.

    Each of the two counters has one thread that changes it, so neither ever waits for the other.
    Sample number n of the stream stands at row ``n % capacity``.

    Parameters
    ----------
    capacity : int
        Samples it holds at most.
    channels : int
        Audio channels.

    Attributes
    ----------
    written, read : int
        Samples put in and taken out so far.
    discards : int
        How often the writer has discarded what was waiting.
    ended : bool
        Set by the writer when nothing more will come.
    """

    def __init__(self, capacity: int, channels: int) -> None:
        self._rows = np.zeros((capacity, channels), np.float32)
        self._discarded = 0
        self.written = 0
        self.read = 0
        self.discards = 0
        self.ended = False

    @property
    def capacity(self) -> int:
        """Samples it holds at most."""
        return len(self._rows)

    @property
    def fill(self) -> int:
        """Samples that wait to be read."""
        return max(0, self.written - max(self.read, self._discarded))

    @property
    def room(self) -> int:
        """Samples that can be written now."""
        return self.capacity - (self.written - self.read)

    def write(self, samples: FloatArray) -> int:
        """Put in as many samples as there is room for.

        Parameters
        ----------
        samples : (n, channels) float32

        Returns
        -------
        int
            How many were taken, from the front.
        """
        count = min(len(samples), self.room)
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        self._rows[start : start + first] = samples[:first]
        self._rows[: count - first] = samples[first:count]
        self.written += count
        return count

    def read_into(self, out: FloatArray) -> int:
        """Take out as many samples as are there.

        Parameters
        ----------
        out : (n, channels) float32
            Its rest stays as it is.

        Returns
        -------
        int
            How many were written to `out`.
        """
        position = max(self.read, self._discarded)
        count = min(len(out), self.written - position)
        start = position % self.capacity
        first = min(count, self.capacity - start)
        out[:first] = self._rows[start : start + first]
        out[first:count] = self._rows[: count - first]
        self.read = position + count
        return count

    def skip_discarded(self) -> None:
        """For the reader: give the room of what was discarded back to the writer."""
        self.read = max(self.read, self._discarded)

    def discard(self) -> None:
        """For the writer: what has been written and not read will never be read."""
        self._discarded = self.written
        self.discards += 1

    def empty_chunk(self, count: int = 0) -> FloatArray:
        """An array of so many samples, not filled in."""
        return np.empty((count, self._rows.shape[1]), np.float32)

    def latest(self, count: int) -> FloatArray:
        """A copy of (at most) the last `count` samples read, for a level meter."""
        count = min(count, self.read, self.capacity)
        rows = np.arange(self.read - count, self.read) % self.capacity
        return self._rows[rows]
