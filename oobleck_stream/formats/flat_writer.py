"""Writes rows of numbers to a flat `.bin` file while the rows are computed."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.formats.atomic import atomic_file, file_destination, naming, refusing_unwritable
from oobleck_stream.formats.flat import MAX_NUMBERS, NUMBER, SUFFIX, count_bytes

BLOCK = 2**16
"""Number of rows that are transposed at a time."""


class FlatWriter:
    """Writes a `.bin` file, channels first. The file appears only when it is complete.

    The rows are kept in a temporary file until the end, because the file stores one whole channel
    after another.

    The writer is a context manager. At the end of the block, the file is written and renamed to
    `path`. If an exception ends the block, the unfinished file is removed.

    Parameters
    ----------
    path : str or Path
        The output; its name must end in ``.bin``.
    channels : int
        Number of values in a row: the audio channels, or the size of a latent frame.

    Attributes
    ----------
    written : int
        Number of rows written so far.

    Raises
    ------
    InputError
        If the file can't be written, or its name does not end in ``.bin``.
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
            If a row is not finite (the message has its number), or the file would have more than
            `MAX_NUMBERS` numbers.
        OSError
            If writing fails. The error's ``filename`` is the name of the file.
        """
        row = first_not_finite(rows)
        if row is not None:
            raise InputError(f"{self.path}: row {self.written + row} is not finite")
        self.written += len(rows)
        if self.written * self.channels > MAX_NUMBERS:
            raise InputError(f"{self.path}: can't hold more than {MAX_NUMBERS} numbers")
        with naming(self.path):
            self._rows.write(np.ascontiguousarray(rows, NUMBER).data)

    def _transpose(self) -> None:
        """Write the file from the stored rows, one channel after another."""
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with naming(self.path), self._rows:
                self._transpose()
        else:
            with suppress(OSError):
                self._rows.close()
