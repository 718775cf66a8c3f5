"""Describes the requested part of a piece, by its beginning and its maximum duration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from oobleck_stream.errors import InputError


@dataclass(frozen=True)
class Excerpt:
    """A range of samples of a piece of any length.

    Parameters
    ----------
    begin : int
        Index of the first sample.
    end : int or None
        One past the index of the last sample; None means the end of the piece.
    """

    begin: int = 0
    end: int | None = None

    @classmethod
    def of(cls, samplerate: int, start: float = 0.0, length: float | None = None) -> Excerpt:
        """Convert seconds to samples.

        Parameters
        ----------
        samplerate : int
        start : float
            Seconds from the beginning of the piece.
        length : float, optional
            Maximum duration in seconds. By default, the excerpt ends with the piece.

        Raises
        ------
        InputError
            If `start` is negative, if `length` is not positive, or if either is not finite.
        """
        if not (0 <= start < math.inf and (length is None or 0 < length < math.inf)):
            raise InputError(f"start must be from 0 and length above 0, not {start} and {length}")
        begin = round(start * samplerate)
        return cls(begin, None if length is None else begin + max(1, round(length * samplerate)))

    def end_in(self, samples: int | None) -> int | None:
        """Return the end of this range within a piece: one past the index of its last sample.

        `samples` is the length of the piece, or None if that is unknown. The result is None if
        `samples` is None and the range has no end.
        """
        known = [end for end in (samples, self.end) if end is not None]
        return min(known, default=None)

    def require_within(self, samples: int | None, samplerate: int, name: str) -> None:
        """Raise an `InputError` if a piece of known length ends before this range begins."""
        if samples is not None and self.begin >= samples:
            seconds, start = samples / samplerate, self.begin / samplerate
            raise InputError(f"{name}: lasts {seconds:.2f} s: there is nothing at {start:g} s")
