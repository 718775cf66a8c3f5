"""JSON files and texts, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oobleck_stream.errors import CheckpointError

MAX_JSON_BYTES = 2**24
"""Size of a config, an index or a header. Parsed, JSON may take thirty times as much memory."""


def parse_json(source: object, text: bytes | str) -> Any:
    """The value of a JSON text; ``CheckpointError`` when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(source, f"not JSON: {error}") from error


def read_text(path: Path) -> bytes:
    """The contents of a JSON file.

    Raises
    ------
    CheckpointError
        When it can't be read, or has more than `MAX_JSON_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(path, f"too large for JSON: over {MAX_JSON_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"can't be read: {error.strerror or error}") from error
