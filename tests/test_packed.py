"""Packed parameters: what is unpacked is what was packed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from oobleck_stream.engine.packed import PackedNetwork, pack_layer, unpack_layer
from oobleck_stream.network import Layer

LAYERS = [
    Layer("plain", 3, 5, 7, padding=3, bias=False),
    Layer("pointwise", 20, 33, 1, snake="snake"),
    Layer("strided", 17, 48, 4, stride=2, padding=1, snake="snake"),
    Layer("even", 6, 70, 8, stride=4, padding=2, transposed=True, snake="snake"),
    Layer("odd", 16, 16, 10, stride=5, padding=3, transposed=True),
    Layer("uneven", 4, 18, 7, stride=3, padding=1, transposed=True, snake="snake"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_unpack_layer_gives_what_pack_layer_took(layer):
    generator = np.random.default_rng(0)
    network = PackedNetwork.empty([layer, dataclasses.replace(layer, name="second")])
    for index in range(2):
        shape = (layer.outputs, layer.inputs, layer.kernel)
        if layer.transposed:
            shape = (layer.inputs, layer.outputs, layer.kernel)
        given = [generator.standard_normal(shape, np.float32), None, None, None]
        if layer.bias:
            given[1] = generator.standard_normal(layer.outputs, np.float32)
        if layer.snake:
            given[2:] = generator.standard_normal((2, layer.inputs), np.float32)
        pack_layer(network, index, *given)
        for taken, value in zip(unpack_layer(network, index), given, strict=True):
            if value is None:
                assert taken is None
            else:
                assert np.array_equal(taken, value)
