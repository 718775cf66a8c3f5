"""Records samples to an audio file while they are played."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from oobleck_stream.arrays import FloatArray
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.quantization import Bits
from oobleck_stream.player.ring import Ring

RING_SECONDS = 5.0
"""Capacity in seconds of the ring, which buffers audio while the disk is slow."""

POLL_SECONDS = 0.05
"""Interval in seconds at which the thread polls the ring."""


class Recorder:
    """Writes samples to a file in a separate thread, so that playback does not wait for the disk.

    Parameters
    ----------
    path : str or Path
        The file, named as for `AudioWriter`. A WAV file has float samples.
    samplerate, channels : int

    Attributes
    ----------
    lost : int
        Number of samples that were dropped because the disk was too slow or a WAV file was full.
    """

    def __init__(self, path: str | Path, samplerate: int, channels: int) -> None:
        bits: Bits | None = "float" if Path(path).suffix.lower() == ".wav" else None
        self.lost = 0
        self._writer = AudioWriter(path, samplerate, channels, bits)
        self._ring = Ring(round(RING_SECONDS * samplerate), channels)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="oobleck_stream recorder")
        self._thread.start()

    def take(self, samples: FloatArray) -> None:
        """Add samples. This never blocks."""
        self.lost += len(samples) - self._ring.write(samples)

    def put(self, samples: FloatArray) -> None:
        """Add samples. This blocks while the disk is too slow."""
        while len(samples) and self._thread.is_alive():
            samples = samples[self._ring.write(samples) :]
            if len(samples):
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Write the remaining samples and complete the file.

        Raises
        ------
        OSError
            If the file could not be written.
        InputError
            If the file could not be written, or if its format can't hold the recording.
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
                    time.sleep(POLL_SECONDS)
        except Exception as error:  # `close` raises it in the caller's thread.
            self._error = error
