"""Fast convolution over time, which needs fewer matrix products than direct convolution.

A tile consists of `rows` output rows, `dilation` rows apart, of a convolution with seven taps. It
depends on ``rows + 6`` input rows, which are also `dilation` rows apart. Each scheme computes a
tile in three parts:

1. The input rows become `points` rows, channel by channel: `Scheme.transform`.
2. Each of these rows is multiplied by its own matrix, folded from the kernel: `fold_points`.
3. The products become the output rows, channel by channel: `Scheme.combine`.

A direct convolution with seven taps needs ``7 * rows`` matrix products; a scheme needs `points`. In
the language of polynomials, a scheme multiplies remainders of polynomials. They are taken modulo x,
x -+ 3/4 and x -+ 4/3, with the leading coefficients as the "point at infinity" (S. Winograd,
Arithmetic Complexity of Computations, 1980), and modulo quadratic polynomials
(https://arxiv.org/abs/1905.05233). The roots of the quadratic polynomials lie on the unit circle,
where rounding errors are amplified least. The scheme for four rows amplifies them 3.2 times; with
ten real points, it would amplify them 24 times.

The order of the operations is part of the order of arithmetic (oobleck_stream/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.operations import Operations

KERNEL = 7
"""The kernel length of the schemes."""


@dataclass(frozen=True)
class Scheme:
    """A method to compute a tile.

    Parameters
    ----------
    rows : int
        Number of output rows of a tile.
    points : int
        Number of matrix products for a tile.
    transform : callable
        ``transform(inputs, operations)`` takes ``rows + 6`` inputs and returns `points` values.
    combine : callable
        ``combine(products, operations)`` takes `points` products and returns `rows` values.
    fold : tuple of tuple of Fraction
        For each point, the factors of the seven taps.
    """

    rows: int
    points: int
    transform: Callable[[Sequence[Any], Operations], list[Any]]
    combine: Callable[[Sequence[Any], Operations], list[Any]]
    fold: tuple[tuple[Fraction, ...], ...]

    @property
    def inputs(self) -> int:
        """Number of input rows of a tile."""
        return self.rows + KERNEL - 1


def fold_points(weight: FloatArray, scheme: Scheme) -> FloatArray:
    """Compute the matrices of a scheme's points.

    Parameters
    ----------
    weight : (..., 7) float32
    scheme : Scheme

    Returns
    -------
    (points, ...) float32
        For each point, the sum over the taps of weight times factor. The sums are computed in
        float64, in the order of the taps, and rounded once.
    """
    folded = np.empty((scheme.points, *weight.shape[:-1]), np.float32)
    for point, factors in enumerate(scheme.fold):
        total = np.zeros(weight.shape[:-1])
        for tap, factor in enumerate(factors):
            if factor:
                total += weight[..., tap].astype(np.float64) * float(factor)
        with np.errstate(over="ignore"):
            folded[point] = total
    return folded


def _sum(coefficients: Sequence[float], values: Sequence[Any], operations: Operations) -> Any:
    """Return the sum of the products of coefficients and values, added from left to right.

    If the first coefficient is 1, the first value is added without a multiplication.
    """
    total = values[0]
    if coefficients[0] != 1.0:
        total = operations.multiply(total, operations.constant(coefficients[0]))
    for coefficient, value in zip(coefficients[1:], values[1:], strict=True):
        total = operations.fma(value, operations.constant(coefficient), total)
    return total


def _both(even: Any, odd: Any, operations: Operations) -> tuple[Any, Any]:
    """Return `even` + `odd` and `even` - `odd`: the values at a point and at its negative."""
    return operations.add(even, odd), operations.subtract(even, odd)


def _transform_two(x: Sequence[Any], operations: Operations) -> list[Any]:
    """Return one value for each point 0, infinity, +-3/4 and +-4/3, and three for x**2 + 1."""

    def total(rows: str, *coefficients: float) -> Any:
        return _sum(coefficients, [x[int(row)] for row in rows], operations)

    return [
        total("0246", 0.5625, -0.75390625, -0.75390625, 0.5625),
        total("1357", 0.5625, -0.75390625, -0.75390625, 0.5625),
        *_both(
            total("246", 1.0, 0.4375, -0.5625),
            total("135", 0.75, 0.328125, -0.421875),
            operations,
        ),
        *_both(
            total("246", -0.40045166015625, 0.31146240234375, 0.7119140625),
            total("135", -0.533935546875, 0.415283203125, 0.94921875),
            operations,
        ),
        *_both(
            total("246", -0.5625, 1.31640625, -0.5625),
            total("135", -0.5625, 1.31640625, -0.5625),
            operations,
        ),
        total("135", 0.5625, -1.31640625, 0.5625),
    ]


def _combine_two(m: Sequence[Any], operations: Operations) -> list[Any]:
    add = operations.add
    (sum_a, difference_a), (sum_b, difference_b) = (
        _both(m[2], m[3], operations),
        _both(m[4], m[5], operations),
    )
    quarter = operations.constant(0.75)
    return [
        operations.fma(sum_b, quarter, add(add(add(m[0], sum_a), m[6]), m[8])),
        operations.fma(difference_a, quarter, add(add(add(m[1], difference_b), m[7]), m[8])),
    ]


def _transform_four(x: Sequence[Any], operations: Operations) -> list[Any]:
    """Values at 0, infinity, +-3/4 and +-4/3, and three values modulo each of x**2 +- x + 1."""

    def total(rows: str, *coefficients: float) -> Any:
        return _sum(coefficients, [x[int(row)] for row in rows], operations)

    first = total("02468", 0.5625, -0.75390625, -0.19140625, -0.75390625, 0.5625)
    last = total("13579", 0.5625, -0.75390625, -0.19140625, -0.75390625, 0.5625)
    small = _both(
        total("2468", 1.0, 0.4375, 0.4375, -0.5625),
        total("1357", 0.75, 0.328125, 0.328125, -0.421875),
        operations,
    )
    even, odd = 0.35039520263671875, 0.467193603515625
    large = _both(
        total("2468", -0.45050811767578125, even, even, 0.8009033203125),
        total("1357", -0.600677490234375, odd, odd, 1.06787109375),
        operations,
    )
    constants = _both(
        total("2468", -0.5625, 0.75390625, 0.75390625, -0.5625),
        total("357", 0.5625, -1.31640625, 0.5625),
        operations,
    )
    slopes = _both(
        total("468", 0.5625, -1.31640625, 0.5625),
        total("135", 0.5625, -1.31640625, 0.5625),
        operations,
    )
    mixed = _both(
        total("246", 0.5625, -1.31640625, 0.5625),
        total("1357", -0.5625, 0.75390625, 0.75390625, -0.5625),
        operations,
    )
    return [
        first,
        last,
        *small,
        *large,
        *(constants[0], slopes[0], mixed[0]),
        *(constants[1], slopes[1], mixed[1]),
    ]


def _combine_four(m: Sequence[Any], operations: Operations) -> list[Any]:
    add, subtract, constant = operations.add, operations.subtract, operations.constant
    fma, multiply = operations.fma, operations.multiply
    sum_a, difference_a = _both(m[2], m[3], operations)
    sum_b, difference_b = _both(m[4], m[5], operations)
    sum_c, difference_c = _both(m[6], m[9], operations)
    sum_d, difference_d = _both(m[7], m[10], operations)
    sum_e, difference_e = _both(m[8], m[11], operations)
    linear, square, cube = constant(0.75), constant(0.5625), constant(0.421875)
    return [
        fma(sum_b, cube, add(add(add(m[0], sum_a), sum_c), sum_e)),
        subtract(fma(difference_b, square, fma(difference_a, linear, sum_d)), difference_e),
        subtract(subtract(fma(sum_b, linear, multiply(sum_a, square)), sum_c), difference_d),
        fma(difference_a, cube, add(add(add(m[1], difference_b), difference_c), difference_e)),
    ]


def _powers(scale: Fraction, point: Fraction) -> tuple[Fraction, ...]:
    return tuple(scale * point**tap for tap in range(KERNEL))


def _factors(scale: Fraction, *signs: int) -> tuple[Fraction, ...]:
    return tuple(scale * sign for sign in signs)


W9 = Scheme(
    rows=2,
    points=9,
    transform=_transform_two,
    combine=_combine_two,
    fold=(
        _factors(Fraction(16, 9), 1, 0, 0, 0, 0, 0, 0),
        _factors(Fraction(16, 9), 0, 0, 0, 0, 0, 0, 1),
        _powers(Fraction(32768, 39375), Fraction(3, 4)),
        _powers(Fraction(32768, 39375), Fraction(-3, 4)),
        _powers(Fraction(2048, 13125), Fraction(4, 3)),
        _powers(Fraction(2048, 13125), Fraction(-4, 3)),
        _factors(Fraction(256, 625), 1, 0, -1, 0, 1, 0, -1),
        _factors(Fraction(256, 625), 0, -1, 0, 1, 0, -1, 0),
        _factors(Fraction(256, 625), 1, 1, -1, -1, 1, 1, -1),
    ),
)
"""Two rows from nine products; direct convolution needs fourteen (a factor of 0.64)."""

W12 = Scheme(
    rows=4,
    points=12,
    transform=_transform_four,
    combine=_combine_four,
    fold=(
        _factors(Fraction(16, 9), 1, 0, 0, 0, 0, 0, 0),
        _factors(Fraction(16, 9), 0, 0, 0, 0, 0, 0, 1),
        _powers(Fraction(524288, 757575), Fraction(3, 4)),
        _powers(Fraction(524288, 757575), Fraction(-3, 4)),
        _powers(Fraction(262144, 2272725), Fraction(4, 3)),
        _powers(Fraction(262144, 2272725), Fraction(-4, 3)),
        _factors(Fraction(128, 481), 1, 0, -1, 1, 0, -1, 1),
        _factors(Fraction(128, 481), 0, 1, -1, 0, 1, -1, 0),
        _factors(Fraction(128, 481), 1, -1, 0, 1, -1, 0, 1),
        _factors(Fraction(128, 481), 1, 0, -1, -1, 0, 1, 1),
        _factors(Fraction(128, 481), 0, 1, 1, 0, -1, -1, 0),
        _factors(Fraction(128, 481), 1, 1, 0, -1, -1, 0, 1),
    ),
)
"""Four rows from twelve products; direct convolution needs 28 (a factor of 0.43)."""

SCHEMES = {scheme.rows: scheme for scheme in (W9, W12)}
"""The schemes, keyed by the number of rows of their tiles."""
