"""Refuses sound files that are shorter than they state. Libsndfile would read them silently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from oobleck_stream.errors import InputError
from oobleck_stream.formats.mp3 import missing_bytes

NOTED = re.compile(
    r"^\s*(?:(Riff size|riff)|data|SSND|BODY|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
"""The line that libsndfile logs if a file is shorter than its header states. It contains the number
of bytes that the header states, and the actual number. In RF64 and W64 files, both count the bytes
of the whole file. In WAV, AIFF, AU and SVX files, both count the bytes of the samples."""

UNKNOWN_SIZE, UNKNOWN_FILE_SIZE = 0x7FFF0000, 2**62
"""A program that writes to a pipe doesn't know the final size. Its header states either 0 or a huge
size: at least `UNKNOWN_SIZE` bytes of samples in a WAV file, or a file of at least
`UNKNOWN_FILE_SIZE` bytes in RF64."""

MAX_MISSING = 0.01
"""If an MP3 file lacks more than this share of its size, it is refused before it is opened, because
mpg123 would print its own warning. If it lacks less, the reader detects this at the end of the
file."""


def require_bytes(path: str | Path) -> None:
    """Check a file before libsndfile opens it.

    Raises
    ------
    InputError
        If the file is empty, or if it is an MP3 file that was cut off.
    OSError
        If the file can't be read.
    """
    missing, size = missing_bytes(path), Path(path).stat().st_size
    if size == 0:
        raise InputError(f"{path}: is empty; a sound file was expected")
    if missing > MAX_MISSING * size:
        raise InputError(f"{path}: cut off: its header states {missing} bytes more")


def require_samples(name: str, file: Any) -> None:
    """Check an open file.

    Parameters
    ----------
    name : str
        The file's name in messages.
    file : soundfile.SoundFile

    Raises
    ------
    InputError
        If the file has no samples, or was cut off.
    """
    if file.frames == 0:
        raise InputError(f"{name}: holds no samples; at least one was expected")
    found = NOTED.search(file.extra_info)
    if found is None:
        return
    limit = UNKNOWN_FILE_SIZE if found[1] else UNKNOWN_SIZE
    if int(found[3]) < int(found[2]) < limit:
        raise InputError(
            f"{name}: cut off: its header states {found[2]} bytes, and {found[3]} are there"
        )
