"""Weights written as a folder of protobuf libraries."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from oobleck_stream.checkpoints.containers import Tensor
from oobleck_stream.checkpoints.protobuf_folder import NO_PROTOBUF, SUFFIX
from oobleck_stream.checkpoints.safetensors_writer import Advance
from oobleck_stream.checkpoints.stored_numbers import stored_bytes, stored_numbers
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import new_file

if TYPE_CHECKING:
    from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

LIBRARY_BYTES = 32_000_000
"""A file that has so many is followed by another."""

LARGEST_BYTES = 2**31 - 2**16
"""Protobuf counts the bytes of a message in 31 bits."""

_PIECE = 2**16


def library_name(number: int) -> str:
    """The name of a file, from 1."""
    return f"weights-{number:05}{SUFFIX}"


def write_libraries(
    folder: Path, tensors: Iterable[Tensor], advance: Advance, size: int = LIBRARY_BYTES
) -> None:
    """Write tensors of float32 (in `data_32`) or float64 (in `data`) into files in a folder.

    Raises
    ------
    OSError
        When a file can't be written.
    ValueError
        As `stored_numbers` does, and when a tensor is larger than protobuf can hold.
    """
    number, room = 0, 0
    with ExitStack() as stack:
        for tensor in tensors:
            needed = stored_bytes(tensor)
            if needed > LARGEST_BYTES:
                raise ValueError(f"{tensor.name} is too large for protobuf")
            if number == 0 or needed > room:
                stack.close()
                number, room = number + 1, size
                file = stack.enter_context(new_file(folder / library_name(number)))
            # Libraries one after the other are one library, as protobuf has it.
            file.write(_library(tensor).SerializeToString())
            room -= needed
            advance(needed)


def require_protobuf(target: Path) -> None:
    """`CheckpointError` naming the target where protobuf is not installed."""
    try:
        import oobleck_stream.checkpoints.weights_pb2  # noqa: F401
    except ImportError:
        raise CheckpointError(target, NO_PROTOBUF) from None


def _library(tensor: Tensor) -> CollectionLibraryData:
    """A library of one tensor."""
    from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

    library = CollectionLibraryData()
    entry = library.collections.add(key=tensor.name)
    entry.collection.traversal_policy.dims.extend(tensor.shape)
    stored = stored_numbers(tensor).ravel()
    numbers = entry.collection.data if tensor.dtype == "F64" else entry.collection.data_32
    for first in range(0, len(stored), _PIECE):
        # As Python's numbers, piece by piece: protobuf takes NumPy's ten times slower.
        numbers.extend(stored[first : first + _PIECE].tolist())
    return library
