"""What is played: tracks one after another, of each the same stretch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from oobleck_stream.errors import InputError
from oobleck_stream.player.tracks import Track


@dataclass(frozen=True)
class Place:
    """A sample of a track, both counted from 0."""

    track: int
    sample: int


class Programme:
    """Tracks and the stretch that is played of each.

    Parameters
    ----------
    tracks : sequence of Track
    samplerate : int
        Of the tracks.
    start : float
        Second of each track at which it begins.
    length : float, optional
        Seconds that are played of each track; by default to its end.

    Attributes
    ----------
    begin : int
        First sample of each track.
    end : int or None
        The sample behind the last.

    Raises
    ------
    InputError
        When a track has ended before `start`, or there is nothing to play.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        samplerate: int,
        start: float = 0.0,
        length: float | None = None,
    ) -> None:
        if not (0 <= start < math.inf and (length is None or 0 < length < math.inf)):
            raise InputError(f"start must be from 0 and length above 0, not {start} and {length}")
        if not tracks:
            raise InputError("there is nothing to play")
        self.tracks = tracks
        self.samplerate = samplerate
        self.begin = round(start * samplerate)
        self.end = None if length is None else self.begin + max(1, round(length * samplerate))
        for track in tracks:
            if track.length is not None and self.begin >= track.length:
                seconds = track.length / samplerate
                raise InputError(
                    f"{name_of(track)}: lasts {seconds:.2f} s: there is nothing at {start} s"
                )

    @property
    def seconds(self) -> float:
        """Length of one round; infinite where that is not known."""
        ends = [self._end_of(track) for track in self.tracks]
        return sum(end - self.begin for end in ends) / self.samplerate

    def place(self, track: int, seconds: float) -> Place:
        """The place of a second of a track, kept within what is played of it.

        Raises
        ------
        InputError
            When the track arrives live.
        """
        if not self.tracks[track].seekable:
            raise InputError(f"{name_of(self.tracks[track])}: is live: nothing to seek in")
        sample = max(self.begin, round(seconds * self.samplerate))
        return Place(track, int(min(sample, self._end_of(self.tracks[track]))))

    def require_repeatable(self) -> None:
        """Raise `InputError` when a track can be heard only once."""
        for track in self.tracks:
            if not track.seekable:
                raise InputError(f"{name_of(track)}: is live: it can't be played again")

    def _end_of(self, track: Track) -> float:
        """The sample behind the last one played of a track."""
        ends = [end for end in (track.length, self.end) if end is not None]
        return min(ends, default=math.inf)


def name_of(track: Track) -> str:
    """What a track is called in messages."""
    return track.name or "the source"
