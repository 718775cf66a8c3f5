"""Warnings that are given once in a process."""

from __future__ import annotations

import functools
import warnings


@functools.cache
def warn_once(message: str, stacklevel: int = 1) -> None:
    """Give a ``RuntimeWarning``, unless the same message was given before.

    Parameters
    ----------
    message : str
    stacklevel : int
        The same as for ``warnings.warn``: with 1, the warning names the line that calls this
        function.
    """
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 1)
