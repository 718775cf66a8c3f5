"""Displays of the player's status: a status line, plain lines, or JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Protocol

from oobleck_stream.player.status import Status

JSON_SECONDS = 0.5
"""Minimum interval in seconds between two status objects."""


def erasure() -> str:
    """Return the characters that clear the line and leave the cursor at its start."""
    if sys.platform == "win32":  # The console of Windows may print escape sequences literally.
        return f"\r{' ' * (shutil.get_terminal_size().columns - 1)}\r"
    return "\r\x1b[K"


class Display(Protocol):
    """A context manager that shows the player's status and messages."""

    def show(self, status: Status) -> None:
        """Show the current status."""

    def show_message(self, message: str) -> None:
        """Show a message."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...


class Silent:
    """A display that shows nothing."""

    def show(self, status: Status) -> None:
        """Do nothing with the status."""

    def show_message(self, message: str) -> None:
        """Do nothing with the message."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it is."""


class Lines(Silent):
    """A display of messages and underflows as plain lines on standard error."""

    def __init__(self) -> None:
        self._underflows = 0

    def show(self, status: Status) -> None:
        """Report each underflow."""
        if status.underflows > self._underflows:
            self.show_message(
                f"late at {status.position:.1f} s: silence until decoding has caught up"
            )
        self._underflows = status.underflows

    def show_message(self, message: str) -> None:
        """Print the message on one line."""
        print(message, file=sys.stderr, flush=True)


class StatusLine(Silent):
    """A display with a status line at the bottom of a terminal and messages above it."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, status: Status) -> None:
        """Overwrite the previous status."""
        width = shutil.get_terminal_size().columns
        sys.stderr.write(erasure() + status.as_line(width))
        sys.stderr.flush()
        self._shown = True

    def show_message(self, message: str) -> None:
        """Print the message in place of the status line, which moves below it."""
        sys.stderr.write(f"{erasure() if self._shown else ''}{message}\n")
        sys.stderr.flush()
        self._shown = False

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()


class Json(Silent):
    """A display as JSON lines on standard output: the status at intervals, and every message."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, status: Status) -> None:
        """Print the status at the end, and at intervals of at least `JSON_SECONDS`."""
        now = time.monotonic()
        if now >= self._next or status.finished:
            self._next = now + JSON_SECONDS
            print(json.dumps(status.as_dict()), flush=True)

    def show_message(self, message: str) -> None:
        """Print an object with the message."""
        print(json.dumps({"message": message}), flush=True)


def display_for(quiet: bool, as_json: bool) -> Display:
    """Choose the display, from the options and from whether standard error is a terminal."""
    if as_json:
        return Json()
    if quiet:
        return Silent()
    return StatusLine() if sys.stderr.isatty() else Lines()
