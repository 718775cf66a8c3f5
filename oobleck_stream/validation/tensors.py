"""Prepares a network's parameters for another implementation of the network (a peer).

If possible, the peer gets the tensors that the checkpoint stores. Then the comparison also covers
how the tensors were folded and packed. Otherwise, the peer gets the parameters that the kernels
use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from oobleck_stream.checkpoints.names import HalfTensors, find_prefix, half_tensors
from oobleck_stream.checkpoints.opening import open_container
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.packed import PackedNetwork, unpack_layer
from oobleck_stream.formats.tensors import is_packed
from oobleck_stream.loading import find_files, is_random
from oobleck_stream.model import Model
from oobleck_stream.network import Layer
from oobleck_stream.reference import LayerTensors, Tensors
from oobleck_stream.validation.stages import Half, half_of


def tensors_for_peer(source: str, model: Model, half: Half) -> tuple[Tensors, bool]:
    """Return the parameters of a model's decoder or encoder, from its checkpoint if possible.

    Parameters
    ----------
    source : str
        The source from which the model was loaded, as it was passed to `load`.
    model : Model
    half : {"decoder", "encoder"}

    Returns
    -------
    tensors : iterable of (Layer, LayerTensors)
        The checkpoint's tensors. If the source has none (random weights, packed files), they are
        the model's folded parameters.
    stored : bool
        Whether the tensors are those that the checkpoint stores.
    """
    network = half_of(model, half)
    found = _stored_half(source, half)
    if found is None:
        return packed_tensors(network, model.config), False
    return stored_tensors(found, network.layers, model.config), True


def _stored_half(source: str, half: Half) -> HalfTensors | None:
    """Open the tensors of a decoder or encoder. None for random weights and packed files."""
    if is_random(source):
        return None
    container = open_container(find_files(source)[0])
    if is_packed(container):
        return None
    prefix, _ = find_prefix(container)
    return half_tensors(container, prefix, half)


def stored_tensors(
    half: HalfTensors, layers: Sequence[Layer], config: OobleckConfig
) -> Iterator[tuple[Layer, LayerTensors]]:
    """Read and yield the tensors of a checkpoint, layer by layer.

    Parameters
    ----------
    half : HalfTensors
        A decoder or an encoder that was loaded without errors.
    layers : sequence of Layer
        The layers of that half.
    config : OobleckConfig
    """
    for index, layer in enumerate(layers):
        parts = {}
        for part in ("weight", "weight_g", "weight_v", "bias"):
            tensor = half.tensors.get(f"{layer.name}.{part}")
            parts[part] = None if tensor is None else tensor.read()
        direction = parts["weight"] if parts["weight_v"] is None else parts["weight_v"]
        assert direction is not None
        alpha = beta = None
        if layer.snake:
            alpha, beta = (
                half.tensors[f"{layer.snake}.{part}"].read().astype(np.float64).ravel()
                for part in ("alpha", "beta")
            )
        decodes_latents = index == 0 and layer.name.startswith("decoder.")
        yield (
            layer,
            LayerTensors(
                direction,
                parts["weight_g"],
                parts["bias"] if layer.bias else None,
                alpha,
                beta,
                config.snake_log_scale,
                config.latent_scale if decodes_latents else 1.0,
            ),
        )


def packed_tensors(
    network: PackedNetwork, config: OobleckConfig
) -> Iterator[tuple[Layer, LayerTensors]]:
    """Yield a network's folded parameters.

    Weight norm, the latent scale and the logarithms of Snake parameters are already folded into
    them.
    """
    for index, layer in enumerate(network.layers):
        weight, bias, alpha, inverse_beta = unpack_layer(network, index)
        beta = None
        if inverse_beta is not None:
            # Peers add epsilon to beta, so subtract the epsilon that is already folded in.
            with np.errstate(divide="ignore"):
                beta = 1.0 / inverse_beta.astype(np.float64) - config.snake_epsilon
        yield layer, LayerTensors(weight, None, bias, alpha, beta)
