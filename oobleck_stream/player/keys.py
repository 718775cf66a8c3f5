"""Reads single key presses from the terminal, without Enter."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any

SEQUENCES = {
    # The ANSI escape sequences of the arrow keys, in the terminal's normal and application modes.
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
    """Reads keys from standard input. If standard input is not a terminal, there are no keys.

    It is a context manager, which restores the terminal's settings at the end of the block.

    Parameters
    ----------
    enabled : bool
        Whether to read standard input at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._descriptor: int | None = None
        self._settings: Any = None
        if enabled and sys.stdin is not None and os.name == "posix" and sys.stdin.isatty():
            descriptor = sys.stdin.fileno()
            # A background job that changes the terminal's settings is stopped by SIGTTOU.
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

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def read(self, seconds: float) -> list[str]:
        """Wait until keys are pressed, but at most `seconds`, and return the keys.

        A key is a character, or one of "left", "right", "up", "down" and "space".
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
    """Split a terminal's input into keys. Bytes that belong to no known key are skipped."""
    keys = []
    while data:
        sequence = next((known for known in SEQUENCES if data.startswith(known)), None)
        if sequence:
            keys.append(SEQUENCES[sequence])
        elif data[:1].isascii() and data[:1] != b"\x1b":
            keys.append(data[:1].decode())
        data = data[len(sequence or b"1") :]
    return keys
