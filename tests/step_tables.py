"""Random programs for tests: steps with every kind of epilogue, fast convolutions, and moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oobleck_stream.engine import program as table
from oobleck_stream.fast_convolution import SCHEMES

ARENA = 700
"""Floats of an arena: inputs and residuals below 300, outputs from there on, the rest for moves."""

RAW_AT, SNAKED_AT, MOVED_AT = 300, 440, 580


def step(**fields: int) -> np.ndarray:
    """One row of a table of steps; the other fields are 0, or NONE for offsets."""
    row = np.zeros(table.FIELDS, np.int64)
    for field in (
        table.WEIGHTS,
        table.BIAS,
        table.RESIDUAL,
        table.RAW,
        table.SNAKED,
        table.ALPHA,
        table.INVERSE_BETA,
        table.POINTS,
    ):
        row[field] = table.NONE
    row[[table.TILE, table.PHASE_STRIDE]] = 1
    fields.setdefault("PHASES", 1)
    fields.setdefault("LAST_ROW", fields.get("ROWS", 0) * fields["PHASES"])
    for name, value in fields.items():
        row[getattr(table, name)] = value
    return row


def no_moves() -> np.ndarray:
    """An empty table of moves."""
    return np.empty((0, table.MOVE_FIELDS), np.int64)


def program(steps: np.ndarray, moves: np.ndarray) -> table.Program:
    """A program with these tables; its counts are zeros, as engines do not read them."""
    return table.Program(steps, moves, np.zeros((3, 1), np.int64))


@dataclass(frozen=True)
class Drawn:
    """A program of one product, its parameters, and the floats of its output and of an arena."""

    steps: np.ndarray
    parameters: np.ndarray
    target_floats: int
    arena: int = ARENA


def draw_product(random: np.random.Generator, **given: int) -> Drawn:
    """A random product: taps, strides, phases, trims and epilogue; `given` fixes some fields."""

    def number(name: str, low: int, high: int) -> int:
        return given.get(name, int(random.integers(low, high + 1)))

    rows, phases, taps = number("ROWS", 1, 5), number("PHASES", 1, 3), number("TAPS", 1, 4)
    channels, columns = number("CHANNELS", 1, 9), number("COLUMNS", 1, 9)
    whole = rows * phases
    first = number("FIRST_ROW", 0, min(2, whole - 1))
    padded = -(-columns // 16) * 16
    weights = phases * taps * channels * padded
    leaves = given.get("TO_TARGET", int(random.integers(0, 2)))
    fields = {
        "ROWS": rows,
        "PHASES": phases,
        "FIRST_ROW": first,
        "LAST_ROW": number("LAST_ROW", first + 1, whole),
        "TAPS": taps,
        "CHANNELS": channels,
        "COLUMNS": columns,
        "INPUT": int(random.integers(0, 9)),
        "INPUT_STRIDE": channels * int(random.integers(1, 3)),
        "TAP_STRIDE": channels * int(random.integers(1, 4)),
        "WEIGHTS": 0,
        "BIAS": weights,
        "OUTPUT_STRIDE": columns,
        "TANH": int(random.integers(0, 2)),
        "TO_TARGET": leaves,
        "RAW": 0 if leaves else RAW_AT,
    }
    if random.integers(0, 2):
        fields["RESIDUAL"] = int(random.integers(0, 100))
    if not leaves and random.integers(0, 2):
        fields |= {"SNAKED": SNAKED_AT, "ALPHA": weights + padded}
        fields["INVERSE_BETA"] = weights + 2 * padded
        if random.integers(0, 2):
            fields["RAW"] = table.NONE
    parameters = random.standard_normal(weights + 3 * padded).astype(np.float32)
    parameters[:weights] /= np.float32(np.sqrt(taps * channels))
    return Drawn(step(**fields | given)[None], parameters, whole * columns if leaves else 0)


def draw_tiles(
    random: np.random.Generator,
    tile: int,
    blocks: int = 3,
    dilation: int = 3,
    channels: int = 16,
    columns: int = 17,
    **given: int,
) -> Drawn:
    """A random fast convolution, as two steps: the transform and the product; `given` as above.

    The first rows are dropped at the front, the last at the end. `channels` must be a multiple of
    LANES for the CPU.
    """
    points, padded = SCHEMES[tile].points, -(-columns // 16) * 16
    weights = points * channels * padded
    inputs = (blocks * tile + (tile + 5) * dilation) * channels
    stride = blocks * channels + table.POINT_PAD
    outputs = (blocks * tile + (tile - 1) * dilation) * columns
    raw_at = inputs + points * stride + outputs
    last = blocks * tile + (tile - 1) * dilation
    leaves = given.get("TO_TARGET", 0)
    transform = {
        "ROWS": blocks,
        "CHANNELS": channels,
        "INPUT_STRIDE": tile * channels,
        "TAP_STRIDE": dilation * channels,
        "TILE": tile,
        "POINTS": inputs,
        "POINT_STRIDE": stride,
    }
    product = {
        "ROWS": blocks,
        "PHASES": tile,
        "PHASE_STRIDE": dilation,
        "FIRST_ROW": int(random.integers(0, tile)),
        "LAST_ROW": last - int(random.integers(0, tile)),
        "TAPS": points,
        "CHANNELS": channels,
        "COLUMNS": columns,
        "INPUT": inputs,
        "INPUT_STRIDE": channels,
        "TAP_STRIDE": stride,
        "WEIGHTS": 0,
        "BIAS": weights,
        "RESIDUAL": inputs + points * stride,
        "RAW": 0 if leaves else raw_at,
        "OUTPUT_STRIDE": columns,
        "TILE": tile,
    }
    if not leaves:
        product |= {"SNAKED": raw_at + outputs, "ALPHA": weights + padded}
        product["INVERSE_BETA"] = weights + 2 * padded
    parameters = random.standard_normal(weights + 3 * padded).astype(np.float32)
    parameters[:weights] /= np.float32(np.sqrt(points * channels))
    steps = np.stack([step(**transform), step(**product | given)])
    return Drawn(steps, parameters, outputs if leaves else 0, raw_at + 2 * outputs)
