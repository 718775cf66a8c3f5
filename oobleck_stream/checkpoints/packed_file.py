"""A packed network as a file that is mapped into memory, not read.

It is a safetensors file with one tensor, which begins at a multiple of the page size, so that the
kernels' vectors never lie across two cache lines. Its metadata holds the config, what it was made
from, and a checksum of all that and the tensor.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checkpoints.configs import config_from_fields
from oobleck_stream.checkpoints.containers import Container, Tensor
from oobleck_stream.checkpoints.json_text import parse_json
from oobleck_stream.checkpoints.safetensors_writer import write_header
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import atomic_file
from oobleck_stream.model import Model
from oobleck_stream.network import decoder_layers

FORMAT = "oobleck_stream packed 2"
"""Changes whenever the order of the packed parameters or the metadata does."""

PACKED_SUFFIX = ".packed.safetensors"

_TENSOR = "packed"
_ALIGNMENT = 4096


def is_packed(container: Container) -> bool:
    """Whether a file is a packed network, of this version or another."""
    return container.metadata.get("format", "").startswith("oobleck_stream packed")


def write_packed(path: Path, model: Model, source: str = "") -> None:
    """Write a model's decoder so that `read_packed` finds it again, or write nothing.

    Parameters
    ----------
    path : Path
        Replaced at once when the file is whole.
    model : Model
    source : str
        Says what the model was made from; `read_packed` can ask for the same.

    Raises
    ------
    OSError
        When the file can't be written.
    """
    data = model.decoder.data
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(model.config)),
        "name": model.name,
        "notes": json.dumps(model.notes),
        "source": source,
    }
    metadata["checksum"] = _checksum(metadata, data)
    tensor = Tensor(_TENSOR, data.shape, "F32", lambda: data)
    with atomic_file(path) as file:
        write_header(file, [tensor], metadata, _ALIGNMENT)
        file.write(data.data)


def read_packed(container: Container, source: str | None = None) -> Model:
    """The model in a packed file; its parameters are a read-only memory map.

    Parameters
    ----------
    container : Container
        The opened file, for which `is_packed` is true.
    source : str, optional
        What it must have been made from.

    Raises
    ------
    CheckpointError
        When it is damaged, of another version, made from something else, or the network takes too
        much memory or work.
    """
    path, metadata = container.path, container.metadata
    if metadata.get("format") != FORMAT:
        raise CheckpointError(path, f"packed by another version: {metadata.get('format')}")
    if source is not None and metadata.get("source") != source:
        raise CheckpointError(path, "packed from another checkpoint")
    try:
        config = config_from_fields(f"{path} (config in its metadata)", metadata["config"])
        notes = parse_json(path, metadata["notes"])
        layers = decoder_layers(config)
        require_affordable(path, layers)
        data = container.tensors[_TENSOR].read()
        network = PackedNetwork.over(layers, data.astype(np.float32, copy=False))
        checksum = _checksum(metadata, data)
    except CheckpointError:
        raise
    except (KeyError, ValueError) as error:
        raise CheckpointError(path, f"damaged: not a whole packed network ({error})") from error
    if checksum != metadata.get("checksum"):
        raise CheckpointError(path, "damaged: its content doesn't have the checksum of its header")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise CheckpointError(path, "damaged: its notes are no list of texts")
    return Model(config, network, metadata.get("name", str(path)), tuple(notes))


def _checksum(metadata: Mapping[str, str], data: FloatArray) -> str:
    """CRC-32 of everything that makes the model."""
    texts = json.dumps([metadata[name] for name in ("config", "name", "notes", "source")])
    return f"{zlib.crc32(data.data, zlib.crc32(texts.encode())):08x}"
