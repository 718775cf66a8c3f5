"""Packed files. Each contains folded, packed parameters, and loads as a memory map.

A packed file holds the decoder of a network or, in the cache only, its encoder.

A packed file is a safetensors file with one tensor. The tensor starts at a multiple of 4096 bytes
in the file, so it is page-aligned in memory and no vector load of the kernels crosses a cache line.
The metadata contain the config, the name and notes of the model, the identity of its source, and a
checksum of all of these and the tensor.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checkpoints.configs import config_from_fields
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.program import WEIGHT_DTYPES
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import atomic_file
from oobleck_stream.formats.json_text import parse_json
from oobleck_stream.formats.safetensors import write_header
from oobleck_stream.formats.tensors import PACKED, Container, Tensor
from oobleck_stream.model import Model
from oobleck_stream.network import decoder_layers, encoder_layers

FORMAT = f"{PACKED} 4"
"""The format and its version. A change of the parameters' order or of the metadata requires a new
version."""

PACKED_SUFFIX = ".packed.safetensors"

Half = Literal["decoder", "encoder"]

_TENSOR = "packed"
_ALIGNMENT = 4096


def write_packed(path: Path, model: Model, source: str = "", half: Half = "decoder") -> None:
    """Write the decoder or the encoder of a model to a packed file.

    Parameters
    ----------
    path : Path
        The file to write. It is replaced atomically when the new file is complete. After an error,
        it is unchanged.
    model : Model
    source : str
        The identity of the model's source. `read_packed` can compare it with an expected identity.
    half : {"decoder", "encoder"}

    Raises
    ------
    OSError
        If the file can't be written.
    """
    network = model.decoder if half == "decoder" else model.encoder
    data = network.data
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(model.config)),
        "name": model.name,
        "notes": json.dumps(model.notes),
        "source": source,
        "dtypes": json.dumps(network.dtypes),
    }
    if half != "decoder":
        metadata["half"] = half
    metadata["checksum"] = _checksum(metadata, data)
    tensor = Tensor(_TENSOR, data.shape, "F32", lambda: data)
    with atomic_file(path) as file:
        write_header(file, [tensor], metadata, _ALIGNMENT)
        file.write(data.data)


def read_packed(container: Container, source: str | None = None) -> Model:
    """Return the model in a packed file. The model's parameters are a read-only memory map.

    Parameters
    ----------
    container : Container
        An opened file for which `is_packed` returns true.
    source : str, optional
        The expected identity of the model's source. By default, the identity is not compared.

    Raises
    ------
    CheckpointError
        If the file is damaged, if its format has another version, if it was packed from another
        source, if it holds an encoder, or if the network takes too much memory or work.
    """
    config, network = _read(container, source, "decoder")
    path, metadata = container.path, container.metadata
    notes = parse_json(path, metadata["notes"])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise CheckpointError(path, "damaged: its notes are no list of texts")
    return Model(config, network, metadata.get("name", str(path)), tuple(notes))


def read_packed_encoder(container: Container, source: str | None = None) -> PackedNetwork:
    """Return the encoder in a packed file. The parameters are those of `read_packed`."""
    return _read(container, source, "encoder")[1]


def _read(
    container: Container, source: str | None, half: Half
) -> tuple[OobleckConfig, PackedNetwork]:
    path, metadata = container.path, container.metadata
    if metadata.get("format") != FORMAT:
        raise CheckpointError(path, f"packed by another version: {metadata.get('format')}")
    if metadata.get("half", "decoder") != half:
        raise CheckpointError(path, f"a packed file with a network's {half} was expected")
    if source is not None and metadata.get("source") != source:
        raise CheckpointError(path, "packed from another checkpoint")
    try:
        config = config_from_fields(f"{path} (config in its metadata)", metadata["config"])
        layers = decoder_layers(config) if half == "decoder" else encoder_layers(config)
        require_affordable(path, layers)
        data = container.tensors[_TENSOR].read()
        dtypes = _dtypes(metadata["dtypes"], len(layers))
        network = PackedNetwork.over(layers, data.astype(np.float32, copy=False), dtypes)
        checksum = _checksum(metadata, data)
    except CheckpointError:
        raise
    except (KeyError, ValueError) as error:
        raise CheckpointError(path, f"damaged: not a whole packed network ({error})") from error
    if checksum != metadata.get("checksum"):
        raise CheckpointError(path, "damaged: its content doesn't have the checksum of its header")
    return config, network


def _dtypes(text: str, count: int) -> list[str]:
    """Parse the dtypes of `count` layers' weights; raise ``ValueError`` if they are invalid."""
    dtypes = json.loads(text)
    if not (isinstance(dtypes, list) and len(dtypes) == count):
        raise ValueError(f"the dtypes of {count} layers were expected")
    if not all(dtype in WEIGHT_DTYPES for dtype in dtypes):
        raise ValueError(f"dtypes of weights among {', '.join(WEIGHT_DTYPES)} were expected")
    return dtypes


def _checksum(metadata: Mapping[str, str], data: FloatArray) -> str:
    """The CRC-32 of the metadata and the parameters. It detects damage, not forgery."""
    names = ("config", "name", "notes", "source", "dtypes")
    texts = json.dumps([metadata[name] for name in names])
    return f"{zlib.crc32(data.data, zlib.crc32(texts.encode())):08x}"
