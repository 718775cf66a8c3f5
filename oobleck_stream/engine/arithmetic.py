"""Snake and tanh, written once in terms of float32 operations that each backend supplies.

Every operation is an IEEE 754 operation on float32 that rounds once, and every fused multiply-add
is explicit. So all backends compute bit-identical results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from oobleck_stream.operations import Operations

INVERSE_PI = 1 / math.pi

PI_PIECES = (3.1415927410125732, -8.742277657347586e-08)
"""pi as a sum of two float32 (Cody and Waite, Software Manual for the Elementary Functions, 1980).
A fused multiply-add subtracts up to 2**22 times the first piece exactly."""

SINE = (-0.16666659712791443, 0.00833306647837162, -0.0001980959059437737, 2.605750751172309e-06)
"""sin(r) = r + r**3 * P(r**2) for |r| <= pi/2. The relative error of this minimax fit (Lawson's
iteration at Chebyshev nodes) is 6e-9, a twentieth of the resolution of float32."""

ROUNDING = 1.5 * 2.0**23
"""Adding this number to a float32 below 2**22 and subtracting it again rounds to a whole number."""

INVERSE_LOG_2 = 1 / math.log(2)

LOG_2_PIECES = (0.693145751953125, 1.428606765330187e-06)
"""log(2) as a sum of two float32. Small multiples of the first number are exact."""

EXPONENTIAL = tuple(1 / math.factorial(n) for n in range(8))
"""Coefficients of Taylor's series: exp(r) = P(r) for |r| <= log(2) / 2."""

MAX_TWICE = 20.0
"""`tanh` clamps 2x to +-MAX_TWICE. There, the result in float32 is already 1 or -1."""

HYPERBOLIC = (-1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925)
"""Coefficients of Taylor's series: tanh(x) = x + x**3 * P(x**2) near 0."""

MAX_NEAR = 0.08999999612569809
"""Largest x**2 for which `tanh` uses Taylor's series."""


def activations(operations: Operations) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions ``snake(x, alpha, inverse_beta)`` and ``tanh(x)`` of a backend."""
    # Numba compiles local names of an enclosing function, but not attributes of a dataclass.
    constant, fma, multiply = operations.constant, operations.fma, operations.multiply
    add, subtract, divide = operations.add, operations.subtract, operations.divide
    less, select, power_of_two = operations.less, operations.select, operations.power_of_two
    one, two, rounding = constant(1.0), constant(2.0), constant(ROUNDING)
    inverse_pi, inverse_log_2 = constant(INVERSE_PI), constant(INVERSE_LOG_2)
    minus_pi, minus_pi_rest = (constant(-piece) for piece in PI_PIECES)
    minus_log_2, minus_log_2_rest = (constant(-piece) for piece in LOG_2_PIECES)
    top, bottom, max_near = constant(MAX_TWICE), constant(-MAX_TWICE), constant(MAX_NEAR)
    sine = tuple(constant(value) for value in SINE)
    exponential = tuple(constant(value) for value in EXPONENTIAL)
    hyperbolic = tuple(constant(value) for value in HYPERBOLIC)

    @operations.compiled
    def polynomial(x: Any, coefficients: Any) -> Any:
        """Evaluate a polynomial by Horner's rule with fused multiply-adds.

        The coefficients are in ascending order of the powers.
        """
        count = len(coefficients)
        total = coefficients[count - 1]
        for index in range(1, count):
            total = fma(total, x, coefficients[count - 1 - index])
        return total

    @operations.compiled
    def snake(x: Any, alpha: Any, inverse_beta: Any) -> Any:
        """``x + sin(alpha * x)**2 / beta`` (https://arxiv.org/abs/2006.08195)."""
        # sin**2 has period pi and ignores the sign: subtract the nearest multiple of pi.
        angle = multiply(alpha, x)
        turns = subtract(fma(angle, inverse_pi, rounding), rounding)
        rest = fma(turns, minus_pi_rest, fma(turns, minus_pi, angle))
        square = multiply(rest, rest)
        sin = fma(multiply(rest, square), polynomial(square, sine), rest)
        power = multiply(sin, sin)
        # From 2**22 periods on, a float32 angle has no fractional part left and the reduction
        # fails, so sin**2 is limited to 1. If x is infinite, sin**2 is NaN here and also becomes 1.
        power = select(less(power, one), power, one)
        return fma(power, inverse_beta, x)

    @operations.compiled
    def tanh(x: Any) -> Any:
        """Compute ``(e - 1) / (e + 1)`` with ``e = exp(2 * x)``, or a series for small x.

        For small x, ``e - 1`` would lose most of its digits.
        """
        twice = multiply(x, two)
        twice = select(less(twice, top), twice, top)
        twice = select(less(bottom, twice), twice, bottom)
        # exp(2x) = 2**n * exp(r) with |r| <= log(2) / 2.
        powers = subtract(fma(twice, inverse_log_2, rounding), rounding)
        rest = fma(powers, minus_log_2_rest, fma(powers, minus_log_2, twice))
        exp = multiply(polynomial(rest, exponential), power_of_two(powers))
        far = divide(subtract(exp, one), add(exp, one))
        square = multiply(x, x)
        near = fma(multiply(x, square), polynomial(square, hyperbolic), x)
        # If x is NaN, this comparison is false, so the series is used and the result is NaN. (In
        # `far`, the clamp has turned NaN into a number.)
        return select(less(max_near, square), far, near)

    return snake, tanh
