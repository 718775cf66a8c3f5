"""Programs under Numba's simulator: the bits of the CPU, and the plain interpreter's results.

`test_cuda.py` runs this file with the simulator switched on.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import step_tables
import steps_reference
from step_tables import ARENA, Drawn, draw_product, draw_tiles, no_moves, program, step

from oobleck_stream.engine import program as table
from oobleck_stream.engine.cpu.engine import CpuEngine
from oobleck_stream.engine.cuda import launches, tiles
from oobleck_stream.engine.cuda.engine import CudaEngine
from oobleck_stream.engine.cuda.tiles import Tile
from oobleck_stream.errors import CudaUnavailable
from oobleck_stream.fast_convolution import SCHEMES

STREAMS = 3
ZERO = np.zeros(32, np.float32)
ONE_TILE = {
    "square": Tile(4, 4, 2, 2, 4),
    "flat": Tile(2, 4, 2, 1, 4),
    "two parts": Tile(8, 2, 8, 1, 2),
}


def arenas(floats: int = ARENA) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((STREAMS, floats)).astype(np.float32)


def filled(parameters, start, used=None, cpu=False):
    floats = start.shape[1]
    engine = (
        CpuEngine(parameters, STREAMS, floats, 1)
        if cpu
        else CudaEngine(parameters, STREAMS, floats, used)
    )
    for stream, values in enumerate(start):
        engine.write(stream, 0, values)
    return engine


def all_floats(engine, floats=ARENA) -> np.ndarray:
    return np.stack([engine.read(stream, 0, floats) for stream in range(STREAMS)])


def run(drawn: Drawn, moves, start, group, used=None, rows=None, cpu=False):
    """Arenas and target after a run on the streams of a group."""
    engine = filled(drawn.parameters, start, used, cpu)
    rows = np.zeros((len(group), 0, 1), np.float32) if rows is None else rows
    out = np.zeros((len(group), drawn.target_floats, 1), np.float32)
    engine.run(program(drawn.steps, moves), np.array(group), rows, out)
    return all_floats(engine, start.shape[1]), out


def check(drawn: Drawn, moves, group, used=None, rows=None):
    """Check that a run has the CPU's bits, agrees with the plain interpreter, and changes no other
    stream.
    """
    start = arenas(drawn.arena)
    got, out = run(drawn, moves, start, group, used, rows)
    expected, expected_out = run(drawn, moves, start, group, rows=rows, cpu=True)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(out, expected_out)
    for place, stream in enumerate(group):
        arena, target = start[stream].astype(np.float64), np.zeros(drawn.target_floats)
        source = np.zeros(0) if rows is None else rows[place].astype(np.float64).ravel()
        parameters = drawn.parameters.astype(np.float64)
        steps_reference.run(drawn.steps, moves, parameters, arena, source, target)
        np.testing.assert_allclose(got[stream], arena, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(out[place].ravel(), target, rtol=2e-5, atol=2e-6)
    for stream in set(range(STREAMS)) - set(group):
        np.testing.assert_array_equal(got[stream], start[stream])
    return got, out


@pytest.mark.parametrize("seed", range(10))
def test_a_drawn_product(seed):
    check(draw_product(np.random.default_rng(seed)), no_moves(), [2, 0])


@pytest.mark.parametrize("channels", [127, 129, 256])
@pytest.mark.parametrize("split", [False, True])
def test_chains_are_cut(channels, split, monkeypatch):
    monkeypatch.setattr(tiles, "SECOND_PASS", -(10**9) if split else 10**9)
    shape = {"ROWS": 1, "TAPS": 2, "PHASES": 1, "COLUMNS": 2, "CHANNELS": channels}
    at = {"INPUT": ARENA, "TAP_STRIDE": channels}
    drawn = draw_product(np.random.default_rng(channels), **shape, **at)
    check(replace(drawn, arena=ARENA + 2 * channels), no_moves(), [1])


@pytest.mark.parametrize("tile", SCHEMES)
@pytest.mark.parametrize("leaves", [0, 1])
def test_a_fast_convolution(tile, leaves):
    drawn = draw_tiles(np.random.default_rng(tile), tile, TO_TARGET=leaves, TANH=leaves)
    check(drawn, no_moves(), [2, 0])


def test_rows_out_of_order_at_both_ends():
    """The tiles' first rows are before FIRST_ROW, and their last after LAST_ROW."""
    random = np.random.default_rng(1)
    check(draw_tiles(random, 4, 1, 1, columns=3, FIRST_ROW=1, LAST_ROW=3), no_moves(), [1])
    check(draw_tiles(random, 2, 2, 5, columns=3, FIRST_ROW=2, LAST_ROW=6), no_moves(), [1])


@pytest.mark.parametrize("splits", [9, 27])
def test_chains_of_a_fast_convolution_are_cut(splits, monkeypatch):
    """Each of the nine points has three chains: they are one part, or three."""

    def split(*arguments, plain=launches.choose):
        return replace(plain(*arguments), splits=splits)

    monkeypatch.setattr(launches, "choose", split)
    rows = {"FIRST_ROW": 0, "LAST_ROW": 2}
    check(draw_tiles(np.random.default_rng(2), 2, 1, 1, 144, 2, **rows), no_moves(), [1])


@pytest.mark.parametrize("columns", [17, 33])
def test_columns_of_a_narrow_panel_and_of_the_one_after_it(columns):
    random = np.random.default_rng(columns)
    # Only the last columns' panel differs, so few channels will do.
    check(
        draw_product(random, COLUMNS=columns, CHANNELS=3, ROWS=1, TAPS=2, PHASES=2), no_moves(), [1]
    )


@pytest.mark.parametrize("name", ONE_TILE)
@pytest.mark.parametrize("split", [False, True])
def test_every_tile_and_split_taps_give_the_same_bits(name, split, monkeypatch):
    drawn = draw_product(np.random.default_rng(7), TAPS=3, ROWS=5, PHASES=2)
    usual, out = check(drawn, no_moves(), [0, 2])
    monkeypatch.setattr(tiles, "SECOND_PASS", -(10**9) if split else 10**9)
    got, other = run(drawn, no_moves(), arenas(), [0, 2], (ONE_TILE[name],))
    np.testing.assert_array_equal(got, usual)
    np.testing.assert_array_equal(other, out)


def test_split_taps_are_added_in_their_order(monkeypatch):
    """In another order, or from another initial value, these three have another sum."""
    weights = np.zeros(3 * 16 + 16, np.float32)
    weights[[0, 16, 32]] = 1.0, 2.0**-24, 2.0**-24
    one = {"ROWS": 1, "TAPS": 3, "CHANNELS": 1, "COLUMNS": 1, "OUTPUT_STRIDE": 1}
    steps = step(**one, WEIGHTS=0, BIAS=48, RAW=10)[None]
    start = np.ones((STREAMS, ARENA), np.float32)
    for second_pass in (-(10**9), 10**9):
        monkeypatch.setattr(tiles, "SECOND_PASS", second_pass)
        got, _ = run(Drawn(steps, weights, 0), no_moves(), start, [0])
        assert got[0, 10] == 1.0


def test_a_missing_bias_is_positive_zero():
    """A sum of -0.0 becomes +0.0 on the GPU as on the CPU."""
    steps = step(LAYER=-1, ROWS=1, COLUMNS=1, INPUT_STRIDE=1, OUTPUT_STRIDE=1, RAW=10)[None]
    rows = np.full((1, 1, 1), -0.0, np.float32)
    engines = CpuEngine(ZERO, STREAMS, ARENA, 1), CudaEngine(ZERO, STREAMS, ARENA)
    for engine in engines:
        engine.write(0, 10, np.ones(1, np.float32))
        engine.run(program(steps, no_moves()), np.array([0]), rows, rows[:, :0].copy())
        (found,) = engine.read(0, 10, 1)
        assert found == 0
        assert not np.signbit(found)


def test_streams_of_a_group_are_as_alone():
    drawn = draw_product(np.random.default_rng(3), TO_TARGET=1)
    together, out = run(drawn, no_moves(), arenas(), [2, 0, 1])
    for place, stream in enumerate([2, 0, 1]):
        alone, own = run(drawn, no_moves(), arenas(), [stream])
        np.testing.assert_array_equal(alone[stream], together[stream])
        np.testing.assert_array_equal(own[0], out[place])


def test_rows_made_in_two_steps_are_those_of_one():
    whole = draw_product(
        np.random.default_rng(5), ROWS=5, PHASES=2, FIRST_ROW=1, LAST_ROW=9, TO_TARGET=0
    )
    first, second = whole.steps[0].copy(), whole.steps[0].copy()
    first[[table.ROWS, table.LAST_ROW]] = 2, 4
    second[[table.ROWS, table.FIRST_ROW, table.LAST_ROW]] = 3, 0, 5
    second[table.INPUT] += 2 * second[table.INPUT_STRIDE]
    for field in (table.RAW, table.SNAKED, table.RESIDUAL):
        if second[field] != table.NONE:
            second[field] += 4 * second[table.OUTPUT_STRIDE]
    cut = Drawn(np.stack([first, second]), whole.parameters, 0)
    at_once, _ = run(whole, no_moves(), arenas(), [1])
    in_two, _ = run(cut, no_moves(), arenas(), [1])
    np.testing.assert_array_equal(in_two, at_once)


def test_the_source_goes_in_plain_and_through_its_snake():
    alpha = np.linspace(0.5, 2.0, 16).astype(np.float32)
    parameters = np.concatenate([np.zeros(16, np.float32), alpha, 1 / alpha])
    way_in = {"LAYER": -1, "ROWS": 3, "COLUMNS": 5, "INPUT": 5, "INPUT_STRIDE": 5}
    places = {"RAW": 300, "SNAKED": 400, "OUTPUT_STRIDE": 5, "ALPHA": 16, "INVERSE_BETA": 32}
    rows = np.random.default_rng(1).standard_normal((2, 4, 5)).astype(np.float32)
    for bias in (0, table.NONE):
        steps = step(**way_in, **places, BIAS=bias)[None]
        check(Drawn(steps, parameters, 0), no_moves(), [1, 2], rows=rows)


MOVES = {
    "down": (580, 583, 20),
    "up": (590, 583, 20),
    "far": (580, 640, 20),
    "in place": (590, 590, 5),
    "zeros": (580, table.NONE, 30),
    "at the start": (0, 2, 9),
    "one float on": (581, 580, 40),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_move_is_a_memmove_in_every_stream(name):
    steps = step(LAYER=table.MOVES_ALONE, MOVES=1)[None]
    check(Drawn(steps, np.zeros(1, np.float32), 0), np.array([MOVES[name]]), [0, 2])


def test_moves_come_after_their_step_and_several_at_once():
    drawn = draw_product(np.random.default_rng(11), TO_TARGET=0, RAW=step_tables.RAW_AT)
    drawn.steps[0, [table.FIRST_MOVE, table.MOVES]] = 1, 2
    last = step(LAYER=table.MOVES_ALONE, FIRST_MOVE=0, MOVES=1)
    moves = np.array([[650, step_tables.RAW_AT, 9], [600, 603, 30], [640, table.NONE, 5]])
    together = Drawn(np.stack([drawn.steps[0], last]), drawn.parameters, drawn.target_floats)
    check(together, moves, [2, 1])


def test_programs_of_growing_size_and_back():
    random = np.random.default_rng(2)
    programs = [
        draw_product(random, TO_TARGET=1, COLUMNS=c, ROWS=2, PHASES=1, FIRST_ROW=0, LAST_ROW=2)
        for c in (2, 9, 2)
    ]
    parameters = np.concatenate([each.parameters for each in programs])
    begins = [0, *itertools.accumulate(len(each.parameters) for each in programs)]
    engine = filled(parameters, arenas())
    for each, begin in zip(programs * 2, begins[:3] * 2, strict=True):
        steps = each.steps.copy()
        for field in (table.WEIGHTS, table.BIAS):
            steps[0, field] += begin
        out = np.zeros((2, each.target_floats, 1), np.float32)
        empty = np.zeros((2, 0, 1), np.float32)
        engine.run(program(steps, no_moves()), np.array([0, 2]), empty, out)
        _, expected = run(each, no_moves(), arenas(), [0, 2])
        np.testing.assert_array_equal(out, expected)


def test_read_and_write():
    engine = filled(np.zeros(1, np.float32), arenas())
    engine.write(1, 10, np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(engine.read(1, 9, 3), [arenas()[1, 9], 0, 1])
    np.testing.assert_array_equal(all_floats(engine)[[0, 2]], arenas()[[0, 2]])
    assert engine.read(0, 5, 0).shape == (0,)
    for stream, start, size in ((STREAMS, 0, 1), (-1, 0, 1), (0, -1, 2), (0, ARENA - 1, 2)):
        with pytest.raises(ValueError, match="stream"):
            engine.read(stream, start, size)


def test_an_empty_group_and_a_closed_engine():
    drawn = draw_product(np.random.default_rng(0), TO_TARGET=0)
    engine = filled(drawn.parameters, arenas())
    empty = np.zeros((0, 1, 1), np.float32)
    engine.run(program(drawn.steps, no_moves()), np.zeros(0, np.int64), empty, empty)
    np.testing.assert_array_equal(all_floats(engine), arenas())
    engine.close()
    engine.close()
    with pytest.raises(CudaUnavailable, match="closed"):
        engine.read(0, 0, 1)


def test_too_little_memory(monkeypatch):
    from types import SimpleNamespace

    from oobleck_stream.engine.cuda import library

    context = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(free=2**20))
    monkeypatch.setattr(library.cuda, "current_context", lambda: context)
    with pytest.raises(CudaUnavailable, match="too little memory: 4 MiB of 1 free"):
        CudaEngine(np.zeros(1, np.float32), 1, 2**20)


def test_all_kernels_are_warmed(monkeypatch):
    """`warm_kernels` launches every kernel that a push may launch, with every tile."""
    from oobleck_stream.engine.cuda import engine

    launched = set()

    def enqueue(self, stream, plain=launches.Launch.enqueue):
        launched.add(self.kernel)
        plain(self, stream)

    monkeypatch.setattr(launches.Launch, "enqueue", enqueue)
    engine.warm_kernels()
    every = {launches.product_kernel(tile) for tile in tiles.TINY_TILES}
    for rows in SCHEMES:
        every |= {launches.transform_kernel(rows), launches.combine_kernel(rows)}
    assert launched == every | {launches.finish_kernel(), launches.moves_kernel()}


def test_threads_that_open_engines_at_once_upload_once(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from oobleck_stream.engine.cuda import engine

    uploads, parameters = [], np.zeros(1, np.float32)

    def slow(array, stream, plain=engine.upload):
        if array is parameters:
            uploads.append(array)
            time.sleep(0.05)
        return plain(array, stream)

    monkeypatch.setattr(engine, "upload", slow)
    # The simulator can't run kernels in several threads at once.
    monkeypatch.setattr(CudaEngine, "_smoke_test", lambda _: None)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: CudaEngine(parameters, 1, 4), range(4)))
    assert len(uploads) == 1
