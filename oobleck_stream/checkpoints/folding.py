"""Converts the tensors of a decoder or an encoder to a packed network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oobleck_stream.checkpoints.description import Description
from oobleck_stream.checkpoints.names import HalfTensors
from oobleck_stream.checkpoints.weights import StoredParameters, check_tensors
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork, unpack_layer
from oobleck_stream.errors import CheckpointError
from oobleck_stream.network import Layer, decoder_layers
from oobleck_stream.parameters import pack_network


def fold_decoder(found: Description, source: Path) -> PackedNetwork:
    """Fold and pack the decoder of a description. The errors are those of `fold_half`."""
    config = found.config
    return fold_half(source, found.decoder, decoder_layers(config), config, config.latent_scale)


def fold_half(
    source: Path,
    half: HalfTensors,
    layers: Sequence[Layer],
    config: OobleckConfig,
    input_scale: float = 1.0,
) -> PackedNetwork:
    """Check the tensors of a decoder or an encoder, fold weight norm and Snakes, pack the result.

    Parameters
    ----------
    source : Path
        The checkpoint, for error messages.
    half : HalfTensors
    layers : sequence of Layer
    config : OobleckConfig
    input_scale : float
        The factor by which the weights of the first layer are multiplied.

    Raises
    ------
    CheckpointError
        If tensors are missing or unexpected, if they have the wrong shape or dtype, or if they have
        values that are not finite. The error names every such tensor. Also if scaling makes weights
        of the first layer infinite (the error then names the layer), or if the network takes too
        much memory or work (see `require_affordable`).
    """
    problems = check_tensors(half, layers)
    if problems:
        raise CheckpointError(source, *problems)
    # Checked before any tensor is read, because shapes in a small file can describe a huge network.
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
