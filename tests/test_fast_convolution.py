"""Fast convolution: exact as algebra, its order of arithmetic bit by bit, its accuracy."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from float32_operations import OPERATIONS, fma
from networks import HALVES, model_of, random_audio, random_latents, signal_to_noise

import oobleck_stream as ob
from oobleck_stream.engine.packed import PackedNetwork, pack_layer
from oobleck_stream.engine.stack import Stack
from oobleck_stream.fast_convolution import SCHEMES, fold_points
from oobleck_stream.network import Layer
from oobleck_stream.parameters import pack_network
from oobleck_stream.reference import NumPyOperations

EXACT = SimpleNamespace(
    constant=Fraction,
    fma=lambda a, b, c: a * b + c,
    multiply=lambda a, b: a * b,
    add=lambda a, b: a + b,
    subtract=lambda a, b: a - b,
)
"""Rational numbers as a backend."""

schemes = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: str(scheme.points))


@schemes
def test_the_algebra_is_exact(scheme):
    """In rational numbers, every output is a sum of inputs times weights: one for each tap."""
    for tap in range(7):
        for position in range(scheme.inputs):
            inputs = [Fraction(index == position) for index in range(scheme.inputs)]
            points = scheme.transform(inputs, EXACT)
            products = [x * factors[tap] for x, factors in zip(points, scheme.fold, strict=True)]
            rows = scheme.combine(products, EXACT)
            assert rows == [Fraction(row + tap == position) for row in range(scheme.rows)]


@schemes
def test_weights_are_folded_once(scheme):
    weight = np.random.default_rng(0).standard_normal((3, 2, 7), np.float32)
    folded = fold_points(weight, scheme)
    assert folded.shape == (scheme.points, 3, 2)
    exact = np.array([[float(factor) for factor in factors] for factors in scheme.fold])
    expected = np.einsum("pt,abt->pab", exact, weight.astype(float))
    np.testing.assert_allclose(folded, expected, rtol=1e-7, atol=1e-9)


def chain(rows, weights):
    """``rows @ weights``: a chain of up to 128 channels; of more channels, chains of 64."""
    total, length = None, 128 if rows.shape[1] <= 128 else 64
    for start in range(0, rows.shape[1], length):
        part = np.zeros((len(rows), weights.shape[1]), np.float32)
        for channel in range(start, min(start + length, rows.shape[1])):
            part = fma(rows[:, channel : channel + 1], weights[channel], part)
        total = part if total is None else total + part
    return total


def convolve_in_tiles(rows, weight, bias, layer):
    """The order of arithmetic of a fast convolution, on a whole piece, with NumPy's float32."""
    scheme, length = layer.scheme, len(rows)
    first, last = -layer.trim, length + layer.tile
    matrices = fold_points(weight.transpose(1, 0, 2), scheme)
    padded = np.zeros((length + 200, layer.inputs), np.float32)
    padded[100 : 100 + length] = rows
    result = np.full((length, layer.outputs), np.nan, np.float32)
    starts = np.arange(first, last, layer.tile)
    inputs = [
        padded[100 + starts - layer.padding + index * layer.dilation]
        for index in range(scheme.inputs)
    ]
    points = scheme.transform(inputs, OPERATIONS)
    products = [chain(x, matrix) for x, matrix in zip(points, matrices, strict=True)]
    for phase, values in enumerate(scheme.combine(products, OPERATIONS)):
        places = starts + phase * layer.dilation
        inside = (places >= 0) & (places < length)
        result[places[inside]] = (values + bias)[inside]
    return result


@pytest.mark.parametrize(("dilation", "grid"), [(1, 0), (3, 1), (9, 3)])
@pytest.mark.parametrize(("tile", "width"), [(2, 16), (4, 16), (2, 144), (4, 144)])
def test_the_order_of_arithmetic(tile, width, dilation, grid):
    """Every bit of a convolution in tiles, of 16 channels and of 144, which are two chains."""
    generator = np.random.default_rng(dilation)
    layer = Layer(
        "c", width, 5, 7, dilation=dilation, padding=3 * dilation, tile=tile, grid=grid % tile
    )
    last = Layer("o", 5, 5, 3, padding=1, bias=False)
    weight = generator.standard_normal((5, width, 7), np.float32)
    bias = generator.standard_normal(5, np.float32)
    network = PackedNetwork.empty([layer, last])
    pack_layer(network, 0, weight, bias)
    pack_layer(network, 1, np.eye(5, dtype=np.float32)[:, :, None] * np.float32([0, 1, 0]))
    rows = generator.standard_normal((50, width), np.float32)
    expected = convolve_in_tiles(rows, weight, bias, layer)
    assert not np.isnan(expected).any()
    np.testing.assert_array_equal(Stack(network, 1).push(rows, last=True), expected)


TILED = ob.OobleckConfig(latent_dim=8, channels=64, multiples=(1, 3, 3), strides=(2, 4, 32))
"""A network with tiles of two and of four rows, joined with the next layer and alone."""

DIGESTS = {
    "decoder": "f9f0f6eef2cc24869bed829a53c245e35c8abbe3f66d4a96968325f685094c88",
    "encoder": "7f2ae1b07c00c55d1f3512a3edb35ee262661cfabc513919edc6609d89c5fd55",
}
"""SHA-256 of the samples and of the latents of this network; see `test_kernels.DIGESTS`."""

RUNS = {
    "decoder": lambda model: model.decode(random_latents(TILED, 20)),
    "encoder": lambda model: model.encode(random_audio(TILED, 20 * TILED.hop)),
}

halves = pytest.mark.parametrize("half", HALVES)


@halves
def test_the_bits_of_every_version(half):
    assert {layer.tile for layer in HALVES[half](TILED)} == {1, 2, 4}
    result = RUNS[half](model_of(TILED, 3))
    assert hashlib.sha256(result.astype("<f4").tobytes()).hexdigest() == DIGESTS[half]


@halves
def test_tiles_and_direct_convolution_differ_in_rounding_only(half):
    model, direct = (model_of(TILED.replace(convolution=name), 3) for name in ("fast", "direct"))
    fast, slow = RUNS[half](model), RUNS[half](direct)
    assert not np.array_equal(fast, slow)
    assert signal_to_noise(slow.astype(float), fast) >= 118
    np.testing.assert_array_equal(RUNS[half](model.with_convolution("direct")), slow)
    np.testing.assert_array_equal(RUNS[half](direct.with_convolution("fast")), fast)


def test_seek_needs_the_context_and_no_more():
    config = ob.preset("cosmos3").replace(channels=64, multiples=(1, 1, 1, 1, 1))
    model, latents = ob.random_model(config), random_latents(config, 16)
    assert {layer.tile for layer in model.decoder.layers} == {1, 2, 4}
    expected = model.decode(latents)[13 * model.hop :]
    decoder = ob.StreamingDecoder(model)
    first = decoder.seek(13)
    assert first == 13 - model.context == 3
    result = np.concatenate([decoder.push(latents[first:]), decoder.flush()])
    np.testing.assert_array_equal(result, expected)
    latents[first] += 9
    assert not np.array_equal(model.decode(latents)[13 * model.hop :], expected)


class Given:
    """Parameters that are ready: one tuple of weight, bias, alpha and inverse beta per layer."""

    def __init__(self, layers, parts):
        self.parts = {layer.name: part for layer, part in zip(layers, parts, strict=True)}

    def weight(self, layer):
        return self.parts[layer.name][0]

    def bias(self, layer):
        return self.parts[layer.name][1]

    def snake(self, layer):
        return self.parts[layer.name][2:]


def large_gains(layers, inputs):
    """Parameters with which every layer's output is of order one, and the output in float64.

    The logarithms of Snake's parameters are N(0, 0.3); residual branches have a quarter of the
    amplitude.
    """
    generator = np.random.default_rng(4)
    operations, parts = NumPyOperations(), []
    rows = skipped = inputs.astype(np.float64)
    for layer in layers:
        shape = (layer.outputs, layer.inputs, layer.kernel)
        if layer.transposed:
            shape = (layer.inputs, layer.outputs, layer.kernel)
        weight = generator.standard_normal(shape, np.float32)
        bias = (0.1 * generator.standard_normal(layer.outputs)).astype(np.float32)
        alpha, inverse_beta = np.exp(0.3 * generator.standard_normal((2, layer.inputs))).astype(
            np.float32
        )
        x = rows
        if layer.snake:
            x = operations.snake(x, alpha.astype(float), inverse_beta.astype(float))
        y = operations.convolution(x, weight.astype(float), None, layer)
        target = 0.25 if layer.residual else 1.0
        weight *= np.float32(target / np.sqrt(np.mean(y * y)))
        y = operations.convolution(x, weight.astype(float), None, layer)
        if layer.bias:
            y = y + bias.astype(float)
        if layer.residual:
            y = y + skipped
        parts.append((weight, bias, alpha, inverse_beta))
        rows, skipped = y, rows
    return Given(layers, parts), rows


@pytest.mark.parametrize(
    ("half", "channels"),
    [
        ("decoder", 32),
        ("decoder", 64),
        ("encoder", 64),
        pytest.param("decoder", 128, marks=pytest.mark.nightly),
        pytest.param("encoder", 128, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("convolution", ["fast", "direct"])
def test_large_gains(half, channels, convolution):
    """118 dB also where every layer's output is of order one, and channels are up to 2048."""
    config = ob.preset("stable-audio-open-1.0").replace(channels=channels, convolution=convolution)
    layers = HALVES[half](config)
    inputs = random_latents(config, 3) if half == "decoder" else random_audio(config, 3 * 2048)
    parameters, expected = large_gains(layers, inputs)
    output = Stack(pack_network(layers, parameters), 2).push(inputs, last=True)
    ratio = signal_to_noise(expected, output)
    print(f"{half}, {convolution}, {channels} to {config.widths[-1]} channels: {ratio:.1f} dB")
    assert ratio >= 118
