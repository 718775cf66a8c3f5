"""Load a model from a file, a folder or the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path

from oobleck_stream.checkpoints import unpacking
from oobleck_stream.checkpoints.cache import cached_encoder, cached_model
from oobleck_stream.checkpoints.configs import CONFIG_NAMES
from oobleck_stream.checkpoints.description import Description, describe
from oobleck_stream.checkpoints.folder import choose_files, list_files
from oobleck_stream.checkpoints.folding import fold_decoder, fold_half
from oobleck_stream.checkpoints.names import HalfTensors, find_prefix, half_tensors
from oobleck_stream.checkpoints.opening import PICKLE_SUFFIXES, open_container
from oobleck_stream.checkpoints.packed_file import read_packed
from oobleck_stream.checkpoints.protobuf_folder import is_library_folder, library_config
from oobleck_stream.config import Convolution, OobleckConfig, preset
from oobleck_stream.engine.backends import checked_backend
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.flat import is_flat
from oobleck_stream.formats.tensors import Container, is_packed
from oobleck_stream.formats.torch_archive import open_torch
from oobleck_stream.model import Model
from oobleck_stream.network import encoder_layers
from oobleck_stream.random_weights import random_model

TINY = Path(__file__).parent / "data" / "tiny.safetensors"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILE_SUFFIXES = (".safetensors", ".json", ".ckpt", ".pt", ".pth", ".bin")


def load(
    source: str | os.PathLike[str],
    *,
    config: OobleckConfig | str | None = None,
    backend: str = "cpu",
    convolution: Convolution | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    source : str or path
        What to load. This is one of: a folder as published by stable-audio-tools or diffusers,
        including a whole diffusers pipeline with a folder ``vae``; a ``.safetensors`` file; the
        index of a sharded checkpoint; a folder of protobuf weight libraries;
        ``"organisation/name"``, the id of a model on the Hugging Face hub; ``"tiny"``, the bundled
        network; ``"random:PRESET"`` or ``"random:PRESET:SEED"``, a network with random weights.
    config : OobleckConfig or name of a preset, optional
        The network's geometry, which overrides any config in the checkpoint. By default the
        geometry is taken from the file's metadata; if there is none, from a config file beside the
        weights; otherwise from the shapes of the tensors. The geometry of a packed or a random
        network can't be overridden.
    backend : str
        Where the model decodes. ``"cpu"`` is the CPU and ``"cuda"`` a GPU. ``"auto"`` is a GPU if
        one can be used; otherwise it is the CPU, and a warning is given.
    convolution : str, optional
        How to compute dilated convolutions, ``"fast"`` or ``"direct"``. Direct convolution has a
        shorter look-ahead, but takes longer. The default is the setting of the config, which is
        fast unless a packed network or `config` says otherwise.

    Returns
    -------
    Model
        The model. Its `notes` list what had to be chosen or assumed.

    Raises
    ------
    CheckpointError
        If the source is missing or damaged, if an option of its config is not supported, or if
        tensors are missing, unexpected, of the wrong shape or not finite. The attribute `problems`
        lists every such option or tensor, and the message lists the first few. This error is also
        raised if the network takes too much memory or work (see Notes). It is a ``ValueError``.
    ValueError
        If `config` is not the name of a preset, or `backend` or `convolution` is unknown.
    CudaUnavailable
        If the backend is ``"cuda"`` and CUDA can't be used. The message names what is missing. This
        error is a ``RuntimeError``.

    Notes
    -----
    A large checkpoint is folded and packed only once. The packed network is kept in the user's
    cache folder, and later loads memory-map it. ``$OOBLECK_STREAM_CACHE`` names another folder, or
    disables the cache if it is ``off``.

    A small file can describe a huge network, so the cost is computed from the shapes first. The
    parameters, the state of one stream and the audio of one frame must fit into this machine's
    memory, and the first frame may take at most 1e12 multiply-adds. The largest published decoder
    needs 3.1e10. Setting ``$OOBLECK_STREAM_LIMITS`` to ``off`` lifts both limits.

    Only the decoder's tensors are read, so loading the checkpoint of a whole diffusion model takes
    no more memory than loading its decoder alone. The encoder's tensors are read and checked at the
    first encoding.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> model.samplerate, model.hop
    (44100, 64)
    >>> ob.load("random:ezaudio:7").name
    'random ezaudio, seed 7'
    >>> ob.load("no-such-file.safetensors")
    Traceback (most recent call last):
    ...
    oobleck_stream.errors.CheckpointError: no-such-file.safetensors: no such file or folder
    """
    if isinstance(config, str):
        config = preset(config)
    backend = checked_backend(backend)
    if is_random(source):
        model = random_weights(os.fspath(source))
        _require_config(source, model, config)
    else:
        model = _load_files(os.fspath(source), *find_files(source), config)
    if convolution is not None:
        model = model.with_convolution(convolution)
    return dataclasses.replace(model, backend=backend)


def find_files(source: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Find the weights that a source names, and the config file beside them.

    Parameters
    ----------
    source : str or path
        One of the sources of `load`, except random weights. A model on the hub is downloaded.

    Returns
    -------
    weights : Path
        A path for `open_container`: a file, or a folder if the folder itself is the container.
    config : Path or None
        None if there is no config file.

    Raises
    ------
    CheckpointError
        If there are no weights, or if they can't be downloaded from the hub.
    """
    path = _found(source)
    if not path.is_dir():
        return path, next((f for f in map(path.with_name, CONFIG_NAMES) if f.is_file()), None)
    names = list_files(path)
    if is_library_folder(path, names):
        return path, library_config(path)
    choice = choose_files(path, names)
    return path / choice.weights, path / choice.config if choice.config else None


def _found(source: str | os.PathLike[str]) -> Path:
    """Return the file or folder that `source` names; download it if it is a model on the hub."""
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


def is_random(source: str | os.PathLike[str]) -> bool:
    """Whether a source names random weights."""
    return isinstance(source, str) and source.startswith("random:")


def random_weights(source: str) -> Model:
    """Return the model that ``random:PRESET`` or ``random:PRESET:SEED`` names."""
    match = re.fullmatch(r"random:([^:]+)(?::(\d+))?", source)
    if match is None:
        raise CheckpointError(source, "random:PRESET or random:PRESET:SEED was expected")
    try:
        return random_model(match[1], int(match[2] or 0))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(source, str(error)) from None


def _load_files(
    name: str, weights: Path, config_file: Path | None, config: OobleckConfig | None
) -> Model:
    container = open_container(weights)
    if is_packed(container):
        model = read_packed(container)
        _require_config(weights, model, config)
    else:
        files = container.files + ((config_file,) if config_file else ())
        build = functools.partial(_fold, weights, config_file, name, config)
        model = cached_model(files, f"{name} {config}", build)
    fold = functools.partial(_fold_encoder, weights, model.config)
    model = dataclasses.replace(model, load_encoder=fold, file=weights)
    if is_packed(container):
        return model
    cached = functools.partial(cached_encoder, files, f"{name} {config}", model)
    return dataclasses.replace(model, load_encoder=cached)


def _fold(
    weights: Path, config_file: Path | None, name: str, config: OobleckConfig | None
) -> Model:
    """Check the decoder's tensors, fold the weight norm and pack the result."""
    container = open_container(weights)
    found = describe(container, config_file, config)
    return Model(found.config, fold_decoder(found, container.path), name, found.notes)


def _fold_encoder(weights: Path, config: OobleckConfig) -> PackedNetwork:
    """Load the encoder from the checkpoint that the decoder came from."""
    return fold_half(weights, _encoder_tensors(weights), encoder_layers(config), config)


def _encoder_tensors(weights: Path) -> HalfTensors:
    """Find an encoder's tensors without reading them; raise `CheckpointError` if there are none."""
    container = open_container(weights)
    if is_packed(container):
        raise CheckpointError(weights, "can't encode: a packed network has only its decoder")
    prefix, _ = find_prefix(container)
    half = half_tensors(container, prefix, "encoder")
    if not half.tensors and not half.unknown:
        raise CheckpointError(weights, f"can't encode: no tensors under {prefix}encoder in it")
    return half


def require_encoder(model: Model) -> None:
    """Raise `CheckpointError` if a model has no encoder. The encoder's tensors are not read."""
    model.require_encoder()
    if model.file is not None:
        _encoder_tensors(model.file)


def _require_config(source: object, model: Model, config: OobleckConfig | None) -> None:
    """Raise `CheckpointError` if `config` contradicts a packed or random network."""
    if config is None or config == model.config:
        return
    differences = (
        f"{field.name} is {getattr(model.config, field.name)} in it, not "
        f"{getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if getattr(model.config, field.name) != getattr(config, field.name)
    )
    raise CheckpointError(source, "has its own config: " + ", ".join(differences))


def open_checkpoint(
    source: str | os.PathLike[str], config: OobleckConfig | None = None
) -> tuple[Container, Description]:
    """Open a checkpoint for conversion, without loading its tensors.

    Parameters
    ----------
    source : str or path
        One of the sources of `load`, or a ``.ckpt``, ``.pt``, ``.pth`` or ``.bin`` file written by
        torch.
    config : OobleckConfig, optional
        As for `load`.

    Returns
    -------
    container : Container
        The checkpoint's tensors. If the source is a packed or a random network, these are tensors
        that fold to the same parameters.
    description : Description

    Raises
    ------
    CheckpointError
        For the reasons given for `load`, except for faults of the tensors, which are not checked
        yet.
    """
    if is_random(source):
        return _unpacked(Path(source), random_weights(os.fspath(source)), config)
    weights, config_file = find_files(source)
    if weights.name.lower().endswith(PICKLE_SUFFIXES) and not is_flat(weights):
        container = open_torch(weights)
    else:
        container = open_container(weights)
    if is_packed(container):
        return _unpacked(weights, read_packed(container), config)
    return container, describe(container, config_file, config)


def _unpacked(
    path: Path, model: Model, config: OobleckConfig | None
) -> tuple[Container, Description]:
    _require_config(path, model, config)
    config, networks, notes = model.config, [model.decoder], [*model.notes, *unpacking.NOTES]
    if config.latent_scale != 1.0:
        notes.append(f"its weights include the latent scale {config.latent_scale}: now it is 1")
        config = config.replace(latent_scale=1.0)
    elif model.load_encoder is not None and config.has_encoder:
        networks.append(model.encoder)
    container = unpacking.unpacked(path, config, *networks)
    found = describe(container, None, config)
    return container, dataclasses.replace(found, notes=tuple(notes))
