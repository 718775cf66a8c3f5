"""Warnings that are attributed to the line of code that called the package."""

from __future__ import annotations

import functools
import sys
import warnings

_SKIPPED = ("oobleck_stream", "numba")
"""Packages whose stack frames are skipped. Numba is among them, because it calls the kernel
cache."""


def warn(message: str) -> None:
    """Give a ``RuntimeWarning`` for the line of code that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _SKIPPED:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


warn_once = functools.cache(warn)
"""As `warn`, but the same message is given only once per process."""
