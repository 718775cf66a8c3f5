"""Folders of weights in protobuf: every `.pb` file is one library of tensors; where there is none,
every file that is not hidden.

All files are parsed once for an index; then again, one at a time, when a tensor is asked for.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oobleck_stream.checkpoints.configs import CONFIG_NAMES
from oobleck_stream.checkpoints.containers import Container, FloatingArray, Tensor, shape_text
from oobleck_stream.errors import CheckpointError

if TYPE_CHECKING:
    from oobleck_stream.checkpoints.weights_pb2 import CollectionData, CollectionLibraryData

HIDDEN_CONFIG = ".config.json"
"""Hidden, since every other file may be a library."""

SUFFIX = ".pb"
"""Of the files that are written here; others may have any names."""

NO_PROTOBUF = "weights in protobuf need one package more: pip install 'oobleck_stream[protobuf]'"

MAX_TENSORS = 100_000
"""In a library. An entry of two bytes takes sixty when it is parsed, so they are counted before."""

_MOST_DIMENSIONS = 32
_WIRE_VARINT, _WIRE_BYTES, _WIRE_FIXED = 0, 2, {1: 8, 5: 4}
_VARINT_BYTES = 10
_START = re.compile(rb"\n[\x80-\xff]{0,9}[\x00-\x7f][\n\x12]")
"""How an entry of a library begins: its tag, its length, and the tag of its key or tensor."""


def is_library_folder(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder holds protobuf libraries, and no safetensors among its `names`.

    Without `.pb` files all must begin like libraries: one that does may be any text.
    """
    if any(".safetensors" in name for name in names):
        return False
    files = _files(folder)
    return bool(files) and all(path.suffix == SUFFIX or _begins_like_one(path) for path in files)


def library_config(folder: Path) -> Path | None:
    """The config of a folder of libraries, where there is one."""
    names = (HIDDEN_CONFIG, *CONFIG_NAMES)
    return next((path for name in names if (path := folder / name).is_file()), None)


def open_libraries(folder: Path) -> Container:
    """The tensors of a folder of libraries; none is held yet.

    Raises
    ------
    CheckpointError
        When protobuf is not installed, a file is damaged or is no library, the numbers of a tensor
        are not those of its shape, or a name stands twice. Names the file.
    """
    parser, files = _Parser(folder), _files(folder)
    tensors: dict[str, Tensor] = {}
    homes: dict[str, Path] = {}
    for path in files:
        for place, (name, shape, dtype) in enumerate(_index(path, parser.parsed(path))):
            if name in tensors:
                both = "twice" if homes[name] == path else f"also in {homes[name].name}"
                raise CheckpointError(path, f"{name} is there {both}")
            read = functools.partial(_read, parser, path, place, name, shape)
            tensors[name], homes[name] = Tensor(name, shape, dtype, read), path
    return Container(folder, tensors, {}, files)


def _files(folder: Path) -> tuple[Path, ...]:
    """The files that should be libraries."""
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.name not in CONFIG_NAMES and path.is_file()
        )
    except OSError as error:
        raise CheckpointError(folder, f"can't be read: {error.strerror or error}") from error
    return tuple(path for path in files if path.suffix == SUFFIX) or tuple(files)


def _begins_like_one(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _START.match(file.read(16)) is not None
    except OSError:
        return False


class _Parser:
    """Parses libraries, and holds the last one only."""

    def __init__(self, folder: Path) -> None:
        try:
            from google.protobuf.message import DecodeError

            from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData
        except ImportError:
            raise CheckpointError(folder, NO_PROTOBUF) from None
        self._parse, self._error = CollectionLibraryData.FromString, DecodeError
        self._path: Path | None = None
        self._library: CollectionLibraryData | None = None

    def parsed(self, path: Path) -> CollectionLibraryData:
        """The library in a file."""
        if self._library is None or self._path != path:
            self._library = None
            try:
                data = path.read_bytes()
                if _has_more_fields(data, MAX_TENSORS):
                    raise CheckpointError(path, f"damaged: more than {MAX_TENSORS} tensors")
                self._library = self._parse(data)
            except OSError as error:
                raise CheckpointError(path, f"can't be read: {error.strerror or error}") from error
            except self._error as error:
                raise CheckpointError(
                    path, "damaged or cut short: not a protobuf library of weights"
                ) from error
            self._path = path
        return self._library


def _has_more_fields(data: bytes, count: int) -> bool:
    """Whether a message has more than so many fields; those inside its fields don't count."""
    place = fields = 0
    while place < len(data) and fields <= count:
        tag, place = _varint(data, place)
        if tag & 7 == _WIRE_VARINT:
            _, place = _varint(data, place)
        elif tag & 7 == _WIRE_BYTES:
            size, place = _varint(data, place)
            place += size
        else:
            place += _WIRE_FIXED.get(tag & 7, 0)
        fields += 1
    return fields > count


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that starts at a place, and the place behind it."""
    value = 0
    for shift, byte in enumerate(data[place : place + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    return value, place + _VARINT_BYTES


def _index(
    path: Path, library: CollectionLibraryData
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of each tensor of a library, in order."""
    if not library.collections:
        raise CheckpointError(path, "not a protobuf library of weights: no tensors in it")
    for place, entry in enumerate(library.collections):
        name, dims = entry.key, entry.collection.traversal_policy.dims
        if not name:
            raise CheckpointError(path, f"damaged: its tensor number {place} has no name")
        if len(dims) > _MOST_DIMENSIONS or any(size < 0 for size in dims):
            shown = ", ".join(map(str, dims[:_MOST_DIMENSIONS]))
            raise CheckpointError(path, f"damaged: {name} has a shape that can't be: {shown}")
        shape = tuple(dims)
        dtype, count = _numbers_of(entry.collection)
        if math.prod(shape) != count:
            raise CheckpointError(
                path,
                f"damaged: {name} ({shape_text(shape)}) has {count} numbers, "
                f"{math.prod(shape)} were expected",
            )
        yield name, shape, dtype


def _numbers_of(collection: CollectionData) -> tuple[str, int]:
    """Which numbers of a tensor count, as a dtype, and how many they are."""
    doubles = len(collection.data)
    return ("F64", doubles) if doubles else ("F32", len(collection.data_32))


def _read(
    parser: _Parser, path: Path, place: int, name: str, shape: tuple[int, ...]
) -> FloatingArray:
    entries = parser.parsed(path).collections
    if place >= len(entries) or entries[place].key != name:
        raise CheckpointError(path, "was changed while it was read")
    collection = entries[place].collection
    dtype, count = _numbers_of(collection)
    if count != math.prod(shape):
        raise CheckpointError(path, "was changed while it was read")
    if dtype == "F64":
        return np.fromiter(collection.data, np.float64, count).reshape(shape)
    return np.fromiter(collection.data_32, np.float32, count).reshape(shape)
