"""Which model decodes these latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.model import Model

BUNDLED = "tiny"


def told_backend(name: str) -> str:
    """The backend that is asked for; where ``auto`` finds no GPU to use, says so: it is the CPU.

    Otherwise ``auto`` stays ``auto``: the GPU may have too little memory for a network.

    Raises
    ------
    CudaUnavailable
        When ``cuda`` is asked for and can't be used.
    """
    from oobleck_stream.engine.backends import checked_backend, what_cuda_lacks

    if name == "auto" and what_cuda_lacks():
        click.echo(f"decoding on the CPU: {what_cuda_lacks()}", err=True)
        return "cpu"
    return checked_backend(name)


def chosen_model(option: str | None, latents: Latents | None = None, backend: str = "cpu") -> Model:
    """Load the model that is asked for, or else the bundled one where it fits the latents.

    Parameters
    ----------
    option : str or None
        What ``--model``, or the environment, says.
    latents : Latents, optional
        What is to be decoded; without it the bundled network is the default.
    backend : str
        What ``--backend`` says.

    Raises
    ------
    CudaUnavailable
        When a GPU is asked for and can't be used.
    click.UsageError
        When nothing names a model and the latents may be another network's.
    CheckpointError
        When the model can't be loaded.
    """
    from oobleck_stream.loading import TINY, load

    backend = told_backend(backend)
    source = option or (latents and latents.metadata.get("model"))
    if source or latents is None:
        return load(source or BUNDLED, backend=backend)
    if latents.shape is None:
        raise click.UsageError(
            f"{latents.name}: raw frames don't tell their size: --model must name the network"
        )
    presets = fitting_presets(latents)
    bundled = load(BUNDLED, backend=backend) if TINY.is_file() else None
    if bundled is not None and not latents.fits(bundled.latent_dim):
        bundled = None
    if bundled is not None and not presets:
        return bundled
    candidates = ([BUNDLED] if bundled else []) + presets
    if candidates:
        raise click.UsageError(
            f"{latents.name}: --model must name the network; networks with latents of this shape: "
            f"{', '.join(candidates)}"
        )
    raise click.UsageError(
        f"{latents.name}: no known network has latents of shape {latents.shape}: "
        "--model must name the network"
    )


def fitting_presets(latents: Latents) -> list[str]:
    """The presets whose latent frames may be these."""
    from oobleck_stream.config import PRESETS

    return [name for name, config in PRESETS.items() if latents.fits(config.latent_dim)]
