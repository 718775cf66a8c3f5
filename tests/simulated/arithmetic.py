"""Snake and tanh over CUDA's operations have the CPU's bits.

`test_cuda.py` runs this file with Numba's CUDA simulator switched on.
"""

from __future__ import annotations

import numpy as np
import pytest
from float32_operations import ALPHA, INVERSE_BETA, fma, numbers, on_cpu

from oobleck_stream.engine.arithmetic import activations
from oobleck_stream.engine.cuda.epilogue import OPERATIONS


@pytest.mark.parametrize("name", ["snake", "tanh"])
def test_bits_of_the_cpu(name):
    snake, tanh = activations(OPERATIONS)
    values = numbers(1200)
    got = np.empty_like(values)
    with np.errstate(over="ignore", invalid="ignore"):
        for (row, lane), value in np.ndenumerate(values):
            if name == "tanh":
                got[row, lane] = tanh(value)
            else:
                got[row, lane] = snake(value, ALPHA[lane], INVERSE_BETA[lane])
    np.testing.assert_array_equal(got, on_cpu(name, values))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))


def test_the_simulated_fused_multiply_add_rounds_once():
    a, b = numbers(800)[:, 0], numbers(1600)[:50, 1]
    for c in (-a * b, b, np.float32(1e-40) * a):
        with np.errstate(all="ignore"):
            expected = fma(a, b, c)
        got = [OPERATIONS.fma(*each) for each in zip(a, b, c, strict=True)]
        np.testing.assert_array_equal(got, expected)
