"""Reads files from ``torch.save``, without executing code from a pickle (``weights_only=True``).

Since torch 1.6 such a file is an uncompressed zip archive of a pickle and the tensors' storages
(https://pytorch.org/docs/stable/notes/serialization.html). Older versions wrote a sequence of
pickles, followed by the storages.
"""

from __future__ import annotations

import functools
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.dtypes import FloatingArray, code_of
from oobleck_stream.formats.tensors import Container, Tensor
from oobleck_stream.memory import capped_trial

MEMORY_PER_BYTE, SPARE_MEMORY = 4, 2**29
"""Opening a file may take up to `MEMORY_PER_BYTE` times its size, plus `SPARE_MEMORY` bytes."""

_ZIP = b"PK\3\4"


def open_torch(path: Path) -> Container:
    """Open a `.ckpt`, `.pt`, `.pth` or `.bin` file. A zip archive is memory-mapped.

    The tensors are the values of the dictionary under ``state_dict``. If there is no such entry,
    the tensors are the values of the dictionary in the file. Values that are not tensors are
    ignored.

    Raises
    ------
    CheckpointError
        If torch is not installed, if the file is damaged or contains no tensors, if it contains
        objects that could only be created by executing code, or if it would take much more memory
        than its size.
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
            code_of(str(value.dtype).removeprefix("torch.")) or str(value.dtype),
            functools.partial(_read, value),
        )
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(path, "holds no tensors by name, nor any under state_dict")
    size = path.stat().st_size
    for name in tensors:
        # A small file can claim any size, because a stride of 0 repeats values and a meta tensor
        # has no values.
        if found[name].numel() * found[name].element_size() > size:
            raise CheckpointError(path, f"damaged: {name} has more numbers than are in the file")
    return Container(path, tensors, {}, (path,))


def _loaded(torch: Any, path: Path) -> Any:
    """Return the unpickled object in a file.

    A zip archive is memory-mapped. A file in the older format is read into memory. A pickle can
    make torch allocate any amount of memory, so the file is first unpickled in a process with a
    memory limit.
    """
    try:
        memory = MEMORY_PER_BYTE * path.stat().st_size + SPARE_MEMORY
        problem = capped_trial(memory, lambda: _attempt(torch, path)[1])
    except OSError as error:
        problem = f"can't be read: {error.strerror or error}"
    except MemoryError:
        problem = "damaged: torch can't open it"
    value = None
    if not problem:
        value, problem = _attempt(torch, path)
    if problem:
        raise CheckpointError(path, problem)
    return value


def _attempt(torch: Any, path: Path) -> tuple[Any, str]:
    """Return the unpickled object, or None and the reason why it can't be unpickled."""
    try:
        with path.open("rb") as file:
            archive = file.read(len(_ZIP)) == _ZIP
        if archive and _expands(path):
            return None, "damaged: an archive that becomes larger when it is unpacked"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive), ""
    except OSError as error:
        return None, f"can't be read: {error.strerror or error}"
    except pickle.UnpicklingError:
        return None, "contains objects that need code from the file, which is not run (or damage)"
    except Exception as error:  # A damaged archive or pickle can make torch raise anything.
        return None, f"damaged: torch can't open it ({type(error).__name__})"


def _expands(path: Path) -> bool:
    """Whether an archive expands when unpacked, like a zip bomb.

    Torch itself never compresses. The unpacked size is also larger than the archive if several
    entries share the same bytes.
    """
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    compressed = any(file.compress_type != zipfile.ZIP_STORED for file in files)
    return compressed or sum(file.file_size for file in files) > path.stat().st_size


def _read(value: Any) -> FloatingArray:
    """Return a torch tensor as a NumPy array. bfloat16, which NumPy lacks, becomes float32."""
    value = value.detach()
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    numbers: FloatingArray = np.asarray(value.numpy())
    return numbers
