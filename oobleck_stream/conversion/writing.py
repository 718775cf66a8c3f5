"""A conversion -> the files of its target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oobleck_stream.checkpoints.folding import fold_decoder
from oobleck_stream.checkpoints.packed_file import write_packed
from oobleck_stream.checkpoints.protobuf_folder import HIDDEN_CONFIG
from oobleck_stream.checkpoints.safetensors_writer import (
    Advance,
    cut_into_shards,
    shard_names,
    write_safetensors,
    write_shards,
)
from oobleck_stream.checkpoints.stored_numbers import stored_bytes
from oobleck_stream.conversion.config_texts import (
    diffusers_config,
    own_config,
    stable_audio_tools_config,
)
from oobleck_stream.conversion.planning import Conversion
from oobleck_stream.conversion.protobuf_writer import require_protobuf, write_libraries
from oobleck_stream.conversion.targets import Target, staged
from oobleck_stream.errors import CheckpointError
from oobleck_stream.model import Model

SHARD_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Writing:
    """How a conversion is written.

    Parameters
    ----------
    target : Target
    shard_bytes : int
        Of a shard at most, where the target has shards.
    force : bool
        Whether to replace what is there.
    name : str
        What a packed network is called.
    """

    target: Target
    shard_bytes: int = SHARD_BYTES
    force: bool = False
    name: str = ""


def write_conversion(conversion: Conversion, writing: Writing, advance: Advance) -> None:
    """Write the tensors of a conversion one by one; the target appears when it is whole.

    Parameters
    ----------
    conversion : Conversion
    writing : Writing
    advance : callable
        Is told of bytes that are done.

    Raises
    ------
    CheckpointError
        When the target is there already, or can't hold the network; when a number is not finite, or
        beyond the largest of its dtype.
    OSError
        When it can't be written.
    """
    target, sources = writing.target, conversion.source.files
    if target.kind == "protobuf":
        require_protobuf(target.path)
    shards = cut_into_shards(conversion.tensors, writing.shard_bytes)
    files = [target.path.name]
    if target.kind == "sharded":
        files = [*shard_names(target.path.name, len(shards)), *files]
    try:
        config = _config_text(conversion, target)
        with staged(target, files, sources, writing.force) as folder:
            if target.kind == "sharded":
                metadata = _metadata(conversion, config)
                write_shards(folder, target.path.name, shards, metadata, advance)
            else:
                _write(folder, conversion, writing, config, advance)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(conversion.source.path, str(error)) from None


def missed_by_others(conversion: Conversion, target: Target) -> list[str]:
    """What the library that a folder is made for expects and will not find, a sentence each."""
    if target.kind not in ("diffusers", "stable-audio-tools"):
        return []
    found = []
    if any(tensor.name.endswith(".weight") for tensor in conversion.tensors):
        found.append(f"{target.kind} itself expects weight_g and weight_v: here they are folded")
    if not conversion.has_encoder:
        found.append(f"{target.kind} itself expects an encoder too")
    return found


def _write(
    folder: Path, conversion: Conversion, writing: Writing, config: str, advance: Advance
) -> None:
    """Write what has one file of tensors, or one for every few of them."""
    target, tensors = writing.target, conversion.tensors
    if target.kind == "packed":
        packed = fold_decoder(conversion.found, conversion.source.path)
        model = Model(conversion.config, packed, writing.name, conversion.found.notes)
        write_packed(folder / target.path.name, model)
        advance(sum(map(stored_bytes, tensors)))
    elif target.kind == "protobuf":
        (folder / HIDDEN_CONFIG).write_text(config)
        write_libraries(folder, tensors, advance)
    elif target.kind == "safetensors":
        path = folder / target.path.name
        write_safetensors(path, tensors, _metadata(conversion, config), advance)
    else:
        diffusers = target.kind == "diffusers"
        name = "diffusion_pytorch_model.safetensors" if diffusers else "model.safetensors"
        (folder / ("config.json" if diffusers else "model_config.json")).write_text(config)
        write_safetensors(folder / name, tensors, _metadata(conversion), advance)


def _config_text(conversion: Conversion, target: Target) -> str:
    """The config in the target's form; ``ValueError`` where it has no place for something."""
    if target.kind == "diffusers":
        return diffusers_config(conversion.config, conversion.has_encoder)
    if target.kind == "stable-audio-tools":
        return stable_audio_tools_config(conversion.config)
    return own_config(conversion.config)


def _metadata(conversion: Conversion, config: str | None = None) -> dict[str, str]:
    """What the source says of itself, such as its licence, and the config."""
    metadata = {k: v for k, v in conversion.source.metadata.items() if k != "config"}
    metadata["format"] = "pt"
    if config is not None:
        metadata["config"] = config
    return metadata
