"""The sound itself: against the reference implementations in float64, and against plain NumPy."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import references
from networks import (
    GEOMETRIES,
    TensorParameters,
    random_latents,
    random_tensors,
    signal_to_noise,
    small,
)

import oobleck_stream as ob
from oobleck_stream.network import decoder_layers
from oobleck_stream.parameters import pack_network


def decode(config, tensors, latents):
    """What the product makes of tensors and latents."""
    layers = decoder_layers(config)
    network = pack_network(layers, TensorParameters(tensors, config), config.latent_scale)
    return ob.Model(config, network).decode(latents)


def assert_accurate(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()
    assert signal_to_noise(expected, result) >= 118


@pytest.mark.parametrize("name", GEOMETRIES)
def test_stored_references(name):
    config, tensors, latents = references.case(name)
    with np.load(references.FILE) as stored:
        assert references.digest(tensors) == pytest.approx(stored[f"{name}.digest"], rel=1e-12)
        assert_accurate(decode(config, tensors, latents)[:: references.EVERY], stored[name])


@pytest.mark.parametrize("name", GEOMETRIES)
def test_naive(name):
    config = small(name, channels=4, latent_scale=1.7, final_tanh=name in ("yue2", "ezaudio"))
    config = config.replace(strides=tuple(min(stride, 5) for stride in config.strides))
    tensors, latents = random_tensors(config, 5), random_latents(config, 3)
    assert_accurate(decode(config, tensors, latents), naive.decode(latents, tensors, config))


WIDTHS = {"stable-audio-open-1.0": (4, 9, 32), "ace-step-1.5": (8, 16), "ezaudio": (4, 64),
          "yue2": (4, 16)}  # fmt: skip
CASES = [
    pytest.param(
        name,
        width,
        frames,
        marks=[] if frames in ((1, 13) if width < 9 else (2,)) else [pytest.mark.nightly],
    )
    for name, widths in WIDTHS.items()
    for width in widths
    for frames in (1, 2, 13)
]
"""Long inputs for narrow networks and short ones for wide networks; the others are nightly."""


@pytest.mark.peers
@pytest.mark.parametrize("peer", ["diffusers", "stable_audio_tools"])
@pytest.mark.parametrize(("name", "channels", "frames"), CASES)
def test_peers(peer, name, channels, frames):
    pytest.importorskip("torch")
    pytest.importorskip(peer)
    import peers

    config = small(name, channels)
    tensors, latents = random_tensors(config, 7), random_latents(config, frames)
    expected = getattr(peers, f"{peer}_decode")(config, tensors, latents)
    assert_accurate(decode(config, tensors, latents), expected)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("channels", "frames"),
    [
        (128, 1),
        (16, 30),
        pytest.param(128, 3, marks=pytest.mark.nightly),
        pytest.param(16, 60, marks=pytest.mark.nightly),
    ],
)
def test_full_width_and_length(channels, frames):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import peers

    config = small("stable-audio-open-1.0", channels)
    tensors, latents = random_tensors(config, 8), random_latents(config, frames)
    assert_accurate(
        decode(config, tensors, latents), peers.diffusers_decode(config, tensors, latents)
    )


@pytest.mark.peers
@pytest.mark.parametrize(("channels", "frames"), [(4, 1), (4, 9), (20, 5)])
def test_cosmos(channels, frames):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers.models.autoencoders.autoencoder_cosmos3_audio")
    import peers

    config = small("cosmos3", channels)
    tensors, latents = random_tensors(config, 9), random_latents(config, frames)
    expected = peers.cosmos_decode(config, tensors, latents)
    assert_accurate(decode(config, tensors, latents), expected)


@pytest.mark.parametrize(("channels", "frames"), [(4, 1), (4, 9), (20, 5)])
def test_kernels_as_long_as_strides(channels, frames):
    """The network with 65,536 samples a latent, which no library has."""
    config = small("document", channels)
    tensors, latents = random_tensors(config, 9), random_latents(config, frames)
    expected = naive.decode(latents, tensors, config)
    assert_accurate(decode(config, tensors, latents), expected)


@pytest.mark.peers
def test_final_tanh():
    pytest.importorskip("torch")
    pytest.importorskip("stable_audio_tools")
    import peers

    config = small("ezaudio", 8, final_tanh=True)
    tensors, latents = random_tensors(config, 10), 4 * random_latents(config, 8)
    tensors["decoder.layers.6.weight_g"] *= 4
    expected = peers.stable_audio_tools_decode(config, tensors, latents)
    assert np.abs(expected).max() > 0.9
    assert_accurate(decode(config, tensors, latents), expected)
