"""NumPy's float32 as a backend of `oobleck_stream.engine.arithmetic`, and the CPU kernel beside it.

NumPy rounds multiplications, additions and divisions as IEEE 754 demands, and shares no code with
LLVM or NVVM. It has no fused multiply-add: `fma` is built from float64 operations.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from oobleck_stream.engine.cpu.product import finish
from oobleck_stream.operations import Operations

LANES = 16
ALPHA = np.linspace(0.2, 30.0, LANES).astype(np.float32)
INVERSE_BETA = np.linspace(3.0, 0.1, LANES).astype(np.float32)


def fma(a, b, c):
    """``a * b + c`` of float32, rounded once.

    The product is exact in float64. The sum is rounded to odd: if it isn't exact, the last bit of
    the result is 1, so the second rounding, to float32, never meets a false tie (Boldo and
    Melquiond, https://doi.org/10.1109/TC.2007.70819).
    """
    product, c = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = np.asarray(product + c)
    # Knuth's two-sum: what the addition lost, exactly.
    back = total - product
    lost = (product - (total - back)) + (c - back)
    even = (total.view(np.int64) & 1) == 0
    inexact = np.isfinite(total) & (lost != 0)
    towards = np.where(lost > 0, np.inf, -np.inf)
    return np.where(inexact & even, np.nextafter(total, towards), total).astype(np.float32)[()]


OPERATIONS = Operations(
    constant=np.float32,
    fma=fma,
    multiply=np.multiply,
    add=np.add,
    subtract=np.subtract,
    divide=np.divide,
    less=np.less,
    select=lambda condition, a, b: np.where(condition, a, b)[()],
    power_of_two=lambda exponents: np.ldexp(np.float32(1), np.asarray(exponents, np.int32)),
)


def numbers(count: int) -> np.ndarray:
    """(rows, LANES) float32 of all magnitudes, with the borders of every case of the functions."""
    random = np.random.default_rng(0)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 10, -10, 20, 1e30, -1e30, 1e-30, 1e-45, 2.0**22]
    near = np.float32(0.3).view(np.int32) + np.arange(-20, 20, dtype=np.int32)
    near = near.view(np.float32)
    rest = count - len(edges) - 2 * len(near)
    sizes = 10.0 ** random.uniform(-8, 3, rest // 2) * random.choice([-1, 1], rest // 2)
    plain = random.standard_normal(rest - len(sizes))
    found = np.concatenate([edges, near, -near, sizes, plain])
    return found.astype(np.float32).reshape(-1, LANES)


@njit
def _finish(sums, zeros, out, alpha, inverse_beta, tanh):
    rows, stride = sums.shape[0], 4 * sums.shape[1]
    finish(
        rows,
        sums.shape[1],
        sums.ctypes.data,
        stride,
        zeros.ctypes.data,
        0,
        out.ctypes.data if tanh else 0,
        0 if tanh else out.ctypes.data,
        stride,
        alpha.ctypes.data,
        inverse_beta.ctypes.data,
        int(tanh),
    )


def on_cpu(name: str, values: np.ndarray) -> np.ndarray:
    """``snake`` (with `ALPHA`, `INVERSE_BETA`) or ``tanh`` of rows, by the CPU's kernel."""
    out = np.empty_like(values)
    _finish(values, np.zeros(LANES, np.float32), out, ALPHA, INVERSE_BETA, name == "tanh")
    return out
