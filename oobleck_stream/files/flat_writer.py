"""Rows of numbers written to a reference file while they are being made."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.files.errors import refusing_unwritable
from oobleck_stream.files.flat import MOST, NUMBER, SUFFIX, count_bytes
from oobleck_stream.formats.atomic import atomic_file, file_destination, naming

BLOCK = 2**16


class FlatWriter:
    """Writes a `.bin` file, channels first; under its own name it appears only when it is whole.

    The rows wait in a temporary file: the second channel can follow only when the first is known.

    A context manager: left in good order it puts the file in place, left by an exception it
    leaves nothing.

    Parameters
    ----------
    path : str or Path
        Ends in ``.bin``.
    channels : int
        Numbers in a row: audio channels, or the size of a latent frame.

    Attributes
    ----------
    written : int
        Rows so far.

    Raises
    ------
    InputError
        When the file can't be written, or its name ends in something else.
    """

    def __init__(self, path: str | Path, channels: int) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != SUFFIX:
            raise InputError(f"{path}: a name ending in {SUFFIX} was expected")
        self.channels, self.written = channels, 0
        with refusing_unwritable(path):
            folder = file_destination(self.path).parent
            self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def write(self, rows: FloatArray) -> None:
        """Append rows.

        Parameters
        ----------
        rows : (n, channels) float32

        Raises
        ------
        InputError
            When a row is not finite, which is named, or the file can't count so many numbers.
        OSError
            When the disk is full or gone; it names the file.
        """
        row = first_not_finite(rows)
        if row is not None:
            raise InputError(f"{self.path}: row {self.written + row} is not finite")
        self.written += len(rows)
        if self.written * self.channels > MOST:
            raise InputError(f"{self.path}: can't hold more than {MOST} numbers")
        with naming(self.path):
            self._rows.write(np.ascontiguousarray(rows, NUMBER).data)

    def _put(self) -> None:
        """Write the file from its rows, one channel after the other."""
        start = count_bytes(self.path, self.written * self.channels)
        self._rows.flush()
        shape = (self.written, self.channels)
        rows: FloatArray = np.memmap(self._rows, NUMBER, "r", shape=shape)
        with atomic_file(self.path) as file:
            file.write(start)
            for channel in range(self.channels):
                for first in range(0, self.written, BLOCK):
                    file.write(rows[first : first + BLOCK, channel].tobytes())

    def __enter__(self) -> FlatWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            with naming(self.path), self._rows:
                self._put()
        else:
            with suppress(OSError):
                self._rows.close()
