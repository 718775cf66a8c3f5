"""A progress bar in seconds of audio, with the speed relative to real time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

WITH_TOTAL = "{l_bar}{bar}| {n:.1f} of {total:.1f} s [{remaining} left{postfix}]"
WITHOUT_TOTAL = "{n:.1f} s [{elapsed}{postfix}]"


class Progress:
    """A progress bar on standard error. If standard error is not a terminal, there is no bar.

    Parameters
    ----------
    samplerate : int
        Samples per second.
    samples : int or None
        Expected number of samples. None if unknown.
    """

    def __init__(self, samplerate: int, samples: int | None) -> None:
        self._samplerate = samplerate
        self._samples = 0
        self._total = samples
        self._start = time.perf_counter()
        # Count samples and only display seconds, because a sum of rounded seconds would not be
        # exactly the total.
        self._bar = tqdm(
            total=samples,
            unit_scale=1 / samplerate,
            bar_format=WITHOUT_TOTAL if samples is None else WITH_TOTAL,
            disable=None,
            leave=False,
        )

    @property
    def speed(self) -> float:
        """Seconds of audio processed per second."""
        return self._samples / self._samplerate / max(1e-9, time.perf_counter() - self._start)

    def add(self, samples: int) -> None:
        """Count samples that have been processed."""
        before = self._samples
        self._samples += samples
        self._bar.set_postfix_str(f"{self.speed:.1f} x real time", refresh=False)
        if self._total is not None:
            # Resampled audio can be a few samples longer than expected.
            samples = min(self._samples, self._total) - min(before, self._total)
        self._bar.update(samples)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


@contextlib.contextmanager
def counted(items: Iterable[T], count: int, what: str) -> Iterator[Iterator[T]]:
    """Show a progress bar on standard error while items are taken.

    Parameters
    ----------
    items : iterable
    count : int
        Number of items.
    what : str
        The word for the items, in the plural.

    Yields
    ------
    iterator
        The same items.
    """
    with tqdm(
        items, total=count, desc=what, unit="", mininterval=0, disable=None, leave=False
    ) as bar:
        yield iter(bar)
