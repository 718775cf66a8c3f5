"""Which network a container holds: its decoder's tensors, its config, and how both were found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oobleck_stream.checkpoints.configs import config_from_json
from oobleck_stream.checkpoints.containers import Container
from oobleck_stream.checkpoints.json_text import read_text
from oobleck_stream.checkpoints.names import Half, find_prefix, named_half
from oobleck_stream.checkpoints.shapes import config_from_geometry, read_geometry
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import CheckpointError

_SOUNDING_PARTS = ("bottleneck", "pretransform", "transformers")


@dataclass(frozen=True)
class Description:
    """A network in a container.

    Parameters
    ----------
    config : OobleckConfig
    decoder : Half
        Its tensors are not checked yet, beyond their agreement with the config's geometry.
    notes : tuple of str
        What was chosen or assumed, a sentence each.
    """

    config: OobleckConfig
    decoder: Half
    notes: tuple[str, ...]


def describe(
    container: Container, beside: Path | None, config: OobleckConfig | None = None
) -> Description:
    """Find the network of a container.

    Parameters
    ----------
    container : Container
    beside : Path or None
        The config that lies beside it.
    config : OobleckConfig, optional
        Counts before the one in the container's metadata, which counts before `beside`; the
        shapes of the tensors come last.

    Raises
    ------
    CheckpointError
        When there is no decoder, its config is not supported, or is another network's.
    """
    prefix, notes = find_prefix(container)
    half = named_half(container, prefix, "decoder")
    if config is None:
        config = _found_config(container, beside, notes)
    if config is None:
        config = _inferred_config(container, half, notes)
    else:
        _check_geometry(container, half, config)
    return Description(config, half, tuple(notes))


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
