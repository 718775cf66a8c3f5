"""What the keys do."""

from __future__ import annotations

from oobleck_stream.errors import InputError
from oobleck_stream.player.player import Player

HELP = (
    "space pause   left/right 5 s   down/up 60 s   9/0 volume   m mute   l loop   q quit   ? help"
)
SEEKS = {"left": -5.0, "right": 5.0, "down": -60.0, "up": 60.0}
VOLUME_STEP = 0.05
LOUDEST = 2.0


class Quit(Exception):  # noqa: N818
    """The key q."""


def press(key: str, player: Player) -> str | None:
    """Do what a key asks for.

    Returns
    -------
    str or None
        Something to tell.

    Raises
    ------
    Quit
        For q.
    """
    try:
        return _press(key, player)
    except InputError as error:
        return str(error)


def _press(key: str, player: Player) -> str | None:
    if key == "q":
        raise Quit
    if key == "?":
        return HELP
    if key == "space":
        (player.play if player.paused else player.pause)()
    elif key in SEEKS:
        player.seek(player.position + SEEKS[key])
    elif key in "90":
        step = VOLUME_STEP if key == "0" else -VOLUME_STEP
        player.volume = min(LOUDEST, max(0.0, round(player.volume + step, 2)))
    elif key == "m":
        player.muted = not player.muted
    elif key == "l":
        player.looping = not player.looping
    return None
