"""Files and folders that appear under their names only when they are complete and on the disk.

Everything is first written into a private folder beside the target, ``.NAME.XXXXXXXX.oobleck-part``
(mode 0700, a random name, created exclusively), then flushed, fsynced, closed and renamed. An
exception removes the private folder and leaves the old target as it was. An `OSError` about a file
in the private folder bears the name that the file would have had.

A symbolic link is written through: the link stays, and the file or folder it leads to is replaced.

A process that is killed leaves its private folder behind. Every writer holds a lock (``flock``) on
its own private folder, so one without a lock is abandoned; the next writer of the same target
removes it. Where there are no such locks (Windows, some network file systems) it stays.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PART_SUFFIX = ".oobleck-part"
OLD_SUFFIX = ".oobleck-old"

MAX_NAME = 50
"""Characters of a target's name in the name of its private folder, which may not be too long."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that replaces `path` at the end of the block; write nothing if the block raises.

    Parameters
    ----------
    path : Path
        A symbolic link to a file, or to nothing, is written through.

    Yields
    ------
    BinaryIO
        Empty and writable. Its ``name`` is its path while it is being written; at this path a
        library may open and write it too.

    Raises
    ------
    OSError
        If it can't be written; the error's ``filename`` is `path`.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    target = destination(path)
    with _reported_as(path, target), private_folder(target) as folder:
        part = folder / target.name
        with new_file(part) as file:
            yield file
        os.replace(part, target)
        sync_folder(target.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Fill a folder that appears as `path` at the end of the block; leave none if the block raises.

    Parameters
    ----------
    path : Path
        A symbolic link to a folder, or to nothing, is written through.
    replace : bool
        Whether `path` may be a folder with files in it. It is set aside while the new one is put in
        its place, and then deleted. A process killed between these steps leaves it in a folder
        ``.NAME.XXXXXXXX.oobleck-old``, which is never removed automatically.

    Yields
    ------
    Path
        The empty folder to fill. Its files have to be written with `new_file`.

    Raises
    ------
    OSError
        If `path` is something else than an empty folder and `replace` is false, or it can't be
        written; the error's ``filename`` is `path` or a path in it.
    """
    target = destination(path)
    with _reported_as(path, target):
        _require_replaceable(target, replace)
        with private_folder(target) as folder:
            part = folder / target.name
            part.mkdir()
            yield part
            sync_folder(part)
            _require_replaceable(target, replace)
            _replace_folder(part, target)
            sync_folder(target.parent)


@contextmanager
def private_folder(target: Path) -> Iterator[Path]:
    """A new folder beside a target that only this user can enter; removed at the end of the block.

    First removes what killed writers of the same target left behind.

    Parameters
    ----------
    target : Path
        The folder lies beside it and is named after it.

    Raises
    ------
    OSError
        If it can't be created; the error's ``filename`` is `target`. An error of the block about a
        file in the folder names the file of the same name beside the target.
    """
    _remove_abandoned(target)
    folder, lock = _locked_folder(target)
    try:
        with _reported_as(target.parent, folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Create a file that is on the disk and closed at the end of the block.

    Raises
    ------
    OSError
        If it exists or can't be written; the error's ``filename`` is `path`.
    """
    file = io.BufferedWriter(_NamedFile(path, "x"))
    try:
        yield file
        sync_file(file)
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    with naming(path):
        file.close()


def sync_file(file: BinaryIO) -> None:
    """Flush a file to the disk; an `OSError` bears its name."""
    with naming(file.name):
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder permanent, on file systems that can do this for a folder.

    Failure is not an error: the files themselves are on the disk, and a rename can't be undone.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an `OSError` of the block the name of a file if it bears none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def destination(path: Path) -> Path:
    """The absolute path that is replaced when `path` is written.

    A symbolic link is followed, unless it leads to a device, a pipe or a socket: then the link
    itself is replaced.
    """
    real = Path(os.path.realpath(path))
    if os.path.isfile(real) or os.path.isdir(real) or not os.path.lexists(real):
        return real
    return Path(os.path.realpath(path.parent)) / path.name


class _NamedFile(io.FileIO):
    """A file whose write errors bear its name; those of the operating system bear none."""

    def write(self, data: ReadableBuffer, /) -> int:
        with naming(self.name):
            return super().write(data)


@contextmanager
def _reported_as(path: Path, place: Path) -> Iterator[None]:
    """Let an `OSError` of the block about a place, or about a file in it, name `path` instead."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if isinstance(name, str | Path) and Path(name).is_relative_to(place):
            error.filename = str(path / Path(name).relative_to(place))
        raise


def _require_replaceable(target: Path, replace: bool) -> None:
    """`OSError` unless a folder may be put there: in place of nothing, or of another folder."""
    if not os.path.lexists(target):
        return
    if not os.path.isdir(target):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(target))
    if not replace and os.listdir(target):
        raise OSError(errno.ENOTEMPTY, "it is not empty", str(target))


def _replace_folder(new: Path, target: Path) -> None:
    """Put a folder in its place; a folder that is there is set aside first and deleted last."""
    if not os.path.lexists(target):
        os.replace(new, target)
        return
    aside = _random_folder(target, OLD_SUFFIX)
    old = aside / target.name
    try:
        os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        with suppress(OSError):
            if old.exists():
                os.replace(old, target)
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _random_folder(target: Path, suffix: str) -> Path:
    """Create a folder of a new, random name beside a target; an `OSError` names the target."""
    try:
        return Path(tempfile.mkdtemp(suffix, f".{target.name[:MAX_NAME]}.", target.parent))
    except OSError as error:
        error.filename = str(target)
        raise


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    """A private folder beside a target, and the open descriptor that holds its lock."""
    if sys.platform == "win32":
        return _random_folder(target, PART_SUFFIX), None
    import fcntl

    while True:
        folder = _random_folder(target, PART_SUFFIX)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # Another writer took it for abandoned before it was locked.
        with suppress(OSError):  # Not every file system has locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove the private folders that killed writers of a target left behind, and nothing else."""
    stem, suffix = re.escape(target.name[:MAX_NAME]), re.escape(PART_SUFFIX)
    name = re.compile(rf"\.{stem}\.[a-z0-9_]{{8}}{suffix}")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name):
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(folder: Path) -> None:
    """Remove a private folder if it is this user's and no process holds its lock."""
    if sys.platform == "win32":
        return
    import fcntl

    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(descriptor)
            if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
