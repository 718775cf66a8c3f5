"""Reconstructs a checkpoint's tensors from packed networks.

Folding can't be undone, but the reconstructed tensors fold to the same packed network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.packed import PackedNetwork, unpack_layer
from oobleck_stream.formats.dtypes import FloatingArray
from oobleck_stream.formats.tensors import Container, Tensor

NOTES = (
    "the weight norm was folded when the network was packed, and stays folded",
    "the Snakes' parameters are computed from the packed ones, as float64: the sound stays "
    "bit-identical unless they are rounded",
)

_TINY, _HUGE = 1e-60, 1e60
"""Float64 numbers that stand for 0 and infinity. Both numbers and their logarithms are finite.
Rounded to float32, `_TINY` becomes 0 and `_HUGE` becomes infinity."""


def unpacked(path: Path, config: OobleckConfig, *networks: PackedNetwork) -> Container:
    """Return a container with tensors reconstructed from packed networks.

    The tensors have stable-audio-tools' names. The weights of the first layer still include the
    latent scale.

    Parameters
    ----------
    path : Path
        The source of the networks, for messages.
    config : OobleckConfig
        The config, which determines how Snakes are stored.
    *networks : PackedNetwork
    """
    tensors = {
        tensor.name: tensor
        for network in networks
        for index in range(len(network.layers))
        for tensor in _layer_tensors(network, index, config)
    }
    return Container(path, tensors, {}, (path,))


def _layer_tensors(network: PackedNetwork, index: int, config: OobleckConfig) -> Iterator[Tensor]:
    """Yield the tensors of a layer. Each tensor unpacks its values when it is read."""
    layer = network.layers[index]
    shape = (layer.outputs, layer.inputs, layer.kernel)
    if layer.transposed:
        shape = (layer.inputs, layer.outputs, layer.kernel)
    # `part(number)` returns a function that calls `_part` with this number.
    part = functools.partial(functools.partial, _part, network, index)
    yield Tensor(f"{layer.name}.weight", shape, "F32", part(0))
    if layer.bias:
        yield Tensor(f"{layer.name}.bias", (layer.outputs,), "F32", part(1))
    if layer.snake:
        alpha = functools.partial(_alpha, part(2), config)
        beta = functools.partial(_beta, part(3), config)
        yield Tensor(f"{layer.snake}.alpha", (layer.inputs,), "F64", alpha)
        yield Tensor(f"{layer.snake}.beta", (layer.inputs,), "F64", beta)


def _part(network: PackedNetwork, index: int, number: int) -> FloatArray:
    """Return parameter `number` of a layer: weight, bias, alpha or 1 / (beta + epsilon)."""
    part = unpack_layer(network, index)[number]
    assert part is not None
    return part


def _alpha(read: Callable[[], FloatArray], config: OobleckConfig) -> FloatingArray:
    """Return alpha or its logarithm in float64. `fold_snake` makes the packed value from it."""
    alpha = read().astype(np.float64)
    return np.log(np.maximum(alpha, _TINY)) if config.snake_log_scale else alpha


def _beta(read: Callable[[], FloatArray], config: OobleckConfig) -> FloatingArray:
    """Return beta or its logarithm in float64. `fold_snake` makes the packed value from it."""
    inverse = read().astype(np.float64)
    beta = np.divide(1.0, inverse, out=np.full_like(inverse, _HUGE), where=inverse != 0)
    beta -= config.snake_epsilon
    return np.log(np.clip(beta, _TINY, _HUGE)) if config.snake_log_scale else beta
