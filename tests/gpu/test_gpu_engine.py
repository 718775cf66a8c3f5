"""Programs of a single step: the results of CUDA and of the CPU are bit-identical."""

from __future__ import annotations

import numpy as np
import pytest
from step_tables import draw_tiles, no_moves, program, step

from oobleck_stream.engine.cpu.engine import CpuEngine
from oobleck_stream.engine.cuda import tiles
from oobleck_stream.engine.cuda.engine import CudaEngine, warm_kernels
from oobleck_stream.engine.cuda.tiles import TILES
from oobleck_stream.engine.program import MOVES_ALONE
from oobleck_stream.fast_convolution import SCHEMES

STREAMS = 3
SHAPES = {
    "few rows": (1, 8, 2, 256, 70),
    "some rows": (13, 1, 7, 130, 128),
    "many rows": (700, 2, 3, 64, 140),
    "two columns": (333, 1, 7, 128, 2),
    "odd channels": (40, 3, 2, 37, 33),
    "long chains": (5, 2, 3, 300, 64),
    "one of each": (1, 1, 1, 1, 1),
}


def drawn_program(rows, phases, taps, channels, columns, **given):
    """A step with everything but tanh, its parameters, and the length of the arena."""
    random = np.random.default_rng(0)
    padded = -(-columns // 16) * 16
    weights = phases * taps * channels * padded
    parameters = random.standard_normal(weights + 3 * padded).astype(np.float32)
    parameters[:weights] /= np.float32(np.sqrt(taps * channels))
    window = (rows + 2 * taps) * channels
    whole = rows * phases * columns
    fields = {
        "ROWS": rows,
        "PHASES": phases,
        "FIRST_ROW": min(1, rows * phases - 1),
        "TAPS": taps,
        "CHANNELS": channels,
        "COLUMNS": columns,
        "INPUT_STRIDE": channels,
        "TAP_STRIDE": 2 * channels,
        "WEIGHTS": 0,
        "BIAS": weights,
        "RESIDUAL": window,
        "RAW": window + whole,
        "SNAKED": window + 2 * whole,
        "OUTPUT_STRIDE": columns,
        "ALPHA": weights + padded,
        "INVERSE_BETA": weights + 2 * padded,
    }
    return step(**fields | given)[None], parameters, window + 3 * whole


def both(steps, parameters, floats, used=None):
    """The streams' arenas after the same program has run on both engines."""
    start = np.random.default_rng(1).standard_normal((STREAMS, floats)).astype(np.float32)
    nothing = np.zeros((2, 0, 1), np.float32)
    results = []
    engines = (
        CpuEngine(parameters, STREAMS, floats, 2),
        CudaEngine(parameters, STREAMS, floats, used),
    )
    for engine in engines:
        for stream in range(STREAMS):
            engine.write(stream, 0, start[stream])
        one = program(steps, no_moves())
        for _ in range(3):  # launched, captured, replayed
            engine.run(one, np.array([2, 0]), nothing, nothing)
        results.append([engine.read(stream, 0, floats) for stream in range(STREAMS)])
    return results


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tile", [None, *TILES], ids=lambda tile: str(tile and tile.rows))
@pytest.mark.parametrize("split", [False, True])
def test_bits_of_the_cpu(shape, tile, split, monkeypatch):
    monkeypatch.setattr(tiles, "SECOND_PASS", -(10**12) if split else 10**12)
    steps, parameters, floats = drawn_program(*SHAPES[shape])
    expected, got = both(steps, parameters, floats, None if tile is None else (tile,))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rows", SCHEMES)
@pytest.mark.parametrize("tile", [None, *TILES], ids=lambda tile: str(tile and tile.rows))
@pytest.mark.parametrize("shape", [(1, 1, 128, 128), (100, 9, 64, 70), (30, 3, 512, 40)])
@pytest.mark.parametrize("split", [False, True])
def test_bits_of_fast_convolutions(rows, tile, shape, split, monkeypatch):
    monkeypatch.setattr(tiles, "SUMS_A_CYCLE", 1e12 if split else 1e-12)
    drawn = draw_tiles(np.random.default_rng(0), rows, *shape)
    used = None if tile is None else (tile,)
    expected, got = both(drawn.steps, drawn.parameters, drawn.arena, used)
    np.testing.assert_array_equal(got, expected)


def test_bits_of_tanh():
    steps, parameters, floats = drawn_program(300, 1, 2, 64, 64, TANH=1)
    expected, got = both(steps, parameters, floats)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("far", [1, 37, 5000, -1, -37, -5000])
def test_moves_that_overlap(far):
    size, at = 20000, 6000
    parameters = np.zeros(1, np.float32)
    start = np.arange(40000, dtype=np.float32)
    engine = CudaEngine(parameters, 2, len(start))
    engine.write(1, 0, start)
    moves = np.array([[at, at + far, size]])
    steps, nothing = step(LAYER=MOVES_ALONE, MOVES=1)[None], np.zeros((1, 0, 1), np.float32)
    engine.run(program(steps, moves), np.array([1]), nothing, nothing)
    start[at : at + size] = start[at + far : at + far + size].copy()
    np.testing.assert_array_equal(engine.read(1, 0, len(start)), start)


def test_every_kernel_runs_without_a_warning(recwarn):
    warm_kernels()
    assert not [str(found.message) for found in recwarn if "Grid size" in str(found.message)]
