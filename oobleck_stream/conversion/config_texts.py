"""Converts an `OobleckConfig` to the config files of checkpoints."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from oobleck_stream.checkpoints.configs import OWN
from oobleck_stream.config import OobleckConfig

_SAMPLE_SIZE = 65536
_DEFAULT = OobleckConfig()
_FIXED = (
    "dilations",
    "kernel",
    "kernel_per_stride",
    "transpose_padding",
    "snake_log_scale",
    "snake_epsilon",
    "bias",
    "output_bias",
)
"""Fields that no published config format can express."""


def own_config(config: OobleckConfig) -> str:
    """Return the config in this package's own format, which has every field."""
    return json.dumps({OWN: dataclasses.asdict(config)})


def stable_audio_tools_config(config: OobleckConfig) -> str:
    """Return the model_config.json of a stable-audio-tools autoencoder.

    Raises
    ------
    ValueError
        If the format can't express the config. The message names every field that it can't express.
    """
    problems = _inexpressible(config)
    if config.latent_scale != 1.0:
        problems.append(f"latent_scale = {config.latent_scale}")
    _refuse("stable-audio-tools' config of an autoencoder", problems)
    shared = {
        "channels": config.channels,
        "c_mults": list(config.multiples),
        "strides": list(config.strides),
        "use_snake": True,
    }
    encoder = {"in_channels": config.audio_channels, "latent_dim": 2 * config.latent_dim, **shared}
    decoder = {
        "out_channels": config.audio_channels,
        "latent_dim": config.latent_dim,
        **shared,
        "final_tanh": config.final_tanh,
    }
    halves: dict[str, Any] = {"decoder": {"type": "oobleck", "config": decoder}}
    if config.has_encoder:
        halves = {"encoder": {"type": "oobleck", "config": encoder}, **halves}
    values = {
        "model_type": "autoencoder",
        "sample_size": _SAMPLE_SIZE,
        "sample_rate": config.samplerate,
        "audio_channels": config.audio_channels,
        "model": {
            **halves,
            "bottleneck": {"type": "vae"},
            "latent_dim": config.latent_dim,
            "downsampling_ratio": config.hop,
            "io_channels": config.audio_channels,
        },
    }
    return json.dumps(values, indent=4)


def diffusers_config(config: OobleckConfig, with_encoder: bool) -> str:
    """Return the config.json of diffusers' AutoencoderOobleck.

    Raises
    ------
    ValueError
        If the format can't express the config. The message names every field that it can't express.
    """
    problems = _inexpressible(config)
    if config.final_tanh:
        problems.append("final_tanh = True")
    if config.latent_scale != 1.0:
        problems.append(f"latent_scale = {config.latent_scale}")
    if with_encoder and config.channels != 2 * config.latent_dim:
        problems.append(
            f"an encoder of {config.channels} channels (encoder_hidden_size) with "
            f"{2 * config.latent_dim} outputs (the decoder alone can be: --half decoder)"
        )
    _refuse("diffusers' AutoencoderOobleck", problems)
    values = {
        "_class_name": "AutoencoderOobleck",
        "audio_channels": config.audio_channels,
        "channel_multiples": list(config.multiples),
        "decoder_channels": config.channels,
        "decoder_input_channels": config.latent_dim,
        "downsampling_ratios": list(config.strides),
        "encoder_hidden_size": config.channels,
        "sampling_rate": config.samplerate,
    }
    return json.dumps(values, indent=2)


def _inexpressible(config: OobleckConfig) -> list[str]:
    """Return the fields that neither published format can express, with their values."""
    found = [
        f"{name} = {getattr(config, name)}"
        for name in _FIXED
        if getattr(config, name) != getattr(_DEFAULT, name)
    ]
    if any(map(config.stride_output_padding, config.strides)):
        found.append(f"output_padding = {config.output_padding}")
    return found


def _refuse(config_format: str, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{config_format} can't express {', '.join(problems)}")
