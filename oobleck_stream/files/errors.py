"""The error of bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Something given from outside can't be used; its message is one line that names it."""

    def __init__(self, message: str) -> None:
        # Names come from files.
        super().__init__("".join(c if c.isprintable() else " " for c in message))


@contextmanager
def refusing_unwritable(path: str | Path) -> Iterator[None]:
    """Raise an `OSError` of the block as an `InputError` that names the output and the reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
