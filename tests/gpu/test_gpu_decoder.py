"""Decoding on a GPU at full size: the contract, equality with the CPU, and accuracy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import references
from networks import GEOMETRIES, TensorParameters, signal_to_noise, small

import oobleck_stream as ob
from oobleck_stream.network import decoder_layers
from oobleck_stream.parameters import pack_network
from oobleck_stream.reference import TorchOperations, output, prepare
from oobleck_stream.validation.tensors import packed_tensors

FRAMES = 40


@functools.cache
def full_size():
    return ob.random_model("stable-audio-open-1.0", seed=0)


@functools.cache
def latents():
    return np.random.default_rng(0).standard_normal((FRAMES, 64)).astype(np.float32)


@functools.cache
def whole():
    return full_size().decode(latents(), backend="cuda")


def test_equals_the_cpu():
    np.testing.assert_array_equal(whole(), full_size().decode(latents(), backend="cpu"))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_small_networks_equal_the_cpu(name):
    model = ob.random_model(small(name, channels=12, final_tanh=name == "ezaudio"), seed=1)
    rows = np.random.default_rng(2).standard_normal((33, model.latent_dim))
    on_gpu, on_cpu = (model.decode(rows, backend=name) for name in ("cuda", "cpu"))
    np.testing.assert_array_equal(on_gpu, on_cpu)


@pytest.mark.parametrize("length", [1, 3, 16, FRAMES])
def test_any_cut_gives_the_whole(length):
    decoder = ob.StreamingDecoder(full_size(), backend="cuda")
    beside = ob.StreamingDecoder(full_size(), backend="cpu") if length == 16 else None
    chunks = []
    for first in range(0, FRAMES, length):
        chunks.append(decoder.push(latents()[first : first + length]))
        if beside is not None:
            np.testing.assert_array_equal(
                chunks[-1], beside.push(latents()[first : first + length])
            )
    chunks.append(decoder.flush())
    np.testing.assert_array_equal(np.concatenate(chunks), whole())


def test_snapshots_and_seeks_of_streams():
    decoder = ob.MultiStreamDecoder(full_size(), 3, backend="cuda")
    rows = np.stack([latents(), latents()[::-1], latents()])
    first = decoder.push(rows[:, :15])
    decoder.restore(decoder.snapshot(0), 2)
    later = decoder.push(rows[:, 15:], [False, True, True])
    ends = decoder.flush([False, True, True])
    np.testing.assert_array_equal(np.concatenate([first[0], later[2], ends[2]]), whole())
    reverse = full_size().decode(latents()[::-1], backend="cuda")
    np.testing.assert_array_equal(np.concatenate([first[1], later[1], ends[1]]), reverse)
    begin = decoder.seek(20, 1)
    found = decoder.push(rows[[0, 0, 0]][:, begin:], [False, True, False])[1]
    tail = decoder.flush([False, True, False])[1]
    hop = full_size().hop
    np.testing.assert_array_equal(np.concatenate([found, tail]), whole()[20 * hop :])


@pytest.mark.parametrize("streams", [4, 70])
def test_streams_are_as_alone(streams):
    rows = np.random.default_rng(3).standard_normal((streams, 12, 64)).astype(np.float32)
    decoder = ob.MultiStreamDecoder(full_size(), streams, backend="cuda")
    chunks = [decoder.push(rows[:, first : first + 1]) for first in range(12)]
    chunks.append(decoder.flush())
    for number in range(0, streams, 13):
        found = np.concatenate([chunk[number] for chunk in chunks])
        expected = full_size().decode(rows[number], backend="cuda")
        np.testing.assert_array_equal(found, expected)


def test_pushes_are_captured_and_replayed():
    decoder = ob.StreamingDecoder(full_size(), backend="cuda")
    for frame in latents()[:30]:
        decoder.push(frame)
    programs = decoder._streams.stack._engine._prepared.values()
    prepared = [one for groups in programs for one in groups.values()]
    assert any(one.captured is not None and one.runs > 5 for one in prepared)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_stored_references(name):
    config, tensors, rows = references.case(name)
    network = pack_network(
        decoder_layers(config), TensorParameters(tensors, config), config.latent_scale
    )
    result = ob.Model(config, network).decode(rows, backend="cuda")[:: references.EVERY]
    with np.load(references.FILE) as stored:
        assert np.abs(result - stored[name]).max() <= 1e-5 * np.abs(stored[name]).max()
        assert signal_to_noise(stored[name], result) >= 118


def test_accuracy_at_full_size():
    pytest.importorskip("torch")
    operations = TorchOperations("cuda")
    config = full_size().config
    tensors = packed_tensors(full_size().decoder, config)
    network = prepare(tensors, operations, config.snake_epsilon)
    expected = operations.to_rows(output(network, operations.from_rows(latents()), operations))
    found = signal_to_noise(expected, whole())
    print(f"\nsignal to noise against float64: {found:.1f} dB")
    assert found >= 118
    assert np.abs(whole() - expected).max() <= 1e-5 * np.abs(expected).max()
