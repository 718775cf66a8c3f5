"""The network with 65,536 samples a latent, and its operations on hand-computed numbers.

Its decoder upsamples by 16, 16, 8, 8, 4, with kernels as long as the strides and no dilation. The
tests go from convolutions computed by hand over large sums to its blocks, one after the other.
"""

from __future__ import annotations

import naive
import numpy as np
import pytest
from networks import TensorParameters, layer_tensors, random_latents, random_tensors, small

import oobleck_stream as ob
from oobleck_stream.engine.packed import PackedNetwork, pack_layer, parameter_offsets
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import Layer, decoder_layers, output_length
from oobleck_stream.parameters import pack_network
from oobleck_stream.reference import NumPyOperations, prepare
from oobleck_stream.validation.stages import reference_outputs

LENGTHS = (2, 33, 529, 4233, 33865, 135461)
BLOCKS = [pytest.param(n, id=f"1 to {n}" if n > 1 else "1") for n in range(1, 6)]


def run(layer, weight, rows, bias=None, **snake):
    """One layer over rows; lists are rows of one channel, and kernels of one in and one out."""
    weight, rows = np.array(weight, np.float32), np.array(rows, np.float32)
    weight = weight if weight.ndim == 3 else weight[None, None]
    rows = rows if rows.ndim == 2 else rows[:, None]
    network = PackedNetwork.empty([layer])
    pack_layer(network, 0, weight, bias, **snake)
    return Stack(network, 2).push(rows, last=True)


def one(kernel, **changes):
    """A layer of one channel in and out."""
    return Layer("one", 1, 1, kernel, **changes)


def assert_close(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


# By hand


def test_conv_three_taps():
    # 1*1 + 0*2 + 1*3 = 4, 2 + 4 = 6, 3 + 5 = 8
    assert run(one(3), [1, 0, 1], [1, 2, 3, 4, 5]).ravel().tolist() == [4, 6, 8]


def test_conv_stride_two():
    # -1*-1 + 2*0 = 1, -1*1 + 2*2 = 3, -1*3 + 2*4 = 5
    result = run(one(2, stride=2), [-1, 2], [-1, 0, 1, 2, 3, 4])
    assert result.ravel().tolist() == [1, 3, 5]


def test_conv_padding():
    # A zero at either end: 0 + 1 + 2, 1 + 2 + 3, 2 + 3 + 0
    assert run(one(3, padding=1), [1, 1, 1], [1, 2, 3]).ravel().tolist() == [3, 6, 5]


def test_conv_dilation():
    # Two apart: 1 + 10*3, 2 + 10*4, 3 + 10*5
    assert run(one(2, dilation=2), [1, 10], [1, 2, 3, 4, 5]).ravel().tolist() == [31, 42, 53]


def test_conv_channels_and_bias():
    # Outputs a + 2b + 0.5 and 3a - b - 0.5 of (1, 10) and (2, 20)
    weight, bias = [[[1], [2]], [[3], [-1]]], np.array([0.5, -0.5], np.float32)
    result = run(Layer("mix", 2, 2, 1), weight, [[1, 10], [2, 20]], bias)
    assert result.tolist() == [[21.5, -7.5], [42.5, -14.5]]


def test_transposed_conv_overlap():
    # .5 * (.5, .5, .5) at rows 0 and 1: .25, .25 + .25, .25 + .25, .25
    result = run(one(3, transposed=True), [0.5, 0.5, 0.5], [0.5, 0.5])
    assert result.ravel().tolist() == [0.25, 0.5, 0.5, 0.25]


def test_transposed_conv_stride_two():
    # 1 2 3 4 and, from row 2 on, 2 4 6 8: 1 2 5 8 6 8; the padding takes one from either end
    layer = one(4, stride=2, padding=1, transposed=True)
    assert run(layer, [1, 2, 3, 4], [1, 2]).ravel().tolist() == [2, 5, 8, 6]


def test_transposed_conv_with_output_padding():
    # Kernel = stride: 1 2 3 4 and 2 4 6 8 side by side, the first dropped (padding 1), and of
    # (2 - 1) * 4 + 4 - 2 * 1 + 3 = 9 rows the last two reached by none: the bias alone
    layer = one(4, stride=4, padding=1, output_padding=3, transposed=True)
    result = run(layer, [1, 2, 3, 4], [1, 2], np.float32([0.5]))
    assert result.ravel().tolist() == [2.5, 3.5, 4.5, 2.5, 4.5, 6.5, 8.5, 0.5, 0.5]


def test_snake():
    # sin(2 * pi/4)^2 / 4 = 0.25, sin(2 * pi/2)^2 = 0, sin(-2 * pi/4)^2 / 4 = 0.25
    bend = {"alpha": np.float32([2]), "inverse_beta": np.float32([0.25])}
    result = run(one(1, snake="s"), [1], np.pi * np.array([0, 0.25, 0.5, -0.25]), **bend)
    expected = np.array([0, np.pi / 4 + 0.25, np.pi / 2, 0.25 - np.pi / 4])
    np.testing.assert_allclose(result.ravel(), expected, rtol=0, atol=2e-7)


def test_residual_block_adds_its_input():
    # Products of zeros: what comes out is the input, before its Snake, and the last bias
    layers = [Layer("a", 1, 1, 7, padding=3, snake="s"), one(1, snake="t", residual=True)]
    network = PackedNetwork.empty(layers)
    for index, bias in enumerate([9, 0.25]):
        bend = np.ones(1, np.float32)
        weight = np.zeros((1, 1, layers[index].kernel), np.float32)
        pack_layer(network, index, weight, np.float32([bias]), bend, bend)
    rows = np.float32([[1], [-2], [3]])
    assert Stack(network, 1).push(rows, last=True).tolist() == (rows + 0.25).tolist()


# Large sums: all numbers are whole multiples of 1/2048 below 2**13, so float32 is exact


@pytest.mark.parametrize("outputs", [1, 70])
def test_weighted_sum_large(outputs):
    channels = np.arange(2048) / 2048
    weight = np.ones((outputs, 2048, 7))
    result = run(Layer("sum", 2048, outputs, 7, padding=3), weight, [channels] * 9)
    # A row's channels sum to 2047 / 2; at the ends some of the seven taps meet zeros
    taps = np.array([4, 5, 6, 7, 7, 7, 6, 5, 4])
    np.testing.assert_array_equal(result, np.tile(taps[:, None] * 2047 / 2, outputs))


@pytest.mark.parametrize("channels", [2048, 512])
def test_transposed_weighted_sum_large(channels):
    outputs, taps = channels // 2, np.arange(1, 9)
    layer = Layer(
        "up", channels, outputs, 8, stride=8, padding=3, output_padding=7, transposed=True
    )
    by_output = np.arange(outputs) % 4 + 1
    weight = np.broadcast_to(by_output[:, None] * taps, (channels, outputs, 8))
    rows = np.array([[1.0], [2.0]]) / channels * np.ones(channels)
    # Row t is (t + 1) / channels everywhere: tap k of output o sums to (t + 1) (k + 1) o'
    expected = np.concatenate([taps, 2 * taps])[3:, None] * by_output
    result = run(layer, weight, rows)
    assert result.shape == (17, outputs)
    np.testing.assert_array_equal(result, np.pad(expected, ((0, 4), (0, 0))))


def test_weighted_sum_of_squares():
    channels = np.arange(2048) / 2048
    result = run(Layer("sum", 2048, 1, 1), channels[None, :, None], [channels])
    # 0 + 1 + 4 + ... + 2047^2 = 2047 * 2048 * 4095 / 6, over 2048^2
    assert result.item() == pytest.approx(2047 * 4095 / 6 / 2048, rel=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 2048), (2048, 48)])
def test_weighted_sum_random(inputs, outputs):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((outputs, inputs, 7)).astype(np.float32)
    rows = generator.standard_normal((12, inputs)).astype(np.float32)
    result = run(Layer("sum", inputs, outputs, 7, padding=3), weight, rows)
    assert_close(result, naive.conv(rows.astype(float), weight.astype(float), padding=3))


# Block after block


def by_reference(latents, tensors, config):
    """The stages of `naive.decoder_stages` by the plain reference, which is fast enough."""
    operations = NumPyOperations()
    network = prepare(layer_tensors(decoder_layers(config), tensors, config), operations)
    return reference_outputs(network, latents, operations)


class Progress:
    """A network, latents, and the rows after each stage by the product and as expected."""

    def __init__(self, config, reference_stages, frames):
        self.layers = decoder_layers(config)
        self.tensors = random_tensors(config, seed=3)
        self.latents = random_latents(config, frames)
        self.network = pack_network(self.layers, TensorParameters(self.tensors, config))
        self.config = config
        stages = reference_stages(self.latents, self.tensors, config)
        self.expected = [rows for _, rows in stages]

    def after(self, blocks):
        """The product after some blocks: a stack of the first layers, over the same weights."""
        first = self.layers[: 1 + blocks * 7]
        network = PackedNetwork.over(first, self.network.data[: parameter_offsets(first)[1]])
        return Stack(network, 2).push(self.latents, last=True)

    def after_final_snake(self):
        """An identity product shows what the Snake makes."""
        width, snake = self.config.channels, self.layers[-1].snake
        shown = Layer("shown", width, width, 1, bias=False, snake=snake)
        identity = {
            "shown.weight_g": np.ones((width, 1, 1), np.float32),
            "shown.weight_v": np.eye(width, dtype=np.float32)[:, :, None],
        }
        parameters = TensorParameters(self.tensors | identity, self.config)
        network = pack_network([*self.layers[:-1], shown], parameters)
        return Stack(network, 2).push(self.latents, last=True)

    def whole(self):
        """The samples."""
        return ob.Model(self.config, self.network).decode(self.latents, threads=2)


@pytest.fixture(scope="module")
def small_progress():
    """Four channels, small strides, odd and even."""
    return Progress(small("document"), naive.decoder_stages, frames=2)


@pytest.fixture(scope="module")
def full_progress():
    """The full strides, six channels, two latents."""
    return Progress(ob.PRESETS["oobleck-65536x"].replace(channels=6), by_reference, frames=2)


def check_blocks(progress, blocks):
    result = progress.after(blocks)
    assert np.ptp(result, axis=0).min() > 1e-2 * np.abs(result).max()
    assert_close(result, progress.expected[blocks])


def test_input_conv(small_progress):
    assert_close(small_progress.after(0), small_progress.expected[0])


@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks(small_progress, blocks):
    check_blocks(small_progress, blocks)


def test_final_snake(small_progress):
    assert_close(small_progress.after_final_snake(), small_progress.expected[-2])


def test_all_blocks_and_output(small_progress):
    result = small_progress.whole()
    assert np.std(result, axis=0).min() > 1e-2 * np.abs(result).max()
    assert_close(result, small_progress.expected[-1])


@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks_at_full_strides(full_progress, blocks):
    assert len(full_progress.after(blocks)) == LENGTHS[blocks]
    check_blocks(full_progress, blocks)


def test_all_at_full_strides(full_progress):
    assert_close(full_progress.after(0), full_progress.expected[0])
    assert_close(full_progress.after_final_snake(), full_progress.expected[-2])
    assert_close(full_progress.whole(), full_progress.expected[-1])


# The whole


@pytest.fixture(scope="module")
def two_latents():
    """Config, tensors, latents and model for two latents at the full strides."""
    config = ob.PRESETS["oobleck-65536x"].replace(channels=6)
    tensors, latents = random_tensors(config, seed=4), random_latents(config, 2)
    network = pack_network(decoder_layers(config), TensorParameters(tensors, config))
    return config, tensors, latents, ob.Model(config, network)


def test_lengths(two_latents):
    layers = decoder_layers(two_latents[0])
    assert tuple(output_length(layers[: 1 + 7 * n], 2) for n in range(6)) == LENGTHS
    assert two_latents[0].hop == 65536
    assert two_latents[3].decoded_length(2) == 135461


def test_two_latents_vary_and_are_accurate(two_latents):
    config, tensors, latents, model = two_latents
    result = model.decode(latents)
    assert result.shape == (135461, 2)
    assert np.std(result, axis=0).min() > 1e-2 * np.abs(result).max()
    assert_close(result, dict(by_reference(latents, tensors, config))["output"])


def test_two_latents_one_by_one(two_latents):
    *_, latents, model = two_latents
    decoder = ob.StreamingDecoder(model, 1)
    chunks = [decoder.push(frame) for frame in latents]
    result = np.concatenate([*chunks, decoder.flush()])
    np.testing.assert_array_equal(result, model.decode(latents, threads=2))
