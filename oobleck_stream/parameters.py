"""Sources of a network's parameters, and the conversion of stored to packed parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.packed import PackedNetwork, narrowed, pack_layer
from oobleck_stream.network import Layer


class Parameters(Protocol):
    """A source of parameters, which are folded in float64 and rounded once to float32."""

    def weight(self, layer: Layer) -> FloatArray:
        """The weight in torch's order, with weight norm folded in.

        Its shape is (outputs, inputs, kernel), or (inputs, outputs, kernel) if the layer is
        transposed.
        """

    def bias(self, layer: Layer) -> FloatArray:
        """The bias, (outputs,). This is called only for a layer with a bias."""

    def snake(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        """Alpha and 1 / (beta + epsilon), both (inputs,), not as logarithms.

        This is called only for a layer with a Snake.
        """


def pack_network(
    layers: Sequence[Layer], parameters: Parameters, input_scale: float = 1.0
) -> PackedNetwork:
    """Pack the parameters of every layer, and store weights in 16 bits where this is exact.

    Parameters
    ----------
    layers : sequence of Layer
    parameters : Parameters
    input_scale : float
        Factor for the network's input. The first layer's weights are multiplied by it in float64,
        and rounded to float32 again.
    """
    network = PackedNetwork.empty(layers)
    for index, layer in enumerate(layers):
        weight = parameters.weight(layer)
        if index == 0 and input_scale != 1.0:
            with np.errstate(over="ignore"):
                weight = (weight.astype(np.float64) * input_scale).astype(np.float32)
        bias = parameters.bias(layer) if layer.bias else None
        alpha, inverse_beta = parameters.snake(layer) if layer.snake else (None, None)
        pack_layer(network, index, weight, bias, alpha, inverse_beta)
    network = narrowed(network)
    network.data.flags.writeable = False
    return network


def fold_weight_norm(
    magnitude: npt.NDArray[np.floating], direction: npt.NDArray[np.floating]
) -> FloatArray:
    """Fold weight norm: compute ``g * v / ||v||`` in float64 and round once to float32.

    The norm is over all axes but the first (https://arxiv.org/abs/1602.07868).

    Parameters
    ----------
    magnitude : (n, 1, 1) float array
        `weight_g`, or `parametrizations.weight.original0`.
    direction : (n, m, kernel) float array
        `weight_v`, or `parametrizations.weight.original1`.

    Returns
    -------
    (n, m, kernel) float32
    """
    folded = np.empty(direction.shape, np.float32)
    for row in range(len(direction)):
        # Fold row by row, so that NumPy's summation order depends only on the row's length and no
        # float64 copy of the whole tensor is made.
        v = direction[row].astype(np.float64)
        folded[row] = v * (np.float64(magnitude[row, 0, 0]) / np.sqrt(np.sum(v * v)))
    return folded


def fold_snake(
    alpha: npt.NDArray[np.floating], beta: npt.NDArray[np.floating], config: OobleckConfig
) -> tuple[FloatArray, FloatArray]:
    """Convert the stored parameters of a Snake to alpha and 1 / (beta + epsilon).

    Parameters
    ----------
    alpha, beta : float arrays of the same size
        The values as stored. They are logarithms if `config.snake_log_scale` is true.
    config : OobleckConfig

    Returns
    -------
    alpha, inverse_beta : (n,) float32
        Both are computed in float64 and rounded once.
    """
    a, b = alpha.astype(np.float64).ravel(), beta.astype(np.float64).ravel()
    if config.snake_log_scale:
        a, b = np.exp(a), np.exp(b)
    return a.astype(np.float32), (1.0 / (b + config.snake_epsilon)).astype(np.float32)


class RandomParameters:
    """Random parameters that keep activations at a constant scale, for tests and benchmarks.

    Parameters
    ----------
    config : OobleckConfig
    seed : int
        Each tensor has a separate generator, seeded with `seed` and the tensor's name.
    """

    def __init__(self, config: OobleckConfig, seed: int = 0) -> None:
        self._config = config
        self._seed = seed

    def _generator(self, layer: Layer, part: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, *f"{layer.name}.{part}".encode()])

    def weight(self, layer: Layer) -> FloatArray:
        """Draw from a uniform distribution around 0.

        The width of the distribution depends on the fan-in, so that activations neither grow nor
        vanish.
        """
        first, second = layer.outputs, layer.inputs
        if layer.transposed:
            first, second = second, first
        generator = self._generator(layer, "weight")
        weight = generator.random((first, second, layer.kernel), np.float32)
        weight -= np.float32(0.5)
        weight *= np.float32((0.3 if layer.residual else 1.2) / np.sqrt(layer.inputs * layer.taps))
        return weight

    def bias(self, layer: Layer) -> FloatArray:
        """Draw from a normal distribution with a standard deviation of 0.1."""
        generator = self._generator(layer, "bias")
        return np.float32(0.1) * generator.standard_normal(layer.outputs, np.float32)

    def snake(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        """Draw from log-normal distributions; the logarithms have a standard deviation of 0.3."""
        generator = self._generator(layer, "snake")
        alpha, beta = 0.3 * generator.standard_normal((2, layer.inputs))
        if not self._config.snake_log_scale:
            alpha, beta = np.exp(alpha), np.exp(beta)
        return fold_snake(alpha, beta, self._config)
