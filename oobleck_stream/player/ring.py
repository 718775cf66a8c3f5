"""A lock-free ring buffer of samples between two threads."""

from __future__ import annotations

import numpy as np

from oobleck_stream.arrays import FloatArray


class Ring:
    """A ring buffer for one writing thread and one reading thread.

    `written` is changed only by the writer, `read` only by the reader, so neither blocks the other.
    Sample n of the stream is stored at index ``n % capacity``.

    Parameters
    ----------
    capacity : int
        Maximum number of samples.
    channels : int
        Audio channels.

    Attributes
    ----------
    written, read : int
        Number of samples written and read so far. `read` includes discarded samples.
    discards : int
        How often the writer has discarded the unread samples.
    ended : bool
        Set by the writer when no more samples follow.
    """

    def __init__(self, capacity: int, channels: int) -> None:
        self._samples = np.zeros((capacity, channels), np.float32)
        self._discarded = 0
        self.written = 0
        self.read = 0
        self.discards = 0
        self.ended = False

    @property
    def capacity(self) -> int:
        """Maximum number of samples."""
        return len(self._samples)

    @property
    def fill(self) -> int:
        """Number of samples that can be read now."""
        return max(0, self.written - max(self.read, self._discarded))

    @property
    def room(self) -> int:
        """Number of samples that can be written now."""
        return self.capacity - (self.written - self.read)

    def write(self, samples: FloatArray) -> int:
        """Write as many samples as there is room for.

        Parameters
        ----------
        samples : (n, channels) float32

        Returns
        -------
        int
            The number written, from the beginning of `samples`.
        """
        count = min(len(samples), self.room)
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        self._samples[start : start + first] = samples[:first]
        self._samples[: count - first] = samples[first:count]
        # Last: the reader reads the samples once they are counted.
        self.written += count
        return count

    def read_into(self, out: FloatArray) -> int:
        """Read as many samples as are available.

        Parameters
        ----------
        out : (n, channels) float32
            Its remaining samples are left unchanged.

        Returns
        -------
        int
            The number written to `out`.
        """
        position = max(self.read, self._discarded)
        count = min(len(out), self.written - position)
        start = position % self.capacity
        first = min(count, self.capacity - start)
        out[:first] = self._samples[start : start + first]
        out[first:count] = self._samples[: count - first]
        self.read = position + count
        return count

    def skip_discarded(self) -> None:
        """Called by the reader: release the room of discarded samples to the writer."""
        self.read = max(self.read, self._discarded)

    def discard(self) -> None:
        """Called by the writer: discard the samples that have not been read."""
        self._discarded = self.written
        self.discards += 1

    def empty_chunk(self, count: int = 0) -> FloatArray:
        """An uninitialized array for `count` samples."""
        return np.empty((count, self._samples.shape[1]), np.float32)

    def latest(self, count: int) -> FloatArray:
        """A copy of the last `count` samples read, or fewer, for a level meter.

        The writer may overwrite them meanwhile.
        """
        count = min(count, self.read, self.capacity)
        indices = np.arange(self.read - count, self.read) % self.capacity
        return self._samples[indices]
