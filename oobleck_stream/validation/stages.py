"""The stages of a network, after each of which its rows can be compared.

They are, in order: the input convolution, each block, the Snake before the last convolution, and
the output. Every network of the family has them, so they are where two implementations can meet.
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

Half = Literal["decoder", "encoder"]

INPUT_CONV = "input_conv"
FINAL_SNAKE = "final_snake"
OUTPUT = "output"


def stages(layers: Sequence[Layer]) -> dict[str, range]:
    """Which layers each stage is made of.

    Parameters
    ----------
    layers : sequence of Layer
        A whole decoder or encoder.

    Returns
    -------
    dict
        ``"input_conv"``, ``"block_1"``, ``"block_2"``... and ``"output"``: numbers of layers.
        ``"final_snake"`` is there without a layer: it is the Snake of the last one's input.
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
    """Rows and channels after each stage, for a whole input of `rows` rows."""
    shapes, width = {}, layers[0].inputs
    for name, numbers in stages(layers).items():
        part = [layers[number] for number in numbers]
        rows = output_length(part, rows)
        width = part[-1].outputs if part else width
        shapes[name] = (rows, width)
    return shapes


def half_of(model: Model, half: Half) -> PackedNetwork:
    """A model's decoder or encoder.

    Raises
    ------
    CheckpointError
        When it has no such half.
    """
    return model.decoder if half == "decoder" else model.encoder


def layer_outputs(
    model: Model, rows: FloatArray, half: Half = "decoder", threads: int | None = None
) -> Iterator[tuple[str, FloatArray]]:
    """The rows of a model after every stage, by the kernels that always make them.

    Each stage is made from the rows of the one before, which gives the bits of the whole network.

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
        The encoder's output are the means, then the scales.
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
    """As `layer_outputs`, but the output alone, from the whole network at once."""
    yield OUTPUT, _run(half_of(model, half), rows, threads)


def _run(network: PackedNetwork, rows: FloatArray, threads: int | None) -> FloatArray:
    return Stack(network, threads).push(rows, last=True)


def _part(network: PackedNetwork, numbers: range) -> PackedNetwork:
    """Some layers over the same parameters."""
    layers = slice(numbers.start, numbers.stop)
    return PackedNetwork(network.layers[layers], network.data, network.offsets[layers])


def _snake_alone(network: PackedNetwork) -> PackedNetwork:
    """The Snake before the last layer, with a convolution behind it that changes nothing."""
    width = network.layers[-1].inputs
    _, _, alpha, inverse_beta = unpack_layer(network, len(network.layers) - 1)
    alone = PackedNetwork.empty([Layer(FINAL_SNAKE, width, width, 1, bias=False, snake="snake")])
    identity = np.eye(width, dtype=np.float32)[:, :, np.newaxis]
    pack_layer(alone, 0, identity, None, alpha, inverse_beta)
    return alone


def means_alone(
    outputs: Iterable[tuple[str, FloatArray]], latent_scale: float
) -> Iterator[tuple[str, FloatArray]]:
    """An encoder's stages, its output without the scales: the latents that `encode` gives."""
    for name, rows in outputs:
        yield name, distribution(rows, latent_scale)[0] if name == OUTPUT else rows
