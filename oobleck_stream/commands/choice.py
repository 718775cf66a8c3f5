"""The choice of a command's backend and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from oobleck_stream.config import Convolution
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.model import Model

BUNDLED = "tiny"


def resolve_backend(name: str) -> str:
    """Check that a backend can be used, and return its name.

    If CUDA can't be used, ``auto`` becomes ``cpu``, and a message says so. If CUDA can be used,
    ``auto`` is returned unchanged, because the GPU may still have too little memory, which is known
    only when a decoder is created.

    Raises
    ------
    CudaUnavailable
        If the backend is ``cuda`` and CUDA can't be used.
    """
    from oobleck_stream.engine.backends import checked_backend, what_cuda_lacks

    if name == "auto" and what_cuda_lacks():
        click.echo(f"decoding on the CPU: {what_cuda_lacks()}", err=True)
        return "cpu"
    return checked_backend(name)


def chosen_model(
    option: str | None,
    latents: Latents | None = None,
    backend: str = "cpu",
    convolution: Convolution | None = None,
) -> Model:
    """Load the requested model. Without a request, load the model that the latents name.

    If the latents name no model, the bundled model is loaded, but only if the latents fit it and
    fit no other known network.

    Parameters
    ----------
    option : str or None
        The value of ``--model`` or $OOBLECK_STREAM_MODEL.
    latents : Latents, optional
        The latents to decode. Without latents, the default is the bundled model.
    backend : str
        The value of ``--backend``.
    convolution : str, optional
        The value of ``--convolution``.

    Raises
    ------
    CudaUnavailable
        If the backend is ``cuda`` and CUDA can't be used.
    click.UsageError
        If no model is named and the latents don't determine one.
    CheckpointError
        If the model can't be loaded.
    """
    from oobleck_stream.loading import TINY, load

    backend = resolve_backend(backend)
    source = option or (latents and latents.metadata.get("model"))
    if source or latents is None:
        return load(source or BUNDLED, backend=backend, convolution=convolution)
    if latents.shape is None:
        raise click.UsageError(
            f"{latents.name}: raw frames have no shape, so --model must name the network"
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
        f"{latents.name}: no known network has latents of shape {latents.shape}, "
        "so --model must name the network"
    )


def fitting_presets(latents: Latents) -> list[str]:
    """Return the names of the presets whose latent dimension fits the shape of `latents`."""
    from oobleck_stream.config import PRESETS

    return [name for name, config in PRESETS.items() if latents.fits(config.latent_dim)]
