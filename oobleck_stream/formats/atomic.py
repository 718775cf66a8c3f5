"""Files and folders that appear under their names only when they are complete and on the disk.

Everything is first written into a private folder beside the target. The folder is called
``.NAME.XXXXXXXX.oobleck-part``, where the X stand for random characters. It has the mode 0700 and
is created exclusively. The content is then flushed, fsynced, closed and renamed. An exception
removes the private folder and leaves the old target as it was. An `OSError` about a file in the
private folder reports the path that the file would have had after the renaming.

If the target is a symbolic link, the link stays, and the file or folder that it points to is
replaced. A pipe, socket or device is never replaced, neither directly nor through a link.

A process that is killed leaves its private folder behind. Every writer holds a lock (``flock``) on
its own private folder, so a folder without a lock is abandoned. The next writer of the same target
removes it. On systems without such locks (Windows, some network file systems), the folder stays.
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

from oobleck_stream.errors import InputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PART_SUFFIX = ".oobleck-part"
OLD_SUFFIX = ".oobleck-old"

MAX_NAME = 50
"""Maximum number of characters of the target's name that are part of the private folder's name.
File systems limit the length of names."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that replaces `path` at the end of the block.

    If an exception ends the block, nothing is written.

    Parameters
    ----------
    path : Path
        If it is a symbolic link, the link's target is written, even if it does not exist yet.

    Yields
    ------
    BinaryIO
        An empty, writable file. Its attribute ``name`` is its temporary path. A library may open
        the file by this path and write to it.

    Raises
    ------
    OSError
        If `path` is a folder, pipe, socket or device, or if it can't be written. The error's
        ``filename`` is `path`.
    """
    target = file_destination(path)
    with _reported_as(path, target), private_folder(target) as folder:
        part = folder / target.name
        with new_file(part) as file:
            yield file
        file_destination(target)  # A pipe may have been created there in the meantime.
        os.replace(part, target)
        sync_folder(target.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Fill a folder that appears as `path` at the end of the block.

    If an exception ends the block, no folder is left.

    Parameters
    ----------
    path : Path
        If it is a symbolic link, the link's target is written, even if it does not exist yet.
    replace : bool
        Whether `path` may be a folder that contains files. That folder is moved aside, the new one
        is renamed to `path`, and then the old one is deleted. If the process is killed between
        these steps, the old folder stays as ``.NAME.XXXXXXXX.oobleck-old`` and is never removed
        automatically.

    Yields
    ------
    Path
        The empty folder to fill. Its files must be written with `new_file`.

    Raises
    ------
    OSError
        If `path` exists and is not a folder, if it is a folder that contains files and `replace` is
        false, or if it can't be written. The error's ``filename`` is `path` or a path in `path`.
    """
    target = Path(os.path.realpath(path))
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
    """Create a private folder beside a target, and remove the folder at the end of the block.

    Only this user can enter the folder. Folders that killed processes have left behind for the same
    target are removed first.

    Parameters
    ----------
    target : Path
        The path beside which the folder is created. The folder's name contains the target's name.

    Raises
    ------
    OSError
        If the folder can't be created. The error's ``filename`` is then `target`. If the block
        raises an error about a file in the folder, the error is changed to report a file of the
        same name beside the target.
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
    """Create a file, which is flushed to the disk and closed at the end of the block.

    Raises
    ------
    OSError
        If the file already exists or can't be written. The error's ``filename`` is `path`.
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
    """Flush a file to the disk. An `OSError` reports the file's name."""
    with naming(file.name):
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that renames in it survive a crash.

    Errors are ignored, because some file systems can't sync a folder. At that point, the files
    themselves are already on the disk, and the rename has happened.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """If an `OSError` from the block has no file name, add `path` to it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def refusing_unwritable(path: str | Path) -> Iterator[None]:
    """Convert an `OSError` from the block to an `InputError` that states `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error


def file_destination(path: Path) -> Path:
    """Return the absolute path, without symbolic links, of the file that writing `path` replaces.

    Raises
    ------
    OSError
        If `path` is a folder, pipe, socket or device, or a symbolic link to one; the error's
        ``filename`` is `path`.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # Nothing exists yet, or opening will report the error.
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
        raise OSError(errno.EINVAL, f"it is a {kind}; a regular file was expected", str(path))
    return Path(os.path.realpath(path))


class _NamedFile(io.FileIO):
    """A file that adds its name to write errors, which the system reports without a name."""

    def write(self, data: ReadableBuffer, /) -> int:
        with naming(self.name):
            return super().write(data)


@contextmanager
def _reported_as(path: Path, actual: Path) -> Iterator[None]:
    """Replace `actual` by `path` in the filename of an `OSError` from the block."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if isinstance(name, str | Path) and Path(name).is_relative_to(actual):
            error.filename = str(path / Path(name).relative_to(actual))
        raise


def _require_replaceable(target: Path, replace: bool) -> None:
    """Raise an `OSError` if the target exists and is not a folder that may be replaced."""
    if not os.path.lexists(target):
        return
    if not os.path.isdir(target):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(target))
    if not replace and os.listdir(target):
        raise OSError(errno.ENOTEMPTY, "it is not empty", str(target))


def _replace_folder(new: Path, target: Path) -> None:
    """Rename a folder to its target. An old target is moved aside first, and deleted last."""
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
    """Create a folder with a random name beside a target. An `OSError` names the target."""
    try:
        return Path(tempfile.mkdtemp(suffix, f".{target.name[:MAX_NAME]}.", target.parent))
    except OSError as error:
        error.filename = str(target)
        raise


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    """Create a private folder beside a target; return its path and the descriptor of its lock."""
    if sys.platform == "win32":
        return _random_folder(target, PART_SUFFIX), None
    import fcntl

    while True:
        folder = _random_folder(target, PART_SUFFIX)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # Another writer removed it as abandoned before it was locked.
        with suppress(OSError):  # Some file systems have no locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove this target's private folders that were left behind by processes that were killed."""
    stem, suffix = re.escape(target.name[:MAX_NAME]), re.escape(PART_SUFFIX)
    name = re.compile(rf"\.{stem}\.[a-z0-9_]{{8}}{suffix}")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name):
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(folder: Path) -> None:
    """Remove a private folder if it belongs to this user and no process holds its lock."""
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
