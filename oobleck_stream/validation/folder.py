"""Reads a folder with one file per stage as a reference, and writes such folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.formats.atomic import atomic_folder, new_file, refusing_unwritable
from oobleck_stream.formats.flat import write_numbers
from oobleck_stream.formats.npy import write_npy
from oobleck_stream.validation.arrays import Shape, read_rows
from oobleck_stream.validation.check import Reference, Visit
from oobleck_stream.validation.comparison import RealArray
from oobleck_stream.validation.stages import OUTPUT

Format = Literal["npy", "bin"]

SUFFIXES = (".npy", ".bin", ".wav")


def read_references(
    path: Path,
    shapes: Mapping[str, Shape],
    layout: AxisOrder | None,
    latent_dim: int | None = None,
    layers: bool = True,
    any_length: bool = False,
) -> dict[str, RealArray]:
    """Read the stages in a file or folder, and check the shape of each.

    Parameters
    ----------
    path : Path
        A file with the output, or a folder with one file per stage: ``input_conv.npy``,
        ``block_1.npy`` and so on. The folder need not contain every stage. The files may also end
        in ``.bin`` or ``.wav``.
    shapes : mapping of str to (rows, channels)
        The shape of every stage of the network.
    layout : {"tc", "ct"}, optional
        Time first or channels first. It is needed if an ``.npy`` file of two dimensions could be
        either.
    latent_dim : int, optional
        For an encoder, the number of means in a row. If it is given, the stored output may also
        contain only the means (the latents).
    layers : bool
        Whether to read all stages, or only the output.
    any_length : bool
        Whether any number of rows is accepted.

    Returns
    -------
    dict
        Maps the name of each stage to an array (rows, channels), usually a memory map.

    Raises
    ------
    InputError
        If a file can't be read or has another shape, if the folder contains no stage, if it
        contains two files for one stage, or if a file's name is not the name of a stage.
    """
    files = {OUTPUT: path}
    if path.is_dir():
        _refuse_unknown_names(path, tuple(shapes))
        files = _stage_files(path, tuple(shapes) if layers else (OUTPUT,))
    references = {}
    for name, file in files.items():
        possible = [shapes[name]]
        if name == OUTPUT and latent_dim is not None:
            possible.append((shapes[name][0], latent_dim))
        references[name] = read_rows(file, possible, layout, any_length)
    return references


def _refuse_unknown_names(folder: Path, names: tuple[str, ...]) -> None:
    """Raise `InputError` for a file that is not named after a stage, and so would be ignored."""
    for file in sorted(folder.iterdir()):
        if file.suffix in SUFFIXES and file.stem not in names and not file.name.startswith("."):
            raise InputError(f"{file}: is none of {', '.join(names)}")


def _stage_files(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the file of each stage that has a file."""
    found = {}
    for name in names:
        files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        there = [file for file in files if file.is_file()]
        if len(there) > 1:
            both = " and ".join(file.name for file in there)
            raise InputError(f"{folder}: contains {both}: only one of them was expected")
        if there:
            found[name] = there[0]
    if not found:
        raise InputError(f"{folder}: one of {', '.join(names)} as .npy or .bin was expected in it")
    return found


def visiting(references: Mapping[str, RealArray]) -> Reference:
    """Return a `Reference`: a function that calls its argument for each stored stage in order."""

    def visit_all(visit: Visit) -> None:
        for name, rows in references.items():
            visit(name, rows)

    return visit_all


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder. It is renamed to `path` if the block succeeds, else removed.

    Raises
    ------
    InputError
        If `path` exists and is not an empty folder, or if the folder can't be created.
    OSError
        If the folder can't be renamed.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: a new or an empty folder was expected")
    with ExitStack() as stack:
        with refusing_unwritable(path):
            folder = stack.enter_context(atomic_folder(path))
        yield folder


def saved(
    outputs: Iterable[tuple[str, FloatArray]], folder: Path, form: Format
) -> Iterator[tuple[str, FloatArray]]:
    """Write each stage to ``NAME.npy`` or ``NAME.bin``, and then yield it.

    Parameters
    ----------
    outputs : iterable of (str, (rows, channels) float32)
        The stages that `layer_outputs` yields.
    folder : Path
    form : {"npy", "bin"}
        With ``"npy"``, each file is an array of shape (1, channels, rows), which is PyTorch's
        order. With ``"bin"``, each file contains the number of values (int32) and then the values
        in the same order as with ``"npy"``.

    Raises
    ------
    InputError
        If a row is not finite. The message names its file.
    """
    for name, rows in outputs:
        row = first_not_finite(rows)
        if row is not None:
            raise InputError(f"{name}.{form}: row {row} is not finite")
        stored = np.ascontiguousarray(rows.T)[np.newaxis]
        path = folder / f"{name}.{form}"
        with new_file(path) as file:
            if form == "npy":
                write_npy(file, stored)
            else:
                write_numbers(file, path, stored)
        yield name, rows
