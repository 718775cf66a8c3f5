"""Writes latents to an `.npy` file while they are computed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.formats.atomic import atomic_file, refusing_unwritable


class LatentWriter:
    """Writes an `.npy` file, which appears only when it is complete.

    The writer is a context manager. At the end of the block, the file is renamed to `path`. If an
    exception ends the block, the unfinished file is removed.

    Parameters
    ----------
    path : str or Path
        The output; its name must end in ``.npy``.
    latent_dim : int
        Size of a latent frame.
    dtype : dtype-like
        The file's dtype.

    Attributes
    ----------
    written : int
        Number of frames written so far.

    Raises
    ------
    InputError
        If the file can't be written, or its name does not end in ``.npy``.
    """

    def __init__(
        self, path: str | Path, latent_dim: int, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".npy":
            raise InputError(f"{path}: a name ending in .npy was expected")
        self.written = 0
        self._latent_dim, self._dtype = latent_dim, np.dtype(dtype)
        with ExitStack() as stack:
            with refusing_unwritable(path):
                self._file = stack.enter_context(atomic_file(self.path))
            self._write_header()
            stack.push(self._finish)
            self._output = stack.pop_all()

    def _write_header(self) -> None:
        """Write the header with the current number of frames.

        NumPy leaves room in the header for any length of the first axis, so the header can be
        overwritten in place.
        """
        header = {
            "descr": npy_format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.written, self._latent_dim),
        }
        npy_format.write_array_header_1_0(self._file, header)

    def write(self, frames: FloatArray) -> None:
        """Append frames.

        Parameters
        ----------
        frames : (n, latent_dim) float32

        Raises
        ------
        InputError
            If a value is not finite in the file's dtype. The message has the index of its frame.
        OSError
            If writing fails. The error's ``filename`` is the name of the file.
        """
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(frames, self._dtype)
        row = first_not_finite(stored)
        if row is not None:
            frame = self.written + row
            raise InputError(f"{self.path}: frame {frame} is not finite as {self._dtype}")
        self._file.write(stored.data)
        self.written += len(stored)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the number of frames into the header, unless an exception ended the block."""
        if kind is None:
            self._file.seek(0)
            self._write_header()

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._output.__exit__(*error)
