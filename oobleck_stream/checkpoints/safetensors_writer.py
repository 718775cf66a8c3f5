"""Writing of safetensors files, one tensor at a time, so that only one is in memory.

The format is described at https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from oobleck_stream.checkpoints.containers import Tensor
from oobleck_stream.checkpoints.sharded import INDEX_SUFFIX
from oobleck_stream.checkpoints.stored_numbers import DTYPE_BYTES, stored_bytes, stored_numbers
from oobleck_stream.formats.atomic import new_file

Advance = Callable[[int], object]
"""A progress callback, called with the number of bytes just completed."""


def write_header(
    file: BinaryIO, tensors: Sequence[Tensor], metadata: Mapping[str, str], alignment: int = 8
) -> None:
    """Write the length and the header; the values then start at a multiple of `alignment` bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for tensor in tensors:
        begin, end = end, end + stored_bytes(tensor)
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
        Each is read and converted to its `dtype` by `stored_numbers`.
    metadata : mapping of str to str
    advance : callable
        Called after each tensor, with its size in bytes.

    Raises
    ------
    OSError
        If the file can't be written.
    ValueError
        As `stored_numbers`.
    """
    # Widest dtype first, so that every tensor is aligned to the size of its elements.
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype])
    write_header(file, ordered, metadata)
    for tensor in ordered:
        file.write(stored_numbers(tensor).data)
        advance(stored_bytes(tensor))


def shard_names(index: str, count: int) -> list[str]:
    """The file names of `count` shards, ``STEM-00001-of-00003.safetensors`` etc., for an index."""
    stem = index[: -len(INDEX_SUFFIX)]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def cut_into_shards(tensors: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Split tensors, in order, into groups of at most `size` bytes, or of one larger tensor."""
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        needed = stored_bytes(tensor)
        if not shards or needed > room:
            shards.append([])
            room = size
        shards[-1].append(tensor)
        room -= needed
    return shards


def write_shards(
    folder: Path,
    names: Sequence[str],
    shards: Sequence[Sequence[Tensor]],
    metadata: Mapping[str, str],
    advance: Advance,
) -> str:
    """Write the shards of a checkpoint into a folder.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        One for each shard, from `shard_names`.
    shards : sequence of sequence of Tensor
    metadata : mapping of str to str
    advance : callable

    Returns
    -------
    str
        The JSON text of their index.

    Raises
    ------
    OSError, ValueError
        As `write_safetensors`.
    """
    places: dict[str, str] = {}
    for name, tensors in zip(names, shards, strict=True):
        with new_file(folder / name) as file:
            write_safetensors(file, tensors, metadata, advance)
        places |= dict.fromkeys((tensor.name for tensor in tensors), name)
    total = sum(stored_bytes(tensor) for tensors in shards for tensor in tensors)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
