"""Configs and what is computed from them."""

from __future__ import annotations

import dataclasses

import pytest

import oobleck_stream as ob
from oobleck_stream import network

FACTS = {
    # By direct convolution, which the published implementations use.
    # preset: hop, context, latency, million weights, GMAC a second, samples of 5 frames
    "stable-audio-open-1.0": (2048, 10, 18981, 78.1, 54.3, 10240),
    "ace-step-1.5": (1920, 9, 16005, 84.3, 60.9, 9600),
    "ezaudio": (480, 9, 4013, 22.0, 25.0, 2400),
    "yue2": (1920, 12, 22831, 66.3, 28.8, 9536),
    "cosmos3": (1920, 10, 18221, 472.9, 357.4, 9600),
}


@pytest.mark.parametrize("name", FACTS)
def test_derived_quantities(name):
    config = ob.PRESETS[name].replace(convolution="direct")
    layers = network.decoder_layers(config)
    weights = sum(layer.inputs * layer.outputs * layer.kernel for layer in layers)
    work = network.multiplications(layers) * config.frame_rate
    assert FACTS[name] == (
        config.hop,
        network.context(layers),
        network.latency(layers),
        round(weights / 1e6, 1),
        round(work / 1e9, 1),
        network.output_length(layers, 5),
    )


FAST = {
    # preset: context, latency, GMAC a second, tiles of the levels
    "stable-audio-open-1.0": (10, 19631, 34.2, (1, 2, 4, 4, 4)),
    "ace-step-1.5": (9, 16655, 39.1, (1, 2, 4, 4, 4)),
    "ezaudio": (9, 4183, 16.4, (1, 2, 4, 4)),
    "yue2": (13, 23201, 21.5, (1, 1, 2, 4, 4, 4)),
    "cosmos3": (10, 18951, 224.7, (1, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", FAST)
def test_fast_convolution(name):
    """Fewer multiplications, and at most 16 ms more look-ahead."""
    config = ob.PRESETS[name]
    layers, direct = (
        network.decoder_layers(config.replace(convolution=choice)) for choice in ("fast", "direct")
    )
    tiles = tuple(layer.tile for layer in layers if layer.dilation == 3)
    work = network.multiplications(layers) * config.frame_rate
    facts = network.context(layers), network.latency(layers), round(work / 1e9, 1), tiles
    assert facts == FAST[name]
    assert network.latency(layers) - network.latency(direct) <= 0.016 * config.samplerate
    for frames in range(40):
        due = max(0, frames * config.hop - network.latency(layers))
        assert network.due_rows(layers, frames) == due


ENCODERS = {
    # preset: look-ahead, direct and fast; GMAC a second, direct and fast; tiles of the levels
    "stable-audio-open-1.0": (14885, 15535, 54.3, 34.2, (4, 4, 4, 2, 1)),
    "ace-step-1.5": (12165, 12815, 60.9, 39.1, (4, 4, 4, 2, 1)),
    "ezaudio": (3053, 3223, 25.0, 16.4, (4, 4, 2, 1)),
    "yue2": (18927, 19297, 28.8, 21.5, (4, 4, 4, 2, 1, 1)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    config = ob.PRESETS[name]
    fast, direct = (
        network.encoder_layers(config.replace(convolution=choice)) for choice in ("fast", "direct")
    )
    latencies, work = [], []
    for layers in (direct, fast):
        latencies.append(network.rows_needed(layers, 0) - config.hop)
        work.append(network.multiplications(layers, config.hop) * config.frame_rate / 1e9)
        for frames in range(20):
            needed = frames * config.hop + latencies[-1]
            assert network.due_rows(layers, needed) == frames
            assert network.due_rows(layers, needed - 1) == max(0, frames - 1)
    tiles = tuple(layer.tile for layer in fast if layer.dilation == 3)
    assert (*latencies, *(round(value, 1) for value in work), tiles) == ENCODERS[name]
    assert latencies[1] - latencies[0] <= 0.016 * config.samplerate
    for index, layer in enumerate(fast):
        for grid in range(layer.tile):
            other = [*fast]
            other[index] = dataclasses.replace(layer, grid=grid)
            assert network.rows_needed(other, 0) >= network.rows_needed(fast, 0)


@pytest.mark.parametrize("name", FAST)
def test_no_other_grid_has_a_shorter_look_ahead(name):
    layers = network.decoder_layers(ob.PRESETS[name])
    for index, layer in enumerate(layers):
        for grid in range(layer.tile):
            other = [*layers]
            other[index] = dataclasses.replace(layer, grid=grid)
            assert network.latency(other) >= network.latency(layers)


@pytest.mark.parametrize(
    ("changes", "tiles"),
    [
        ({"kernel": 5}, {1}),
        ({"dilations": (1, 2)}, {1}),
        ({"channels": 24}, {1}),
        ({"strides": (3, 3, 3, 3, 3)}, {1}),
        ({"strides": (2, 5, 5, 5, 5)}, {1, 2}),
        ({"convolution": "direct"}, {1}),
        ({}, {1, 2, 4}),
    ],
)
def test_where_convolutions_are_fast(changes, tiles):
    """Only where every push completes the same number of tiles, and where it pays."""
    layers = network.decoder_layers(ob.PRESETS["stable-audio-open-1.0"].replace(**changes))
    assert {layer.tile for layer in layers} == tiles


def test_lengths_of_two_frames_at_65536x():
    layers = network.decoder_layers(ob.PRESETS["oobleck-65536x"])
    lengths, rows = [], 2
    for layer in layers:
        rows = layer.output_length(rows)
        if layer.transposed:
            lengths.append(rows)
    assert lengths == [33, 529, 4233, 33865, 135461]


def test_presets_of_one_geometry():
    assert ob.PRESETS["levo"] == ob.PRESETS["ace-step-1.5"]
    assert ob.PRESETS["soloaudio"] == ob.PRESETS["ezaudio"]
    assert ob.PRESETS["document"] == ob.PRESETS["oobleck-65536x"]
    assert len(network.decoder_layers(ob.PRESETS["stable-audio-open-1.0"])) == 37


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (2, 4)}, "multiples and strides must have the same length"),
        ({"strides": (2, 4, 4, 8, 0)}, "strides must be one or more positive whole numbers"),
        ({"kernel": 6}, "kernel must be positive and odd"),
        ({"latent_dim": 0}, "latent_dim must be a positive whole number"),
        ({"convolution": "slow"}, "convolution must be 'fast' or 'direct', not 'slow'"),
        ({"transpose_padding": "same"}, "unknown transpose_padding"),
        ({"output_padding": "1"}, "unknown output_padding"),
        ({"latent_scale": 0.0}, "latent_scale"),
        (
            {"kernel_per_stride": 1},
            "stride 2 add up to 2; they must be at least stride and padding, 3",
        ),
        ({"dilations": (1, 2000, 3)}, "dilations must be at most 1024"),
    ],
)
def test_impossible_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        ob.OobleckConfig(**changes)
