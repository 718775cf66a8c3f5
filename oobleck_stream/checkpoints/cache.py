"""Packed networks kept on disk, so that a big checkpoint is folded and packed only once."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from oobleck_stream.cache_folder import cache_folder, why_not_trusted
from oobleck_stream.checkpoints.packed_file import PACKED_SUFFIX, read_packed, write_packed
from oobleck_stream.checkpoints.safetensors_file import open_safetensors
from oobleck_stream.errors import CheckpointError
from oobleck_stream.model import Model
from oobleck_stream.version import __version__

SMALLEST_BYTES = 32_000_000
"""Checkpoints below this are packed in no time."""

_HEAD_BYTES = 2**20
_SAMPLES, _PAGE = 64, 4096


def through_cache(files: Sequence[Path], options: str, build: Callable[[], Model]) -> Model:
    """A model from the cache, or built and put there.

    A cached network is used only if this version of the package packed it, and all files that it
    was made from have the same path, size, modification time, status change time (ctime) and
    sampled bytes as then. Programs can set a modification time but not a ctime: the kernel sets it
    to the current time whenever the content or the attributes of a file change. Faking it takes the
    rights to set the system's clock or to write to the disk below the file system.

    Where there is no ctime (Windows, some network file systems), a file with the same size and
    modification time is recognised as another by its samples alone: its first megabyte, and 64
    pages spread over it. A digest of whole files is not taken, because it would make every start
    slower by about half the time that packing takes. Inode and device numbers don't count, because
    some file systems give an unchanged file new ones.

    A damaged network is replaced, whether it was cut short or bytes have changed: its checksum is
    compared whenever it is read. Networks that other users may have written are not used. Several
    processes may use the same cache at once.

    Parameters
    ----------
    files : sequence of Path
        All that the model is made from.
    options : str
        What else it depends on.
    build : callable
        Makes the model. It has to open the files itself: they may have been replaced since the
        caller opened them.

    Warns
    -----
    RuntimeWarning
        When other users may write to the cache folder, so that it is not used.

    Notes
    -----
    A cache that can't be written, for instance because the disk is full, does no harm.
    """
    try:
        folder = cache_folder()
    except OSError:
        folder = None
    sources = sorted({Path(os.path.realpath(file)) for file in files})
    try:
        kept = folder is not None and sum(f.stat().st_size for f in sources) >= SMALLEST_BYTES
        identity = _identity(sources, options) if kept else ""
    except OSError:  # What is wrong will be said when the model is built.
        identity = ""
    if folder is None or not identity:
        return build()
    path = folder / f"{_digest([*map(str, sources), options])[:24]}{PACKED_SUFFIX}"
    found = _cached(path, identity)
    if found is not None:
        return found
    model = build()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        exposed = _exposed(folder)
        if exposed:
            text = f"{folder} {exposed}: no packed networks are kept there"
            warnings.warn(text, RuntimeWarning, stacklevel=4)
            return model
        write_packed(path, model, identity)
        return read_packed(open_safetensors(path), identity)
    except (OSError, CheckpointError):
        return model


def _cached(path: Path, identity: str) -> Model | None:
    """The network in a file of the cache, if it can be used."""
    try:
        if _exposed(path.parent) or _exposed(path):
            return None
        return read_packed(open_safetensors(path), identity)
    except (OSError, CheckpointError):
        return None


def _exposed(path: Path) -> str:
    """Why another user may have written to a file or folder; empty if none can have.

    Members of the user's own group may: it is often a group of one, and what they could write here
    is sound, not code.
    """
    return why_not_trusted(path.stat(), stat.S_IWOTH)


def _identity(sources: Sequence[Path], options: str) -> str:
    """A digest that is another when a file or an option has changed.

    Raises
    ------
    OSError
        When a file can't be read.
    """
    parts: list[str | bytes] = [__version__, options]
    for source in sources:
        with source.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            parts.append(f"{source}\n{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
            parts.append(file.read(_HEAD_BYTES))
            for number in range(_SAMPLES):
                file.seek((found.st_size - 1) * number // (_SAMPLES - 1) // _PAGE * _PAGE)
                parts.append(file.read(_PAGE))
    return _digest(parts)


def _digest(parts: Sequence[str | bytes]) -> str:
    """SHA-256 of some parts, in hexadecimal; how they are divided counts too."""
    digest = hashlib.sha256()
    for part in parts:
        data = os.fsencode(part)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
