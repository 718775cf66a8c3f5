"""The status of a player, as a line for a terminal and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from oobleck_stream.player.player import Player

BAR = 20
"""Width of the progress bar in columns."""

METER = 8
"""Width of the level meter in columns."""

METER_DECIBELS = 48.0
"""Range of the level meter in decibels. It ends at full scale."""


@dataclass(frozen=True)
class Status:
    """The status of a player at one moment.

    Parameters
    ----------
    track, tracks : int
        Index of the current track, and the number of tracks.
    name : str
    position : float
        Seconds from the beginning of the track.
    length : float or None
        Seconds from the beginning of the track to the end of the range that is played. None if
        unknown.
    paused, muted, looping, finished : bool
    volume : float
    buffered : float
        Seconds of audio decoded ahead.
    real_time_factor : float
        Seconds needed to decode a second of audio.
    level : float
        Peak of the last 0.1 s. Full scale is 1.0.
    underflows, device_underflows : int
        How often decoding was late, and how often the device's own buffer ran empty.
    silent_seconds : float
        Seconds of silence inserted because decoding was late.
    start : float
        Seconds from the beginning of the track to the beginning of the range that is played.
    """

    track: int
    tracks: int
    name: str
    position: float
    length: float | None
    paused: bool
    muted: bool
    looping: bool
    finished: bool
    volume: float
    buffered: float
    real_time_factor: float
    level: float
    underflows: int
    device_underflows: int
    silent_seconds: float
    start: float = 0.0

    @classmethod
    def of(cls, player: Player) -> Status:
        """Return the current status of a player."""
        track = player.place.track
        return cls(
            track=track,
            tracks=len(player.tracks),
            name=player.tracks[track].name,
            position=player.position,
            length=player.length,
            paused=player.paused,
            muted=player.muted,
            looping=player.looping,
            finished=player.finished,
            volume=player.volume,
            buffered=player.buffered,
            real_time_factor=player.real_time_factor,
            level=player.level,
            underflows=player.underflows,
            device_underflows=player.device_underflows,
            silent_seconds=player.silent_seconds,
            start=player.start,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return asdict(self)

    def as_line(self, width: int) -> str:
        """Return a line of text for a terminal of `width` columns.

        If the line would be too long, less important parts are left out.
        """
        progress = ""
        if self.length is not None and self.length > self.start:
            progress = bar((self.position - self.start) / (self.length - self.start), BAR)
        meter = bar(_loudness(self.level), METER)
        buffer = f"buffer {1000 * self.buffered:.0f} ms"
        factor = f"RTF {self.real_time_factor:.2f}"
        parts = [
            "||" if self.paused else "> ",
            f"{self.track + 1}/{self.tracks}" if self.tracks > 1 else "",
            clock(self.position) + (f" / {clock(self.length)}" if self.length else ""),
            progress,
            meter,
            buffer,
            factor,
            "muted" if self.muted else f"vol {100 * self.volume:.0f}%" if self.volume != 1 else "",
            "loop" if self.looping else "",
            f"late {self.underflows} ({self.silent_seconds:.2f} s)" if self.underflows else "",
        ]
        line = ""
        # Drop one part after another until the line fits.
        for spare in (meter, progress, buffer, factor, None):
            line = "  ".join(part for part in parts if part)
            if len(line) < width:
                break
            parts = [part for part in parts if part is not spare]
        return line[: max(1, width - 1)]


def clock(seconds: float) -> str:
    """Format a time as ``1:02:03`` or ``2:03.4``."""
    minutes, rest = divmod(int(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest // 10:02d}"
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def bar(fraction: float, width: int) -> str:
    """Return a bar that is `width` columns wide inside its brackets, filled from the left."""
    filled = round(min(1.0, max(0.0, fraction)) * width)
    return "[" + "=" * filled + " " * (width - filled) + "]"


def _loudness(level: float) -> float:
    """Scale a level to 0 at `METER_DECIBELS` below full scale, and to 1 at full scale."""
    if level <= 0:
        return 0.0
    return 1 + 20 * math.log10(level) / METER_DECIBELS
