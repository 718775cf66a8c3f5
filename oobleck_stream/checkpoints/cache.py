"""A disk cache of packed networks, so that a large checkpoint is folded and packed only once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from oobleck_stream.cache_folder import cache_folder, why_not_trusted
from oobleck_stream.checkpoints.packed_file import (
    PACKED_SUFFIX,
    read_packed,
    read_packed_encoder,
    write_packed,
)
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.safetensors import open_safetensors
from oobleck_stream.formats.tensors import Container
from oobleck_stream.model import Model
from oobleck_stream.version import __version__
from oobleck_stream.warning import warn

T = TypeVar("T")

MIN_CACHED_BYTES = 32_000_000
"""Smaller checkpoints are not cached, because packing them takes hardly any time."""

HASHED_PREFIX_BYTES = 2**20
"""Bytes at the start of a source file that are part of its identity."""

HASHED_PAGES, PAGE_BYTES = 64, 4096
"""Number and size of the pages of a source file that are part of its identity."""


def cached_model(files: Sequence[Path], options: str, build: Callable[[], Model]) -> Model:
    """Return a model, without its encoder, from the cache. A missing model is built and added.

    A cached network is valid only if this version of the package packed it, and every source file
    still has the same path, size, modification time (mtime), status change time (ctime) and sampled
    bytes. Programs can set a file's mtime but not its ctime. The kernel sets the ctime to the
    current time whenever the content or the attributes of the file change. Faking a ctime requires
    the right to set the system clock or to write to the disk below the file system.

    Without a ctime (Windows, some network file systems), a changed file of the same size and mtime
    is detected by its sampled bytes alone: the first MiB, and 64 pages spread over the file. Whole
    files are not hashed, because that would slow down every start by about half the time of
    packing. Inode and device numbers are not part of the identity, because they change on some file
    systems although the file has not changed.

    The checksum of a cached network is verified at every read. A truncated or corrupt file is
    replaced. Networks that another user may have written are ignored. Several processes may use the
    same cache at the same time. If the cache can't be written, for instance because the disk is
    full, the built model is returned nevertheless.

    Parameters
    ----------
    files : sequence of Path
        All source files of the model.
    options : str
        Everything else that the model depends on.
    build : callable
        Builds the model. It must open the files itself, because they may have been replaced since
        the caller opened them.

    Warns
    -----
    RuntimeWarning
        If other users may write to the cache folder, so that the cache is not used.
    """
    return _cached(files, options, build, read_packed, write_packed)


def cached_encoder(files: Sequence[Path], options: str, model: Model) -> PackedNetwork:
    """Return a model's encoder from the cache. A missing encoder is built and added.

    Parameters
    ----------
    files, options
        As for `cached_model`.
    model : Model
        The model whose encoder is returned.
    """
    return _cached(
        files,
        f"{options} encoder",
        lambda: model.encoder,
        read_packed_encoder,
        lambda path, _, identity: write_packed(path, model, identity, "encoder"),
    )


def _cached(
    files: Sequence[Path],
    options: str,
    build: Callable[[], T],
    read: Callable[[Container, str], T],
    write: Callable[[Path, T, str], None],
) -> T:
    try:
        folder = cache_folder()
    except OSError:
        folder = None
    sources = sorted({Path(os.path.realpath(file)) for file in files})
    try:
        kept = folder is not None and sum(f.stat().st_size for f in sources) >= MIN_CACHED_BYTES
        identity = _identity(sources, options) if kept else ""
    except OSError:  # `build` reports a file that can't be read.
        identity = ""
    if folder is None or not identity:
        return build()
    path = folder / f"{_digest([*map(str, sources), options])[:24]}{PACKED_SUFFIX}"
    found = _found(path, identity, read)
    if found is not None:
        return found
    built = build()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        exposed = _exposed(folder)
        if exposed:
            warn(f"{folder} {exposed}: no packed networks are kept there")
            return built
        write(path, built, identity)
        # The memory map replaces the copy on the heap, as on every later start.
        return read(open_safetensors(path), identity)
    except (OSError, CheckpointError):
        return built


def _found(path: Path, identity: str, read: Callable[[Container, str], T]) -> T | None:
    """The cached network in a file; None if the file is missing, invalid or not trusted."""
    try:
        if _exposed(path.parent) or _exposed(path):
            return None
        return read(open_safetensors(path), identity)
    except (OSError, CheckpointError):
        return None


def _exposed(path: Path) -> str:
    """Return the reason why another user may have written to a file or folder.

    The reason is empty if no other user can have written there.

    Write permission for the user's group is accepted, because the group often has only one member,
    and because the files contain weights rather than code.
    """
    return why_not_trusted(path.stat(), stat.S_IWOTH)


def _identity(sources: Sequence[Path], options: str) -> str:
    """A digest that changes with the package version, the options and the source files.

    Raises
    ------
    OSError
        If a file can't be read.
    """
    parts: list[str | bytes] = [__version__, options]
    for source in sources:
        with source.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            parts.append(f"{source}\n{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
            parts.append(file.read(HASHED_PREFIX_BYTES))
            # Whole pages at equal distances, from the first page of the file to the last.
            for number in range(HASHED_PAGES):
                position = (found.st_size - 1) * number // (HASHED_PAGES - 1)
                file.seek(position // PAGE_BYTES * PAGE_BYTES)
                parts.append(file.read(PAGE_BYTES))
    return _digest(parts)


def _digest(parts: Sequence[str | bytes]) -> str:
    """The hexadecimal SHA-256 digest of `parts`, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        # The length prefix distinguishes ("ab", "c") from ("a", "bc").
        data = os.fsencode(part)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
