"""The numbers of encoders: accuracy, noise, and lengths."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from networks import (
    ENCODER_CONFIGS,
    SHORT_FRAMES,
    model_of,
    random_audio,
    random_tensors,
    signal_to_noise,
    small,
)

import oobleck_stream as ob


@pytest.fixture(scope="module")
def tiny():
    return model_of(SHORT_FRAMES)


def encoding(config, seed):
    """A model's encoder and its tensors, of another seed than the decoder of `model_of`."""
    return model_of(config, seed), random_tensors(config, seed, "encoder")


def assert_accurate(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()
    assert signal_to_noise(expected, result) >= 118


@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("name", ENCODER_CONFIGS)
def test_naive(name, scale):
    config = ENCODER_CONFIGS[name].replace(latent_scale=scale)
    if name != "tiles":
        config = config.replace(strides=tuple(min(stride, 4) for stride in config.strides))
    model, tensors = encoding(config, 5)
    audio = random_audio(config, 2 * config.hop + 5)
    padded = np.pad(audio, ((0, config.hop - 5), (0, 0)))
    for expected, options in (
        (naive.encode(padded, tensors, config), {}),
        (naive.encode(audio, tensors, config), {"pad": False}),
    ):
        for result, wanted in zip(
            model.encode_distribution(audio, **options), expected, strict=True
        ):
            assert_accurate(result, wanted)
    assert len(model.encode(audio)) == 3


WIDTHS = {"stable-audio-open-1.0": (4, 32), "ace-step-1.5": (8, 16), "ezaudio": (4, 64),
          "yue2": (4, 16)}  # fmt: skip
CASES = [
    pytest.param(
        name,
        width,
        samples,
        marks=[] if samples == (2048 if width > 8 else 23456) else [pytest.mark.nightly],
    )
    for name, widths in WIDTHS.items()
    for width in widths
    for samples in (480, 2048, 23456)
]
"""Long inputs for narrow networks and short ones for wide networks; the others are nightly."""


@pytest.mark.peers
@pytest.mark.parametrize("peer", ["diffusers", "stable_audio_tools"])
@pytest.mark.parametrize(("name", "channels", "samples"), CASES)
def test_peers(peer, name, channels, samples):
    pytest.importorskip("torch")
    pytest.importorskip(peer)
    import peers

    config = small(name, channels)
    if peer == "diffusers":
        config = config.replace(latent_dim=channels // 2)
    if samples < config.hop:
        samples = config.hop
    model, tensors = encoding(config, 7)
    audio = random_audio(config, samples)
    encode = getattr(peers, f"{peer}_encode")
    for pad, padding in ((False, 0), (True, -samples % config.hop)):
        rows = encode(config, tensors, np.pad(audio, ((0, padding), (0, 0))))
        mean, scale = np.split(rows, 2, axis=1)
        result = model.encode_distribution(audio, pad=pad)
        assert_accurate(result[0], mean)
        assert_accurate(result[1], np.logaddexp(0, scale) + 1e-4)


@pytest.mark.peers
@pytest.mark.parametrize("frames", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_full_width(frames):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import peers

    config = ob.PRESETS["stable-audio-open-1.0"]
    model, tensors = encoding(config, 8)
    audio = random_audio(config, frames * config.hop)
    mean, _ = np.split(peers.diffusers_encode(config, tensors, audio), 2, axis=1)
    assert_accurate(model.encode(audio), mean)


def noise_of(seed, frames, latent_dim):
    """The noise by its definition: Philox, keyed by the seed, with the frame in its counter."""
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=frame << 64)).standard_normal(
            latent_dim, np.float32
        )
        for frame in range(frames)
    ]
    return np.stack(rows)


def test_the_noise_is_standard_normal_and_frames_are_independent():
    noise = noise_of(3, 20_000, 5).astype(float)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    correlation = np.corrcoef(np.hstack([noise[:-1], noise[1:]]).T) - np.eye(10)
    assert np.abs(correlation).max() < 0.04


def test_samples_follow_their_distribution(tiny):
    audio = random_audio(tiny.config, 20_000)
    mean, deviation = tiny.encode_distribution(audio)
    first, second = (tiny.encode(audio, sample=True, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, tiny.encode(audio, sample=True, seed=2))
    assert not np.array_equal(tiny.encode(audio, sample=True), tiny.encode(audio, sample=True))
    np.testing.assert_array_equal(first, mean + deviation * noise_of(1, *mean.shape))
    np.testing.assert_array_equal(tiny.encode(audio), mean)


@pytest.mark.parametrize("samples", [0, 1, 23, 24, 25, 100])
def test_lengths(tiny, samples):
    audio = random_audio(tiny.config, samples)
    latents = tiny.encode(audio)
    assert latents.shape == (-(-samples // 24), 5) == (tiny.encoded_length(samples), 5)
    assert latents.dtype == np.float32
    assert latents.flags.c_contiguous
    short = tiny.encode(audio, pad=False)
    assert len(short) == tiny.encoded_length(samples, pad=False) == (samples + 2) // 24
    if samples % 24 == 0:
        np.testing.assert_array_equal(short, latents)
