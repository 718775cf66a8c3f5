"""The reference network: it computes what the formulas in `naive` say, with either library."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from networks import (
    ENCODING,
    GEOMETRIES,
    layer_tensors,
    random_audio,
    random_latents,
    random_tensors,
    small,
)

from oobleck_stream import reference
from oobleck_stream.network import Layer, decoder_layers, encoder_layers
from oobleck_stream.reference import NumPyOperations, TorchOperations, output, prepare
from oobleck_stream.validation.stages import reference_outputs

OPERATIONS = [
    pytest.param(NumPyOperations, id="numpy"),
    pytest.param(TorchOperations, id="torch", marks=pytest.mark.peers),
]
LAYERS = [
    Layer("c", 3, 4, 5, stride=3, padding=2),
    Layer("c", 3, 4, 7, dilation=3, padding=9, bias=False, snake="s"),
    Layer("c", 3, 4, 3, stride=2, dilation=2),
    Layer("c", 3, 2, 8, stride=4, padding=2, transposed=True, snake="s"),
    Layer("c", 3, 2, 5, stride=5, padding=2, output_padding=4, transposed=True, bias=False),
    Layer("c", 3, 5, 7, stride=3, padding=1, transposed=True, tanh=True),
]


@pytest.fixture(params=OPERATIONS)
def operations(request):
    if request.param is TorchOperations:
        pytest.importorskip("torch")
    return request.param()


def assert_equal(result, expected, tolerance=1e-13):
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("block_rows", [4, 4096])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(operations, layer, block_rows, log_scale, monkeypatch):
    monkeypatch.setattr(reference, "BLOCK_ROWS", block_rows)
    generator = np.random.default_rng(0)
    shape = (layer.outputs, layer.inputs, layer.kernel)
    if layer.transposed:
        shape = (layer.inputs, layer.outputs, layer.kernel)
    v, rows = generator.standard_normal(shape), generator.standard_normal((41, layer.inputs))
    g = generator.uniform(0.5, 2, (shape[0], 1, 1))
    bias = generator.standard_normal(layer.outputs) if layer.bias else None
    alpha, beta = generator.uniform(0.2, 2, (2, layer.inputs))
    tensors = reference.LayerTensors(v, g, bias, alpha, beta, log_scale, scale=1.5)
    network = prepare([(layer, tensors)], operations, 0.25)
    found = operations.to_rows(output(network, operations.from_rows(rows), operations))

    x, weight = rows, 1.5 * naive.weight_norm(g, v)
    if layer.snake:
        x = naive.snake(x, alpha, beta, log_scale, epsilon=0.25)
    if layer.transposed:
        shape = (layer.stride, layer.padding, layer.output_padding)
        expected = naive.conv_transpose(x, weight, bias, *shape)
    else:
        shape = (layer.stride, layer.dilation, layer.padding)
        expected = naive.conv(x, weight, bias, *shape)
    assert_equal(found, np.tanh(expected) if layer.tanh else expected, 1e-14)


@pytest.mark.parametrize(
    ("name", "half"),
    [(name, "decoder") for name in GEOMETRIES] + [(name, "encoder") for name in ENCODING],
)
def test_networks(operations, name, half):
    config = small(name, final_tanh=name == "yue2", latent_scale=1.3)
    config = config.replace(strides=tuple(min(stride, 5) for stride in config.strides))
    tensors = random_tensors(config, 3, half)
    if half == "decoder":
        layers, rows = decoder_layers(config), random_latents(config, 2)
        expected = dict(naive.decoder_stages(rows, tensors, config))
    else:
        layers, rows = encoder_layers(config), random_audio(config, config.hop)
        expected = dict(naive.encoder_stages(rows, tensors, config))
    given = layer_tensors(layers, tensors, config)
    network = prepare(given, operations, config.snake_epsilon)
    found = dict(reference_outputs(network, rows, operations))
    assert list(found) == list(expected)
    for stage, wanted in expected.items():
        assert_equal(found[stage], wanted)
