"""Latents written to a file while they are being made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.files.errors import refusing_unwritable
from oobleck_stream.formats.atomic import atomic_file


class LatentWriter:
    """Writes an `.npy` file; under its own name it appears only when it is whole.

    A context manager: left in good order it puts the file in place, left by an exception it
    removes what was written.

    Parameters
    ----------
    path : str or Path
        Ends in ``.npy``.
    latent_dim : int
        Numbers in a latent frame.
    dtype : dtype-like
        Of the numbers in the file.

    Attributes
    ----------
    written : int
        Frames so far.

    Raises
    ------
    InputError
        When the file can't be written, or its name ends in something else.
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
        """NumPy leaves room in it for any number of frames, so that it can be written again."""
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
            When a number is beyond what the file's dtype holds; the frame is named.
        OSError
            When the disk is full or gone; it names the file.
        """
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(frames, self._dtype)
        row = first_not_finite(stored)
        if row is not None:
            frame = self.written + row
            raise InputError(f"{self.path}: frame {frame} is not finite as {self._dtype}")
        self._file.write(stored.data)
        self.written += len(stored)

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write the header again with the number of frames, unless writing failed."""
        if kind is None:
            self._file.seek(0)
            self._write_header()

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._output.__exit__(kind, error, traceback)
