"""Which container a file is."""

from __future__ import annotations

from pathlib import Path

from oobleck_stream.checkpoints.containers import Container
from oobleck_stream.checkpoints.errors import CheckpointError
from oobleck_stream.checkpoints.safetensors_file import open_safetensors
from oobleck_stream.checkpoints.sharded import open_sharded

INDEX_SUFFIX = ".safetensors.index.json"
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


def open_container(path: Path) -> Container:
    """The tensors of a file, by what its name ends in.

    Raises
    ------
    CheckpointError
        When it is of no supported kind, or damaged.
    """
    name = path.name.lower()
    if name.endswith(INDEX_SUFFIX):
        return open_sharded(path)
    if name.endswith(".safetensors"):
        return open_safetensors(path)
    if name.endswith(PICKLE_SUFFIXES):
        raise CheckpointError(path, pickle_hint(path.name))
    raise CheckpointError(path, "a .safetensors file or a folder with one was expected")


def pickle_hint(name: str) -> str:
    """What to do with a file that only torch can open."""
    return (
        f"{Path(name).suffix} files can hold programs and are not opened here; make it a "
        f".safetensors first: oobleck_stream convert {name} {Path(name).stem}.safetensors"
    )
