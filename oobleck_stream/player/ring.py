"""A lock-free ring buffer of samples between two threads."""

from __future__ import annotations

import numpy as np

from oobleck_stream.arrays import FloatArray


class Ring:
    """A ring buffer for one writing thread and one reading thread.

    Only the writer changes `written`, and only the reader changes `read`, so neither thread blocks
    the other. Sample n of the stream is stored at index ``n % capacity``.

    Parameters
    ----------
    capacity : int
        Maximum number of samples.
    channels : int
        Number of audio channels.

    Attributes
    ----------
    written, read : int
        Number of samples written and read so far. `read` includes discarded samples.
    discards : int
        How often the writer has discarded the unread samples.
    ended : bool
        Whether no more samples follow. The writer sets it.
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
            How many samples were written, from the beginning of `samples`.
        """
        count = min(len(samples), self.room)
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        self._samples[start : start + first] = samples[:first]
        self._samples[: count - first] = samples[first:count]
        # Count the samples last, because the reader may read them as soon as they are counted.
        self.written += count
        return count

    def read_into(self, out: FloatArray) -> int:
        """Read as many samples as are available.

        Parameters
        ----------
        out : (n, channels) float32
            The array to fill. If fewer samples are available, the rest of it is left unchanged.

        Returns
        -------
        int
            How many samples were written to `out`.
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
        """Free the room of discarded samples for the writer. Only the reader may call this."""
        self.read = max(self.read, self._discarded)

    def discard(self) -> None:
        """Discard the samples that have not been read. Only the writer may call this."""
        self._discarded = self.written
        self.discards += 1

    def empty_chunk(self, count: int = 0) -> FloatArray:
        """Return an uninitialized array for `count` samples."""
        return np.empty((count, self._samples.shape[1]), np.float32)

    def latest(self, count: int) -> FloatArray:
        """Return a copy of the last `count` samples that were read, for a level meter.

        The copy is shorter if fewer samples were read, or if `count` exceeds the capacity. The
        writer may overwrite samples while they are copied.
        """
        count = min(count, self.read, self.capacity)
        indices = np.arange(self.read - count, self.read) % self.capacity
        return self._samples[indices]
