"""Writes the files of a conversion's target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oobleck_stream.checkpoints.folding import fold_decoder
from oobleck_stream.checkpoints.packed_file import write_packed
from oobleck_stream.checkpoints.protobuf_folder import HIDDEN_CONFIG
from oobleck_stream.conversion.config_texts import (
    diffusers_config,
    own_config,
    stable_audio_tools_config,
)
from oobleck_stream.conversion.planning import Conversion
from oobleck_stream.conversion.protobuf_writer import require_protobuf, write_libraries
from oobleck_stream.conversion.targets import FOLDER_FILES, Target, atomic_shards, check_target
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import atomic_file, atomic_folder, new_file
from oobleck_stream.formats.safetensors import Advance, write_safetensors
from oobleck_stream.formats.sharded import cut_into_shards, shard_names, write_shards
from oobleck_stream.model import Model

SHARD_BYTES = 2_000_000_000
"""Default maximum size of a shard."""


@dataclass(frozen=True)
class Writing:
    """Where and how to write a conversion.

    Parameters
    ----------
    target : Target
    shard_bytes : int
        Maximum size of a shard, if the target has shards.
    force : bool
        Whether to replace an existing target.
    name : str
        Name of the model, stored in a packed network.
    """

    target: Target
    shard_bytes: int = SHARD_BYTES
    force: bool = False
    name: str = ""


def write_conversion(conversion: Conversion, writing: Writing, advance: Advance) -> None:
    """Write the tensors of a conversion one by one. The target appears only when it is complete.

    Parameters
    ----------
    conversion : Conversion
    writing : Writing
    advance : callable
        Called after each part is written, with the number of bytes of the part.

    Raises
    ------
    CheckpointError
        If the target exists and may not be replaced, if its format can't express the network, or
        if a value is not finite or overflows its dtype.
    OSError
        If the target can't be written.
    """
    target, sources = writing.target, conversion.source.files
    if target.kind == "protobuf":
        require_protobuf(target.path)
    shards, names = [], []
    if target.kind == "sharded":
        shards = cut_into_shards(conversion.tensors, writing.shard_bytes)
        names = shard_names(target.path.name, len(shards))
    try:
        config = _config_text(conversion, target)
        check_target(target, names, sources, writing.force)
        if target.kind == "sharded":
            with atomic_shards(target.path, names, sources) as (folder, index):
                metadata = _metadata(conversion, config)
                index.write(write_shards(folder, names, shards, metadata, advance).encode())
        elif target.kind in FOLDER_FILES:
            with atomic_folder(target.path, replace=True) as folder:
                _write_folder(folder, conversion, target, config, advance)
                # Another program may have changed the target while the tensors were written.
                check_target(target, names, sources, writing.force)
        else:
            _write_file(conversion, writing, config, advance)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(conversion.source.path, str(error)) from None


def missing_for_library(conversion: Conversion, target: Target) -> list[str]:
    """Return a sentence for each part that the target's library expects but will not find."""
    if target.kind not in ("diffusers", "stable-audio-tools"):
        return []
    found = []
    if any(tensor.name.endswith(".weight") for tensor in conversion.tensors):
        found.append(f"{target.kind} itself expects weight_g and weight_v: here they are folded")
    if not conversion.has_encoder:
        found.append(f"{target.kind} itself expects an encoder too")
    return found


def _write_file(conversion: Conversion, writing: Writing, config: str, advance: Advance) -> None:
    """Write a target that is one file."""
    target, tensors = writing.target, conversion.tensors
    if target.kind == "packed":
        packed = fold_decoder(conversion.found, conversion.source.path)
        model = Model(conversion.config, packed, writing.name, conversion.found.notes)
        write_packed(target.path, model)
        advance(sum(tensor.size_in_bytes for tensor in tensors))
    else:
        with atomic_file(target.path) as file:
            write_safetensors(file, tensors, _metadata(conversion, config), advance)


def _write_folder(
    folder: Path, conversion: Conversion, target: Target, config: str, advance: Advance
) -> None:
    """Write the files of a target that is a folder: its config and its tensors."""
    config_name, tensors_name = {
        "diffusers": ("config.json", "diffusion_pytorch_model.safetensors"),
        "stable-audio-tools": ("model_config.json", "model.safetensors"),
        "protobuf": (HIDDEN_CONFIG, None),
    }[target.kind]
    with new_file(folder / config_name) as file:
        file.write(config.encode())
    if tensors_name is None:
        write_libraries(folder, conversion.tensors, advance)
        return
    with new_file(folder / tensors_name) as file:
        write_safetensors(file, conversion.tensors, _metadata(conversion), advance)


def _config_text(conversion: Conversion, target: Target) -> str:
    """Return the config in the target's format. Raise ``ValueError`` if it can't be expressed."""
    if target.kind == "diffusers":
        return diffusers_config(conversion.config, conversion.has_encoder)
    if target.kind == "stable-audio-tools":
        return stable_audio_tools_config(conversion.config)
    return own_config(conversion.config)


def _metadata(conversion: Conversion, config: str | None = None) -> dict[str, str]:
    """Return the source's metadata, such as its licence, and the config."""
    metadata = {k: v for k, v in conversion.source.metadata.items() if k != "config"}
    metadata["format"] = "pt"
    if config is not None:
        metadata["config"] = config
    return metadata
