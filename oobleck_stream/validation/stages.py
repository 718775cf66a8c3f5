"""Defines and computes the stages of a network, at which two implementations can be compared.

In order, the stages are the input convolution, each block, the Snake before the last convolution,
and the output. Every network of the family has them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bottleneck import distribution
from oobleck_stream.engine.packed import PackedNetwork, pack_layer, unpack_layer
from oobleck_stream.engine.stack import Stack
from oobleck_stream.model import Model
from oobleck_stream.network import Layer, output_length
from oobleck_stream.reference import FloatingArray, Operations, PlainLayer, outputs

Half = Literal["decoder", "encoder"]

INPUT_CONV = "input_conv"
FINAL_SNAKE = "final_snake"
OUTPUT = "output"


def stages(layers: Sequence[Layer]) -> dict[str, range]:
    """Return the indices of the layers of each stage.

    Parameters
    ----------
    layers : sequence of Layer
        A whole decoder or encoder.

    Returns
    -------
    dict of str to range
        The stages ``"input_conv"``, ``"block_1"``, ``"block_2"``..., ``"final_snake"`` and
        ``"output"``. The range of ``"final_snake"`` is empty, because this stage is the Snake of
        the last layer, which the range of ``"output"`` contains.
    """
    modules = [layer.name.split(".")[2] for layer in layers]
    groups = [
        list(group) for _, group in itertools.groupby(range(len(layers)), modules.__getitem__)
    ]
    blocks = {
        f"block_{number}": range(group[0], group[-1] + 1)
        for number, group in enumerate(groups[1:-1], start=1)
    }
    last = len(layers) - 1
    return {
        INPUT_CONV: range(0, 1),
        **blocks,
        FINAL_SNAKE: range(last, last),
        OUTPUT: range(last, last + 1),
    }


def stage_shapes(layers: Sequence[Layer], rows: int) -> dict[str, tuple[int, int]]:
    """Return the shape (rows, channels) after each stage, for a whole input of `rows` rows."""
    shapes, width = {}, layers[0].inputs
    for name, numbers in stages(layers).items():
        part = [layers[number] for number in numbers]
        rows = output_length(part, rows)
        width = part[-1].outputs if part else width
        shapes[name] = (rows, width)
    return shapes


def half_of(model: Model, half: Half) -> PackedNetwork:
    """Return a model's decoder or encoder.

    Raises
    ------
    CheckpointError
        If the model has no encoder.
    """
    return model.decoder if half == "decoder" else model.encoder


def layer_outputs(
    model: Model, rows: FloatArray, half: Half = "decoder", threads: int | None = None
) -> Iterator[tuple[str, FloatArray]]:
    """Compute the rows after every stage with the streaming kernels.

    Each stage is computed from the rows of the stage before it. The output is bit-identical to the
    output of the whole network.

    Parameters
    ----------
    model : Model
    rows : (n, inputs) float32, C-contiguous
        The whole input: latent frames for the decoder, samples for the encoder.
    half : {"decoder", "encoder"}
    threads : int, optional
        As for `StreamingDecoder`.

    Yields
    ------
    name : str
        ``"input_conv"``, ``"block_1"``..., ``"final_snake"``, ``"output"``.
    rows : (m, channels) float32
        The rows after the stage. A row of the encoder's output has the means first, then the
        scales.
    """
    network = half_of(model, half)
    for name, numbers in stages(network.layers).items():
        if name == FINAL_SNAKE:
            yield name, _run(_snake_alone(network), rows, threads)
            continue
        rows = _run(_part(network, numbers), rows, threads)
        yield name, rows


def whole_output(
    model: Model, rows: FloatArray, half: Half = "decoder", threads: int | None = None
) -> Iterator[tuple[str, FloatArray]]:
    """Compute only the output. The parameters and yielded values are those of `layer_outputs`."""
    yield OUTPUT, _run(half_of(model, half), rows, threads)


def reference_outputs(
    network: Sequence[PlainLayer], rows: FloatingArray, operations: Operations
) -> Iterator[tuple[str, FloatingArray]]:
    """Compute the rows after every stage with the plain layers of `oobleck_stream.reference`.

    Parameters
    ----------
    network : sequence of PlainLayer
        A whole decoder or encoder, from `reference.prepare`.
    rows : (n, inputs) float array
    operations : Operations

    Yields
    ------
    name : str
    rows : (m, channels) float array
    """
    x = operations.from_rows(rows)
    after_layers = outputs(network, x, operations)
    for name, numbers in stages([part.layer for part in network]).items():
        if name == FINAL_SNAKE:
            last = network[-1]
            snaked = operations.snake(x, last.alpha, last.inverse_beta)
            yield name, operations.to_rows(snaked)
            continue
        for _ in numbers:
            x = next(after_layers)
        yield name, operations.to_rows(x)


def _run(network: PackedNetwork, rows: FloatArray, threads: int | None) -> FloatArray:
    return Stack(network, threads).push(rows, last=True)


def _part(network: PackedNetwork, numbers: range) -> PackedNetwork:
    """Return the layers in `numbers` as a network that shares the given network's parameters."""
    layers = slice(numbers.start, numbers.stop)
    return PackedNetwork(network.layers[layers], network.data, network.offsets[layers])


def _snake_alone(network: PackedNetwork) -> PackedNetwork:
    """Return the Snake before the last layer, followed by an identity convolution.

    The convolution is needed because the kernels can't compute a Snake on its own.
    """
    width = network.layers[-1].inputs
    _, _, alpha, inverse_beta = unpack_layer(network, len(network.layers) - 1)
    alone = PackedNetwork.empty([Layer(FINAL_SNAKE, width, width, 1, bias=False, snake="snake")])
    identity = np.eye(width, dtype=np.float32)[:, :, np.newaxis]
    pack_layer(alone, 0, identity, None, alpha, inverse_beta)
    return alone


def means_alone(
    outputs: Iterable[tuple[str, FloatArray]], latent_scale: float
) -> Iterator[tuple[str, FloatArray]]:
    """Replace an encoder's output by its means, which are the latents that `encode` returns."""
    for name, rows in outputs:
        yield name, distribution(rows, latent_scale)[0] if name == OUTPUT else rows
