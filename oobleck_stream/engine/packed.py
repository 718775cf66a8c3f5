"""A network's parameters in the order in which the kernels read them: one flat float32 array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from oobleck_stream.arrays import FloatArray, aligned_zeros
from oobleck_stream.engine.program import LANES, PANEL
from oobleck_stream.network import Layer


def padded(count: int) -> int:
    """Channels in whole vectors of sixteen."""
    return -(-count // LANES) * LANES


@dataclass(frozen=True)
class ParameterOffsets:
    """Where a layer's parameters start in the flat array, in floats.

    `alpha` and `inverse_beta` belong to the Snake of the layer's input (-1 where it has none).
    """

    weights: int
    bias: int
    alpha: int
    inverse_beta: int


def parameter_offsets(layers: Sequence[Layer]) -> tuple[list[ParameterOffsets], int]:
    """The place of every layer and the length of the array; each part starts at 64 bytes."""
    found, end = [], 0
    for layer in layers:
        weights = end
        end += layer.phases * layer.taps * layer.inputs * padded(layer.outputs)
        bias = end
        end += padded(layer.outputs)
        alpha = inverse_beta = -1
        if layer.snake:
            alpha, inverse_beta = end, end + padded(layer.inputs)
            end += 2 * padded(layer.inputs)
        found.append(ParameterOffsets(weights, bias, alpha, inverse_beta))
    return found, end


@dataclass(frozen=True)
class PackedNetwork:
    """Layers and their packed parameters; immutable, shared by any number of streams.

    Parameters
    ----------
    layers : tuple of Layer
    data : (n,) float32
        All parameters, as `parameter_offsets` lays them out; may be a memory map.
    """

    layers: tuple[Layer, ...]
    data: FloatArray
    offsets: tuple[ParameterOffsets, ...]

    @classmethod
    def over(cls, layers: Sequence[Layer], data: FloatArray) -> PackedNetwork:
        """View `data` as the parameters of `layers`; ``ValueError`` if its length is another."""
        where, length = parameter_offsets(layers)
        if data.shape != (length,) or data.dtype != np.float32:
            raise ValueError(
                f"packed parameters of {length} float32 were expected, "
                f"not {data.dtype} of shape {data.shape}"
            )
        return cls(tuple(layers), data, tuple(where))

    @classmethod
    def empty(cls, layers: Sequence[Layer]) -> PackedNetwork:
        """Zeros, to be filled by `pack_layer`."""
        return cls.over(layers, aligned_zeros(parameter_offsets(layers)[1]))


def pack_layer(
    network: PackedNetwork,
    index: int,
    weight: FloatArray,
    bias: FloatArray | None = None,
    alpha: FloatArray | None = None,
    inverse_beta: FloatArray | None = None,
) -> None:
    """Write one layer's parameters into their offsets.

    Parameters
    ----------
    network : PackedNetwork
        Its `data` must be writable.
    index : int
        The layer's number.
    weight : float array
        In torch's order: (outputs, inputs, kernel), transposed (inputs, outputs, kernel); weight
        norm folded.
    bias : (outputs,) float array, optional
    alpha, inverse_beta : (inputs,) float arrays, optional
        Of the Snake before the layer, scales taken: ``x + inverse_beta * sin(alpha * x)**2``.
    """
    layer, offsets, data = network.layers[index], network.offsets[index], network.data
    by_input = weight if layer.transposed else weight.transpose(1, 0, 2)
    for packed, columns, position in _weight_parts(network, index):
        packed[:] = by_input[:, columns, position]
    if bias is not None:
        data[offsets.bias : offsets.bias + layer.outputs] = bias
    if alpha is not None and inverse_beta is not None:
        data[offsets.alpha : offsets.alpha + layer.inputs] = alpha
        data[offsets.inverse_beta : offsets.inverse_beta + layer.inputs] = inverse_beta


def unpack_layer(
    network: PackedNetwork, index: int
) -> tuple[FloatArray, FloatArray | None, FloatArray | None, FloatArray | None]:
    """One layer's parameters as `pack_layer` took them.

    Returns
    -------
    weight : float32 array
        In torch's order.
    bias : (outputs,) float32, or None
    alpha, inverse_beta : (inputs,) float32, or None
    """
    layer, offsets, data = network.layers[index], network.offsets[index], network.data
    by_input = np.empty((layer.inputs, layer.outputs, layer.kernel), np.float32)
    for packed, columns, position in _weight_parts(network, index):
        by_input[:, columns, position] = packed
    weight = by_input if layer.transposed else by_input.transpose(1, 0, 2).copy()
    bias = data[offsets.bias : offsets.bias + layer.outputs].copy() if layer.bias else None
    if not layer.snake:
        return weight, bias, None, None
    alpha = data[offsets.alpha : offsets.alpha + layer.inputs].copy()
    inverse_beta = data[offsets.inverse_beta : offsets.inverse_beta + layer.inputs].copy()
    return weight, bias, alpha, inverse_beta


def _weight_parts(network: PackedNetwork, index: int) -> Iterator[tuple[FloatArray, slice, int]]:
    """Views of the packed weights, (inputs, columns) each; which columns, and where in the kernel.

    A transposed layer's kernel may end before its last tap does; the weights there stay zero.
    """
    layer, panels = network.layers[index], network.offsets[index].weights
    for phase in range(layer.phases):
        for column in range(0, layer.outputs, PANEL):
            count = min(PANEL, layer.outputs - column)
            width = PANEL if count > LANES else LANES
            size = layer.taps * layer.inputs * width
            panel = network.data[panels : panels + size].reshape(layer.taps, layer.inputs, width)
            panels += size
            for tap in range(layer.taps):
                position = tap
                if layer.transposed:
                    position = phase + (layer.taps - 1 - tap) * layer.stride
                if position < layer.kernel:
                    yield panel[tap, :, :count], slice(column, column + count), position
