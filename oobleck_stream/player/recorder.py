"""A sound file of what is being played."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from oobleck_stream.arrays import FloatArray
from oobleck_stream.files.audio import AudioWriter, Bits
from oobleck_stream.player.ring import Ring

SECONDS = 5.0
"""Sound that waits for a slow disk at most."""

NAP_SECONDS = 0.05


class Recorder:
    """Writes samples that the device's thread hands over, in a thread of its own.

    Parameters
    ----------
    path : str or Path
        As for `AudioWriter`; the samples of a WAV file are float.
    samplerate, channels : int

    Attributes
    ----------
    lost : int
        Samples that the disk was too slow for, or that did not fit into a WAV file.
    """

    def __init__(self, path: str | Path, samplerate: int, channels: int) -> None:
        bits: Bits | None = "float" if Path(path).suffix.lower() == ".wav" else None
        self.lost = 0
        self._writer = AudioWriter(path, samplerate, channels, bits)
        self._ring = Ring(round(SECONDS * samplerate), channels)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="oobleck_stream recorder")
        self._thread.start()

    def take(self, samples: FloatArray) -> None:
        """Hand over samples; never waits."""
        self.lost += len(samples) - self._ring.write(samples)

    def close(self) -> None:
        """Write what is left and put the file in place.

        Raises
        ------
        InputError, OSError
            When it could not be written.
        InputError
            When its format can't hold what was recorded.
        """
        self._ring.ended = True
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        piece = self._ring.empty_chunk(self._ring.capacity)
        try:
            with self._writer as writer:
                while True:
                    ended = self._ring.ended
                    count = self._ring.read_into(piece)
                    kept = min(count, writer.room)
                    writer.write(piece[:kept])
                    self.lost += count - kept
                    if ended:
                        return
                    time.sleep(NAP_SECONDS)
        except Exception as error:  # `close` raises it in the caller's thread.
            self._error = error
