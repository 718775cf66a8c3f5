"""Snake and tanh of one number, operation by operation as `kernels/cpu/vectors.py` has them."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numpy as np

from oobleck_stream.engine import arithmetic as constants
from oobleck_stream.engine.cuda.library import (
    add,
    device,
    divide,
    float_of_bits,
    fma,
    multiply,
    subtract,
)

ONE, TWO = np.float32(1.0), np.float32(2.0)
FARTHEST = np.float32(constants.FARTHEST)
HYPERBOLIC = tuple(np.float32(value) for value in constants.HYPERBOLIC)
EXPONENTIAL = tuple(np.float32(value) for value in constants.EXPONENTIAL)
INVERSE_LOG_2 = np.float32(constants.INVERSE_LOG_2)
INVERSE_PI = np.float32(constants.INVERSE_PI)
LOG_2_HIGH, LOG_2_LOW = (np.float32(-piece) for piece in constants.LOG_2_PIECES)
NEAR = np.float32(constants.NEAR)
PI_HIGH, PI_LOW = (np.float32(-piece) for piece in constants.PI_PIECES)
ROUNDING = np.float32(constants.ROUNDING)
SINE = tuple(np.float32(value) for value in constants.SINE)


@device
def polynomial(x, coefficients):
    """Horner's rule in fused steps; the lowest coefficient first."""
    count = len(coefficients)
    total = coefficients[count - 1]
    for index in range(1, count):
        total = fma(total, x, coefficients[count - 1 - index])
    return total


@device
def snake(x, alpha, inverse_beta):
    """``x + sin(alpha * x)**2 / beta``."""
    angle = multiply(alpha, x)
    turns = subtract(fma(angle, INVERSE_PI, ROUNDING), ROUNDING)
    rest = fma(turns, PI_LOW, fma(turns, PI_HIGH, angle))
    square = multiply(rest, rest)
    sine = fma(multiply(rest, square), polynomial(square, SINE), rest)
    power = multiply(sine, sine)
    power = power if power < ONE else ONE
    return fma(power, inverse_beta, x)


@device
def tanh(x):
    """Hyperbolic tangent: ``(e - 1) / (e + 1)`` with ``e = exp(2x)``, a polynomial near 0."""
    square = multiply(x, x)
    if not square >= NEAR:  # A NaN is not, and the polynomial gives a NaN.
        return fma(multiply(x, square), polynomial(square, HYPERBOLIC), x)
    twice = multiply(x, TWO)
    twice = twice if twice < FARTHEST else FARTHEST
    twice = twice if twice > -FARTHEST else -FARTHEST
    powers = subtract(fma(twice, INVERSE_LOG_2, ROUNDING), ROUNDING)
    rest = fma(powers, LOG_2_LOW, fma(powers, LOG_2_HIGH, twice))
    scale = float_of_bits((int(powers) + 127) << 23)
    exponential = multiply(polynomial(rest, EXPONENTIAL), scale)
    return divide(subtract(exponential, ONE), add(exponential, ONE))
