"""Finds the inputs of a data set from a folder, a list, a glob pattern or an fsspec address."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from oobleck_stream.dataset.places import file_system, is_remote, local_path
from oobleck_stream.errors import InputError

AUDIO_SUFFIXES = frozenset(
    [
        ".aif",
        ".aifc",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
        ".rf64",
        ".snd",
        ".w64",
        ".wav",
    ]
)
LATENT_SUFFIXES = frozenset([".bin", ".npy", ".npz", ".safetensors"])

LIST_SUFFIXES = (".txt", ".lst", ".jsonl")

MAX_NAME_BYTES = 180
"""Maximum length in bytes of each part of a key. File systems allow 255, including the suffixes."""

_MAGIC = re.compile(r"[*?\[]")

_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9\xb9\xb2\xb3]) *(\.|$)", re.I)
"""Characters that Windows does not allow in names, and names that it reserves for devices."""


@dataclass(frozen=True, slots=True)
class Source:
    """An input file.

    Attributes
    ----------
    key : str
        The name of the input in the data set, made from its path in the searched folder or from its
        entry in the list.
    address : str
        An absolute local path, or a URL.
    size : int
        The size in bytes.
    stamp : str
        A text that changes when the file changes: the modification time of a local file, or for
        example the ETag of a file in a store.
    """

    key: str
    address: str
    size: int
    stamp: str

    @property
    def identity(self) -> str:
        """A hash that identifies this version of the file, made of its key, size and stamp."""
        text = json.dumps([self.key, self.size, self.stamp])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def is_unchanged(self) -> bool:
        """Whether the file still has the same size and stamp."""
        try:
            return _stamped(self.address) == (self.size, self.stamp)
        except OSError:
            return False

    def open(self) -> BinaryIO:
        """Open the file. If that fails, an `InputError` names the file."""
        try:
            if is_remote(self.address):
                system, path = file_system(self.address)
                file: BinaryIO = system.open(path, "rb")
                return file
            return open(self.address, "rb")
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.address}: can't be read: {reason}") from error


def find_sources(
    text: str, suffixes: Iterable[str], out: str = "", strip: bool = False
) -> list[Source]:
    """Find the inputs that `text` names.

    Parameters
    ----------
    text : str
        A folder, a list, a glob pattern, one input file, or the fsspec address of one of these. A
        folder is searched recursively, but names that begin with a dot are skipped. A list is a
        ``.txt`` or ``.lst`` file with a path in each line, or a ``.jsonl`` file of objects with a
        ``path``. Relative paths in a list are relative to the list's folder.
    suffixes : iterable of str
        The suffixes of inputs in folders, in lower case.
    out : str
        The output folder. If it is inside the folder of inputs, it is skipped.
    strip : bool
        Whether the suffix is removed from each key.

    Returns
    -------
    list of Source
        The inputs, sorted by key. All keys are different.

    Raises
    ------
    InputError
        If nothing is found, if a listed file does not exist, or if two inputs have the same key.
    """
    known = tuple(suffixes)
    try:
        if is_remote(text):
            found = list(_remote(text, known, out))
        else:
            path = os.path.expanduser(local_path(text))
            found = list(_local(os.path.abspath(path), known, out))
    except OSError as error:
        raise InputError(f"{text}: can't be read: {error.strerror or error}") from error
    if not found:
        raise InputError(f"{text}: no inputs found ({' '.join(sorted(known))} were expected)")
    if strip:
        found = [dataclasses.replace(one, key=os.path.splitext(one.key)[0]) for one in found]
    found.sort(key=lambda source: source.key)
    named: dict[str, Source] = {}
    for one in found:
        # The usual disks of Windows and macOS ignore case.
        name = one.key.casefold() if sys.platform in ("win32", "darwin") else one.key
        other = named.setdefault(name, one)
        if other is not one:
            raise InputError(f"{other.address} and {one.address} have the same name in the output")
    return found


def _local(path: str, suffixes: tuple[str, ...], out: str) -> Iterator[Source]:
    if os.path.isdir(path):
        skipped = os.path.realpath(out) if out else ""
        yield from _walk(path, suffixes, skipped)
    elif os.path.isfile(path):
        if path.lower().endswith(LIST_SUFFIXES):
            with open(path, encoding="utf-8") as file:
                entries = list(_entries(path, file))
            for entry in entries:
                place = os.path.join(os.path.dirname(path), os.path.expanduser(entry))
                yield _listed(entry, entry if is_remote(entry) else place)
        else:
            yield _listed(os.path.basename(path), path)
    elif _MAGIC.search(path):
        # The part of the path before the first component with a wildcard.
        fixed = os.path.dirname(path[: _MAGIC.search(path).start()])  # type: ignore[union-attr]
        for name in glob.iglob(path, recursive=True):
            if os.path.isfile(name):
                yield _listed(os.path.relpath(name, fixed or "."), name)
    else:
        raise InputError(f"{path}: no such file or folder")


def _walk(root: str, suffixes: tuple[str, ...], skipped: str) -> Iterator[Source]:
    """Yield the inputs in a folder, searched recursively and through symbolic links."""
    pending, seen = [root], {skipped}
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append(entry.path)
                elif entry.name.lower().endswith(suffixes) and entry.is_file():
                    status = entry.stat()
                    key = safe_key(os.path.relpath(entry.path, root))
                    yield Source(key, entry.path, status.st_size, str(status.st_mtime_ns))


def _remote(text: str, suffixes: tuple[str, ...], out: str) -> Iterator[Source]:
    system, path = file_system(text)
    if _MAGIC.search(path):
        found = system.glob(path, detail=True)
        root = os.path.dirname(path[: _MAGIC.search(path).start()])  # type: ignore[union-attr]
    elif path.lower().endswith(LIST_SUFFIXES):
        with system.open(path, "r", encoding="utf-8") as file:
            entries = list(_entries(text, file))
        for entry in entries:
            folder = text.rpartition("/")[0]
            yield _listed(entry, entry if is_remote(entry) else f"{folder}/{entry}")
        return
    elif system.isdir(path):
        skipped = None
        if is_remote(out):
            other, folder = file_system(out)
            skipped = f"{folder.rstrip('/')}/" if other == system else None
        found, root = {}, path
        for name, info in system.find(path, detail=True).items():
            hidden = any(part.startswith(".") for part in name.removeprefix(root).split("/"))
            inside = skipped is not None and name.startswith(skipped)
            if name.lower().endswith(suffixes) and not hidden and not inside:
                found[name] = info
    elif system.exists(path):
        found, root = {path: system.info(path)}, os.path.dirname(path)
    else:
        raise InputError(f"{text}: no such file or folder")
    for name, info in found.items():
        if info.get("type") != "directory":
            key = safe_key(name.removeprefix(root))
            yield Source(key, system.unstrip_protocol(name), *_facts(info))


def _entries(name: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield the paths in a list."""
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if entry and name.lower().endswith(".jsonl"):
            try:
                entry = json.loads(entry)["path"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{name}: line {number} is no object with a path") from error
        if entry:
            yield entry


def _listed(name: str, address: str) -> Source:
    try:
        return Source(safe_key(name), address, *_stamped(address))
    except OSError as error:
        raise InputError(f"{address}: can't be read: {error.strerror or error}") from error


def _stamped(address: str) -> tuple[int, str]:
    if is_remote(address):
        system, path = file_system(address)
        system.invalidate_cache()
        return _facts(system.info(path))
    status = os.stat(address)
    return status.st_size, str(status.st_mtime_ns)


def _facts(info: dict[str, Any]) -> tuple[int, str]:
    """Return the size and the stamp of a file in a store."""
    names = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
    stamp = next((info[name] for name in names if info.get(name)), "")
    # The client of a store may return the same time once as a number and once as an object.
    stamp = stamp.timestamp() if isinstance(stamp, datetime) else stamp
    return int(info.get("size") or 0), str(stamp)


def safe_key(name: str) -> str:
    """Return a relative name for outputs, made from a path or a URL.

    No part of the name begins with a dot or is longer than `MAX_NAME_BYTES`. On Windows, each part
    is made a valid file name.
    """
    name = name.replace(os.sep, "/").replace("://", "/").replace("\0", "")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(_safe_part(part) for part in parts)


def _safe_part(part: str) -> str:
    if part == "..":
        return "__"
    # Names that begin with a dot are reserved for the data set's own files.
    part = "_" + part[1:] if part.startswith(".") else part
    if sys.platform == "win32":
        part = _FORBIDDEN.sub("_", part).rstrip(". ") or "_"
        part = "_" + part if _DEVICE.match(part) else part
    encoded = os.fsencode(part)
    if len(encoded) <= MAX_NAME_BYTES:
        return encoded.decode("utf-8", "replace")
    kept = encoded[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(encoded).hexdigest()[:8]}"
