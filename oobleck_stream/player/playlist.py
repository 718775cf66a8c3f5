"""The tracks that are played one after another, and the time range that is played of each track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from oobleck_stream.errors import InputError
from oobleck_stream.player.tracks import Track


@dataclass(frozen=True)
class Position:
    """A sample of a track. The track and the sample are both counted from 0."""

    track: int
    sample: int


class Playlist:
    """Tracks that are played one after another, and the time range that is played of each track.

    Parameters
    ----------
    tracks : sequence of Track
    samplerate : int
        Sample rate of the tracks in hertz.
    start : float
        Start position within each track, in seconds.
    length : float, optional
        Maximum duration of each track in seconds. By default, each track is played to its end.

    Attributes
    ----------
    begin : int
        Index of the first sample of each track that is played.
    end : int or None
        One past the index of the last sample of each track that is played. None means that each
        track is played to its end.

    Raises
    ------
    InputError
        If a track ends before `start`, if `start` or `length` is out of range, or if there are no
        tracks.
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
        """Duration of one round in seconds; infinite if unknown."""
        ends = [self._end_of(track) for track in self.tracks]
        return sum(end - self.begin for end in ends) / self.samplerate

    def position_at(self, track: int, seconds: float) -> Position:
        """The position at a time within a track; times are clamped to the range that is played.

        Raises
        ------
        InputError
            If the track is live.
        """
        if not self.tracks[track].seekable:
            raise InputError(f"{name_of(self.tracks[track])}: is live, so seeking is not possible")
        sample = max(self.begin, round(seconds * self.samplerate))
        return Position(track, int(min(sample, self._end_of(self.tracks[track]))))

    def require_repeatable(self) -> None:
        """Raise `InputError` if a track can be played only once."""
        for track in self.tracks:
            if not track.seekable:
                raise InputError(f"{name_of(track)}: is live, so it can't be played again")

    def _end_of(self, track: Track) -> float:
        """One past the index of a track's last played sample; infinite if unknown."""
        ends = [end for end in (track.length, self.end) if end is not None]
        return min(ends, default=math.inf)


def name_of(track: Track) -> str:
    """A track's name as it appears in messages."""
    return track.name or "the source"
