"""Safetensors files, written tensor by tensor: no more than one is held."""

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
"""Is told of bytes that are done."""


def write_header(
    file: BinaryIO, tensors: Sequence[Tensor], metadata: Mapping[str, str], alignment: int = 8
) -> None:
    """Write what stands before the numbers, which begin at a multiple of `alignment` bytes."""
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
    text += b" " * (-(len(text) + 8) % alignment)
    file.write(len(text).to_bytes(8, "little") + text)


def write_safetensors(
    file: BinaryIO, tensors: Sequence[Tensor], metadata: Mapping[str, str], advance: Advance
) -> None:
    """Write a safetensors file.

    Parameters
    ----------
    file : BinaryIO
        Empty.
    tensors : sequence of Tensor
    metadata : mapping of str to str
    advance : callable

    Raises
    ------
    OSError
        When it can't be written.
    ValueError
        As `stored_numbers` does.
    """
    # The wider ones first: then each begins at a multiple of its width, as readers like it.
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype])
    write_header(file, ordered, metadata)
    for tensor in ordered:
        file.write(stored_numbers(tensor).data)
        advance(stored_bytes(tensor))


def shard_names(index: str, count: int) -> list[str]:
    """The files of an index's name."""
    stem = index[: -len(INDEX_SUFFIX)]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def cut_into_shards(tensors: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Tensors in groups of at most `size` bytes; a larger tensor stands alone."""
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
        One for each shard, as `shard_names` gives them.
    shards : sequence of sequence of Tensor
    metadata : mapping of str to str
    advance : callable

    Returns
    -------
    str
        The text of their index.

    Raises
    ------
    OSError, ValueError
        As `write_safetensors` does.
    """
    places: dict[str, str] = {}
    for name, tensors in zip(names, shards, strict=True):
        with new_file(folder / name) as file:
            write_safetensors(file, tensors, metadata, advance)
        places |= dict.fromkeys((tensor.name for tensor in tensors), name)
    total = sum(stored_bytes(tensor) for tensors in shards for tensor in tensors)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
