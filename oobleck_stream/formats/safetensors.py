"""Safetensors files: opened as memory maps, and written one tensor at a time.

The format is described at https://github.com/huggingface/safetensors#format: the length of the
header (uint64, little-endian), the header (JSON), and the values of the tensors. The safetensors
library is not used, because its NumPy reader doesn't support bfloat16, and its writer needs all
tensors in memory.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.dtypes import BITS, FloatingArray, from_stored
from oobleck_stream.formats.json_text import MAX_JSON_BYTES
from oobleck_stream.formats.tensors import MAX_DIMENSIONS, Container, Tensor, shape_text

Advance = Callable[[int], object]
"""A progress callback, which takes the number of bytes completed since its last call."""

_LENGTH_BYTES = 8
_GIT_LFS = b"version https://git-lfs"


def open_safetensors(path: Path) -> Container:
    """Open a safetensors file. The values of the tensors are read later, on demand.

    Raises
    ------
    CheckpointError
        If the file can't be read, if its header is invalid, or if the file is truncated.
    """
    try:
        size = path.stat().st_size
        if size < _LENGTH_BYTES + len("{}"):
            raise CheckpointError(path, f"not a safetensors file: it has only {size} bytes")
        # This is a plain array, because slices of an np.memmap are slower. It keeps the map open.
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        raise CheckpointError(path, f"can't be read: {error.strerror or error}") from error
    if bytes(data[: len(_GIT_LFS)]) == _GIT_LFS:
        raise CheckpointError(path, "only a pointer to the weights: fetch them with git lfs pull")
    length = int(data[:_LENGTH_BYTES].view("<u8")[0])
    start = _LENGTH_BYTES + length
    if length > MAX_JSON_BYTES:
        raise CheckpointError(
            path,
            f"not a safetensors file: a header of {length} bytes, at most {MAX_JSON_BYTES} "
            "are allowed",
        )
    if start > len(data):
        raise CheckpointError(
            path, f"not a whole safetensors file: its header ends at byte {start} of {len(data)}"
        )
    header = _parsed_header(path, data[_LENGTH_BYTES:start].tobytes())
    metadata = header.pop("__metadata__", {})
    tensors, spans = {}, []
    for name, entry in header.items():
        shape, dtype, begin, end = _checked_entry(path, name, entry)
        spans.append((begin, end, name))
        read = functools.partial(_read, data[start + begin : start + end], dtype, shape)
        tensors[name] = Tensor(name, shape, dtype, read)
    _check_spans(path, spans, len(data) - start)
    texts = metadata.items() if isinstance(metadata, dict) else ()
    strings = {key: text for key, text in texts if isinstance(text, str)}
    return Container(path, tensors, strings, (path,))


def _read(data: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> FloatingArray:
    return from_stored(data, dtype).reshape(shape)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object for ``json.loads``, or raise ``ValueError`` if a key occurs twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice in it")
    return values


def _parsed_header(path: Path, text: bytes) -> dict[str, Any]:
    """Return the header as a JSON object; raise a `CheckpointError` if it is not a JSON object."""
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            path, f"not a safetensors file: its header is not JSON ({error})"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(path, "not a safetensors file: its header is not a JSON object")
    return header


def _checked_entry(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], str, int, int]:
    """Return a tensor's shape, dtype, first byte and end (exclusive), from its header entry."""

    values = entry if isinstance(entry, dict) else {}
    dtype = values.get("dtype")
    shape, offsets = _counts(values.get("shape")), _counts(values.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise CheckpointError(
            path, f"damaged: {name} has no proper dtype, shape and data_offsets in its header"
        )
    begin, end = offsets
    if begin > end:
        raise CheckpointError(path, f"damaged: {name} ends before it begins")
    if dtype in BITS and math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise CheckpointError(
            path,
            f"damaged: {name} ({dtype}, {shape_text(shape)}) can't be the {end - begin} bytes "
            "that its header gives it",
        )
    return shape, dtype, begin, end


def _counts(values: Any) -> tuple[int, ...] | None:
    """Return `values` as a tuple of at most 32 integers from 0 to 2**63 - 1, or None."""
    if not isinstance(values, list) or len(values) > MAX_DIMENSIONS:
        return None
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        return None
    return tuple(values)


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """Check that every byte belongs to exactly one tensor, as the format requires."""
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            what = "overlaps the one before it" if begin < reached else "follows a hole"
            raise CheckpointError(path, f"damaged: {name} {what}")
        reached = end
    if reached > size:
        raise CheckpointError(path, f"cut short: {reached} bytes of tensors expected, {size} there")
    if reached < size:
        raise CheckpointError(path, f"damaged: {size - reached} bytes after the last tensor")


def write_header(
    file: BinaryIO, tensors: Sequence[Tensor], metadata: Mapping[str, str], alignment: int = 8
) -> None:
    """Write the length and the header. The values then start at a multiple of `alignment` bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.size_in_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    # The format permits spaces after the JSON, as padding.
    text += b" " * (-(len(text) + 8) % alignment)
    file.write(len(text).to_bytes(8, "little") + text)


def write_safetensors(
    file: BinaryIO, tensors: Sequence[Tensor], metadata: Mapping[str, str], advance: Advance
) -> None:
    """Write a safetensors file.

    Parameters
    ----------
    file : BinaryIO
        An empty, writable file.
    tensors : sequence of Tensor
        The tensors to write. Each tensor is read, and rounded to its `dtype`.
    metadata : mapping of str to str
    advance : callable
        Called after each tensor with the tensor's size in bytes.

    Raises
    ------
    OSError
        If the file can't be written.
    ValueError
        For the reasons given for `Tensor.read_stored`.
    """
    # Widest dtype first, so that every tensor is aligned to the size of its elements.
    ordered = sorted(tensors, key=lambda tensor: -BITS[tensor.dtype])
    write_header(file, ordered, metadata)
    for tensor in ordered:
        file.write(tensor.read_stored().data)
        advance(tensor.size_in_bytes)
