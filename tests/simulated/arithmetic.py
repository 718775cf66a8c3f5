"""Snake and tanh as CUDA has them, fused operations made up here, are the CPU's bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from oobleck_stream.engine.cpu.product import finish
from oobleck_stream.engine.cuda import arithmetic

LANES = 16
COUNT = 1200


def fused(a, b, c):
    """``a * b + c`` of float32, rounded once: the wide sum leaves nothing for a second rounding."""
    return np.float32(np.longdouble(a) * np.longdouble(b) + np.longdouble(c))


@njit
def on_cpu(totals, zeros, out, alpha, inverse_beta, tanh):
    """The CPU's epilogue: tanh of the numbers into `out`, or else their Snake."""
    rows, stride = totals.shape[0], 4 * totals.shape[1]
    plain = out.ctypes.data if tanh else 0
    active = 0 if tanh else out.ctypes.data
    finish(
        rows,
        totals.shape[1],
        totals.ctypes.data,
        stride,
        zeros.ctypes.data,
        0,
        plain,
        active,
        stride,
        alpha.ctypes.data,
        inverse_beta.ctypes.data,
        int(tanh),
    )


def numbers() -> np.ndarray:
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.uniform(-8, 3, COUNT // 2)
    edges = np.array([0.3, -0.3, 10, -10, 20, 0, 1e30, -1e30, 1e-30, 0.29999998])
    edges = np.append(edges, [np.nan, np.inf, -np.inf])
    signed = sizes * random.choice([-1, 1], len(sizes))
    rest = random.standard_normal(COUNT - len(signed) - len(edges))
    return np.concatenate([edges, signed, rest]).astype(np.float32).reshape(-1, LANES)


@pytest.mark.parametrize("name", ["snake", "tanh"])
def test_bits_of_the_cpu(name, monkeypatch):
    monkeypatch.setattr(arithmetic, "fma", fused)
    values = numbers()
    alpha = np.linspace(0.2, 30.0, LANES).astype(np.float32)
    inverse_beta = np.linspace(3.0, 0.1, LANES).astype(np.float32)
    expected = np.empty_like(values)
    on_cpu(values, np.zeros(LANES, np.float32), expected, alpha, inverse_beta, name == "tanh")
    got = np.empty_like(values)
    with np.errstate(over="ignore", invalid="ignore"):
        for (row, lane), value in np.ndenumerate(values):
            if name == "tanh":
                got[row, lane] = arithmetic.tanh(value)
            else:
                got[row, lane] = arithmetic.snake(value, alpha[lane], inverse_beta[lane])
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
