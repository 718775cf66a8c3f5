"""Latents from files: `.npy`, `.npz`, `.safetensors` and `.bin`, in either layout."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checkpoints.containers import FLOAT_DTYPES
from oobleck_stream.checkpoints.packed_file import is_packed
from oobleck_stream.checkpoints.safetensors_file import open_safetensors
from oobleck_stream.errors import CheckpointError, InputError
from oobleck_stream.files import flat
from oobleck_stream.files import layout as layouts
from oobleck_stream.files.layout import Layout
from oobleck_stream.files.npy import exactly, read_header
from oobleck_stream.latents import CHECK_FRAMES, checked_frames

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
    array : array of real numbers
        As stored, often a memory map; its layout is told by the size of a latent frame.
    metadata : mapping of str to str
        What the file says about itself; `model` names the network it was made for.
    shaped : bool
        Whether the file says its shape; if not, `array` is flat, and channels come first unless
        a layout says otherwise.
    """

    name: str
    array: npt.NDArray[Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    shaped: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.array.shape

    def fits(self, latent_dim: int) -> bool:
        """Whether frames of this size may be stored here."""
        if not self.shaped:
            return self.array.size % latent_dim == 0
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
        """Number of frames."""
        return len(self._view(latent_dim, layout))

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
        if suffix == flat.SUFFIX:
            return LatentFile(str(path), flat.read_flat(path), shaped=False)
        return LatentFile(str(path), _read_npy(path) if suffix == ".npy" else _read_npz(path))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


def _read_npy(path: Path) -> npt.NDArray[Any]:
    """An `.npy` file as a memory map."""
    with path.open("rb") as file:
        header = read_header(file, str(path))
        start, size = file.tell(), path.stat().st_size
    if size < start + header.size_in_bytes:
        raise InputError(
            f"{path}: cut off: {header.size_in_bytes} bytes of numbers were expected, "
            f"{size - start} are there"
        )
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    if header.size_in_bytes == 0:
        return np.empty(header.shape, header.dtype, order)
    numbers: npt.NDArray[Any] = np.memmap(
        path, dtype=header.dtype, mode="r", offset=start, shape=header.shape, order=order
    )
    return numbers


def _read_npz(path: Path) -> npt.NDArray[Any]:
    """The array of an `.npz` file: the only one, or the one named latents."""
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
                # Not NumPy's reader: it takes memory for what a header says, whatever is there.
                data = exactly(member, header.size_in_bytes)
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever damage makes zipfile and zlib raise
        raise InputError(
            f"{path}: not an .npz file of plain arrays (cut off or damaged)"
        ) from error
    if len(data) < header.size_in_bytes:
        raise InputError(f"{path}: cut off: {header.size_in_bytes} bytes of numbers were expected")
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    return np.ndarray(header.shape, header.dtype, data, order=order)


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
    return LatentFile(str(path), tensor.read(), container.metadata)
