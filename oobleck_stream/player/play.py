"""Plays latents to their end in one call."""

from __future__ import annotations

from typing import Any

from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.model import Model
from oobleck_stream.player.player import Player
from oobleck_stream.player.playlist import Playlist
from oobleck_stream.sound import Sound


def play(source: Any, model: Model, **options: Any) -> Sound | None:
    """Play latents to their end. The parameters and errors are those of `Player`.

    Returns
    -------
    Sound or None
        The sound of one round, which a notebook shows as a player. The latents are decoded again
        when the sound is shown. For a live source, the result is None. If there is no sound card,
        make a `Sound` from the result of `Model.decode` instead.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> ob.play(ob.piece("keys")[:300], ob.load("tiny"), volume=0.5)
    Sound(44100 Hz, decoded when it is needed)
    """
    with Player(source, model, **options) as player:
        player.play()
        player.wait()
    return sound_of(player.playlist, model, options.get("threads"))


def sound_of(playlist: Playlist, model: Model, threads: int | None) -> Sound | None:
    """Return the sound of one pass through a playlist. It is decoded only when it is needed.

    If a track is live or endless, return None.
    """
    if not playlist.is_finite:
        return None
    return Sound(lambda: playlist.decoded(StreamingDecoder(model, threads)), model.samplerate)
