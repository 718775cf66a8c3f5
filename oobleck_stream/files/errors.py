"""The error of bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oobleck_stream.errors import NonFiniteError


class InputError(ValueError):
    """Something given from outside can't be used; its message is one line that names it."""

    def __init__(self, message: str) -> None:
        # Names come from files.
        super().__init__("".join(c if c.isprintable() else " " for c in message))


@contextmanager
def overflow_named(name: str) -> Iterator[None]:
    """Turn a `NonFiniteError` into an `InputError` that begins with the name of the input."""
    try:
        yield
    except NonFiniteError as error:
        raise InputError(f"{name}: {error}") from error
