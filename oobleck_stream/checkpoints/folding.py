"""The tensors of a half -> its packed network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oobleck_stream.checkpoints.description import Description
from oobleck_stream.checkpoints.names import Half
from oobleck_stream.checkpoints.weights import StoredParameters, check_tensors
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import CheckpointError
from oobleck_stream.network import Layer, decoder_layers
from oobleck_stream.packed import PackedNetwork
from oobleck_stream.parameters import pack_network
from oobleck_stream.streaming.needs import require_affordable


def fold_decoder(found: Description, source: Path) -> PackedNetwork:
    """The decoder of a description; errors as those of `fold_half`."""
    config = found.config
    return fold_half(source, found.decoder, decoder_layers(config), config, config.latent_scale)


def fold_half(
    source: Path,
    half: Half,
    layers: Sequence[Layer],
    config: OobleckConfig,
    input_scale: float = 1.0,
) -> PackedNetwork:
    """Check a half's tensors, fold them and pack them.

    Raises
    ------
    CheckpointError
        Names every tensor that is missing, unexpected, of another shape, or not finite. Or when
        the network takes too much memory or work, according to `require_affordable`.
    """
    problems = check_tensors(half, layers)
    if problems:
        raise CheckpointError(source, *problems)
    require_affordable(source, layers)
    parameters = StoredParameters(half, config)
    packed = pack_network(layers, parameters, input_scale)
    if parameters.problems:
        raise CheckpointError(source, *parameters.problems)
    return packed
