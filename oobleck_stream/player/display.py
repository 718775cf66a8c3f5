"""Where the status goes: a line that is written over, plain lines, or JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from types import TracebackType
from typing import Protocol

from oobleck_stream.player.status import Status

JSON_SECONDS = 0.5
ERASE = "\r\x1b[K"


class Display(Protocol):
    """Shows what happens."""

    def show(self, status: Status) -> None:
        """A moment has passed."""

    def tell(self, message: str) -> None:
        """Something to be read."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Silent:
    """Shows nothing."""

    def show(self, status: Status) -> None:
        """Nothing."""

    def tell(self, message: str) -> None:
        """Nothing."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to put in order."""


class Lines(Silent):
    """Plain lines on standard error, when something happens."""

    def __init__(self) -> None:
        self._underflows = 0

    def show(self, status: Status) -> None:
        """Tell of every time that decoding was late."""
        if status.underflows > self._underflows:
            self.tell(f"late at {status.position:.1f} s: silence until decoding has caught up")
        self._underflows = status.underflows

    def tell(self, message: str) -> None:
        """One line."""
        print(message, file=sys.stderr, flush=True)


class StatusLine(Silent):
    """One line at the bottom of a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, status: Status) -> None:
        """Write over the last status."""
        width = shutil.get_terminal_size().columns
        sys.stderr.write(ERASE + status.as_line(width))
        sys.stderr.flush()
        self._shown = True

    def tell(self, message: str) -> None:
        """A line above."""
        sys.stderr.write(f"{ERASE if self._shown else ''}{message}\n")
        sys.stderr.flush()
        self._shown = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()


class Json(Silent):
    """One JSON object a line on standard output: the status now and then, and every message."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, status: Status) -> None:
        """At most twice a second, and when it is over."""
        now = time.monotonic()
        if now >= self._next or status.finished:
            self._next = now + JSON_SECONDS
            print(json.dumps(status.as_dict()), flush=True)

    def tell(self, message: str) -> None:
        """An object with a message."""
        print(json.dumps({"message": message}), flush=True)


def display_for(quiet: bool, as_json: bool) -> Display:
    """The display that fits the options and the terminal."""
    if as_json:
        return Json()
    if quiet:
        return Silent()
    return StatusLine() if sys.stderr.isatty() else Lines()
