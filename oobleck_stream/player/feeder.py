"""What happens in the device's thread: it only copies, and never waits."""

from __future__ import annotations

import time

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.player.recorder import Recorder
from oobleck_stream.player.ring import Ring


class Feeder:
    """Hands a ring's samples to the device; silence while it is paused, filling or late.

    Parameters
    ----------
    ring : Ring
    start_level : int
        Samples to wait for at the start and after a seek.
    lead_in : int
        Samples of silence before the first.
    lead_out : int
        Samples of silence after the last.

    Attributes
    ----------
    volume : float
    muted, paused : bool
        To be set from any thread.
    recorder : Recorder or None
        Gets what is played, before the volume.
    underflows, silent_samples : int
        How often the ring ran empty, and the silence played for that.
    filling : bool
        Whether it waits for the ring to fill.
    discards : int
        The ring's discards as far as they have been noticed here.
    calls : int
        How often the device has asked.
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
        self._late = False
        self._lead_in, self._lead_out = lead_in, lead_out

    @property
    def is_over(self) -> bool:
        """Whether everything has been played."""
        return self._lead_out <= 0

    def fill(self, out: FloatArray) -> bool:
        """Give the device its next samples.

        Parameters
        ----------
        out : (n, channels) float32
            To be overwritten.

        Returns
        -------
        bool
            Whether more will come.
        """
        self.calls += 1
        if self._lead_in > 0:
            self._lead_in -= len(out)
            out.fill(0.0)
            return True
        # First of all, so that nothing is overlooked that was written before the end was set.
        ended = self._ring.ended
        self._notice_discards()
        if self.paused or (self.filling and self._ring.fill < self._level and not ended):
            out.fill(0.0)
            if self._late and not self.paused:
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
        """After a seek: wait for the new samples, without counting that as late."""
        discards = self._ring.discards
        if discards != self.discards:
            self._ring.skip_discarded()
            self.discards = discards
            self.filling, self._late, self._level = True, False, self._start_level

    def _fall_behind(self, missing: int) -> None:
        """Wait for more samples than the last time, lest it happen again and again."""
        self.underflows += 1
        self.silent_samples += missing
        self.filling = self._late = True
        self._level = min(2 * self._level, self._ring.capacity)

    def _apply_volume(self, samples: FloatArray) -> None:
        """Multiply by the volume; whatever comes, the device gets only finite samples."""
        if self.muted:
            samples.fill(0.0)
        elif self.volume != 1.0:
            with np.errstate(over="ignore", invalid="ignore"):
                np.multiply(samples, np.float32(self.volume), out=samples)
        if first_not_finite(samples) is not None:
            # A NaN becomes silence, an infinity the largest number.
            np.nan_to_num(samples, copy=False)


class Watch:
    """Notices that a device does not ask any more.

    Parameters
    ----------
    feeder : Feeder
    """

    LONGEST_STEP = 0.5

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder
        self._calls = 0
        self._looked = 0.0
        self._silence = 0.0

    @property
    def silence(self) -> float:
        """Seconds since the device last asked; to be looked at often.

        Seconds in which nobody looked don't count: the whole process may have been stopped.
        """
        now, calls = time.monotonic(), self._feeder.calls
        step = min(self.LONGEST_STEP, now - self._looked)
        self._silence = self._silence + step if calls == self._calls and calls else 0.0
        self._looked, self._calls = now, calls
        return self._silence
