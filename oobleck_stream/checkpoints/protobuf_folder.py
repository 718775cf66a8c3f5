"""Reads folders of protobuf files. Each file is a library of tensors (see ``weights.proto``).

The libraries are the `.pb` files. In a folder without `.pb` files, every file that is neither
hidden nor a config is a library. Opening a folder parses every file once for the names and shapes.
To read a tensor, its file is parsed again. Only the most recently parsed file stays in memory.

The wire format is described at https://protobuf.dev/programming-guides/encoding/.
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
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.dtypes import FloatingArray
from oobleck_stream.formats.tensors import MAX_DIMENSIONS, Container, Tensor, shape_text

if TYPE_CHECKING:
    from oobleck_stream.checkpoints.weights_pb2 import CollectionData, CollectionLibraryData

HIDDEN_CONFIG = ".config.json"
"""The name of the config. It is hidden, because any visible file may be a library."""

SUFFIX = ".pb"
"""The suffix of the libraries that this package writes; other programs may use any name."""

NO_PROTOBUF = "weights in protobuf need one package more: pip install 'oobleck_stream[protobuf]'"

MAX_TENSORS = 100_000
"""Maximum number of tensors in a library. The tensors are counted before parsing, because an empty
entry of 2 bytes in the file takes 60 bytes of memory when it is parsed."""

_WIRE_VARINT, _WIRE_BYTES, _WIRE_FIXED = 0, 2, {1: 8, 5: 4}
_VARINT_BYTES = 10
_START = re.compile(rb"\n[\x80-\xff]{0,9}[\x00-\x7f][\n\x12]")
"""The start of a library's first entry: tag 0x0a (field 1, length-delimited), the length (varint),
and the tag of the key (0x0a) or of the tensor (0x12)."""


def is_library_folder(folder: Path, names: Collection[str]) -> bool:
    """Return whether a folder contains protobuf libraries and `names` has no safetensors file.

    If there is no `.pb` file, all files must start like a library. It is not enough if only some
    do, because a text file may happen to start in the same way.
    """
    if any(".safetensors" in name for name in names):
        return False
    files = _files(folder)
    return bool(files) and all(path.suffix == SUFFIX or _begins_like_one(path) for path in files)


def library_config(folder: Path) -> Path | None:
    """Return the path of the config file in a folder of libraries; None if there is none."""
    names = (HIDDEN_CONFIG, *CONFIG_NAMES)
    return next((path for name in names if (path := folder / name).is_file()), None)


def open_libraries(folder: Path) -> Container:
    """Open a folder of libraries. The values of the tensors are read later, on demand.

    Raises
    ------
    CheckpointError
        If protobuf is not installed, if a file is damaged or not a library, if the number of values
        of a tensor doesn't match its shape, or if two tensors have the same name. The message names
        the file, or the folder if protobuf is missing.
    """
    parser, files = _Parser(folder), _files(folder)
    tensors: dict[str, Tensor] = {}
    files_by_name: dict[str, Path] = {}
    for path in files:
        for position, (name, shape, dtype) in enumerate(_index(path, parser.parsed(path))):
            if name in tensors:
                first = files_by_name[name]
                where = "twice in it" if first == path else f"in {first.name} too"
                raise CheckpointError(path, f"{name} is {where}")
            read = functools.partial(_read, parser, path, position, name, shape)
            tensors[name], files_by_name[name] = Tensor(name, shape, dtype, read), path
    return Container(folder, tensors, {}, files)


def _files(folder: Path) -> tuple[Path, ...]:
    """Return the paths of the files in a folder that are expected to be libraries, sorted."""
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
    """Whether a file can be read and starts like a library."""
    try:
        with path.open("rb") as file:
            return _START.match(file.read(16)) is not None
    except OSError:
        return False


class _Parser:
    """Parses libraries and keeps the last one, because tensors are read file by file."""

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
        """Return the parsed library in a file. A damaged file raises a `CheckpointError`."""
        if self._library is None or self._path != path:
            self._library = None  # Free the last library before the next is parsed.
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
    """Whether a serialized message has more than `count` top-level fields.

    The count may be wrong for malformed data, which the parser rejects afterwards.
    """
    position = fields = 0
    while position < len(data) and fields <= count:
        # The low three bits of a tag are the wire type, which determines the length of the field.
        tag, position = _varint(data, position)
        if tag & 7 == _WIRE_VARINT:
            _, position = _varint(data, position)
        elif tag & 7 == _WIRE_BYTES:
            size, position = _varint(data, position)
            position += size
        else:
            position += _WIRE_FIXED.get(tag & 7, 0)
        fields += 1
    return fields > count


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Decode the varint at an offset; return its value and the offset after it.

    Each byte of a varint has 7 bits of the value, and the low bits come first. The high bit of a
    byte is set if another byte follows. Truncated data yield an offset past the end.
    """
    value = 0
    for shift, byte in enumerate(data[position : position + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    return value, position + _VARINT_BYTES


def _index(
    path: Path, library: CollectionLibraryData
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape and dtype of each tensor; a damaged one raises a `CheckpointError`."""
    if not library.collections:
        raise CheckpointError(path, "not a protobuf library of weights: no tensors in it")
    for position, entry in enumerate(library.collections):
        name, dims = entry.key, entry.collection.traversal_policy.dims
        if not name:
            raise CheckpointError(path, f"damaged: its tensor number {position} has no name")
        if len(dims) > MAX_DIMENSIONS or any(size < 0 for size in dims):
            shown = ", ".join(map(str, dims[:MAX_DIMENSIONS]))
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
    """Return the dtype and the count of a tensor's values.

    The values are in `data`, or, if `data` is empty, in `data_32`.
    """
    doubles = len(collection.data)
    return ("F64", doubles) if doubles else ("F32", len(collection.data_32))


def _read(
    parser: _Parser, path: Path, position: int, name: str, shape: tuple[int, ...]
) -> FloatingArray:
    """Return the values of a tensor; raise a `CheckpointError` if the file has been changed."""
    entries = parser.parsed(path).collections
    if position >= len(entries) or entries[position].key != name:
        raise CheckpointError(path, "was changed while it was read")
    collection = entries[position].collection
    dtype, count = _numbers_of(collection)
    if count != math.prod(shape):
        raise CheckpointError(path, "was changed while it was read")
    if dtype == "F64":
        return np.fromiter(collection.data, np.float64, count).reshape(shape)
    return np.fromiter(collection.data_32, np.float32, count).reshape(shape)
