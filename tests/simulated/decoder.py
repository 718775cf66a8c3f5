"""Small networks decoded by the CUDA kernels under Numba's simulator: the CPU's bits."""

from __future__ import annotations

import dataclasses

import naive
import numpy as np
import pytest
from early_sound import early_sound
from networks import model_of, random_latents, random_tensors, rounded, signal_to_noise, small

import oobleck_stream as ob
from oobleck_stream import network
from oobleck_stream.engine import backends
from oobleck_stream.engine.backends import Sizes
from oobleck_stream.engine.packed import PackedNetwork, narrowed, pack_layer
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import Layer

SHAPE = {"latent_dim": 3, "audio_channels": 1, "multiples": (1, 2), "dilations": (1, 3)}
CONFIGS = {
    "even": small("stable-audio-open-1.0", channels=2, strides=(2, 2), **SHAPE),
    "odd": small("ezaudio", channels=2, strides=(1, 3), final_tanh=True, **SHAPE),
}
FRAMES = 6


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    """Steps as small as the networks, so that a push has several of them."""
    monkeypatch.setitem(backends.SIZES, "cuda", Sizes(step_floats=48, max_shares=2, max_group=2))


def decoded(name, lengths):
    """What pushes of the given lengths give, and how many samples came with each."""
    model, latents = model_of(CONFIGS[name]), random_latents(CONFIGS[name], FRAMES)
    decoder = ob.StreamingDecoder(model, backend="cuda")
    ends = np.cumsum(lengths)
    chunks = [decoder.push(latents[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
    chunks.append(decoder.flush())
    return np.concatenate(chunks), [len(chunk) for chunk in chunks]


@pytest.mark.parametrize("name", CONFIGS)
def test_sound_and_contract(name):
    config = CONFIGS[name]
    model, latents = model_of(config), random_latents(config, FRAMES)
    whole = model.decode(latents, backend="cuda")
    expected = naive.decode(latents, random_tensors(config), config)
    assert whole.shape == expected.shape
    assert signal_to_noise(expected, whole) > 100
    np.testing.assert_array_equal(whole, model.decode(latents, backend="cpu"))
    due = [len(ob.StreamingDecoder(model, backend="cpu").push(latents[:n])) for n in (1, 4)]
    for lengths in ([1, 2, 3], [4, 2, 0]):
        result, counts = decoded(name, lengths)
        np.testing.assert_array_equal(result, whole)
        assert counts[0] == due[0 if lengths[0] == 1 else 1]


@pytest.mark.parametrize(("tile", "dilations"), [(2, (1, 3)), (4, (3,))])
def test_fast_convolutions(tile, dilations, monkeypatch):
    """Tiles of a few channels; the steps are still so small that a push has several of them."""
    monkeypatch.setattr(network, "MIN_FAST_CHANNELS", 16)
    monkeypatch.setattr(network, "MIN_TILED_ROWS", {tile: 4})
    monkeypatch.setitem(backends.SIZES, "cuda", Sizes(step_floats=999, max_shares=2, max_group=2))
    shape = {"latent_dim": 3, "audio_channels": 1, "multiples": (1,), "dilations": dilations}
    config = small("stable-audio-open-1.0", channels=16, strides=(4,), **shape)
    model, latents = model_of(config), random_latents(config, 7)
    assert {layer.tile for layer in model.decoder.layers} == {1, tile}
    decoder = ob.StreamingDecoder(model, backend="cuda")
    beside = ob.StreamingDecoder(model, backend="cpu")
    for rows in (latents[:1], latents[1:3], latents[3:]):
        np.testing.assert_array_equal(decoder.push(rows), beside.push(rows))
    np.testing.assert_array_equal(decoder.flush(), beside.flush())


def test_weights_of_16_bits():
    """They are widened before they are copied to the device."""
    weight = rounded(
        np.random.default_rng(0).standard_normal((32, 2, 1)).astype(np.float32), "BF16"
    )
    packed = PackedNetwork.empty([Layer("c", 2, 32, 1)])
    pack_layer(packed, 0, weight)
    packed = narrowed(packed)
    assert packed.dtypes == ("BF16",)
    rows = np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)
    on_cpu, on_cuda = (Stack(packed, 1, backend=name).push(rows) for name in ("cpu", "cuda"))
    np.testing.assert_array_equal(on_cuda, on_cpu)


def test_pairing():
    """The CPU's samples and amounts, frame by frame."""
    model, latents = model_of(CONFIGS["even"]), random_latents(CONFIGS["even"], FRAMES)
    decoder = ob.StreamingDecoder(model, backend="cuda", pairing=2)
    beside = ob.StreamingDecoder(model, backend="cpu", pairing=2)
    for rows in latents:
        np.testing.assert_array_equal(decoder.push(rows), beside.push(rows))
    np.testing.assert_array_equal(decoder.flush(), beside.flush())


def test_early_samples():
    """Those of the definition, with all samples computed by the same backend."""
    model = dataclasses.replace(model_of(CONFIGS["even"]), backend="cuda")
    latents, look_ahead = random_latents(CONFIGS["even"], 5), model.latency // 3
    decoder, exact = ob.StreamingDecoder(model, look_ahead=look_ahead, fade=1), []
    early = []
    for piece in (latents[:1], latents[1:]):
        early.append(decoder.push(piece))
        exact.append(decoder.exact)
    early.append(decoder.flush())
    exact.append(decoder.exact)
    expected = early_sound(model, latents, look_ahead, 1)
    np.testing.assert_array_equal(np.concatenate(early), expected)
    np.testing.assert_array_equal(np.concatenate(exact), model.decode(latents))


def test_streams_end_start_and_copy_apart():
    config = CONFIGS["even"]
    model, latents = model_of(config), random_latents(config, FRAMES)
    backwards = np.ascontiguousarray(latents[::-1])
    three = ob.MultiStreamDecoder(model, 3, backend="cuda")
    frames = np.stack([latents[:3], backwards[:3], latents[:3]])
    first = three.push(frames)
    three.restore(three.snapshot(1), 2)
    later = three.push(np.stack([latents[3:], latents[3:], backwards[3:]]), [False, False, True])
    three.reset(1)
    tails = three.flush([False, False, True])
    whole = model.decode(backwards, backend="cuda")
    np.testing.assert_array_equal(np.concatenate([first[1], later[2], tails[2]]), whole)
    rest = three.push(np.stack([latents[3:], latents[3:], latents[3:]]), [True, False, False])
    ends = three.flush([True, False, False])
    whole = model.decode(latents, backend="cuda")
    np.testing.assert_array_equal(np.concatenate([first[0], rest[0], ends[0]]), whole)


def test_auto_falls_back_where_memory_is_short(monkeypatch):
    """The layout is then the CPU's, and so are the bits."""
    from oobleck_stream.engine.cuda import library
    from oobleck_stream.errors import CudaUnavailable

    model, latents = model_of(CONFIGS["even"]), random_latents(CONFIGS["even"], FRAMES)
    assert Stack(model.decoder, backend="auto").backend == "cuda"

    def full(need):
        raise CudaUnavailable("the GPU has too little memory")

    monkeypatch.setattr(library, "_check_free_memory", full)
    with pytest.warns(RuntimeWarning, match=r"^decoding on the CPU: the GPU has too little memory"):
        stack = Stack(model.decoder, backend="auto")
    assert stack.backend == "cpu"
    rows = latents.astype(np.float32)
    np.testing.assert_array_equal(
        stack.push(rows, last=True), Stack(model.decoder, backend="cpu").push(rows, last=True)
    )
    with pytest.raises(CudaUnavailable, match="too little memory"):
        Stack(model.decoder, backend="cuda")


def test_auto_falls_back_where_no_kernel_runs(monkeypatch):
    from oobleck_stream.engine.cuda import engine
    from oobleck_stream.errors import CudaUnavailable

    def refused(self):
        raise CudaUnavailable("CUDA failed: compute capability 5.0 is not supported")

    monkeypatch.setattr(engine.CudaEngine, "_smoke_test", refused)
    backends.what_cuda_lacks.cache_clear()
    try:
        assert "5.0" in backends.what_cuda_lacks()
        with pytest.raises(CudaUnavailable, match=r"5\.0"):
            backends.checked_backend("cuda")
        assert backends.checked_backend("auto") == "auto"
    finally:
        backends.what_cuda_lacks.cache_clear()
