"""Reads single key presses from the terminal, without Enter."""

from __future__ import annotations

import importlib
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

PREFIXES = ("\0", "\xe0")
"""On Windows, a key without a character is read as one of these prefixes, followed by a code."""

CODES = {"H": "up", "P": "down", "M": "right", "K": "left"}
"""The codes of the arrow keys on Windows."""

CONSOLE_SECONDS = 0.01
"""Interval in seconds at which Windows' console is asked whether a key was pressed."""


class Keys:
    """Reads keys from standard input. If standard input is not a terminal, there are no keys.

    This class is a context manager. At the end of the block, it restores the terminal's settings.

    Parameters
    ----------
    enabled : bool
        Whether to read standard input at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._source: _Terminal | _Console | None = None
        if not enabled or sys.stdin is None or not sys.stdin.isatty():
            return
        if sys.platform == "win32":
            self._source = _Console()
        # A background job that changes the terminal's settings is stopped by SIGTTOU.
        elif os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp():
            self._source = _Terminal(sys.stdin.fileno())

    def __bool__(self) -> bool:
        return self._source is not None

    def __enter__(self) -> Keys:
        if self._source is not None:
            self._source.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.stop()

    def read(self, seconds: float) -> list[str]:
        """Wait at most `seconds` until keys are pressed, and return the keys.

        A key is a character, or one of "left", "right", "up", "down" and "space".
        """
        if self._source is None:
            time.sleep(seconds)
            return []
        return self._source.read(seconds)


class _Terminal:
    """A POSIX terminal."""

    def __init__(self, descriptor: int) -> None:
        self._termios: Any = importlib.import_module("termios")
        self._descriptor = descriptor
        self._settings: Any = None
        self._ended = False

    def start(self) -> None:
        """Let the terminal pass on each key immediately, without printing it."""
        tty: Any = importlib.import_module("tty")
        self._settings = self._termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)

    def stop(self) -> None:
        """Restore the terminal's settings."""
        self._termios.tcsetattr(self._descriptor, self._termios.TCSADRAIN, self._settings)

    def read(self, seconds: float) -> list[str]:
        """Read keys as `Keys.read` does. Once the terminal has been closed, there are no keys."""
        if self._ended:
            time.sleep(seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self._descriptor, 64)
        self._ended = not data
        return split_keys(data)


class _Console:
    """The console of Windows."""

    def __init__(self) -> None:
        self._msvcrt: Any = importlib.import_module("msvcrt")

    def start(self) -> None:
        """Do nothing: no setting of the console has to be changed."""

    def stop(self) -> None:
        """Do nothing."""

    def read(self, seconds: float) -> list[str]:
        """Read keys as `Keys.read` does."""
        end = time.monotonic() + seconds
        while not self._msvcrt.kbhit():
            left = end - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(left, CONSOLE_SECONDS))
        keys = []
        while self._msvcrt.kbhit():
            character = self._msvcrt.getwch()
            # Without a following code, a prefix is an ordinary character, such as the letter à.
            if character in PREFIXES and self._msvcrt.kbhit():
                keys += [CODES[code] for code in self._msvcrt.getwch() if code in CODES]
            else:
                keys += split_keys(character.encode())
        return keys


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
