"""A subclass of diffusers' AutoencoderOobleck that decodes and encodes with a `Model`.

Everything else is inherited from diffusers: the outputs, the distribution, slices of batches and
the hooks for offloading. This module imports torch and diffusers, so `oobleck_stream.vae` imports
it only on demand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import (
    AutoencoderOobleck,
    AutoencoderOobleckOutput,
)

from oobleck_stream.arrays import FloatArray
from oobleck_stream.model import Model


class StreamVae(AutoencoderOobleck):  # type: ignore[misc]
    """An autoencoder for diffusers' pipelines, as `oobleck_stream.torch_vae` describes it.

    Parameters
    ----------
    model : Model
    threads : int, optional
        As for `StreamingDecoder`.
    """

    def __init__(self, model: Model, threads: int | None = None) -> None:
        # The constructor of AutoencoderOobleck would create torch networks, so it is skipped.
        super(AutoencoderOobleck, self).__init__()
        config = model.config
        self.register_to_config(
            encoder_hidden_size=config.channels,
            downsampling_ratios=list(config.strides),
            channel_multiples=list(config.multiples),
            decoder_channels=config.channels,
            decoder_input_channels=config.latent_dim,
            audio_channels=config.audio_channels,
            sampling_rate=config.samplerate,
        )
        self.model = model
        self.encoder_hidden_size = self.decoder_channels = config.channels
        self.downsampling_ratios = list(config.strides)
        self.upsampling_ratios = self.downsampling_ratios[::-1]
        self.hop_length, self.sampling_rate = model.hop, model.samplerate
        options: dict[str, Any] = {"threads": threads, "layout": "ct"}
        self.encoder = _Network(functools.partial(model.encoder_rows, **options))
        self.decoder = _Network(functools.partial(model.decode, **options))
        self.use_slicing = self.use_tiling = False
        # There are no parameters, so this buffer determines what `device` and `dtype` return.
        self.register_buffer("placeholder", torch.zeros(1), persistent=False)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Encode audio (batch, channels, samples), as AutoencoderOobleck does."""
        posterior = super().encode(x).latent_dist
        scale = self.model.config.latent_scale
        if scale != 1.0:
            posterior.mean = posterior.mean / scale
            posterior.std = posterior.std / abs(scale)
            posterior.var = posterior.std * posterior.std
            posterior.logvar = torch.log(posterior.var)
        return AutoencoderOobleckOutput(latent_dist=posterior) if return_dict else (posterior,)

    def enable_tiling(self, *_: Any, **__: Any) -> None:
        """Do nothing: decoding in tiles would save no memory, and would not be exact."""

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to save, because there are no torch weights (see `oobleck_stream convert`)."""
        raise NotImplementedError(
            "torch_vae has no weights of torch to save: oobleck_stream convert --to diffusers "
            "writes the model as diffusers reads it"
        )


class _Network(torch.nn.Module):  # type: ignore[misc]
    """A module that calls `compute`, a function that returns a NumPy array with time first."""

    def __init__(self, compute: Callable[[torch.Tensor], FloatArray]) -> None:
        super().__init__()
        self._compute = compute

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: torch.Tensor) -> Any:
        """Apply the network to (batch, channels, rows), on the device and with the dtype of `x`."""
        return _Computed.apply(x, self._compute)


class _Computed(torch.autograd.Function):  # type: ignore[misc]
    """Computes the result of a `_Network`. No gradient is defined."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor, compute: Callable[[torch.Tensor], FloatArray]) -> Any:
        rows = torch.from_numpy(compute(x))
        return rows.transpose(-1, -2).contiguous().to(x.device, x.dtype)

    @staticmethod
    def backward(_: Any, *__: Any) -> NoReturn:
        raise NotImplementedError("torch_vae computes no gradients: train with diffusers' own")
