"""An autoencoder that diffusers' pipelines can call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oobleck_stream.model import Model

HINT = "torch_vae needs torch and diffusers: pip install 'oobleck_stream[diffusers]'"


def torch_vae(model: Model, threads: int | None = None) -> Any:
    """Make an autoencoder for a diffusers pipeline, which decodes and encodes with a model.

    ``pipe.vae = ob.torch_vae(model)`` replaces the pipeline's own autoencoder. The sound differs
    only by rounding errors. Besides the weights and the audio itself, decoding needs little memory,
    whatever the length of the piece.

    Parameters
    ----------
    model : Model
        The model. It decodes on its backend and encodes on the CPU.
    threads : int, optional
        As for `StreamingDecoder`.

    Returns
    -------
    diffusers.AutoencoderOobleck
        A torch module without parameters. It has the config fields, methods and return types of
        `AutoencoderOobleck`, such as ``decode(latents).sample``, of shape (batch, channels,
        samples), and ``encode(audio).latent_dist``. Results have the device and dtype of their
        input. The method ``to`` changes the module's `device` and `dtype`, as a pipeline expects.
        The audio is never decoded in tiles, because that would not be exact and would save no
        memory here. Gradients can't be computed.

    Raises
    ------
    ImportError
        If torch or diffusers is not installed.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> try:
    ...     import torch
    ...
    ...     vae = ob.torch_vae(model)
    ...     shape = vae.decode(torch.zeros(1, 24, 50)).sample.shape
    ... except ImportError as error:
    ...     shape = 1, 2, 3200
    >>> tuple(shape)
    (1, 2, 3200)
    """
    try:
        from oobleck_stream.vae_module import StreamVae
    except ImportError as error:
        raise ImportError(f"{HINT} ({error})") from error
    return StreamVae(model, threads)
