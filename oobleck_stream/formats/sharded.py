"""Sharded checkpoints: safetensors files, and an index that maps each tensor to its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import new_file
from oobleck_stream.formats.json_text import parse_json, read_text
from oobleck_stream.formats.safetensors import Advance, open_safetensors, write_safetensors
from oobleck_stream.formats.tensors import Container, Tensor

INDEX_SUFFIX = ".safetensors.index.json"


def open_sharded(path: Path) -> Container:
    """Open all files of a sharded checkpoint. The values of the tensors are read later, on demand.

    Tensors that are not in the index are ignored.

    Parameters
    ----------
    path : Path
        The index.

    Raises
    ------
    CheckpointError
        If the index or a file is damaged or missing. Also if tensors are missing from the files to
        which the index maps them. The message then names these tensors and their files.
    """
    index = parse_json(path, read_text(path))
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise CheckpointError(path, "not an index of safetensors files: no proper weight_map")
    shards: dict[str, Container] = {}
    for file in sorted(set(weight_map.values())):
        # Only names without a folder are accepted, so that an index can't refer to files elsewhere.
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(path, f"{file!r} is not the name of a file beside the index")
        if not (path.parent / file).is_file():
            raise CheckpointError(path, f"{file} is missing: it holds a part of the weights")
        shards[file] = open_safetensors(path.parent / file)
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, file in weight_map.items():
        if name in shards[file].tensors:
            tensors[name] = shards[file].tensors[name]
        else:
            problems.append(f"{name} is not in {file}, where the index says it is")
    if problems:
        raise CheckpointError(path, *problems)
    metadata: dict[str, str] = {}
    for shard in shards.values():
        metadata.update(shard.metadata)
    files = (path, *(shard.path for shard in shards.values()))
    return Container(path, tensors, metadata, files)


def shard_names(index: str, count: int) -> list[str]:
    """The file names of an index's `count` shards: ``STEM-00001-of-00003.safetensors`` etc."""
    stem = index[: -len(INDEX_SUFFIX)]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def cut_into_shards(tensors: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Split tensors, in order, into groups of at most `size` bytes.

    A tensor that is larger is a group of its own.
    """
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        needed = tensor.size_in_bytes
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
        The file name of each shard, from `shard_names`.
    shards : sequence of sequence of Tensor
    metadata : mapping of str to str
    advance : callable

    Returns
    -------
    str
        The JSON text of the index of these shards.

    Raises
    ------
    OSError, ValueError
        For the reasons given for `write_safetensors`.
    """
    weight_map: dict[str, str] = {}
    for name, tensors in zip(names, shards, strict=True):
        with new_file(folder / name) as file:
            write_safetensors(file, tensors, metadata, advance)
        weight_map |= dict.fromkeys((tensor.name for tensor in tensors), name)
    total = sum(tensor.size_in_bytes for tensors in shards for tensor in tensors)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
