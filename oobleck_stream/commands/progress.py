"""A progress bar in seconds of sound, with the speed against real time."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm import tqdm

KNOWN = "{l_bar}{bar}| {n:.1f} of {total:.1f} s [{remaining} left{postfix}]"
UNKNOWN = "{n:.1f} s [{elapsed}{postfix}]"


class Progress:
    """Shows how far decoding is, when standard error is a terminal.

    Parameters
    ----------
    samplerate : int
        Samples a second.
    samples : int or None
        How many will come, where that is known.
    """

    def __init__(self, samplerate: int, samples: int | None) -> None:
        self._samplerate = samplerate
        self._samples = 0
        self._total = samples
        self._start = time.perf_counter()
        # Counted in samples, which are whole, and only shown in seconds.
        self._bar = tqdm(
            total=samples,
            unit_scale=1 / samplerate,
            bar_format=UNKNOWN if samples is None else KNOWN,
            disable=None,
            leave=False,
        )

    @property
    def speed(self) -> float:
        """Seconds of sound in a second."""
        return self._samples / self._samplerate / max(1e-9, time.perf_counter() - self._start)

    def add(self, samples: int) -> None:
        """Count samples that have been decoded."""
        before = self._samples
        self._samples += samples
        self._bar.set_postfix_str(f"{self.speed:.1f} x real time", refresh=False)
        if self._total is not None:
            # A resampled sound can be a little longer than was told.
            samples = min(self._samples, self._total) - min(before, self._total)
        self._bar.update(samples)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
