"""The design document's operations with random weights, and what they are by its formulas.

The reference is NumPy in float64 and shares nothing with the decoder but the layers' sizes: it
starts at the tensors as a checkpoint holds them, weight norm not folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import PRESETS
from oobleck_stream.network import Layer
from oobleck_stream.parameters import RandomParameters, fold_snake, fold_weight_norm

DOCUMENT = PRESETS["document"]
IDENTITY = "identity"
"""Name of a product that changes nothing: what comes out of it is its Snake's."""

BLOCK_ROWS = 4096
"""Rows that the reference works on at a time: they stay in the cache."""

Tensors = dict[str, FloatArray]
DoubleArray = npt.NDArray[np.float64]


def draw_tensors(layers: Sequence[Layer], seed: int = 0) -> Tensors:
    """Random tensors of some layers, under stable-audio-tools' names.

    Weights and biases are as large as those of `RandomParameters`, which keep a deep network calm;
    their norms are up to a tenth larger or smaller. Alpha and beta are exp(N(0, 0.3)).
    """
    calm = RandomParameters(DOCUMENT, seed)
    generator = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer in layers:
        v = calm.weight(layer)
        if layer.name == IDENTITY:
            v = np.eye(layer.outputs, dtype=np.float32)[:, :, None]
        norms = np.sqrt(np.einsum("ijk,ijk->i", v, v, dtype=np.float64))[:, None, None]
        if layer.name != IDENTITY:
            norms *= generator.uniform(0.9, 1.1, norms.shape)
        tensors[f"{layer.name}.weight_v"] = v
        tensors[f"{layer.name}.weight_g"] = norms.astype(np.float32)
        if layer.bias:
            tensors[f"{layer.name}.bias"] = calm.bias(layer)
        for part in ("alpha", "beta") if layer.snake else ():
            drawn = np.exp(0.3 * generator.standard_normal(layer.inputs))
            tensors[f"{layer.snake}.{part}"] = drawn.astype(np.float32)
    return tensors


class DocumentParameters:
    """The `Parameters` of such tensors, in the document's convention.

    Parameters
    ----------
    tensors : dict of str to float32 array
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def weight(self, layer: Layer) -> FloatArray:
        """The weight, its norm folded."""
        g, v = (self._tensors[f"{layer.name}.weight_{part}"] for part in "gv")
        return fold_weight_norm(g, v)

    def bias(self, layer: Layer) -> FloatArray:
        """The bias."""
        return self._tensors[f"{layer.name}.bias"]

    def snake(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        """Alpha and 1 / beta."""
        alpha, beta = (self._tensors[f"{layer.snake}.{part}"] for part in ("alpha", "beta"))
        return fold_snake(alpha, beta, DOCUMENT)


def reference(
    layers: Sequence[Layer], tensors: Tensors, rows: npt.NDArray[np.floating]
) -> Iterator[DoubleArray]:
    """What the document's formulas make of rows, after each layer.

    Parameters
    ----------
    layers : sequence of Layer
    tensors : dict of str to float32 array
        As `draw_tensors` gives them.
    rows : (n, inputs) float array

    Yields
    ------
    (m, outputs) float64
    """
    x = before = rows.astype(np.float64)
    for layer in layers:
        source = x
        if layer.snake:
            alpha, beta = (tensors[f"{layer.snake}.{part}"] for part in ("alpha", "beta"))
            x = _snake(x, alpha.astype(np.float64), beta.astype(np.float64))
        g, v = (tensors[f"{layer.name}.weight_{part}"].astype(np.float64) for part in "gv")
        v *= g / np.sqrt(np.sum(v * v, axis=(1, 2), keepdims=True))
        x = _transposed(x, v, layer) if layer.transposed else _convolution(x, v, layer)
        if layer.bias:
            x += tensors[f"{layer.name}.bias"]
        if layer.residual:
            x += before
        yield x
        before = source


def _snake(x: DoubleArray, alpha: DoubleArray, beta: DoubleArray) -> DoubleArray:
    """``x + sin(alpha * x)**2 / beta``."""
    y = np.empty_like(x)
    for first in range(0, len(x), BLOCK_ROWS):
        block = x[first : first + BLOCK_ROWS]
        y[first : first + BLOCK_ROWS] = block + np.sin(alpha * block) ** 2 / beta
    return y


def _convolution(x: DoubleArray, weight: DoubleArray, layer: Layer) -> DoubleArray:
    """``y[t] = sum_k W[:, :, k] x[t * stride + k * dilation - padding]``."""
    y = np.zeros((layer.output_length(len(x)), layer.outputs))
    x = np.pad(x, ((layer.padding, layer.padding), (0, 0)))
    taps = np.ascontiguousarray(weight.transpose(2, 1, 0))
    for first in range(0, len(y), BLOCK_ROWS):
        block = y[first : first + BLOCK_ROWS]
        for position, tap in enumerate(taps):
            begin = first * layer.stride + position * layer.dilation
            block += x[begin :: layer.stride][: len(block)] @ tap
    return y


def _transposed(x: DoubleArray, weight: DoubleArray, layer: Layer) -> DoubleArray:
    """``y[t * stride + k - padding] += x[t] W[:, :, k]``."""
    length, stride = layer.output_length(len(x)), layer.stride
    y = np.zeros((max(len(x) * stride + layer.kernel, layer.padding + length), layer.outputs))
    for position, tap in enumerate(np.ascontiguousarray(weight.transpose(2, 0, 1))):
        y[position:][: len(x) * stride : stride] += x @ tap
    return y[layer.padding : layer.padding + length].copy()
