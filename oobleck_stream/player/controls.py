"""Controls a player with keys."""

from __future__ import annotations

from oobleck_stream.errors import InputError
from oobleck_stream.player.player import Player

HELP = (
    "space pause   left/right 5 s   down/up 60 s   9/0 volume   m mute   l loop   q quit   ? help"
)
SEEKS = {"left": -5.0, "right": 5.0, "down": -60.0, "up": 60.0}
VOLUME_STEP = 0.05
MAX_VOLUME = 2.0


class Quit(Exception):  # noqa: N818
    """The key q was pressed."""


def press(key: str, player: Player) -> str | None:
    """Execute the command of a key.

    Returns
    -------
    str or None
        A message to display.

    Raises
    ------
    Quit
        If the key is q.
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
        player.volume = min(MAX_VOLUME, max(0.0, round(player.volume + step, 2)))
    elif key == "m":
        player.muted = not player.muted
    elif key == "l":
        player.looping = not player.looping
    return None
