"""Say so when Numba compiles: the first time on a machine takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click


@contextmanager
def compiling_told() -> Iterator[None]:
    """Tell on standard error when kernels are compiled within, and are not found in the cache."""
    from numba.core import event

    class Listener(event.Listener):
        told = False

        def on_start(self, _: Any) -> None:
            if not self.told:
                click.echo("compiling kernels (once)", err=True)
            self.told = True

        def on_end(self, _: Any) -> None:
            """Nothing: the work goes on."""

    with event.install_listener("numba:compile", Listener()):
        yield


def warm_kernels(quiet: bool = False, backend: str = "cpu") -> None:
    """Load or compile every kernel that decoding needs; say so unless `quiet`."""
    from oobleck_stream.config import OobleckConfig
    from oobleck_stream.model import random_model

    smallest = OobleckConfig(latent_dim=1, channels=1, multiples=(1,), strides=(1,))
    with nullcontext() if quiet else compiling_told():
        random_model(smallest).decode([[0.0]], threads=1, backend=backend)
