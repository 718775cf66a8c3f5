"""The error of bad input."""

from __future__ import annotations


class InputError(ValueError):
    """Something given from outside can't be used; its message is one line that names it."""

    def __init__(self, message: str) -> None:
        # Names come from files.
        super().__init__("".join(c if c.isprintable() else " " for c in message))
