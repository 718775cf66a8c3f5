"""A simple reference implementation, which computes a whole piece at once from unpacked weights.

`apply` defines what a layer computes. The rest of this module converts parameters and supplies the
operations, either with NumPy in float64, which is slow, or with PyTorch. Validation, the benchmark
and the tests compare the streaming kernels with this reference. The reference starts from the
tensors of a checkpoint, before weight norm is folded, so it shares only `Layer` with the kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from oobleck_stream.network import Layer

FloatingArray = npt.NDArray[np.floating[Any]]
DoubleArray = npt.NDArray[np.float64]

BLOCK_ROWS = 4096
"""Number of rows that `NumPyOperations` processes at a time. They fit the CPU's cache."""


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """The parameters of a layer as they are stored in a checkpoint.

    Parameters
    ----------
    weight : float array
        The weight in torch's order. If the layer has weight norm, this is the direction `v`.
    magnitude : (n, 1, 1) float array or None
        The magnitude `g` of weight norm; None if the layer has no weight norm.
    bias : (outputs,) float array or None
    alpha, beta : (inputs,) float array or None
        Parameters of the Snake before the layer, or None if there is no Snake.
    log_scale : bool
        Whether `alpha` and `beta` are logarithms.
    scale : float
        Factor applied to the layer's input.
    """

    weight: FloatingArray
    magnitude: FloatingArray | None
    bias: FloatingArray | None
    alpha: FloatingArray | None
    beta: FloatingArray | None
    log_scale: bool = False
    scale: float = 1.0


Tensors = Iterable[tuple[Layer, LayerTensors]]
"""The layers of a decoder or an encoder in order, each with its tensors."""


class Operations(Protocol):
    """The array operations of one library. In the signatures, `Any` stands for its array type."""

    def array(self, values: DoubleArray) -> Any:
        """Convert a weight or a bias."""

    def per_channel(self, values: DoubleArray) -> Any:
        """Convert (channels,) values so that they broadcast over rows."""

    def from_rows(self, rows: FloatingArray) -> Any:
        """Convert (rows, channels) to the library's layout."""

    def to_rows(self, x: Any) -> FloatingArray:
        """Convert back to a (rows, channels) NumPy array."""

    def snake(self, x: Any, alpha: Any, inverse_beta: Any) -> Any:
        """Compute ``x + sin(alpha * x)**2 * inverse_beta`` (https://arxiv.org/abs/2006.08195)."""

    def convolution(self, x: Any, weight: Any, bias: Any, layer: Layer) -> Any:
        """Compute torch's Conv1d or ConvTranspose1d; `bias` may be None."""

    def tanh(self, x: Any) -> Any:
        """Compute tanh of every element."""


@dataclass(frozen=True, eq=False)
class PlainLayer:
    """A layer whose parameters are ready to use, without weight norm and logarithms."""

    layer: Layer
    weight: Any
    bias: Any
    alpha: Any
    inverse_beta: Any


def prepare(tensors: Tensors, operations: Operations, epsilon: float = 0.0) -> list[PlainLayer]:
    """Fold weight norm and Snake's parameters in float64, and return the layers ready to use.

    Parameters
    ----------
    tensors : iterable of (Layer, LayerTensors)
    operations : Operations
    epsilon : float
        Number added to Snake's beta. If beta is stored as a logarithm, the exp comes first.
    """
    network = []
    for layer, given in tensors:
        weight = given.weight.astype(np.float64)
        if given.magnitude is not None:
            norms = np.sqrt(np.sum(weight * weight, axis=(1, 2), keepdims=True))
            weight *= given.magnitude.astype(np.float64) / norms
        weight *= given.scale
        bias = alpha = inverse_beta = None
        if given.bias is not None:
            bias = operations.array(given.bias.astype(np.float64))
        if given.alpha is not None and given.beta is not None:
            a, b = given.alpha.astype(np.float64), given.beta.astype(np.float64)
            if given.log_scale:
                a, b = np.exp(a), np.exp(b)
            alpha = operations.per_channel(a)
            with np.errstate(divide="ignore"):
                inverse_beta = operations.per_channel(1 / (b + epsilon))
        network.append(PlainLayer(layer, operations.array(weight), bias, alpha, inverse_beta))
    return network


def apply(part: PlainLayer, x: Any, skipped: Any, operations: Operations) -> Any:
    """Apply one layer to `x`; `skipped` is the previous layer's input."""
    layer = part.layer
    if layer.snake:
        x = operations.snake(x, part.alpha, part.inverse_beta)
    y = operations.convolution(x, part.weight, part.bias, layer)
    if layer.residual:
        y = y + skipped
    return operations.tanh(y) if layer.tanh else y


def outputs(network: Sequence[PlainLayer], x: Any, operations: Operations) -> Iterator[Any]:
    """Yield the output of every layer for a whole input, in the axis order of `operations`."""
    skipped = x
    for part in network:
        x, skipped = apply(part, x, skipped, operations), x
        yield x


def output(network: Sequence[PlainLayer], x: Any, operations: Operations) -> Any:
    """Return the output of the last layer; keep at most three outputs in memory at a time."""
    last = x
    for y in outputs(network, x, operations):
        last = y
    return last


class NumPyOperations:
    """Operations on float64 NumPy arrays of shape (rows, channels)."""

    def array(self, values: DoubleArray) -> DoubleArray:
        """Return the values unchanged."""
        return values

    per_channel = array

    def from_rows(self, rows: FloatingArray) -> DoubleArray:
        """Convert to float64."""
        return rows.astype(np.float64)

    def to_rows(self, x: DoubleArray) -> DoubleArray:
        """Return the array unchanged."""
        return x

    def snake(self, x: DoubleArray, alpha: DoubleArray, inverse_beta: DoubleArray) -> DoubleArray:
        """Compute Snake block by block."""
        y = np.empty_like(x)
        for first in range(0, len(x), BLOCK_ROWS):
            block = x[first : first + BLOCK_ROWS]
            y[first : first + BLOCK_ROWS] = block + np.sin(alpha * block) ** 2 * inverse_beta
        return y

    def convolution(
        self, x: DoubleArray, weight: DoubleArray, bias: DoubleArray | None, layer: Layer
    ) -> DoubleArray:
        """Compute one matrix product for each tap of the kernel."""
        y = (_transposed if layer.transposed else _convolution)(x, weight, layer)
        return y if bias is None else y + bias

    def tanh(self, x: DoubleArray) -> DoubleArray:
        """Compute tanh with NumPy."""
        return np.tanh(x)


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


class TorchOperations:
    """Operations on torch tensors of shape (1, channels, rows).

    Parameters
    ----------
    device : str
    dtype : torch.dtype, optional
        The dtype of all tensors; by default float64.

    Raises
    ------
    ImportError
        If torch is not installed.
    """

    def __init__(self, device: str = "cpu", dtype: Any = None) -> None:
        import torch

        self._torch = torch
        self._device, self._dtype = device, dtype or torch.float64

    def array(self, values: FloatingArray) -> Any:
        """Convert to a tensor of the same shape."""
        copy = np.array(values, np.float64)
        return self._torch.from_numpy(copy).to(self._device, self._dtype)

    def per_channel(self, values: DoubleArray) -> Any:
        """Convert (channels,) to (channels, 1)."""
        return self.array(values)[:, None]

    def from_rows(self, rows: FloatingArray) -> Any:
        """Convert (rows, channels) to (1, channels, rows)."""
        return self.array(rows.T)[None]

    def to_rows(self, x: Any) -> FloatingArray:
        """Convert (1, channels, rows) to (rows, channels)."""
        rows: FloatingArray = x[0].T.cpu().numpy()
        return rows

    def snake(self, x: Any, alpha: Any, inverse_beta: Any) -> Any:
        """Compute Snake elementwise."""
        return x + self._torch.sin(alpha * x) ** 2 * inverse_beta

    def convolution(self, x: Any, weight: Any, bias: Any, layer: Layer) -> Any:
        """Compute the convolution with torch.nn.functional."""
        functional, shape = self._torch.nn.functional, (layer.stride, layer.padding)
        if layer.transposed:
            return functional.conv_transpose1d(x, weight, bias, *shape, layer.output_padding)
        return functional.conv1d(x, weight, bias, *shape, layer.dilation)

    def tanh(self, x: Any) -> Any:
        """Compute tanh elementwise."""
        return self._torch.tanh(x)
