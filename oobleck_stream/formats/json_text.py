"""Reads and parses JSON. Every failure is a `CheckpointError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oobleck_stream.errors import CheckpointError

MAX_JSON_BYTES = 2**24
"""Maximum size of a config, an index or a header. Parsed JSON can take 30 times as much memory."""


def parse_json(source: object, text: bytes | str) -> Any:
    """Parse a JSON text. Invalid text raises a `CheckpointError`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(source, f"not JSON: {error}") from error


def read_text(path: Path) -> bytes:
    """Read a JSON file without parsing it.

    Raises
    ------
    CheckpointError
        If the file can't be read, or if it is larger than `MAX_JSON_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(path, f"too large for JSON: over {MAX_JSON_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"can't be read: {error.strerror or error}") from error
