"""Latents from files: `.npy`, `.npz`, `.safetensors` and `.bin`, in either layout."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checkpoints.containers import FLOAT_DTYPES
from oobleck_stream.checkpoints.packed_file import is_packed
from oobleck_stream.checkpoints.safetensors_file import open_safetensors
from oobleck_stream.checks import CHECK_FRAMES, checked_frames
from oobleck_stream.errors import CheckpointError, InputError
from oobleck_stream.files import flat
from oobleck_stream.files import layout as layouts
from oobleck_stream.files.layout import Layout
from oobleck_stream.files.npy import Header, cut_off, read_header, read_numbers

SUFFIXES = (".npy", ".npz", ".safetensors", flat.SUFFIX)
SHOWN = 4
"""Names of tensors that a message has."""


@dataclass(frozen=True, eq=False)
class LatentFile:
    """Latents as they stand in a file.

    Parameters
    ----------
    name : str
        The file's path.
    shape : tuple of int
        As stored. Which axis is time follows from the size of a latent frame.
    read : callable
        Gives the array of real numbers as stored, often a memory map.
    metadata : mapping of str to str
        What the file says about itself; `model` names the network it was made for.
    shaped : bool
        Whether the file says its shape; if not, `array` is flat, and channels come first unless
        a layout says otherwise.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    shaped: bool = True

    @functools.cached_property
    def array(self) -> npt.NDArray[Any]:
        """The numbers as stored; what is not a memory map is read at the first access.

        Raises
        ------
        InputError
            When they can't be read.
        """
        return self.read()

    def fits(self, latent_dim: int) -> bool:
        """Whether frames of this size may be stored here."""
        if not self.shaped:
            return math.prod(self.shape) % latent_dim == 0
        return layouts.fits(self.shape, latent_dim, self.name)

    def frames(self, latent_dim: int, layout: Layout | None = None) -> npt.NDArray[Any]:
        """A view (frames, latent_dim) of the file's own dtype, checked.

        Parameters
        ----------
        latent_dim : int
            Numbers in a latent frame.
        layout : {"tc", "ct"}, optional
            Time first or channels first, where both would fit.

        Raises
        ------
        InputError
            When the latents are of another size, ambiguous, empty, or not finite as float32 (the
            frame is named).
        """
        frames = self._view(latent_dim, layout)
        if len(frames) == 0:
            raise InputError(f"{self.name}: holds no frames; at least one was expected")
        for first in range(0, len(frames), CHECK_FRAMES):
            as_decoded(frames[first : first + CHECK_FRAMES], first, self.name)
        return frames

    def count(self, latent_dim: int, layout: Layout | None = None) -> int:
        """Number of frames; known without reading them."""
        if not self.shaped:
            return len(self._view(latent_dim, layout))
        return layouts.time_first(self.shape, latent_dim, layout, self.name)[0]

    def _view(self, latent_dim: int, layout: Layout | None) -> npt.NDArray[Any]:
        if not self.shaped:
            return layouts.flat_frames(self.array, latent_dim, layout, self.name, "latent numbers")
        return layouts.frames_view(self.array, latent_dim, layout, self.name)

    def blocks(
        self, latent_dim: int, layout: Layout | None = None, size: int = 32
    ) -> Iterator[FloatArray]:
        """The frames in blocks of (at most `size`, latent_dim) float32; checked as by `frames`."""
        frames = self.frames(latent_dim, layout)
        return cut(frames, size, self.name)


def cut(frames: npt.NDArray[Any], size: int, name: str, number: int = 0) -> Iterator[FloatArray]:
    """Blocks of at most `size` frames as float32; the first frame is called `number`."""
    for first in range(0, len(frames), size):
        yield as_decoded(frames[first : first + size], number + first, name)


def as_decoded(frames: npt.NDArray[Any], first: int, name: str) -> FloatArray:
    """Frames as float32, or `InputError` naming the source and the frame that is not finite."""
    try:
        return checked_frames(frames, first)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def read_latents(path: str | Path) -> LatentFile:
    """Open a file of latents; nothing is read that isn't needed yet.

    Raises
    ------
    InputError
        When there is no such file, or it is not what its name's ending says.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: latents in one of {', '.join(SUFFIXES)} were expected")
    try:
        if suffix == ".safetensors":
            return _read_safetensors(path)
        if suffix == ".npz":
            return _open_npz(path)
        flat_file = suffix == flat.SUFFIX
        array = flat.read_flat(path) if flat_file else _read_npy(path)
        return LatentFile(str(path), array.shape, lambda: array, shaped=not flat_file)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


def _read_npy(path: Path) -> npt.NDArray[Any]:
    """An `.npy` file as a memory map."""
    with path.open("rb") as file:
        header = read_header(file, str(path))
        start, size = file.tell(), path.stat().st_size
    if size < start + header.size_in_bytes:
        raise cut_off(str(path), header.size_in_bytes, size - start)
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    if header.size_in_bytes == 0:
        return np.empty(header.shape, header.dtype, order)
    numbers: npt.NDArray[Any] = np.memmap(
        path, dtype=header.dtype, mode="r", offset=start, shape=header.shape, order=order
    )
    return numbers


def _open_npz(path: Path) -> LatentFile:
    """The array of an `.npz` file; it is decompressed only when its numbers are asked for."""
    with _npz_member(path) as (_, header):
        return LatentFile(str(path), header.shape, functools.partial(_read_npz, path, header))


def _read_npz(path: Path, expected: Header) -> npt.NDArray[Any]:
    with _npz_member(path) as (member, header):
        if header != expected:
            raise InputError(f"{path}: was changed while it was read")
        # Not NumPy's reader: it takes memory for what a header says, whatever is there.
        return read_numbers(member, header, str(path))


@contextmanager
def _npz_member(path: Path) -> Iterator[tuple[IO[bytes], Header]]:
    """The array of an `.npz` file, the only one or the one named latents: its numbers as a stream,
    and its header.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.namelist()}
            if "latents" not in names and len(names) != 1:
                found = ", ".join(names) or "none"
                raise InputError(
                    f"{path}: one array, or one named latents, was expected; the arrays are: "
                    f"{found}"
                )
            chosen = archive.getinfo(names.get("latents") or next(iter(names.values())))
            if chosen.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{path}: compressed in a way that NumPy does not")
            with archive.open(chosen) as member:
                header = read_header(member, str(path))
                # The archive says how long a member is, and gives no more of it than that.
                there = chosen.file_size - member.tell()
                if there < header.size_in_bytes:
                    raise cut_off(str(path), header.size_in_bytes, there)
                yield member, header
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # whatever damage makes zipfile and zlib raise
        raise InputError(
            f"{path}: not an .npz file of plain arrays (cut off or damaged)"
        ) from error


def _read_safetensors(path: Path) -> LatentFile:
    """A `.safetensors` file's tensor named latents, or else its only one of 2 or 3 dimensions."""
    try:
        container = open_safetensors(path)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    tensors = container.tensors
    names = [name for name, tensor in tensors.items() if len(tensor.shape) in (2, 3)]
    if "latents" in tensors:
        names = ["latents"]
    if len(names) != 1:
        if is_packed(container) or any("decoder." in name for name in tensors):
            raise InputError(f"{path}: looks like a model (for --model); latents were expected")
        more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
        found = ", ".join(list(tensors)[:SHOWN]) + more or "none"
        raise InputError(
            f"{path}: one tensor of 2 or 3 dimensions, or one named latents, was expected; "
            f"the tensors are: {found}"
        )
    tensor = tensors[names[0]]
    if tensor.dtype not in FLOAT_DTYPES:
        raise InputError(
            f"{path}: an array of floats was expected, {tensor.name} is {tensor.dtype}"
        )
    return LatentFile(str(path), tensor.shape, tensor.read, container.metadata)
