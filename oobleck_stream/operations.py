"""A backend's operations on float32 numbers, in terms of which all arithmetic is written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operations:
    """A backend's operations on float32 numbers, or lane by lane on vectors of float32 numbers.

    Parameters
    ----------
    constant : callable
        ``constant(value)`` rounds a Python float to float32.
    fma : callable
        ``fma(a, b, c)`` is ``a * b + c``, rounded once.
    multiply, add, subtract, divide : callable
        The arithmetic operations. The compiler must not fuse them.
    less : callable
        ``less(a, b)`` is ``a < b``; it is false if a or b is NaN.
    select : callable
        ``select(condition, a, b)`` is a where the condition is true, else b.
    power_of_two : callable
        ``power_of_two(n)`` is ``2 ** n``. The argument is a float32 that is a whole number from
        -126 to 127.
    compiled : callable, optional
        ``compiled(function)`` compiles a function that uses these operations, so that other
        compiled functions can call it. By default it returns the function unchanged.
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
