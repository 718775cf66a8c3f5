"""Chooses the reader of latents or audio by the name of the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from oobleck_stream.errors import InputError, NonFiniteError
from oobleck_stream.files.latents_pipe import LatentPipe
from oobleck_stream.files.latents_reader import LatentFile, read_latents
from oobleck_stream.formats import flat

if TYPE_CHECKING:
    from oobleck_stream.files.audio_reader import AudioFile, FlatAudio

STANDARD_INPUT = "-"

Latents: TypeAlias = LatentFile | LatentPipe


def open_latents(name: str) -> Latents:
    """Open a file of latents, or standard input for ``-``."""
    if name != STANDARD_INPUT:
        return read_latents(name)
    # The pipe is unbuffered, so that frames are passed on as they arrive. sys.stdin is not used: a
    # thread blocked in its `read` holds a lock that the interpreter needs at exit.
    return LatentPipe(open(0, "rb", buffering=0, closefd=False))


def open_audio(name: str) -> AudioFile | FlatAudio:
    """Open an audio file."""
    # Imported here so that reading latents does not load libsndfile.
    from oobleck_stream.files.audio_reader import AudioFile, FlatAudio

    return FlatAudio(name) if Path(name).suffix.lower() == flat.SUFFIX else AudioFile(name)


@contextmanager
def overflow_named(name: str) -> Iterator[None]:
    """Convert a `NonFiniteError` from the block to an `InputError` that names the source."""
    try:
        yield
    except NonFiniteError as error:
        raise InputError(f"{name}: {error}") from error
