"""Where to decode: on the CPU or on a GPU, by name."""

from __future__ import annotations

import functools
import warnings

from oobleck_stream.packed import PackedNetwork
from oobleck_stream.streaming.engine import Engine, Sizes

BACKENDS = ("cpu", "cuda")
CHOICES = ("auto", *BACKENDS)

SIZES = {
    "cpu": Sizes(step_cells=2**18, shares=8, together=16),
    "cuda": Sizes(step_cells=2**22, shares=64, together=64),
}
"""For the CPU a step's rows stay in its cache (1 MiB); a GPU wants all its cores busy.

With less than an eighth for each of many streams, the rows that steps have in common take longer to
move than the cache saves (16 streams: 0.34 instead of 0.32 of real time each).
"""


def chosen_backend(name: str) -> str:
    """``"cpu"`` or ``"cuda"``; for ``"auto"`` the GPU if it can be used, else a warning, once.

    Raises
    ------
    ValueError
        When there is no backend of that name.
    NoCuda
        When it is ``"cuda"`` and can't be used; the message says what is missing.
    """
    if name not in CHOICES:
        raise ValueError(f"unknown backend {name!r}; there are: {', '.join(CHOICES)}")
    if name == "cpu":
        return name
    missing = what_cuda_lacks()
    if not missing:
        return "cuda"
    if name == "cuda":
        from oobleck_stream.kernels.cuda import NoCuda

        raise NoCuda(missing)
    _tell_once(f"decoding on the CPU: {missing}")
    return "cpu"


@functools.cache
def what_cuda_lacks() -> str:
    """Why CUDA can't be used here; nothing when it can."""
    from oobleck_stream.kernels.cuda import NoCuda

    try:
        from oobleck_stream.kernels.cuda.library import open_device

        open_device()
    except NoCuda as error:
        return str(error)
    return ""


@functools.cache
def _tell_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def open_engine(
    backend: str, network: PackedNetwork, streams: int, floats: int, threads: int
) -> Engine:
    """An engine for some streams of a network.

    Parameters
    ----------
    backend : str
        One of `BACKENDS`.
    network : PackedNetwork
    streams : int
    floats : int
        Length of each stream's arena.
    threads : int
        Threads of a push, on the CPU.
    """
    if backend == "cpu":
        from oobleck_stream.streaming.processor import Processor

        return Processor(network.data, streams, floats, threads)
    from oobleck_stream.kernels.cuda.engine import Engine as GraphicsProcessor

    return GraphicsProcessor(network.data, streams, floats)
