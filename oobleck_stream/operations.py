"""Operations on float32 numbers, with which arithmetic is written once for every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operations:
    """A backend's operations on float32 numbers, or on vectors of them, lane by lane.

    Parameters
    ----------
    constant : callable
        ``constant(value)``: a Python float, rounded to float32.
    fma : callable
        ``a * b + c``, rounded once.
    multiply, add, subtract, divide : callable
        The compiler must not fuse them.
    less : callable
        ``a < b``; false if one of them is NaN.
    select : callable
        ``select(condition, a, b)``: a where the condition holds, else b.
    power_of_two : callable
        ``2 ** n`` of a whole number n, given as a float32, from -126 to 127.
    compiled : callable, optional
        Compiles a function of these operations, so that others can call it.
    """

    constant: Callable[[float], Any]
    fma: Callable[[Any, Any, Any], Any]
    multiply: Callable[[Any, Any], Any]
    add: Callable[[Any, Any], Any]
    subtract: Callable[[Any, Any], Any]
    divide: Callable[[Any, Any], Any]
    less: Callable[[Any, Any], Any]
    select: Callable[[Any, Any, Any], Any]
    power_of_two: Callable[[Any], Any]
    compiled: Callable[[Callable[..., Any]], Any] = lambda function: function
