"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ABANDONED_SECONDS = 3600.0
"""A part that was not written to for so long belongs to a process that was killed."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place, and put it there when all went well; else nothing stays.

    Parameters
    ----------
    path : Path
        Replaced at once at the end.

    Raises
    ------
    OSError
        When it can't be written.
    """
    if path.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    _remove_abandoned(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the parts of a file that killed processes have left behind."""
    part = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    with suppress(OSError):
        for file in path.parent.iterdir():
            if part.fullmatch(file.name):
                with suppress(OSError):
                    if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                        file.unlink()
