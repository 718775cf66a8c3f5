"""Reads and writes files in folders on a local disk or at an fsspec address.

A file appears under its name only when it is complete. In an object store, it appears when its
upload ends. Elsewhere, it is written under another name and then renamed. Two processes may write
the same file at the same time.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from oobleck_stream.errors import InputError
from oobleck_stream.formats.atomic import private_folder, sync_folder

WORK = ".work"
"""The folder of unfinished work in an output folder."""

_WHOLE_UPLOADS = {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
"""The protocols of stores in which a file appears at the end of its upload."""


class Place(Protocol):
    """A folder of files with names like ``a/b.npy``. Errors are ``OSError``.

    Attributes
    ----------
    address : str
        The folder's path or URL.
    """

    address: str

    def new(self, name: str) -> Any:
        """Return a context manager that yields a local path, at which the block writes a file.

        At the end of the block, the file appears as `name`, and replaces an older file of this
        name. If an exception ends the block, nothing changes.
        """

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. The file supports `seek`."""

    def files(self, folder: str = "") -> dict[str, int]:
        """Return the sizes in bytes of all files in a folder and its subfolders, keyed by name."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all its content if it exists."""


class LocalPlace:
    """A folder on a local disk or a shared file system. See `Place`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._root = Path(address)

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """As `Place.new`. The file is flushed to the disk before it appears."""
        target = self._root / name
        with _reported(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = self._root / WORK / "new"
            beside.mkdir(parents=True, exist_ok=True)
            # The private folders are not beside the outputs, because `private_folder` lists the
            # parent folder each time, to remove what killed processes left behind. The folders of a
            # data set's outputs are too large to be listed for every file.
            short = hashlib.sha256(name.encode()).hexdigest()[:16]
            with private_folder(beside / short) as folder:
                part = folder / "file"
                yield part
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(part, target)
            # Unfinished work need not survive a crash, because it can be done again.
            if not name.startswith(WORK):
                sync_folder(target.parent)

    def open(self, name: str) -> BinaryIO:
        """As `Place.open`."""
        return (self._root / name).open("rb")

    def files(self, folder: str = "") -> dict[str, int]:
        """As `Place.files`."""
        found: dict[str, int] = {}
        pending = [folder]
        while pending:
            inside = pending.pop()
            with suppress(FileNotFoundError), os.scandir(self._root / inside) as entries:
                for entry in entries:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir():
                        pending.append(name)
                    else:
                        with suppress(FileNotFoundError):
                            found[name] = entry.stat().st_size
        return found

    def remove(self, name: str) -> None:
        """As `Place.remove`."""
        (self._root / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """As `Place.remove_folder`."""
        shutil.rmtree(self._root / name, ignore_errors=True)


class RemotePlace:
    """A folder at an fsspec address. See `Place`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._system, self._root = file_system(address)
        protocols = self._system.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._whole = bool(names & _WHOLE_UPLOADS)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """As `Place.new`. The file is written to the local temporary folder and then uploaded."""
        with tempfile.TemporaryDirectory(prefix="oobleck-") as folder:
            part = Path(folder) / "file"
            yield part
            with _system_errors(f"{self.address}/{name}"):
                self._upload(str(part), self._path(name))

    def _upload(self, part: str, target: str) -> None:
        self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self._whole:
            self._system.put_file(part, target)
            return
        aside = self._path(f"{WORK}/new/{uuid.uuid4().hex}.part")
        self._system.makedirs(aside.rpartition("/")[0], exist_ok=True)
        self._system.put_file(part, aside)
        self._system.mv(aside, target)

    def open(self, name: str) -> BinaryIO:
        """As `Place.open`."""
        with _system_errors(f"{self.address}/{name}"):
            file: BinaryIO = self._system.open(self._path(name), "rb")
        return file

    def files(self, folder: str = "") -> dict[str, int]:
        """As `Place.files`."""
        with _system_errors(self.address):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: int(info["size"] or 0) for path, info in found.items()}

    def remove(self, name: str) -> None:
        """As `Place.remove`."""
        with _system_errors(f"{self.address}/{name}"), suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """As `Place.remove_folder`."""
        with _system_errors(f"{self.address}/{name}"), suppress(FileNotFoundError):
            self._system.rm(self._path(name), recursive=True)


def open_place(address: str) -> Place:
    """Return the folder with a path or URL. It need not exist yet."""
    if is_remote(address):
        return RemotePlace(address)
    return LocalPlace(os.path.abspath(os.path.expanduser(local_path(address))))


def is_remote(address: str) -> bool:
    """Whether an address is an fsspec address rather than a local path."""
    return "://" in address and not address.startswith(("file://", "local://"))


def local_path(address: str) -> str:
    """Return the path that a local address names. On Windows, ``file:///C:/a`` names ``C:/a``."""
    path = address.partition("://")[2] if "://" in address else address
    return path[1:] if sys.platform == "win32" and re.match("/[a-zA-Z]:", path) else path


def file_system(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in that file system.

    Raises
    ------
    InputError
        If fsspec is not installed, if the package for the address's protocol is not installed, or
        if there is no such protocol.
    """
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{address}: needs fsspec: pip install 'oobleck_stream[fsspec]'") from None
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise InputError(f"{address}: can't be opened: {error}") from error
    return system, path


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    """Make an ``OSError`` name the target, not the temporary file that the block writes."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{target}: writing failed (is the disk full?)") from error
        raise OSError(error.errno, error.strerror, str(target)) from error


@contextmanager
def _system_errors(address: str) -> Iterator[None]:
    """Convert the errors of a file system's client, whatever their class, to ``OSError``."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{address}: {type(error).__name__}: {error}") from error
