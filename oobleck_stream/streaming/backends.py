"""Where to decode: on the CPU or on a GPU, by name."""

from __future__ import annotations

import functools
import warnings

import numpy as np

from oobleck_stream.kernels.cuda import NoCuda
from oobleck_stream.packed import PackedNetwork
from oobleck_stream.streaming.engine import Engine, Sizes
from oobleck_stream.streaming.layout import Layout

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


def checked_backend(name: str) -> str:
    """The name of a backend that can be asked for; ``"auto"`` stays open until there is work.

    Raises
    ------
    ValueError
        When there is no backend of that name.
    NoCuda
        When it is ``"cuda"`` and can't be used; the message says what is missing.
    """
    if name not in CHOICES:
        raise ValueError(f"unknown backend {name!r}; there are: {', '.join(CHOICES)}")
    if name == "cuda" and what_cuda_lacks():
        raise NoCuda(what_cuda_lacks())
    return name


@functools.cache
def what_cuda_lacks() -> str:
    """Why CUDA can't be used here; nothing when it can: then a kernel was compiled and run."""
    try:
        from oobleck_stream.kernels.cuda.engine import Engine as GraphicsProcessor

        GraphicsProcessor(np.zeros(1, np.float32), streams=1, arena_floats=1).close()
    except NoCuda as error:
        return str(error)
    return ""


@functools.cache
def _tell_once(message: str) -> None:
    # To whoever made the decoder that has the stack that opens the engine.
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def open_engine(
    backend: str, network: PackedNetwork, streams: int, threads: int
) -> tuple[str, Layout, Engine]:
    """An engine for some streams of a network, and what it was made with.

    Parameters
    ----------
    backend : str
        One of `CHOICES`. For ``"auto"`` it is the GPU, or else the CPU, with a warning, once.
    network : PackedNetwork
    streams : int
    threads : int
        Threads of a push, on the CPU.

    Returns
    -------
    backend : str
        One of `BACKENDS`.
    layout : Layout
        Of each stream's arena, with steps as big as suit the backend.
    engine : Engine

    Raises
    ------
    ValueError
        When there is no backend of that name.
    NoCuda
        When it is ``"cuda"`` and can't be used, or has too little memory.
    """
    checked_backend(backend)
    if backend != "cpu":
        try:
            return _on_gpu(network, streams)
        except NoCuda as error:
            if backend == "cuda":
                raise
            missing = str(error)
        _tell_once(f"decoding on the CPU: {missing}")
    from oobleck_stream.streaming.processor import Processor

    layout = Layout.of(network.layers, SIZES["cpu"].cells(streams))
    return "cpu", layout, Processor(network.data, streams, layout.floats, threads)


def _on_gpu(network: PackedNetwork, streams: int) -> tuple[str, Layout, Engine]:
    checked_backend("cuda")
    from oobleck_stream.kernels.cuda.engine import Engine as GraphicsProcessor

    layout = Layout.of(network.layers, SIZES["cuda"].cells(streams))
    return "cuda", layout, GraphicsProcessor(network.data, streams, layout.floats)
