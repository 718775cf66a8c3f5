"""The tensors of a half -> its packed network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oobleck_stream.checkpoints.description import Description
from oobleck_stream.checkpoints.names import Half
from oobleck_stream.checkpoints.weights import StoredParameters, check_tensors
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork, unpack_layer
from oobleck_stream.errors import CheckpointError
from oobleck_stream.network import Layer, decoder_layers
from oobleck_stream.parameters import pack_network


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
        Names every tensor that is missing, unexpected, of another shape, or not finite; names the
        first layer when only the product of its weights and the input's scale is not finite. Or
        when the network takes too much memory or work, according to `require_affordable`.
    """
    problems = check_tensors(half, layers)
    if problems:
        raise CheckpointError(source, *problems)
    require_affordable(source, layers)
    parameters = StoredParameters(half, config)
    packed = pack_network(layers, parameters, input_scale)
    if parameters.problems:
        raise CheckpointError(source, *parameters.problems)
    if input_scale != 1.0 and not np.isfinite(unpack_layer(packed, 0)[0]).all():
        raise CheckpointError(
            source,
            f"{layers[0].name} has weights that are not finite when multiplied by the latent scale "
            f"{input_scale:g}",
        )
    return packed
