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
        When torch is not installed, or the file is damaged, holds no tensors, or holds objects that
        only a program in it could make.
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
    return Container(path, tensors, {}, (path,))


def _loaded(torch: Any, path: Path) -> Any:
    """What is in the file; old ones can't be mapped."""
    load = functools.partial(torch.load, path, map_location="cpu", weights_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return load(mmap=True)
            except RuntimeError:
                return load()
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


def _read(value: Any) -> FloatingArray:
    value = value.detach()
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    numbers: FloatingArray = np.asarray(value.numpy())
    return numbers
