"""Reads latents from `.npy`, `.npz`, `.safetensors` and `.bin` files, in either axis order."""

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
from oobleck_stream.checks import CHECK_FRAMES, checked_frames
from oobleck_stream.errors import CheckpointError, InputError
from oobleck_stream.files import axis_order
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.formats import flat
from oobleck_stream.formats.dtypes import FLOATS
from oobleck_stream.formats.npy import Header, cut_off, read_header, read_numbers
from oobleck_stream.formats.safetensors import open_safetensors
from oobleck_stream.formats.tensors import is_packed

SUFFIXES = (".npy", ".npz", ".safetensors", flat.SUFFIX)
MAX_SHOWN = 4
"""Maximum number of tensor names that an error message lists."""


@dataclass(frozen=True, eq=False)
class LatentFile:
    """Latents in the form in which a file stores them.

    Parameters
    ----------
    name : str
        The file's path.
    shape : tuple of int
        The stored shape. The time axis is inferred later, from the size of a latent frame.
    read : callable
        A function that returns the array of real numbers as stored, often a memory map.
    metadata : mapping of str to str
        The file's metadata. Its entry `model` names the network that the latents belong to.
    shaped : bool
        Whether the file stores a shape. If it does not, `array` is one-dimensional, and the frames
        are read as channels first unless a layout is passed.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    shaped: bool = True

    @functools.cached_property
    def array(self) -> npt.NDArray[Any]:
        """The numbers as stored. They are read or memory-mapped at the first access.

        Raises
        ------
        InputError
            If the numbers can't be read.
        """
        return self.read()

    def fits(self, latent_dim: int) -> bool:
        """Whether the file may contain frames of this size."""
        if not self.shaped:
            return math.prod(self.shape) % latent_dim == 0
        return axis_order.fits(self.shape, latent_dim, self.name)

    def frames(self, latent_dim: int, layout: AxisOrder | None = None) -> npt.NDArray[Any]:
        """Check every frame, and return a view (frames, latent_dim) in the file's own dtype.

        Parameters
        ----------
        latent_dim : int
            Size of a latent frame.
        layout : {"tc", "ct"}, optional
            Time first or channels first. It is required if the shape fits both.

        Raises
        ------
        InputError
            If the shape does not fit or is ambiguous, if there are no frames, or if a frame is not
            finite as float32 (the message has its index).
        """
        frames = self.view(latent_dim, layout)
        if len(frames) == 0:
            raise InputError(f"{self.name}: holds no frames; at least one was expected")
        for first in range(0, len(frames), CHECK_FRAMES):
            as_decoded(frames[first : first + CHECK_FRAMES], first, self.name)
        return frames

    def count(self, latent_dim: int, layout: AxisOrder | None = None) -> int:
        """The number of frames, found without reading them."""
        if not self.shaped:
            return len(self.view(latent_dim, layout))
        return axis_order.time_first(self.shape, latent_dim, layout, self.name)[0]

    def view(self, latent_dim: int, layout: AxisOrder | None = None) -> npt.NDArray[Any]:
        """View the stored numbers as (frames, latent_dim), without a check of the frames.

        Raises
        ------
        InputError
            If the shape does not fit or is ambiguous.
        """
        if not self.shaped:
            return axis_order.flat_frames(
                self.array, latent_dim, layout, self.name, "latent numbers"
            )
        return axis_order.frames_view(self.array, latent_dim, layout, self.name)

    def blocks(
        self, latent_dim: int, layout: AxisOrder | None = None, size: int = 32
    ) -> Iterator[FloatArray]:
        """Yield the frames in blocks (n, latent_dim) float32 with n <= `size`.

        The errors are those of `frames`.
        """
        frames = self.frames(latent_dim, layout)
        return cut(frames, size, self.name)


def cut(frames: npt.NDArray[Any], size: int, name: str, number: int = 0) -> Iterator[FloatArray]:
    """Yield blocks of at most `size` frames as float32.

    `number` is the index of the first frame, for messages.
    """
    for first in range(0, len(frames), size):
        yield as_decoded(frames[first : first + size], number + first, name)


def as_decoded(frames: npt.NDArray[Any], first: int, name: str) -> FloatArray:
    """Convert frames to float32. An `InputError` names a frame that is not finite."""
    try:
        return checked_frames(frames, first)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def read_latents(path: str | Path) -> LatentFile:
    """Open a file of latents. Its numbers are read later.

    Raises
    ------
    InputError
        If the file can't be read, if its suffix is unknown, or if its content does not match the
        suffix.
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
    """Map an `.npy` file into memory."""
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
    """Open an `.npz` file, whose array is decompressed at the first access."""
    with _npz_member(path) as (_, header):
        return LatentFile(str(path), header.shape, functools.partial(_read_npz, path, header))


def _read_npz(path: Path, expected: Header) -> npt.NDArray[Any]:
    with _npz_member(path) as (member, header):
        if header != expected:
            raise InputError(f"{path}: was changed while it was read")
        # NumPy's own reader is not used, because it allocates whatever size the header claims.
        return read_numbers(member, header, str(path))


@contextmanager
def _npz_member(path: Path) -> Iterator[tuple[IO[bytes], Header]]:
    """Open an array in an `.npz` file: the array named latents, or else the only array.

    Yields
    ------
    member : file object
        A file object at the position of the array's first number.
    header : Header
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
                raise InputError(f"{path}: compressed with a method that NumPy does not use")
            with archive.open(chosen) as member:
                header = read_header(member, str(path))
                # zipfile returns at most `file_size` bytes, the size in the archive's directory.
                there = chosen.file_size - member.tell()
                if there < header.size_in_bytes:
                    raise cut_off(str(path), header.size_in_bytes, there)
                yield member, header
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # Damaged files make zipfile and zlib raise various errors.
        raise InputError(
            f"{path}: not an .npz file of plain arrays (cut off or damaged)"
        ) from error


def _read_safetensors(path: Path) -> LatentFile:
    """Open a tensor in a file: the tensor named latents, or else the only 2-D or 3-D tensor."""
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
        more = f" and {len(tensors) - MAX_SHOWN} more" if len(tensors) > MAX_SHOWN else ""
        found = ", ".join(list(tensors)[:MAX_SHOWN]) + more or "none"
        raise InputError(
            f"{path}: one tensor of 2 or 3 dimensions, or one named latents, was expected; "
            f"the tensors are: {found}"
        )
    tensor = tensors[names[0]]
    if tensor.dtype not in FLOATS:
        raise InputError(
            f"{path}: an array of floats was expected, {tensor.name} is {tensor.dtype}"
        )
    return LatentFile(str(path), tensor.shape, tensor.read, container.metadata)
