"""Writes weights as a folder of protobuf files, each a library of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from oobleck_stream.checkpoints.protobuf_folder import NO_PROTOBUF, SUFFIX
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import new_file
from oobleck_stream.formats.safetensors import Advance
from oobleck_stream.formats.tensors import Tensor

if TYPE_CHECKING:
    from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

LIBRARY_BYTES = 32_000_000
"""Maximum size of the tensors in a file, in bytes. A file with a single tensor may be larger."""

MAX_TENSOR_BYTES = 2**31 - 2**16
"""Protobuf limits a message to 2 GiB (https://protobuf.dev/programming-guides/proto-limits/)."""

_BLOCK = 2**16


def library_name(number: int) -> str:
    """Return the name of a file from its index, counted from 1."""
    return f"weights-{number:05}{SUFFIX}"


def write_libraries(
    folder: Path, tensors: Iterable[Tensor], advance: Advance, size: int = LIBRARY_BYTES
) -> None:
    """Write tensors into files in a folder: float32 into `data_32`, float64 into `data`.

    Raises
    ------
    OSError
        If a file can't be written.
    ValueError
        For the reasons given for `Tensor.read_stored`. Also if a tensor is too large for protobuf.
    """
    number, room = 0, 0
    with ExitStack() as stack:
        for tensor in tensors:
            needed = tensor.size_in_bytes
            if needed > MAX_TENSOR_BYTES:
                raise ValueError(f"{tensor.name} is too large for protobuf")
            if number == 0 or needed > room:
                stack.close()
                number, room = number + 1, size
                file = stack.enter_context(new_file(folder / library_name(number)))
            # Concatenated protobuf messages parse as one, with their repeated fields merged.
            file.write(_library(tensor).SerializeToString())
            room -= needed
            advance(needed)


def require_protobuf(target: Path) -> None:
    """Raise a `CheckpointError` that names the target if protobuf is not installed."""
    try:
        import oobleck_stream.checkpoints.weights_pb2  # noqa: F401
    except ImportError:
        raise CheckpointError(target, NO_PROTOBUF) from None


def _library(tensor: Tensor) -> CollectionLibraryData:
    """Return a library with one tensor."""
    from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

    library = CollectionLibraryData()
    entry = library.collections.add(key=tensor.name)
    entry.collection.traversal_policy.dims.extend(tensor.shape)
    stored = tensor.read_stored().ravel()
    numbers = entry.collection.data if tensor.dtype == "F64" else entry.collection.data_32
    for first in range(0, len(stored), _BLOCK):
        # Protobuf takes ten times as long for NumPy's numbers as for Python's. The numbers are
        # converted in blocks, because Python's numbers take much memory.
        numbers.extend(stored[first : first + _BLOCK].tolist())
    return library
