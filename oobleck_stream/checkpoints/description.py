"""Describes the network in a container: the decoder's tensors, the config, the assumptions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oobleck_stream.checkpoints.configs import config_from_json
from oobleck_stream.checkpoints.names import HalfTensors, find_prefix, half_tensors
from oobleck_stream.checkpoints.shapes import config_from_geometry, read_geometry
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.json_text import read_text
from oobleck_stream.formats.tensors import Container

# Parts of an autoencoder that change the sound but can't be inferred from the tensors' shapes.
_UNSUPPORTED_PARTS = ("bottleneck", "pretransform", "transformers")


@dataclass(frozen=True)
class Description:
    """The network that was found in a container.

    Parameters
    ----------
    config : OobleckConfig
    decoder : HalfTensors
        The decoder's tensors. Of these, only the tensors whose shapes determine the geometry have
        been compared with the config.
    notes : tuple of str
        One sentence for each choice or assumption.
    """

    config: OobleckConfig
    decoder: HalfTensors
    notes: tuple[str, ...]


def describe(
    container: Container, config_file: Path | None, config: OobleckConfig | None = None
) -> Description:
    """Find the decoder in a container, and its config.

    Parameters
    ----------
    container : Container
    config_file : Path or None
        The config file beside the container.
    config : OobleckConfig, optional
        The config to use. By default, it is the config in the container's metadata, or else the one
        in `config_file`, or else it is inferred from the shapes of the tensors.

    Raises
    ------
    CheckpointError
        If there is no decoder, if the config is not supported, or if it doesn't match the tensors.
    """
    prefix, notes = find_prefix(container)
    half = half_tensors(container, prefix, "decoder")
    if config is None:
        config = _found_config(container, config_file, notes)
    if config is None:
        config = _inferred_config(container, half, notes)
    else:
        _check_geometry(container, half, config)
    return Description(config, half, tuple(notes))


def _found_config(
    container: Container, config_file: Path | None, notes: list[str]
) -> OobleckConfig | None:
    """Return the config in the metadata, or else in `config_file`; None if neither has one."""
    if "config" in container.metadata:
        source = f"{container.path} (config in its metadata)"
        found = config_from_json(source, container.metadata["config"])
        if found is not None:
            return found
    if config_file is None:
        return None
    found = config_from_json(config_file, read_text(config_file))
    if found is None:
        notes.append(f"{config_file.name} is not the config of an Oobleck autoencoder: not used")
    return found


def _inferred_config(container: Container, half: HalfTensors, notes: list[str]) -> OobleckConfig:
    """Infer the config from the shapes of the tensors, and append each assumption to `notes`."""
    problems: list[str] = []
    geometry = read_geometry(half, 2, problems)
    others = tuple(f"{half.prefix}{part}." for part in _UNSUPPORTED_PARTS)
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


def _check_geometry(container: Container, half: HalfTensors, config: OobleckConfig) -> None:
    """Raise a `CheckpointError` if the tensors and the config differ in geometry.

    The error has one problem for each field that differs.

    Without this check, a wrong config would be reported as many tensors with wrong shapes.
    """
    # Problems in the shapes themselves are dropped here: `check_tensors` reports them later.
    geometry = read_geometry(half, config.kernel_per_stride, [])
    if geometry is not None and (differences := geometry.differences(config)):
        raise CheckpointError(container.path, *differences)
