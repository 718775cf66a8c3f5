"""Loading a model from wherever its weights are."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from oobleck_stream.checkpoints.cache import through_cache
from oobleck_stream.checkpoints.configs import config_from_json
from oobleck_stream.checkpoints.containers import Container
from oobleck_stream.checkpoints.errors import CheckpointError
from oobleck_stream.checkpoints.folder import CONFIG_NAMES, choose_files, names_in
from oobleck_stream.checkpoints.json_text import read_text
from oobleck_stream.checkpoints.names import Half, find_prefix, named_half
from oobleck_stream.checkpoints.opening import open_container
from oobleck_stream.checkpoints.packed_file import is_packed, read_packed
from oobleck_stream.checkpoints.shapes import config_from_geometry, read_geometry
from oobleck_stream.checkpoints.weights import StoredParameters, check_tensors
from oobleck_stream.config import OobleckConfig, preset
from oobleck_stream.model import Model, random_model
from oobleck_stream.network import Layer, decoder_layers, encoder_layers
from oobleck_stream.packed import PackedNetwork
from oobleck_stream.parameters import pack_network

TINY = Path(__file__).parent / "data" / "tiny.safetensors"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SOUNDING_PARTS = ("bottleneck", "pretransform", "transformers")
_FILE_SUFFIXES = (".safetensors", ".json", ".ckpt", ".pt", ".pth", ".bin")


def load(source: str | os.PathLike[str], *, config: OobleckConfig | str | None = None) -> Model:
    """Load a model.

    Parameters
    ----------
    source : str or path
        A folder as published (stable-audio-tools', diffusers', or a whole pipeline of diffusers
        with ``vae/``); a ``.safetensors`` file, or the index of a sharded one; the id of a model
        on the Hugging Face hub, ``"organisation/name"``; ``"tiny"`` for the bundled network;
        ``"random:PRESET"`` or ``"random:PRESET:SEED"`` for random weights.
    config : OobleckConfig or name of a preset, optional
        The network, whatever the checkpoint says of it. Without it the config in the file's
        metadata counts, then the one beside it, then the shapes of the tensors.

    Returns
    -------
    Model
        Its `notes` tell what was chosen or assumed on the way.

    Raises
    ------
    CheckpointError
        When there is nothing to load, the file is damaged, an option of the config is not
        supported, or tensors are missing, unexpected, of another shape or not finite; names all
        of them. It is a ``ValueError``.
    ValueError
        When `config` is not the name of a preset.

    Notes
    -----
    A big checkpoint is folded and packed once and kept in the user's cache folder
    (``$OOBLECK_STREAM_CACHE``; ``off`` for nowhere), from where it is mapped into memory.

    Only the decoder's tensors are read: the checkpoint of a whole diffusion model needs no more
    memory than its decoder. The encoder's are read, and their faults told, at the first encoding.
    """
    if isinstance(config, str):
        config = preset(config)
    if isinstance(source, str) and source.startswith("random:"):
        return _random(source)
    path = _found(source)
    if path.is_dir():
        choice = choose_files(path, names_in(path))
        weights = path / choice.weights
        beside = path / choice.config if choice.config else None
    else:
        weights = path
        beside = next((f for f in map(path.with_name, CONFIG_NAMES) if f.is_file()), None)
    return _load_files(os.fspath(source), weights, beside, config)


def _found(source: str | os.PathLike[str]) -> Path:
    """The file or folder that is meant; one of the hub is fetched."""
    text = os.fspath(source)
    path = os.path.expanduser(text)
    if source == "tiny":
        if not TINY.is_file():
            raise CheckpointError(source, "the bundled network is not in this installation")
        return TINY
    if os.path.isfile(path) or os.path.isdir(path):
        return Path(path)
    if isinstance(source, str) and _HUB_ID.fullmatch(text) and not text.endswith(_FILE_SUFFIXES):
        from oobleck_stream.checkpoints.hub import fetch

        return fetch(source)
    raise CheckpointError(source, "no such file or folder")


def _random(source: str) -> Model:
    match = re.fullmatch(r"random:([^:]+)(?::(\d+))?", source)
    if match is None:
        raise CheckpointError(source, "random:PRESET or random:PRESET:SEED was expected")
    try:
        return random_model(match[1], int(match[2] or 0))
    except ValueError as error:
        raise CheckpointError(source, str(error)) from None


def _load_files(
    name: str, weights: Path, beside: Path | None, config: OobleckConfig | None
) -> Model:
    container = open_container(weights)
    if is_packed(container):
        model = read_packed(container)
    else:
        files = container.files + ((beside,) if beside else ())
        build = functools.partial(_fold, container, weights, beside, name, config)
        model = through_cache(files, f"{name} {config}", build)
    encoder = functools.partial(_fold_encoder, weights, model.config)
    return dataclasses.replace(model, load_encoder=encoder)


def _fold(
    container: Container,
    weights: Path,
    beside: Path | None,
    name: str,
    config: OobleckConfig | None,
) -> Model:
    """Check all that is needed, fold it and pack it."""
    prefix, notes = find_prefix(container)
    half = named_half(container, prefix, "decoder")
    if config is None:
        config = _found_config(container, beside, notes)
    if config is None:
        config = _inferred_config(container, half, notes)
    else:
        _check_geometry(container, half, config)
    packed = _fold_half(weights, half, decoder_layers(config), config, config.latent_scale)
    return Model(config, packed, name, tuple(notes))


def _fold_encoder(weights: Path, config: OobleckConfig) -> PackedNetwork:
    """The encoder beside a decoder that was loaded before."""
    container = open_container(weights)
    if is_packed(container):
        raise CheckpointError(weights, "can't encode: a packed network has only its decoder")
    prefix, _ = find_prefix(container)
    half = named_half(container, prefix, "encoder")
    if not half.tensors and not half.unknown:
        raise CheckpointError(weights, f"can't encode: no tensors under {prefix}encoder in it")
    return _fold_half(weights, half, encoder_layers(config), config)


def _fold_half(
    weights: Path,
    half: Half,
    layers: Sequence[Layer],
    config: OobleckConfig,
    input_scale: float = 1.0,
) -> PackedNetwork:
    """Check a half's tensors, fold them and pack them; name every fault."""
    problems = check_tensors(half, layers)
    if problems:
        raise CheckpointError(weights, *problems)
    parameters = StoredParameters(half, config)
    packed = pack_network(layers, parameters, input_scale)
    if parameters.problems:
        raise CheckpointError(weights, *parameters.problems)
    return packed


def _found_config(
    container: Container, beside: Path | None, notes: list[str]
) -> OobleckConfig | None:
    """The config in the file's metadata or beside it, if any."""
    if "config" in container.metadata:
        source = f"{container.path} (config in its metadata)"
        found = config_from_json(source, container.metadata["config"])
        if found is not None:
            return found
    if beside is None:
        return None
    found = config_from_json(beside, read_text(beside))
    if found is None:
        notes.append(f"{beside.name} is not the config of an Oobleck autoencoder: not used")
    return found


def _inferred_config(container: Container, half: Half, notes: list[str]) -> OobleckConfig:
    problems: list[str] = []
    geometry = read_geometry(half, 2, problems)
    others = tuple(f"{half.prefix}{part}." for part in _SOUNDING_PARTS)
    problems += [
        f"{name} belongs to a part that is not supported: a config was expected to explain it"
        for name in container.tensors
        if name.startswith(others)
    ]
    if geometry is None or problems:
        raise CheckpointError(container.path, *problems)
    config, assumed = config_from_geometry(geometry)
    notes += assumed
    return config


def _check_geometry(container: Container, half: Half, config: OobleckConfig) -> None:
    """One line for each difference, rather than one for each of two hundred tensors."""
    geometry = read_geometry(half, config.kernel_per_stride, [])
    if geometry is not None and (differences := geometry.differences(config)):
        raise CheckpointError(container.path, *differences)
