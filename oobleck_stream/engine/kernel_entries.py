"""Reads and writes the files of compiled kernels, one file for each kernel.

Loading a compiled kernel executes code from the file. So a file is used only if no other user can
have written it: both the file and its folder must belong to this user or to root, and nobody else
may have write permission. A SHA-256 digest detects damage. The file also stores its cache key,
which must equal the requested key.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from numba import config

from oobleck_stream.cache_folder import VARIABLE, cache_folder, why_not_trusted

SUFFIX = ".kernel"
TEMPORARY = ".part"
MAGIC = b"oobleck_stream compiled kernel 1\n"

MAX_BYTES = 2**26
"""Maximum size of a file that is read. The largest kernel takes about a megabyte."""

DAY = 24 * 3600.0

MAX_AGES = {SUFFIX: 90 * DAY, TEMPORARY: DAY}
"""For each suffix, the age in seconds at which unused files are removed: compiled kernels, and
temporary files that interrupted writers left behind."""


class NotKeptError(Exception):
    """Compiled kernels can't be kept on disk; the message gives the reason in one line."""


def kernels_folder() -> Path | None:
    """The folder of compiled kernels; it may not exist yet.

    Returns
    -------
    pathlib.Path or None
        ``oobleck_stream`` in ``$NUMBA_CACHE_DIR`` if this variable is set, otherwise ``kernels`` in
        the folder of all caches. None if caching is switched off.

    Raises
    ------
    NotKeptError
        If the folder depends on the home folder and the home folder is unknown.
    """
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        return Path(config.CACHE_DIR) / "oobleck_stream"  # type: ignore[attr-defined]
    try:
        folder = cache_folder()
    except OSError as error:
        raise NotKeptError(f"{error}; ${VARIABLE} can name a folder") from error
    return None if folder is None else folder / "kernels"


def read_entry(name: str, key: str) -> bytes | None:
    """Read the content that `write_entry` stored under a name and a key.

    Parameters
    ----------
    name : str
        File name without suffix.
    key : str
        The cache key: everything that the content depends on.

    Returns
    -------
    bytes or None
        The content. None if there is no such file, or if the file is damaged, can't be trusted, or
        has another key.

    Raises
    ------
    NotKeptError
        If other users may have written to the folder.
    """
    folder = kernels_folder()
    if folder is None or not os.path.isdir(folder):
        return None
    path = folder / f"{name}{SUFFIX}"
    try:
        _check_trusted(folder)
        with open(path, "rb", opener=_open_itself) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or why_not_trusted(found):
                return None
            data = file.read(MAX_BYTES)
    except OSError:
        return None
    content = _content(data, key)
    if content is not None and time.time() - found.st_mtime > DAY:
        # A new modification time keeps a kernel that is in use from being removed.
        with suppress(OSError):
            os.utime(path)
    return content


def write_entry(name: str, key: str, content: bytes) -> None:
    """Store content for `read_entry`, by an atomic rename.

    Parameters
    ----------
    name : str
        File name without suffix.
    key : str
        The cache key: everything that the content depends on.
    content : bytes

    Raises
    ------
    NotKeptError
        If this user can't write to the folder, or other users can.
    """
    folder = kernels_folder()
    if folder is None:
        return
    body = _preamble(key) + content
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_trusted(folder)
        descriptor, temporary = tempfile.mkstemp(TEMPORARY, f"{name}.", folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(temporary, folder / f"{name}{SUFFIX}")
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise NotKeptError(f"{folder}: {error.strerror or error}") from error
    _remove_unused(folder)


def _open_itself(path: str, flags: int) -> int:
    """Open a file without following a symbolic link or blocking on a named pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _preamble(key: str) -> bytes:
    """The bytes between the digest and the content."""
    return f"{key}\n\n".encode()


def _content(data: bytes, key: str) -> bytes | None:
    """The content part of a file; None if the file is damaged or has another key."""
    start = len(MAGIC) + hashlib.sha256().digest_size
    digest, body, preamble = data[len(MAGIC) : start], data[start:], _preamble(key)
    if not data.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    return body[len(preamble) :] if body.startswith(preamble) else None


def _check_trusted(folder: Path) -> None:
    """Raise ``NotKeptError`` if other users may have written to an existing folder."""
    reason = why_not_trusted(folder.stat())
    if reason:
        raise NotKeptError(f"{folder} {reason}")


def _remove_unused(folder: Path) -> None:
    """Remove files that are older than `MAX_AGES`."""
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                limit = MAX_AGES.get(path.suffix)
                if limit is not None and time.time() - path.lstat().st_mtime > limit:
                    path.unlink()
