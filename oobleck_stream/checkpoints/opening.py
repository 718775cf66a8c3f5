"""Opens a container. The name of the file determines the format."""

from __future__ import annotations

from pathlib import Path

from oobleck_stream.checkpoints.protobuf_folder import open_libraries
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.flat import is_flat
from oobleck_stream.formats.safetensors import open_safetensors
from oobleck_stream.formats.sharded import INDEX_SUFFIX, open_sharded
from oobleck_stream.formats.tensors import Container

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


def open_container(path: Path) -> Container:
    """Open a safetensors file, an index of safetensors files, or a folder of protobuf files.

    Raises
    ------
    CheckpointError
        If the format is not supported, or if the file is damaged.
    """
    if path.is_dir():
        return open_libraries(path)
    name = path.name.lower()
    if name.endswith(INDEX_SUFFIX):
        return open_sharded(path)
    if name.endswith(".safetensors"):
        return open_safetensors(path)
    if name.endswith(PICKLE_SUFFIXES):
        if is_flat(path):
            raise CheckpointError(
                path, "holds numbers without shapes or names (latents or sound), no weights"
            )
        raise CheckpointError(path, pickle_hint(path.name))
    raise CheckpointError(path, "a .safetensors file or a folder with one was expected")


def pickle_hint(name: str) -> str:
    """The error message for a pickle file, which says how to convert it to safetensors."""
    return (
        f"{Path(name).suffix} files can hold programs and are not opened here; make it a "
        f".safetensors first: oobleck_stream convert {name} {Path(name).stem}.safetensors"
    )
