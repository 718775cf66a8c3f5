"""Random tensors for the components, in the form in which a checkpoint stores them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.components import GEOMETRY, IDENTITY
from oobleck_stream.network import Layer
from oobleck_stream.parameters import RandomParameters, fold_snake, fold_weight_norm
from oobleck_stream.reference import LayerTensors

NamedTensors = dict[str, FloatArray]


def draw_tensors(layers: Sequence[Layer], seed: int = 0) -> NamedTensors:
    """Draw the tensors of `layers`, keyed by their names in stable-audio-tools.

    The weights and biases come from `RandomParameters`, which keeps activations from growing or
    vanishing in a deep network. The magnitudes of weight norm then change each weight's norm by at
    most 10 %. Alpha and beta are drawn as exp(N(0, 0.3)), because this geometry does not store them
    as logarithms.
    """
    parameters = RandomParameters(GEOMETRY, seed)
    generator = np.random.default_rng(seed)
    tensors: NamedTensors = {}
    for layer in layers:
        v = parameters.weight(layer)
        if layer.name == IDENTITY:
            v = np.eye(layer.outputs, dtype=np.float32)[:, :, None]
        norms = np.sqrt(np.einsum("ijk,ijk->i", v, v, dtype=np.float64))[:, None, None]
        if layer.name != IDENTITY:
            norms *= generator.uniform(0.9, 1.1, norms.shape)
        tensors[f"{layer.name}.weight_v"] = v
        tensors[f"{layer.name}.weight_g"] = norms.astype(np.float32)
        if layer.bias:
            tensors[f"{layer.name}.bias"] = parameters.bias(layer)
        for part in ("alpha", "beta") if layer.snake else ():
            drawn = np.exp(0.3 * generator.standard_normal(layer.inputs))
            tensors[f"{layer.snake}.{part}"] = drawn.astype(np.float32)
    return tensors


class DrawnParameters:
    """Supplies tensors from `draw_tensors` as `Parameters`, for packing.

    Parameters
    ----------
    tensors : dict of str to float32 array
    """

    def __init__(self, tensors: NamedTensors) -> None:
        self._tensors = tensors

    def weight(self, layer: Layer) -> FloatArray:
        """Return the weight with weight norm folded into it."""
        g, v = (self._tensors[f"{layer.name}.weight_{part}"] for part in "gv")
        return fold_weight_norm(g, v)

    def bias(self, layer: Layer) -> FloatArray:
        """Return the bias."""
        return self._tensors[f"{layer.name}.bias"]

    def snake(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        """Return alpha and 1 / beta."""
        alpha, beta = (self._tensors[f"{layer.snake}.{part}"] for part in ("alpha", "beta"))
        return fold_snake(alpha, beta, GEOMETRY)


def layer_tensors(
    layers: Sequence[Layer], tensors: NamedTensors
) -> Iterator[tuple[Layer, LayerTensors]]:
    """Yield each layer and its tensors, for the reference."""
    for layer in layers:
        g, v = (tensors[f"{layer.name}.weight_{part}"] for part in "gv")
        bias = tensors[f"{layer.name}.bias"] if layer.bias else None
        alpha, beta = (tensors.get(f"{layer.snake}.{part}") for part in ("alpha", "beta"))
        yield layer, LayerTensors(v, g, bias, alpha, beta)
