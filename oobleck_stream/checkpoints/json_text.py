"""JSON files and texts, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oobleck_stream.errors import CheckpointError


def parse_json(source: object, text: bytes | str) -> Any:
    """The value of a JSON text; ``CheckpointError`` when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(source, f"not JSON: {error}") from error


def read_text(path: Path) -> bytes:
    """The contents of a small file; ``CheckpointError`` when it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"can't be read: {error.strerror or error}") from error
