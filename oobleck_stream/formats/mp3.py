"""Compares an MP3 file's length with the length in bytes that its first frame states.

The stated length is in a tag that begins with "Xing" or "Info".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

FIRST_FRAME = 256
"""Number of bytes, from the start of the first frame on, in which the tag is searched for."""

HAS_FRAMES, HAS_BYTES = 1, 2


def missing_bytes(path: str | Path) -> int:
    """Return how many bytes an MP3 file lacks. The result is 0 if the file states no length."""
    with Path(path).open("rb") as file:
        start = _after_id3(file)
        file.seek(start)
        head = file.read(FIRST_FRAME)
        there = file.seek(0, 2) - start
    place = max(head.find(b"Xing"), head.find(b"Info"))
    if not head.startswith(b"\xff") or place < 0 or len(head) < place + 16:
        return 0
    flags, first, second = struct.unpack(">III", head[place + 4 : place + 16])
    if not flags & HAS_BYTES:
        return 0
    stated: int = second if flags & HAS_FRAMES else first
    return max(0, stated - there)


def _after_id3(file: BinaryIO) -> int:
    """The position after the ID3v2 tag that may precede the first frame; 0 without a tag."""
    head = file.read(10)
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for octet in head[6:]:
        size = size << 7 | octet & 127
    return 10 + size
