"""Single keys from the terminal, without waiting for Enter."""

from __future__ import annotations

import os
import select
import sys
import time
from types import TracebackType
from typing import Any

SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b" ": "space",
}


class Keys:
    """Reads keys from standard input where that is a terminal; elsewhere there are none.

    A context manager: the terminal is as it was afterwards, whatever happens.

    Parameters
    ----------
    wanted : bool
        False leaves standard input alone.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._descriptor: int | None = None
        self._settings: Any = None
        if wanted and sys.stdin is not None and os.name == "posix" and sys.stdin.isatty():
            descriptor = sys.stdin.fileno()
            # A job in the background would be stopped for touching the terminal.
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                self._descriptor = descriptor

    def __bool__(self) -> bool:
        return self._descriptor is not None

    def __enter__(self) -> Keys:
        if self._descriptor is not None:
            import termios
            import tty

            self._settings = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def read(self, seconds: float) -> list[str]:
        """Keys pressed within some seconds: characters, or "left", "right", "up", "down", "space".

        Returns as soon as there is one.
        """
        if self._descriptor is None:
            time.sleep(seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self._descriptor, 64)
        if not data:
            self._descriptor = None
        return split_keys(data)


def split_keys(data: bytes) -> list[str]:
    """The keys of what a terminal sent."""
    keys = []
    while data:
        sequence = next((known for known in SEQUENCES if data.startswith(known)), None)
        if sequence:
            keys.append(SEQUENCES[sequence])
        elif data[:1].isascii() and data[:1] != b"\x1b":
            keys.append(data[:1].decode())
        data = data[len(sequence or b"1") :]
    return keys
