"""Errors of the system and of the network as one line that names the file concerned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oobleck_stream.errors import InputError, NonFiniteError


@contextmanager
def refusing_unwritable(path: str | Path) -> Iterator[None]:
    """Raise an `OSError` of the block as an `InputError` that names the output and the reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error


@contextmanager
def overflow_named(name: str) -> Iterator[None]:
    """Raise a `NonFiniteError` of the block as an `InputError` that begins with a name."""
    try:
        yield
    except NonFiniteError as error:
        raise InputError(f"{name}: {error}") from error
