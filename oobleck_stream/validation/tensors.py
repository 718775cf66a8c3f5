"""A network's parameters for other implementations: as a checkpoint stores them, or as we do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.checkpoints.containers import FloatingArray
from oobleck_stream.checkpoints.names import Half
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.packed import PackedNetwork, unpack_layer
from oobleck_stream.network import Layer


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """One layer's parameters, nothing of them computed.

    Parameters
    ----------
    weight : float array
        In torch's order; the direction `v` where a magnitude is given.
    magnitude : (n, 1, 1) float array or None
        The `g` of weight norm.
    bias : (outputs,) float array or None
    alpha, beta : (inputs,) float64 or None
        Of the Snake before the layer; logarithms where `log_scale`.
    log_scale : bool
    scale : float
        The input is multiplied by it.
    """

    weight: FloatingArray
    magnitude: FloatingArray | None
    bias: FloatingArray | None
    alpha: FloatingArray | None
    beta: FloatingArray | None
    log_scale: bool = False
    scale: float = 1.0


Tensors = Iterable[tuple[Layer, LayerTensors]]
"""A half's layers in order; taken once."""


def stored_tensors(
    half: Half, layers: Sequence[Layer], config: OobleckConfig
) -> Iterator[tuple[Layer, LayerTensors]]:
    """The tensors of a checkpoint, each read when it is asked for.

    Parameters
    ----------
    half : Half
        A decoder or an encoder that was loaded without a fault.
    layers : sequence of Layer
        Its layers.
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
    """Our own parameters: weight norm folded, Snake's scales and the latents' scale taken."""
    for index, layer in enumerate(network.layers):
        weight, bias, alpha, inverse_beta = unpack_layer(network, index)
        beta = None
        if inverse_beta is not None:
            with np.errstate(divide="ignore"):
                beta = 1.0 / inverse_beta.astype(np.float64) - config.snake_epsilon
        yield layer, LayerTensors(weight, None, bias, alpha, beta)
