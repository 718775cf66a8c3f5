"""Every kind of layer: against the plain reference, and under the streaming contract."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from contract import (
    Subject,
    check_cuts,
    check_future,
    check_interleaved,
    check_reset,
    check_restore,
    check_two_threads,
    cuts,
)
from float32_operations import fma
from hypothesis import given, settings
from hypothesis import strategies as st

from oobleck_stream.engine.backends import SIZES, Sizes
from oobleck_stream.engine.packed import PackedNetwork, pack_layer
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import Layer, output_length
from oobleck_stream.reference import LayerTensors, NumPyOperations, output, prepare

UNIT = [
    Layer("u.1", 5, 5, 7, dilation=3, padding=9, snake="u.0"),
    Layer("u.3", 5, 5, 1, snake="u.2", residual=True),
]


def unit_in_tiles(width, dilation, tile, grid):
    """A residual unit with a fast convolution."""
    same = {"dilation": dilation, "padding": 3 * dilation}
    return [
        Layer("u.1", width, width, 7, snake="u.0", tile=tile, grid=grid, **same),
        Layer("u.3", width, width, 1, snake="u.2", residual=True),
    ]


STACKS = {
    "conv": [Layer("c", 6, 4, 7, padding=3)],
    "conv without bias, one channel": [Layer("c", 1, 1, 3, padding=1, bias=False)],
    "wide conv": [Layer("c", 40, 70, 3, padding=1)],
    "dilated conv": [Layer("c", 3, 33, 7, dilation=9, padding=27, snake="s")],
    "strided conv": [Layer("c", 4, 6, 8, stride=4, padding=2)],
    "odd strided conv": [Layer("c", 4, 6, 10, stride=5, padding=3, snake="s")],
    "transposed conv": [Layer("t", 6, 5, 8, stride=4, padding=2, transposed=True, snake="s")],
    "odd transposed conv": [Layer("t", 6, 5, 10, stride=5, padding=3, transposed=True)],
    "transposed conv, stride 1": [Layer("t", 3, 17, 2, padding=1, transposed=True)],
    "output padding": [
        Layer("t", 4, 3, 10, stride=5, padding=3, output_padding=1, transposed=True)
    ],
    "kernel = stride": [
        Layer("t", 4, 3, 8, stride=8, padding=3, output_padding=7, transposed=True)
    ],
    "three taps": [Layer("t", 4, 3, 7, stride=3, padding=1, transposed=True)],
    "residual unit": UNIT,
    "up, unit, tanh": [
        Layer("t", 4, 5, 6, stride=3, padding=2, transposed=True, snake="s"),
        *UNIT,
        Layer("o", 5, 2, 7, padding=3, bias=False, snake="o", tanh=True),
    ],
    "conv, wide kernel of one": [
        Layer("c", 3, 4, 7, padding=3),
        Layer("p", 4, 60, 1, snake="s"),
        Layer("o", 60, 3, 1, bias=False),
    ],
    "conv, transposed kernel of one": [
        Layer("c", 3, 6, 3, padding=1),
        Layer("t", 6, 4, 1, output_padding=1, transposed=True, snake="s"),
    ],
    "kernels of one": [
        Layer("a", 5, 5, 1, snake="s"),
        Layer("b", 5, 5, 1, snake="t"),
        Layer("u.1", 5, 5, 1, snake="u.0"),
        Layer("u.3", 5, 5, 1, snake="u.2", residual=True),
        Layer("v", 5, 5, 1, snake="v.0", residual=True),
    ],
    "all taps and columns in a vector": [
        Layer("n", 20, 5, 3, padding=1),
        Layer("o", 5, 1, 15, padding=7, snake="o", tanh=True),
    ],
    "long chains": [Layer("c", 300, 5, 3, padding=1)],
    "tiles of two": [*unit_in_tiles(16, 3, 2, 1), Layer("o", 16, 2, 1)],
    "tiles of four": [*unit_in_tiles(48, 1, 4, 2), Layer("o", 48, 2, 7, padding=3, snake="o")],
    "wide tiles of two": [*unit_in_tiles(144, 1, 2, 0), Layer("o", 144, 2, 3, padding=1)],
    "wide tiles of four": [*unit_in_tiles(272, 9, 4, 3), Layer("o", 272, 2, 1, snake="o")],
    "tiles without a unit": [
        Layer("c", 16, 5, 7, dilation=3, padding=9, tile=4, grid=1, snake="s"),
        Layer("o", 5, 2, 3, padding=1, snake="o"),
    ],
    "up, tiles, up": [
        Layer("t", 6, 16, 8, stride=4, padding=2, transposed=True, snake="s"),
        *unit_in_tiles(16, 1, 4, 3),
        *unit_in_tiles(16, 3, 4, 0),
        *unit_in_tiles(16, 9, 2, 1),
        Layer("t", 16, 3, 4, stride=2, padding=1, transposed=True, snake="s"),
    ],
    "unit, down": [*UNIT, Layer("d", 5, 8, 6, stride=3, padding=2, snake="s")],
}


def parameters(layers, seed=0):
    """Random parameters: for every layer weight, bias, log alpha, log beta (or None)."""
    generator = np.random.default_rng(seed)
    for layer in layers:
        shape = (layer.outputs, layer.inputs, layer.kernel)
        if layer.transposed:
            shape = (layer.inputs, layer.outputs, layer.kernel)
        weight = generator.standard_normal(shape, np.float32) / np.sqrt(layer.inputs * layer.taps)
        bias = generator.standard_normal(layer.outputs, np.float32) if layer.bias else None
        bend = 0.3 * generator.standard_normal((2, layer.inputs)) if layer.snake else None
        yield weight.astype(np.float32), bias, bend


def pack(layers):
    network = PackedNetwork.empty(layers)
    for index, (weight, bias, bend) in enumerate(parameters(layers)):
        alpha, inverse_beta = (None, None) if bend is None else np.exp(bend * [[1], [-1]])
        pack_layer(network, index, weight, bias, alpha, inverse_beta)
    return network


def reference(layers, rows):
    """The stack by the plain reference, in float64."""
    given = [
        (layer, LayerTensors(weight, None, bias, *((None, None) if bend is None else bend), True))
        for layer, (weight, bias, bend) in zip(layers, parameters(layers), strict=True)
    ]
    operations = NumPyOperations()
    network = prepare(given, operations)
    return output(network, operations.from_rows(rows), operations)


class Stream(Stack):
    """A stack with the flush of its own that the contract asks for."""

    def flush(self):
        return self.push(np.empty((0, self.network.layers[0].inputs), np.float32), last=True)


@pytest.fixture(params=STACKS, ids=lambda name: name)
def subject(request):
    layers = STACKS[request.param]
    network = pack(layers)
    rows = np.random.default_rng(1).standard_normal((90, layers[0].inputs), np.float32)
    return Subject(
        make=lambda threads: Stream(network, threads),
        whole=lambda x: Stream(network, 1).push(np.ascontiguousarray(x), last=True),
        due=lambda count: Stream(network, 1).due(count),
        rows=rows,
    )


def test_reference(subject, request):
    layers = STACKS[request.node.callspec.params["subject"]]
    for length in (1, 2, 9, 60):
        rows = subject.rows[:length]
        result, expected = subject.whole(rows), reference(layers, rows)
        assert result.shape == expected.shape == (output_length(layers, length), layers[-1].outputs)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@settings(max_examples=15)
@given(data=st.data())
def test_cuts(subject, data):
    length = data.draw(st.integers(0, 70))
    check_cuts(subject, length, data.draw(cuts(length)), data.draw(st.sampled_from([1, 2, 4])))


def test_small_steps_change_nothing(subject, monkeypatch):
    expected = subject.whole(subject.rows)
    monkeypatch.setitem(SIZES, "cpu", Sizes(step_floats=64, max_shares=1, max_group=1))
    np.testing.assert_array_equal(subject.whole(subject.rows), expected)


@settings(max_examples=5)
@given(data=st.data())
def test_kept_programs_change_nothing(subject, data, monkeypatch):
    """Programs forgotten, or taken up in many situations, do not show."""
    monkeypatch.setattr("oobleck_stream.engine.planner.MAX_KEPT_STEPS", 5)
    monkeypatch.setattr("oobleck_stream.engine.planner.MAX_PLAN_KEYS", 3)
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=40, max_size=50))
    stream, rows = subject.make(1), subject.rows[: sum(lengths)]
    for _ in range(2):
        stream.reset()
        ends = np.cumsum(lengths)
        pieces = [rows[end - n : end] for end, n in zip(ends, lengths, strict=True)]
        chunks = [stream.push(piece) for piece in pieces]
        result = np.concatenate([*chunks, stream.flush()])
        np.testing.assert_array_equal(result, subject.whole(rows[: ends[-1]]))


def test_reset(subject):
    check_reset(subject, 40, 33)


@pytest.mark.parametrize("at", [0, 1, 17, 40])
def test_restore(subject, at):
    check_restore(subject, 40, at)


def test_interleaved(subject):
    check_interleaved(subject, 30)


def test_two_threads(subject):
    check_two_threads(subject, 41)


@pytest.mark.parametrize("at", [1, 30, 69])
def test_nothing_from_the_future(subject, at):
    check_future(subject, 70, at, np.nan)


@pytest.mark.parametrize("subject", [name for name in STACKS if "tile" not in name], indirect=True)
def test_every_due_row_is_due(subject):
    """A row more of input reaches the first row withheld: none comes later than it must.

    Tiles withhold rows that are known, until all rows of the tile are.
    """
    rows, length = subject.rows, 60
    stream = subject.make(1)
    early = len(stream.push(rows[:length]))
    tail = stream.flush()
    later = subject.whole(rows[: length + 40])[early : early + 1]
    if len(tail):
        assert not np.array_equal(tail[:1], later)


def test_a_residual_needs_what_it_adds():
    layers = [dataclasses.replace(UNIT[0], snake=None), UNIT[1]]
    with pytest.raises(ValueError, match=r"u\.3 adds the input of u\.1"):
        Stack(pack(layers))


@pytest.mark.parametrize(
    ("width", "outputs", "kernel"), [(128, 2, 7), (20, 1, 15), (7, 5, 3), (129, 2, 7), (16, 3, 7)]
)
def test_the_order_of_sums(width, outputs, kernel):
    """Every bit, of layers whose taps and columns fit a vector and of layers where they do not."""
    layer = Layer("c", width, outputs, kernel, padding=kernel // 2)
    ((weight, bias, _),) = parameters([layer])
    rows = np.random.default_rng(1).standard_normal((200, width), np.float32)
    padded = np.pad(rows, ((layer.padding, layer.padding), (0, 0)))
    length, total = 128 if width <= 128 else 64, None
    for tap, start in itertools.product(range(kernel), range(0, width, length)):
        chain = np.zeros((len(rows), outputs), np.float32)
        for channel in range(start, min(start + length, width)):
            column = padded[tap : tap + len(rows), channel : channel + 1]
            chain = fma(column, weight[:, channel, tap], chain)
        total = chain if total is None else total + chain
    result = Stack(pack([layer]), 2).push(rows, last=True)
    np.testing.assert_array_equal(result, total + bias)
