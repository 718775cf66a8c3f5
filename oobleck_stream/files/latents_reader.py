"""Latents from `.npy`, `.npz`, `.safetensors` and `.bin` files, in either axis order."""

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
"""Tensor names listed in an error message."""


@dataclass(frozen=True, eq=False)
class LatentFile:
    """Latents as stored in a file.

    Parameters
    ----------
    name : str
        The file's path.
    shape : tuple of int
        As stored. The time axis is inferred from the size of a latent frame.
    read : callable
        Returns the array of real numbers as stored, often a memory map.
    metadata : mapping of str to str
        The file's metadata; `model` is the network that the latents belong to.
    shaped : bool
        Whether the file stores a shape. If not, `array` is one-dimensional, and channels first
        unless a layout is passed.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    shaped: bool = True

    @functools.cached_property
    def array(self) -> npt.NDArray[Any]:
        """The numbers as stored, read (or mapped) at the first access.

        Raises
        ------
        InputError
            If they can't be read.
        """
        return self.read()

    def fits(self, latent_dim: int) -> bool:
        """Whether the file may contain frames of this size."""
        if not self.shaped:
            return math.prod(self.shape) % latent_dim == 0
        return axis_order.fits(self.shape, latent_dim, self.name)

    def frames(self, latent_dim: int, layout: AxisOrder | None = None) -> npt.NDArray[Any]:
        """A view (frames, latent_dim) in the file's own dtype, after checking every frame.

        Parameters
        ----------
        latent_dim : int
            Size of a latent frame.
        layout : {"tc", "ct"}, optional
            Time first or channels first; required if both fit.

        Raises
        ------
        InputError
            If the shape does not fit or is ambiguous, there are no frames, or a frame is not finite
            as float32 (the message has its number).
        """
        frames = self._view(latent_dim, layout)
        if len(frames) == 0:
            raise InputError(f"{self.name}: holds no frames; at least one was expected")
        for first in range(0, len(frames), CHECK_FRAMES):
            as_decoded(frames[first : first + CHECK_FRAMES], first, self.name)
        return frames

    def count(self, latent_dim: int, layout: AxisOrder | None = None) -> int:
        """The number of frames, without reading them."""
        if not self.shaped:
            return len(self._view(latent_dim, layout))
        return axis_order.time_first(self.shape, latent_dim, layout, self.name)[0]

    def _view(self, latent_dim: int, layout: AxisOrder | None) -> npt.NDArray[Any]:
        if not self.shaped:
            return axis_order.flat_frames(
                self.array, latent_dim, layout, self.name, "latent numbers"
            )
        return axis_order.frames_view(self.array, latent_dim, layout, self.name)

    def blocks(
        self, latent_dim: int, layout: AxisOrder | None = None, size: int = 32
    ) -> Iterator[FloatArray]:
        """The frames in blocks of (at most `size`, latent_dim) float32; raises as `frames`."""
        frames = self.frames(latent_dim, layout)
        return cut(frames, size, self.name)


def cut(frames: npt.NDArray[Any], size: int, name: str, number: int = 0) -> Iterator[FloatArray]:
    """Blocks of at most `size` frames as float32; `number` is the first frame's, for messages."""
    for first in range(0, len(frames), size):
        yield as_decoded(frames[first : first + size], number + first, name)


def as_decoded(frames: npt.NDArray[Any], first: int, name: str) -> FloatArray:
    """Frames as float32; `InputError` reports the source and the first frame that isn't finite."""
    try:
        return checked_frames(frames, first)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def read_latents(path: str | Path) -> LatentFile:
    """Open a file of latents; the numbers are read later.

    Raises
    ------
    InputError
        If the file can't be read, its suffix is unknown, or its content does not match the suffix.
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
    """Open an `.npz` file; its array is decompressed at the first access."""
    with _npz_member(path) as (_, header):
        return LatentFile(str(path), header.shape, functools.partial(_read_npz, path, header))


def _read_npz(path: Path, expected: Header) -> npt.NDArray[Any]:
    with _npz_member(path) as (member, header):
        if header != expected:
            raise InputError(f"{path}: was changed while it was read")
        # Not NumPy's reader, which allocates whatever size the header claims.
        return read_numbers(member, header, str(path))


@contextmanager
def _npz_member(path: Path) -> Iterator[tuple[IO[bytes], Header]]:
    """Open the array of an `.npz` file: the one named latents, or else the only one.

    Yields
    ------
    member : file object
        At the first number.
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
    except Exception as error:  # zipfile and zlib raise many kinds for damaged files.
        raise InputError(
            f"{path}: not an .npz file of plain arrays (cut off or damaged)"
        ) from error


def _read_safetensors(path: Path) -> LatentFile:
    """Open a `.safetensors` file: its tensor named latents, or else its only 2-D or 3-D tensor."""
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
