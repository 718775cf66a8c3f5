"""What can go wrong with live sound."""

from __future__ import annotations

from oobleck_stream.files.errors import InputError


class OutputError(InputError):
    """There is no way to play here: no PortAudio, no device, or not one as asked for."""


class PlaybackError(RuntimeError):
    """Playing can't go on: the device has gone, or the machine is too slow."""
