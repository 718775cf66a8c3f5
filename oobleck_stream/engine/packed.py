"""A network's parameters in one float32 array, packed in the order in which the kernels read them.

`oobleck_stream.engine.program` describes the panels of the weights. If all weights of a layer are
16-bit floats, as in folded 16-bit checkpoints, they are stored in 16 bits, two in each float of the
array. The kernels convert them to float32, which is exact, so the samples are bit-identical.
Weights with weight norm are float32 after folding, whatever the checkpoint's dtype is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray, aligned_zeros
from oobleck_stream.engine.program import LANES, PANEL, WEIGHT_DTYPES, weight_panel
from oobleck_stream.fast_convolution import fold_points
from oobleck_stream.formats.dtypes import FLOATS, from_stored, to_stored
from oobleck_stream.network import Layer


def padded(count: int) -> int:
    """Round a number of floats up to whole vectors."""
    return -(-count // LANES) * LANES


@dataclass(frozen=True)
class ParameterOffsets:
    """Offsets of a layer's parameters in the packed array, in floats.

    `points` is the offset of the weights of a fast convolution, or -1 for a direct convolution.
    `alpha` and `inverse_beta` are the offsets of the parameters of the Snake before the layer, or
    -1 if there is none. `dtype` is the dtype of the weights, one of `WEIGHT_DTYPES`; all other
    parameters are float32.
    """

    weights: int
    points: int
    bias: int
    alpha: int
    inverse_beta: int
    dtype: str = "F32"


def parameter_offsets(
    layers: Sequence[Layer], dtypes: Sequence[str] | None = None
) -> tuple[list[ParameterOffsets], int]:
    """Return the offsets of every layer, and the length of the array, both in floats.

    Each part is aligned to 64 bytes. `dtypes` are the dtypes of the layers' weights, by default
    float32.
    """
    found, end = [], 0
    for layer, dtype in zip(layers, dtypes or ["F32"] * len(layers), strict=True):
        weights = end
        # The weights end where the weights of one more phase would start.
        count = weight_panel(layer.taps, layer.inputs, layer.outputs, layer.phases, 0)[0]
        end += padded(count * FLOATS[dtype].stored.itemsize // 4)
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
        found.append(ParameterOffsets(weights, points, bias, alpha, inverse_beta, dtype))
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
    def over(
        cls, layers: Sequence[Layer], data: FloatArray, dtypes: Sequence[str] | None = None
    ) -> PackedNetwork:
        """View `data` as the parameters of `layers`; raise ``ValueError`` if its size is wrong.

        `dtypes` are the dtypes of the layers' weights, by default float32.
        """
        where, length = parameter_offsets(layers, dtypes)
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
        return _unpickled, (self.layers, np.asarray(self.data), self.dtypes)

    @classmethod
    def empty(cls, layers: Sequence[Layer], dtypes: Sequence[str] | None = None) -> PackedNetwork:
        """Make a network whose parameters are zeros; `pack_layer` fills them in."""
        return cls.over(layers, aligned_zeros(parameter_offsets(layers, dtypes)[1]), dtypes)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the layers' weights."""
        return tuple(offsets.dtype for offsets in self.offsets)

    @functools.cached_property
    def widened(self) -> PackedNetwork:
        """The same network with weights in float32; the network itself if they are already."""
        wide = ("F32",) * len(self.layers)
        return self if self.dtypes == wide else repacked(self, self.layers, wide)


def _unpickled(
    layers: Sequence[Layer], data: FloatArray, dtypes: Sequence[str] | None = None
) -> PackedNetwork:
    network = PackedNetwork.empty(layers, dtypes)
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
    """Write one layer's parameters at their offsets.

    Parameters
    ----------
    network : PackedNetwork
        Its `data` must be writable.
    index : int
        The layer's index.
    weight : float array
        The weight in torch's order: (outputs, inputs, kernel), or (inputs, outputs, kernel) if the
        layer is transposed. Weight norm must be folded in, and all values must be exact in the
        layer's dtype.
    bias : (outputs,) float array, optional
    alpha, inverse_beta : (inputs,) float arrays, optional
        Parameters of the Snake before the layer, ``x + inverse_beta * sin(alpha * x)**2``. They are
        not logarithms.
    """
    layer, offsets, data = network.layers[index], network.offsets[index], network.data
    by_input = weight if layer.transposed else weight.transpose(1, 0, 2)
    for packed, columns, position in _weight_parts(network, index):
        packed[:] = _stored(by_input[:, columns, position], offsets.dtype)
    if layer.scheme:
        points = fold_points(by_input, layer.scheme)
        for column in range(0, layer.outputs, PANEL):
            panel = _panel(network, offsets.points, "F32", layer.scheme.points, layer, 0, column)
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
        by_input[:, columns, position] = _float32(packed, offsets.dtype)
    weight = by_input if layer.transposed else by_input.transpose(1, 0, 2).copy()
    bias = data[offsets.bias : offsets.bias + layer.outputs].copy() if layer.bias else None
    if not layer.snake:
        return weight, bias, None, None
    alpha = data[offsets.alpha : offsets.alpha + layer.inputs].copy()
    inverse_beta = data[offsets.inverse_beta : offsets.inverse_beta + layer.inputs].copy()
    return weight, bias, alpha, inverse_beta


def retiled(network: PackedNetwork, layers: Sequence[Layer]) -> PackedNetwork:
    """Return the network with `layers`, which may differ from its own only in `tile` and `grid`.

    If possible, both networks share the packed parameters. The parameters of a fast layer also
    serve direct convolution.
    """
    pairs = zip(layers, network.layers, strict=True)
    if all(layer.tile in (1, old.tile) for layer, old in pairs):
        return dataclasses.replace(network, layers=tuple(layers))
    return repacked(network, layers)


def narrowed(network: PackedNetwork) -> PackedNetwork:
    """Return the network with each layer's weights in 16 bits, if this is exact for all of them."""
    dtypes = [_narrowest(network, index) for index in range(len(network.layers))]
    return network if dtypes == [*network.dtypes] else repacked(network, network.layers, dtypes)


def _narrowest(network: PackedNetwork, index: int) -> str:
    """The first 16-bit dtype in which all weights of a layer are exact; otherwise float32.

    Layers with a narrow panel keep float32, because kernels for 16-bit weights are compiled only
    for panels of full width.
    """
    if padded(network.layers[index].outputs) % PANEL:
        return "F32"
    dtypes = [dtype for dtype in WEIGHT_DTYPES if dtype != "F32"]
    for weights, _, _ in _weight_parts(network, index):
        values = _float32(weights, network.offsets[index].dtype)
        dtypes = [dtype for dtype in dtypes if _is_exact(values, dtype)]
        if not dtypes:
            return "F32"
    return dtypes[0]


def _is_exact(values: FloatArray, dtype: str) -> bool:
    """Whether float32 values stay bit-identical when they are stored in a 16-bit dtype."""
    try:
        stored = to_stored(values, dtype, "")
    except ValueError:
        return False
    return _float32(stored, dtype).tobytes() == values.tobytes()


def _stored(values: FloatArray, dtype: str) -> npt.NDArray[Any]:
    """Convert values to the dtype in which the packed array stores them."""
    return values if dtype == "F32" else to_stored(values, dtype, "weights")


def _float32(stored: npt.NDArray[Any], dtype: str) -> FloatArray:
    """Convert elements of the packed array to float32."""
    if dtype == "F32":
        return stored
    elements = np.ascontiguousarray(stored)
    return from_stored(elements.view(np.uint8), dtype).astype(np.float32)


def repacked(
    network: PackedNetwork, layers: Sequence[Layer], dtypes: Sequence[str] | None = None
) -> PackedNetwork:
    """Pack the parameters again, for layers that differ only in `Layer.tile` and `Layer.grid`.

    `dtypes` are the new dtypes of the layers' weights, by default those of `network`.
    """
    packed = PackedNetwork.empty(layers, dtypes or network.dtypes)
    for index in range(len(layers)):
        pack_layer(packed, index, *unpack_layer(network, index))
    packed.data.flags.writeable = False
    return packed


def _panel(
    network: PackedNetwork,
    weights: int,
    dtype: str,
    taps: int,
    layer: Layer,
    phase: int,
    column: int,
) -> npt.NDArray[Any]:
    """A view of a panel in the dtype in which it is stored, (taps, inputs, width)."""
    offset, width = weight_panel(taps, layer.inputs, layer.outputs, phase, column)
    size = taps * layer.inputs * width
    part = network.data[weights:].view(FLOATS[dtype].stored)[offset : offset + size]
    return part.reshape(taps, layer.inputs, width)


def _weight_parts(
    network: PackedNetwork, index: int
) -> Iterator[tuple[npt.NDArray[Any], slice, int]]:
    """Yield views of a layer's packed weights, one for each phase, panel and tap.

    Yields
    ------
    packed : (inputs, columns) array of the elements as stored
    columns : slice
        The output channels.
    position : int
        Index of these weights along the kernel. In a transposed layer, some phases and taps lie
        beyond the end of the kernel. They are not yielded, and their weights stay zero.
    """
    layer = network.layers[index]
    for phase in range(layer.phases):
        for column in range(0, layer.outputs, PANEL):
            weights, dtype = network.offsets[index].weights, network.offsets[index].dtype
            panel = _panel(network, weights, dtype, layer.taps, layer, phase, column)
            count = min(PANEL, layer.outputs - column)
            for tap in range(layer.taps):
                position = tap
                if layer.transposed:
                    position = phase + (layer.taps - 1 - tap) * layer.stride
                if position < layer.kernel:
                    yield panel[tap, :, :count], slice(column, column + count), position
