"""Weights that are 16-bit floats are stored as such, and the samples are the same bits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from networks import model_of, random_latents, small

import oobleck_stream as ob
from oobleck_stream.checkpoints.packed_file import read_packed, write_packed
from oobleck_stream.engine.packed import PackedNetwork, narrowed, pack_layer, unpack_layer
from oobleck_stream.engine.stack import Stack
from oobleck_stream.formats.dtypes import from_stored
from oobleck_stream.formats.safetensors import open_safetensors
from oobleck_stream.network import Layer

DTYPES = ("BF16", "F16")
CONFIG = small("stable-audio-open-1.0", channels=16)
LATENTS = random_latents(CONFIG, 20)


@pytest.fixture(scope="module", params=DTYPES)
def narrow(request):
    made = model_of(CONFIG, dtype=request.param)
    return ob.Model(made.config, made.decoder)  # which can be pickled


def in_float32(model):
    return ob.Model(model.config, model.decoder.widened)


def test_the_samples_are_those_of_float32(narrow):
    wide = in_float32(narrow)
    assert {dtype for dtype in narrow.decoder.dtypes if dtype != "F32"} <= {*DTYPES}
    assert narrow.decoder.data.nbytes < 0.6 * wide.decoder.data.nbytes
    np.testing.assert_array_equal(narrow.decode(LATENTS), wide.decode(LATENTS))
    for threads, pairing in ((1, 1), (2, 2)):
        decoder = ob.StreamingDecoder(narrow, threads, pairing=pairing)
        sound = np.concatenate(list(decoder.stream(LATENTS)))
        np.testing.assert_array_equal(sound, wide.decode(LATENTS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_widened_exactly(dtype):
    """A layer of one channel and one tap multiplies each finite number by 1."""
    numbers = from_stored(np.arange(2**16, dtype="<u2").view(np.uint8), dtype).astype(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    layers = [Layer("c", 1, len(numbers), 1, bias=False)]
    network = PackedNetwork.empty(layers)
    pack_layer(network, 0, numbers[:, None, None])
    network = narrowed(network)
    assert network.dtypes == (dtype,)
    for rows in (1, 30):
        out = Stack(network, 1).push(np.ones((rows, 1), np.float32), last=True)
        np.testing.assert_array_equal(out, np.broadcast_to(numbers, out.shape))


def test_weight_norm_and_scale_give_float32():
    """Folded in float64 and rounded to float32: these are not 16-bit numbers any more."""
    assert set(model_of(CONFIG).decoder.dtypes) == {"F32"}
    scaled = model_of(CONFIG.replace(latent_scale=1.1), dtype="BF16").decoder.dtypes
    assert scaled[0] == "F32"
    assert scaled[1:] == model_of(CONFIG, dtype="BF16").decoder.dtypes[1:]


@pytest.mark.parametrize("value", [1 + 2**-12, 1e-30, 1e30])
def test_one_other_number_keeps_a_layer_in_float32(value):
    network = PackedNetwork.empty([Layer("c", 3, 64, 3)])
    weight = np.ones((64, 3, 3), np.float32)
    weight[63, 2, 2] = value
    pack_layer(network, 0, weight)
    assert narrowed(network) is network
    np.testing.assert_array_equal(unpack_layer(narrowed(network), 0)[0], weight)


def test_copies_and_conversions_keep_the_weights(narrow, tmp_path):
    wide = in_float32(narrow)
    for index in range(len(wide.decoder.layers)):
        for ours, theirs in zip(
            unpack_layer(narrow.decoder, index), unpack_layer(wide.decoder, index), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    path = tmp_path / "a.packed.safetensors"
    write_packed(path, narrow)
    direct = narrow.with_convolution("direct")
    for copy in (read_packed(open_safetensors(path)), pickle.loads(pickle.dumps(narrow)), direct):
        assert copy.decoder.dtypes == narrow.decoder.dtypes
    for copy in (read_packed(open_safetensors(path)), pickle.loads(pickle.dumps(narrow))):
        np.testing.assert_array_equal(copy.decode(LATENTS), wide.decode(LATENTS))
    expected = wide.with_convolution("direct").decode(LATENTS)
    np.testing.assert_array_equal(direct.decode(LATENTS), expected)
