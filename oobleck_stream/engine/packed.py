"""A network's parameters in one float32 array, packed in the order in which the kernels read them.

`oobleck_stream.engine.program` describes the panels of the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray, aligned_zeros
from oobleck_stream.engine.program import LANES, PANEL, weight_panel
from oobleck_stream.fast_convolution import fold_points
from oobleck_stream.network import Layer


def padded(count: int) -> int:
    """Return a number of channels, rounded up to whole vectors."""
    return -(-count // LANES) * LANES


@dataclass(frozen=True)
class ParameterOffsets:
    """Offsets of a layer's parameters in the packed array, in floats.

    `points` is the offset of the weights of a fast convolution, or -1 for a direct convolution.
    `alpha` and `inverse_beta` are the offsets of the parameters of the Snake before the layer, or
    -1 if there is none.
    """

    weights: int
    points: int
    bias: int
    alpha: int
    inverse_beta: int


def parameter_offsets(layers: Sequence[Layer]) -> tuple[list[ParameterOffsets], int]:
    """The offsets of every layer, and the length of the array. Each part is aligned to 64 bytes."""
    found, end = [], 0
    for layer in layers:
        weights = end
        # The weights end where the weights of another phase after the last would start.
        end += weight_panel(layer.taps, layer.inputs, layer.outputs, layer.phases, 0)[0]
        points = -1
        if layer.scheme:
            points = end
            end += weight_panel(layer.scheme.points, layer.inputs, layer.outputs, 1, 0)[0]
        bias = end
        end += padded(layer.outputs)
        alpha = inverse_beta = -1
        if layer.snake:
            alpha, inverse_beta = end, end + padded(layer.inputs)
            end += 2 * padded(layer.inputs)
        found.append(ParameterOffsets(weights, points, bias, alpha, inverse_beta))
    return found, end


@dataclass(frozen=True)
class PackedNetwork:
    """Layers and their packed parameters; any number of streams can share them.

    Parameters
    ----------
    layers : tuple of Layer
    data : (n,) float32
        All parameters, at the offsets of `parameter_offsets`. This may be a memory map.
    offsets : tuple of ParameterOffsets
        The offsets of each layer.
    """

    layers: tuple[Layer, ...]
    data: FloatArray
    offsets: tuple[ParameterOffsets, ...]

    @classmethod
    def over(cls, layers: Sequence[Layer], data: FloatArray) -> PackedNetwork:
        """View `data` as the parameters of `layers`; raise ``ValueError`` if its size is wrong."""
        where, length = parameter_offsets(layers)
        if data.shape != (length,) or data.dtype != np.float32:
            raise ValueError(
                f"packed parameters of {length} float32 were expected, "
                f"not {data.dtype} of shape {data.shape}"
            )
        return cls(tuple(layers), data, tuple(where))

    def __copy__(self) -> PackedNetwork:
        """The network itself, because it never changes."""
        return self

    def __deepcopy__(self, memo: object) -> PackedNetwork:
        """The network itself, because it never changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network with all parameters, even if they are in a memory map."""
        return _unpickled, (self.layers, np.asarray(self.data))

    @classmethod
    def empty(cls, layers: Sequence[Layer]) -> PackedNetwork:
        """Make a network whose parameters are zeros; `pack_layer` fills them in."""
        return cls.over(layers, aligned_zeros(parameter_offsets(layers)[1]))


def _unpickled(layers: Sequence[Layer], data: FloatArray) -> PackedNetwork:
    network = PackedNetwork.empty(layers)
    network.data[:] = data
    network.data.flags.writeable = False
    return network


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
        The layer's index.
    weight : float array
        In torch's order: (outputs, inputs, kernel), or (inputs, outputs, kernel) if the layer is
        transposed. Weight norm must be folded into it.
    bias : (outputs,) float array, optional
    alpha, inverse_beta : (inputs,) float arrays, optional
        Parameters of the Snake before the layer, ``x + inverse_beta * sin(alpha * x)**2``. They are
        not logarithms.
    """
    layer, offsets, data = network.layers[index], network.offsets[index], network.data
    by_input = weight if layer.transposed else weight.transpose(1, 0, 2)
    for packed, columns, position in _weight_parts(network, index):
        packed[:] = by_input[:, columns, position]
    if layer.scheme:
        points = fold_points(by_input, layer.scheme)
        for column in range(0, layer.outputs, PANEL):
            panel = _panel(network, offsets.points, layer.scheme.points, layer, 0, column)
            panel[:, :, : layer.outputs - column] = points[:, :, column : column + PANEL]
    if bias is not None:
        data[offsets.bias : offsets.bias + layer.outputs] = bias
    if alpha is not None and inverse_beta is not None:
        data[offsets.alpha : offsets.alpha + layer.inputs] = alpha
        data[offsets.inverse_beta : offsets.inverse_beta + layer.inputs] = inverse_beta


def unpack_layer(
    network: PackedNetwork, index: int
) -> tuple[FloatArray, FloatArray | None, FloatArray | None, FloatArray | None]:
    """Return one layer's parameters as they were passed to `pack_layer`.

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


def retiled(network: PackedNetwork, layers: Sequence[Layer]) -> PackedNetwork:
    """Return the network with layers that differ only in `Layer.tile` and `Layer.grid`.

    If possible, both networks share the packed parameters. The parameters of a fast layer also
    serve direct convolution.
    """
    pairs = zip(layers, network.layers, strict=True)
    if all(layer.tile in (1, old.tile) for layer, old in pairs):
        return dataclasses.replace(network, layers=tuple(layers))
    packed = PackedNetwork.empty(layers)
    for index in range(len(layers)):
        pack_layer(packed, index, *unpack_layer(network, index))
    packed.data.flags.writeable = False
    return packed


def _panel(
    network: PackedNetwork, weights: int, taps: int, layer: Layer, phase: int, column: int
) -> FloatArray:
    """View of a panel, (taps, inputs, width)."""
    offset, width = weight_panel(taps, layer.inputs, layer.outputs, phase, column)
    size = taps * layer.inputs * width
    part = network.data[weights + offset : weights + offset + size]
    return part.reshape(taps, layer.inputs, width)


def _weight_parts(network: PackedNetwork, index: int) -> Iterator[tuple[FloatArray, slice, int]]:
    """Yield views of a layer's packed weights, one for each phase, panel and tap.

    Yields
    ------
    packed : (inputs, columns) float32
    columns : slice
        The output channels.
    position : int
        Index of the weights in the kernel. In a transposed layer, some phases and taps lie beyond
        the end of the kernel. They are not yielded, and their weights stay zero.
    """
    layer = network.layers[index]
    for phase in range(layer.phases):
        for column in range(0, layer.outputs, PANEL):
            weights = network.offsets[index].weights
            panel = _panel(network, weights, layer.taps, layer, phase, column)
            count = min(PANEL, layer.outputs - column)
            for tap in range(layer.taps):
                position = tap
                if layer.transposed:
                    position = phase + (layer.taps - 1 - tap) * layer.stride
                if position < layer.kernel:
                    yield panel[tap, :, :count], slice(column, column + count), position
