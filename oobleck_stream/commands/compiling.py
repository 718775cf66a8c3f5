"""Compiles the kernels. Compilation is reported, because it takes seconds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import click


@contextmanager
def report_compiling(backend: str = "cpu") -> Iterator[None]:
    """Print a line on standard error if a kernel is compiled during the block.

    Parameters
    ----------
    backend : str
        If the backend is not ``cpu``, CUDA kernels are reported too.
    """
    from numba.core import event

    from oobleck_stream.errors import CudaUnavailable

    @functools.cache  # once per block, not once per kernel
    def report() -> None:
        click.echo(f"compiling kernels{' (once)' if _are_cached() else ''}", err=True)

    class Listener(event.Listener):
        def on_start(self, _: Any) -> None:
            report()

        def on_end(self, _: Any) -> None:
            """Do nothing. Numba's interface requires this method."""

    with ExitStack() as listeners:
        listeners.enter_context(event.install_listener("numba:compile", Listener()))
        if backend != "cpu":
            with suppress(CudaUnavailable):
                from oobleck_stream.engine.cuda.library import on_compilation

                listeners.enter_context(on_compilation(report))
        yield


def _are_cached() -> bool:
    """Whether compiled kernels are cached on disk."""
    from oobleck_stream.engine.kernel_entries import NotKeptError, kernels_folder

    try:
        return kernels_folder() is not None
    except NotKeptError:
        return False


def warm_kernels(quiet: bool = False, backend: str = "cpu") -> None:
    """Load or compile every kernel that decoding uses.

    Parameters
    ----------
    quiet : bool
        Whether to compile without a message.
    backend : str
        ``"cpu"``, ``"cuda"``, or ``"auto"``. With ``"auto"``, CUDA's kernels are compiled if CUDA
        can be used, and the CPU's kernels otherwise.
    """
    from oobleck_stream.config import OobleckConfig
    from oobleck_stream.engine.backends import what_cuda_lacks
    from oobleck_stream.random_weights import random_model

    with nullcontext() if quiet else report_compiling(backend):
        if backend == "cuda" or (backend == "auto" and not what_cuda_lacks()):
            from oobleck_stream.engine.cuda import engine as cuda_engine

            cuda_engine.warm_kernels()
        else:
            smallest = OobleckConfig(latent_dim=1, channels=1, multiples=(1,), strides=(1,))
            random_model(smallest).decode([[0.0]], threads=1, backend="cpu")
