"""The error of bad input."""

from __future__ import annotations


class InputError(ValueError):
    """Something given from outside can't be used; its message is one line that names it."""
