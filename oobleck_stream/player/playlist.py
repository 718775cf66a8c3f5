"""The tracks that are played one after another, and the time range to play within each track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.errors import InputError
from oobleck_stream.files.excerpt import Excerpt
from oobleck_stream.player.tracks import Track


@dataclass(frozen=True)
class Position:
    """A sample of a track. The track and the sample are both counted from 0."""

    track: int
    sample: int


class Playlist:
    """Tracks that are played one after another, and the time range to play within each track.

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
        Index of the first played sample of each track.
    end : int or None
        One past the index of the last played sample of each track. None means that each track is
        played to its end.

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
        excerpt = Excerpt.of(samplerate, start, length)
        if not tracks:
            raise InputError("there is nothing to play")
        self.tracks = tracks
        self.samplerate = samplerate
        self.begin, self.end = excerpt.begin, excerpt.end
        self._excerpt = excerpt
        for track in tracks:
            excerpt.require_within(track.length, samplerate, name_of(track))

    @property
    def seconds(self) -> float:
        """Duration of all tracks together, in seconds. It is infinite if a length is unknown."""
        ends = [self.end_of(track) for track in self.tracks]
        if None in ends:
            return math.inf
        return sum(end - self.begin for end in ends if end is not None) / self.samplerate

    def position_at(self, track: int, seconds: float) -> Position:
        """Return the position at a time within a track, clamped to the range that is played.

        Parameters
        ----------
        track : int
            Index of the track.
        seconds : float
            Seconds from the beginning of the track.

        Raises
        ------
        InputError
            If the track is live.
        """
        if not self.tracks[track].seekable:
            raise InputError(f"{name_of(self.tracks[track])}: is live, so seeking is not possible")
        sample = max(self.begin, round(seconds * self.samplerate))
        end = self.end_of(self.tracks[track])
        return Position(track, sample if end is None else min(sample, end))

    def require_repeatable(self) -> None:
        """Raise `InputError` if a track can be played only once."""
        for track in self.tracks:
            if not track.seekable:
                raise InputError(f"{name_of(track)}: is live, so it can't be played again")

    @property
    def is_finite(self) -> bool:
        """Whether every track can be decoded again, and has a known end."""
        return all(track.seekable and self.end_of(track) is not None for track in self.tracks)

    def decoded(self, decoder: StreamingDecoder) -> FloatArray:
        """Decode the time range to play of each track, and concatenate the samples.

        Returns
        -------
        (n, channels) float32
        """
        chunks = [np.empty((0, decoder.channels), np.float32)]
        for track in self.tracks:
            position, end = self.begin, self.end_of(track)
            for chunk in track.samples(decoder, self.begin):
                chunks.append(chunk if end is None else chunk[: max(0, end - position)])
                position += len(chunk)
                if end is not None and position >= end:
                    break
        return np.concatenate(chunks)

    def end_of(self, track: Track) -> int | None:
        """Return one past the index of a track's last played sample. None if unknown."""
        return self._excerpt.end_in(track.length)


def name_of(track: Track) -> str:
    """Return a track's name as it appears in messages."""
    return track.name or "the source"
