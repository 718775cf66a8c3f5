"""Sharded checkpoints: safetensors files, and an index that maps each tensor to its file."""

from __future__ import annotations

from pathlib import Path

from oobleck_stream.checkpoints.containers import Container, Tensor
from oobleck_stream.checkpoints.json_text import parse_json, read_text
from oobleck_stream.checkpoints.safetensors_file import open_safetensors
from oobleck_stream.errors import CheckpointError

INDEX_SUFFIX = ".safetensors.index.json"


def open_sharded(path: Path) -> Container:
    """Open all files of a sharded checkpoint; the values of the tensors are read later, on demand.

    Tensors that are not in the index are ignored.

    Parameters
    ----------
    path : Path
        The index.

    Raises
    ------
    CheckpointError
        If the index or a file is damaged or missing. If tensors are missing from the files to which
        the index maps them; names every such tensor and its file.
    """
    index = parse_json(path, read_text(path))
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(path, "not an index of safetensors files: no proper weight_map")
    shards: dict[str, Container] = {}
    for file in sorted(set(places.values())):
        # Only names without a folder: an index must not open files elsewhere on the machine.
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(path, f"{file!r} is not the name of a file beside the index")
        if not (path.parent / file).is_file():
            raise CheckpointError(path, f"{file} is missing: it holds a part of the weights")
        shards[file] = open_safetensors(path.parent / file)
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, file in places.items():
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
