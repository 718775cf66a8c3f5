"""The callback that runs in the audio device's thread: it copies samples and never blocks."""

from __future__ import annotations

import time

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.player.recorder import Recorder
from oobleck_stream.player.ring import Ring


class PlaybackCallback:
    """Copies samples from a ring to the device. While paused or out of samples, writes silence.

    Parameters
    ----------
    ring : Ring
    start_level : int
        Number of samples that the ring must contain before playing begins, at the start and after a
        seek.
    lead_in : int
        Number of samples of silence before the first sample.
    lead_out : int
        Number of samples of silence after the last sample.

    Attributes
    ----------
    volume : float
    muted, paused : bool
        Any thread may set these and `volume`.
    recorder : Recorder or None
        Receives the played samples before the volume is applied.
    underflows, silent_samples : int
        How often the ring ran empty, and how many silent samples were played for this reason.
    filling : bool
        Whether playing waits until the ring contains enough samples.
    discards : int
        The last value of the ring's `discards` to which this callback has reacted.
    calls : int
        Number of calls by the device.
    """

    def __init__(self, ring: Ring, start_level: int, lead_in: int, lead_out: int) -> None:
        self.volume = 1.0
        self.muted = self.paused = False
        self.recorder: Recorder | None = None
        self.underflows = self.silent_samples = 0
        self.filling = True
        self.discards = 0
        self.calls = 0
        self._ring = ring
        self._start_level = self._level = start_level
        self._is_late = False
        self._lead_in, self._lead_out = lead_in, lead_out

    @property
    def is_over(self) -> bool:
        """Whether everything has been played."""
        return self._lead_out <= 0

    def fill(self, out: FloatArray) -> bool:
        """Write the device's next samples.

        Parameters
        ----------
        out : (n, channels) float32
            The array to fill.

        Returns
        -------
        bool
            Whether more samples follow.
        """
        self.calls += 1
        if self._lead_in > 0:
            self._lead_in -= len(out)
            out.fill(0.0)
            return True
        # Read `ended` before the ring. The producer sets `ended` after its last write, so if it is
        # set here, all samples are in the ring.
        ended = self._ring.ended
        self._notice_discards()
        if self.paused or (self.filling and self._ring.fill < self._level and not ended):
            out.fill(0.0)
            if self._is_late and not self.paused:
                self.silent_samples += len(out)
            return True
        self.filling = False
        count = self._ring.read_into(out)
        if self.recorder is not None:
            self.recorder.take(out[:count])
        self._apply_volume(out[:count])
        if count == len(out):
            return True
        out[count:] = 0.0
        if ended:
            self._lead_out -= len(out) - count
            return self._lead_out > 0
        self._fall_behind(len(out) - count)
        return True

    def _notice_discards(self) -> None:
        """After a seek, wait for the new samples without counting an underflow."""
        discards = self._ring.discards
        if discards != self.discards:
            self._ring.skip_discarded()
            self.discards = discards
            self.filling, self._is_late, self._level = True, False, self._start_level

    def _fall_behind(self, missing: int) -> None:
        """Count an underflow, and wait for twice as many samples as before to avoid another one."""
        self.underflows += 1
        self.silent_samples += missing
        self.filling = self._is_late = True
        self._level = min(2 * self._level, self._ring.capacity)

    def _apply_volume(self, samples: FloatArray) -> None:
        """Multiply by the volume, and replace results that are not finite."""
        if self.muted:
            samples.fill(0.0)
        elif self.volume != 1.0:
            with np.errstate(over="ignore", invalid="ignore"):
                np.multiply(samples, np.float32(self.volume), out=samples)
        if first_not_finite(samples) is not None:
            # NaN becomes 0, and an infinity becomes the largest finite number of its sign.
            np.nan_to_num(samples, copy=False)


class StallDetector:
    """Detects whether a device has stopped calling its callback.

    Parameters
    ----------
    callback : PlaybackCallback
    """

    MAX_STEP_SECONDS = 0.5
    """The maximum by which `silence` can grow between two polls."""

    def __init__(self, callback: PlaybackCallback) -> None:
        self._callback = callback
        self._calls = 0
        self._looked = 0.0
        self._silence = 0.0

    @property
    def silence(self) -> float:
        """Seconds since the device's last call. This property must be polled often.

        A long time between two polls counts only as `MAX_STEP_SECONDS`, because the whole process
        may have been suspended.
        """
        now, calls = time.monotonic(), self._callback.calls
        step = min(self.MAX_STEP_SECONDS, now - self._looked)
        self._silence = self._silence + step if calls == self._calls and calls else 0.0
        self._looked, self._calls = now, calls
        return self._silence
