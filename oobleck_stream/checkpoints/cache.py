"""Packed networks kept on disk, so that a big checkpoint is folded and packed only once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from oobleck_stream.cache_folder import cache_folder
from oobleck_stream.checkpoints.packed_file import PACKED_SUFFIX, read_packed, write_packed
from oobleck_stream.checkpoints.safetensors_file import open_safetensors
from oobleck_stream.errors import CheckpointError
from oobleck_stream.model import Model

SMALLEST_BYTES = 32_000_000
"""Checkpoints below this are packed in no time."""


def through_cache(files: Iterable[Path], options: str, build: Callable[[], Model]) -> Model:
    """A model from the cache, or built and put there.

    A cached network counts only while the files it was made from have the same sizes and times; a
    stale or damaged one is replaced. A cache that can't be written does no harm.

    Parameters
    ----------
    files : iterable of Path
        All that the model is made from.
    options : str
        What else it depends on.
    build : callable
        Makes the model.
    """
    try:
        folder = cache_folder()
    except OSError:
        folder = None
    sources = sorted({Path(os.path.realpath(file)) for file in files})
    if folder is None or sum(file.stat().st_size for file in sources) < SMALLEST_BYTES:
        return build()
    stamps = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sources]
    identity = "\n".join([*stamps, options])
    name = hashlib.sha256("\n".join([*map(str, sources), options]).encode()).hexdigest()[:24]
    path = folder / f"{name}{PACKED_SUFFIX}"
    if path.is_file():
        try:
            return read_packed(open_safetensors(path), identity)
        except (CheckpointError, KeyError):
            pass  # Stale or damaged: made anew below.
    model = build()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_packed(path, model, identity)
        return read_packed(open_safetensors(path), identity)
    except (OSError, CheckpointError):
        return model
