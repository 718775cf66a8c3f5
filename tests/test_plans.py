"""The plans of pushes: every row is where a step looks for it, in any network and for any pushes.

No value is computed. `row_tracker.py` checks each step of each plan.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ENCODING, GEOMETRIES, HALVES, small
from row_tracker import RowTracker

from oobleck_stream import network
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.arena import ArenaLayout, Counters
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.planner import Planner
from oobleck_stream.network import growth, output_length

MAX_ROWS = 2000
"""Maximum number of samples of a push of a random network."""

TILED_ROWS = [{4: 8, 2: 2}, {4: 4}, {4: 16, 2: 4}, {2: 2}, {}]
"""Values of `network.MIN_TILED_ROWS` for small networks."""

DILATIONS = [(1, 3, 9), (3,), (5, 1), (9, 3), (3, 5, 7), (1, 2)]

PADDINGS = [
    *itertools.product([2], ["ceil(s/2)", "(k-1)//2"], ["0", "s%2", "s-1"]),
    (1, "(k-1)//2", "s-1"),
]
"""Values of `kernel_per_stride`, `transpose_padding` and `output_padding` that fit together."""

REQUIRED = {
    "joined layers",
    "layers apart",
    "tiles of 2",
    "tiles of 4",
    "dilated tiles, joined",
    "dilated tiles, apart",
    "a full push",
    "a push of no rows",
    "rows at the end",
    "no rows at the end",
}
"""What the random cases must include in each direction."""

SPECIAL = {
    "encoder": {"layers that gather rows"},
    "decoder": {f"{frames} frames at once" for frames in (2, 3, 4)},
}
"""What they must also include in one of them."""


def layers_of(half, config, tiled_rows, fast_channels=1):
    """The layers of a network, with other conditions for fast convolution."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "MIN_FAST_CHANNELS", fast_channels)
        patch.setattr(network, "MIN_TILED_ROWS", tiled_rows)
        return HALVES[half](config)


@st.composite
def configs(draw, max_levels, strides):
    levels = draw(st.integers(1, max_levels))
    in_each_level = {"min_size": levels, "max_size": levels}
    kernel_per_stride, transpose_padding, output_padding = draw(st.sampled_from(PADDINGS))
    return OobleckConfig(
        latent_dim=draw(st.integers(1, 8)),
        audio_channels=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 6)),
        multiples=draw(st.lists(st.sampled_from([1, 2, 3, 4, 8]), **in_each_level)),
        strides=draw(st.lists(st.sampled_from(strides), **in_each_level)),
        dilations=draw(st.sampled_from(DILATIONS)),
        kernel=draw(st.sampled_from([7, 7, 7, 7, 3, 5])),
        kernel_per_stride=kernel_per_stride,
        transpose_padding=transpose_padding,
        output_padding=output_padding,
    )


@st.composite
def layouts(draw, half):
    """The layouts of random networks. Decoders have fewer levels: a frame has many samples."""
    config = draw(configs(3, [1, 2, 3, 4]) if half == "decoder" else configs(4, [1, 2, 3, 4, 5, 8]))
    layers = layers_of(half, config, draw(st.sampled_from(TILED_ROWS)))
    step_floats = draw(st.sampled_from([1, 10, 50, 100, 300, 1000, 3000]))
    pairing = draw(st.integers(1, 4)) if half == "decoder" else 1
    return ArenaLayout.of(layers, step_floats, draw(st.sampled_from([True, True, False])), pairing)


@st.composite
def pushes(draw, half, layout):
    """The numbers of rows of some pushes."""
    most = MAX_ROWS // (growth(layout.layers) if half == "decoder" else 1)
    sizes = st.sampled_from([layout.entry, 0, 1, 2]) | st.integers(0, layout.entry)
    return [min(rows, most) for rows in draw(st.lists(sizes, min_size=1, max_size=9))]


def check(layout, sizes):
    """Follow the rows of a stream; its input ends with the last push."""
    layers = layout.layers
    planner, tracker = Planner(PackedNetwork.empty(layers), layout), RowTracker(layout)
    counts = np.zeros((3, len(layers)), np.int64)
    key = planner.key(counts)
    for number, rows in enumerate(sizes, start=1):
        last = number == len(sizes)
        program, key = planner.program(key, counts, rows, last)
        counts = counts + program.counts
        tracker.push(program, rows, last)
        due, length = layout.due_blocks(tracker.received), tracker.received
        returned = layout.due_rows(length)
        if last:
            due, returned = [], output_length(layers, length)
            for layer in layers:
                due.append(layer.last_block(length))
                length = layer.output_length(length)
        assert counts[1].tolist() == due
        apart = np.logical_not(layout.joined)
        np.testing.assert_array_equal(np.array(tracker.blocks)[apart], np.array(due)[apart])
        assert tracker.returned == counts[2, -1] == returned
        tracker.keep_only(Counters.at(counts, last))


def features(layout, sizes):
    """What a case includes, of `REQUIRED` and of what only one direction has."""
    found = {"joined layers" if any(layout.joined) else "layers apart"}
    for layer, following in zip(layout.layers, layout.joined[1:], strict=False):
        if layer.tile > 1 and layer.dilation > 1:
            found.add("dilated tiles, joined" if following else "dilated tiles, apart")
    found |= {f"tiles of {layer.tile}" for layer in layout.layers}
    if any(layout.gathers):
        found.add("layers that gather rows")
    if layout.paired:
        found.add(f"{layout.pairing} frames at once")
    found |= {"a push of no rows"} if 0 in sizes[:-1] else set()
    found |= {"a full push"} if layout.entry in sizes else set()
    found.add("rows at the end" if sizes[-1] else "no rows at the end")
    return found


@pytest.mark.parametrize("examples", [150, pytest.param(3000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("half", SPECIAL)
def test_random_networks(half, examples):
    seen = Counter()

    @settings(max_examples=examples)
    @given(data=st.data())
    def check_one(data):
        layout = data.draw(layouts(half))
        sizes = data.draw(pushes(half, layout))
        check(layout, sizes)
        seen.update(features(layout, sizes))

    check_one()
    print(seen)
    assert seen.keys() >= REQUIRED | SPECIAL[half]


@pytest.mark.parametrize("step_floats", [2**9, 2**12, 2**15])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_published_decoders(name, step_floats):
    layers = layers_of("decoder", small(name, channels=2), network.MIN_TILED_ROWS)
    for pairing in (1, 2):
        layout = ArenaLayout.of(layers, step_floats, pairing=pairing)
        check(layout, [min(rows, layout.entry) for rows in (1, 1, 0, 3, 1, 1, 1)])


@pytest.mark.parametrize("step_floats", [2**9, 2**12, 2**15])
@pytest.mark.parametrize("name", ENCODING)
def test_published_encoders(name, step_floats):
    config = small(name, channels=2)
    layers = layers_of("encoder", config, network.MIN_TILED_ROWS)
    layout = ArenaLayout.of(layers, step_floats)
    assert any(layout.gathers)
    assert any(layout.joined)
    assert any(layer.tile > 1 for layer in layers)
    sizes = config.hop, 1, layout.entry, layout.entry, 0, 3 * config.hop + 17, layout.entry
    check(layout, [min(rows, layout.entry) for rows in sizes])
