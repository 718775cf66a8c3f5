"""Files that torch has pickled, read by torch: only numbers, no program in them is ever run."""

from __future__ import annotations

import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from oobleck_stream.checkpoints.containers import Container, FloatingArray, Tensor
from oobleck_stream.errors import CheckpointError
from oobleck_stream.memory import memory_capped

_SPARE_BYTES = 2**29
_TIMES_ITS_SIZE = 4
"""What opening a file may take: so many bytes, and so many times its size."""

_ZIP = b"PK\3\4"
_DTYPES = {
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float32": "F32",
    "torch.float64": "F64",
}


def open_torch(path: Path) -> Container:
    """The tensors of a `.ckpt`, `.pt`, `.pth` or `.bin` file, mapped into memory where it can be.

    What lies under ``state_dict`` is taken where there is such a key; what is no tensor is left
    aside.

    Raises
    ------
    CheckpointError
        When torch is not installed, or the file is damaged, holds no tensors, holds objects that
        only a program in it could make, or is small and would become large.
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            path, f"{path.suffix} files are opened by torch: pip install 'oobleck_stream[peers]'"
        ) from None
    values = _loaded(torch, path)
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    found = values if isinstance(values, dict) else {}
    tensors = {
        name: Tensor(
            name,
            tuple(value.shape),
            _DTYPES.get(str(value.dtype), str(value.dtype)),
            functools.partial(_read, value),
        )
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(path, "holds no tensors by name, nor any under state_dict")
    size = path.stat().st_size
    for name in tensors:
        # A view may repeat its numbers, or have none.
        if found[name].numel() * found[name].element_size() > size:
            raise CheckpointError(path, f"damaged: {name} has more numbers than are in the file")
    return Container(path, tensors, {}, (path,))


def _loaded(torch: Any, path: Path) -> Any:
    """What is in the file, mapped into memory if it is an archive, as all but old files are."""
    try:
        with path.open("rb") as file:
            archive = file.read(len(_ZIP)) == _ZIP
        if archive:
            _check_archive(path)
        most = _TIMES_ITS_SIZE * path.stat().st_size + _SPARE_BYTES
        with warnings.catch_warnings(), memory_capped(most):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(path, f"can't be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            path, "holds objects that only a program in it could make, which is not run (or damage)"
        ) from error
    except Exception as error:  # whatever a damaged archive or pickle makes torch raise
        raise CheckpointError(
            path, f"damaged: torch can't open it ({type(error).__name__})"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse an archive with compressed files in it: torch writes none, but would unpack them."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    packed = any(file.compress_type != zipfile.ZIP_STORED for file in files)
    if packed or sum(file.file_size for file in files) > path.stat().st_size:
        raise CheckpointError(path, "damaged: an archive that becomes larger when it is unpacked")


def _read(value: Any) -> FloatingArray:
    value = value.detach()
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    numbers: FloatingArray = np.asarray(value.numpy())
    return numbers
