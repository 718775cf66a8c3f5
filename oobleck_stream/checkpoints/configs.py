"""Conversion from the config files of published checkpoints to `OobleckConfig`.

An unsupported option that would change the sound raises an error that names the option.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from oobleck_stream.checkpoints.options import Options
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.json_text import parse_json

CONFIG_NAMES = ("model_config.json", "config.json")
"""The names of the config file beside the weights, in stable-audio-tools and in diffusers."""

OWN = "oobleck_stream"
"""The top-level key of this package's own config format."""

_Fields = dict[str, Any]
_FAMILY = re.compile(r'oobleck|"c_mults"', re.IGNORECASE)


def config_from_json(source: object, text: bytes | str) -> OobleckConfig | None:
    """Parse the config file of a checkpoint.

    Parameters
    ----------
    source : object
        The file that contains the text, for error messages.
    text : bytes or str
        The JSON text: a model_config.json of stable-audio-tools, a config.json of diffusers or
        Cosmos3, or a config in this package's own format.

    Returns
    -------
    OobleckConfig or None
        The config. None if the text is the config of an unrelated model.

    Raises
    ------
    CheckpointError
        If the text is not JSON, or describes a network that is not supported. The message names
        every option that is wrong or unsupported.
    """
    values = parse_json(source, text)
    read = _reader(values) if isinstance(values, dict) else None
    if read is None:
        # For bytes, this searches their repr. That is enough, because a repr leaves ASCII text
        # unchanged.
        if _FAMILY.search(str(text)):
            raise CheckpointError(source, "describes an Oobleck network in a form not known here")
        return None
    return _config(source, values, read)


def config_from_fields(source: object, text: bytes | str) -> OobleckConfig:
    """Parse a JSON object whose keys are the fields of `OobleckConfig`, as in packed files.

    Raises
    ------
    CheckpointError
        If the text is not such an object. The message names every field that is wrong.
    """
    values = parse_json(source, text)
    if not isinstance(values, dict):
        raise CheckpointError(source, "an object with the fields of a config was expected")
    return _config(source, values, _every_field)


def _config(
    source: object, values: dict[str, Any], read: Callable[[Options], _Fields]
) -> OobleckConfig:
    """Return the config whose fields `read` extracts. One error reports all problems."""
    problems: list[str] = []
    fields = read(Options(values, "", problems))
    if not problems:
        try:
            return OobleckConfig(**fields)
        except ValueError as error:
            problems.append(str(error))
    raise CheckpointError(source, *problems)


def _reader(values: dict[str, Any]) -> Callable[[Options], _Fields] | None:
    """Return the function that reads a config's format; None if the format is unknown."""
    if OWN in values:
        return _own
    if "model" in values:
        return _stable_audio_tools
    if "vocoder_input_dim" in values or "dec_dim" in values:
        return _cosmos
    if "_class_name" in values or "downsampling_ratios" in values:
        return _diffusers
    return None


def _own(options: Options) -> _Fields:
    """Read this package's own format, which `oobleck_stream.conversion.config_texts` writes."""
    return _every_field(options.section(OWN))


def _every_field(options: Options) -> _Fields:
    """Read all fields of an `OobleckConfig`. A missing field has its default."""
    found: _Fields = {}
    for field in dataclasses.fields(OobleckConfig):
        value: Any = field.default
        if isinstance(value, bool):
            found[field.name] = options.flag(field.name, value)
        elif isinstance(value, int):
            found[field.name] = options.integer(field.name, value)
        elif isinstance(value, float):
            found[field.name] = options.number(
                field.name, value, zero=field.name == "snake_epsilon"
            )
        elif isinstance(value, str):
            found[field.name] = options.text(field.name, value)
        else:
            found[field.name] = options.integers(field.name, value)
    options.reject_unknown(*found)
    return found


def _stable_audio_tools(options: Options) -> _Fields:
    """Read stable-audio-tools' config of an autoencoder or of a diffusion model with one."""
    samplerate = options.integer("sample_rate")
    model, scale = options.section("model"), 1.0
    if "pretransform" in model and "decoder" not in model:
        pretransform = model.section("pretransform")
        if not pretransform.require("type", "autoencoder", None):
            return {}
        scale = pretransform.number("scale", 1.0)
        model = pretransform.section("config")
    if "pretransform" in model:
        # With an inner pretransform (wavelet, PQMF, patched), the decoder's output is not yet
        # audio.
        inner = model.section("pretransform")
        kind = inner.text("type", "unknown")
        inner.problems.append(f"{inner.name('type')} = {kind!r} inside it is not supported")
    if "bottleneck" in model:
        model.section("bottleneck").require("type", "vae", None)
    outer = model.section("decoder")
    if not outer.require("type", "oobleck", None):
        # Don't report the options of another type of decoder: their meanings differ.
        return {}
    decoder = outer.section("config")
    # The defaults here are those of stable-audio-tools, where networks without `use_snake` have
    # ELUs.
    decoder.require("use_snake", True, False)
    decoder.require("antialias_activation", False, False)
    decoder.require("use_nearest_upsample", False, False)
    # `soft_clip` is a tanh after the decoder. It is unsupported only after `final_tanh`, where it
    # would be a second tanh.
    final_tanh, soft_clip = decoder.flag("final_tanh", True), outer.flag("soft_clip", False)
    if final_tanh and soft_clip:
        outer.problems.append(f"{outer.name('soft_clip')} after final_tanh is not supported")
    decoder.reject_unknown(
        "out_channels",
        "channels",
        "latent_dim",
        "c_mults",
        "strides",
        "use_snake",
        "antialias_activation",
        "use_nearest_upsample",
        "final_tanh",
    )
    return {
        "samplerate": samplerate,
        "latent_scale": scale,
        "latent_dim": decoder.integer("latent_dim", 32),
        "audio_channels": decoder.integer("out_channels", 2),
        "channels": decoder.integer("channels", 128),
        "multiples": decoder.integers("c_mults", (1, 2, 4, 8)),
        "strides": decoder.integers("strides", (2, 4, 8, 8)),
        "final_tanh": final_tanh or soft_clip,
    }


def _diffusers(options: Options) -> _Fields:
    """Read diffusers' config of an AutoencoderOobleck, which has Snakes and no final tanh."""
    options.require("_class_name", "AutoencoderOobleck", "AutoencoderOobleck")
    return {
        "samplerate": options.integer("sampling_rate", 44100),
        "latent_dim": options.integer("decoder_input_channels", 64),
        "audio_channels": options.integer("audio_channels", 2),
        "channels": options.integer("decoder_channels", 128),
        "multiples": options.integers("channel_multiples", (1, 2, 4, 8, 16)),
        "strides": options.integers("downsampling_ratios", (2, 4, 4, 8, 8)),
    }


def _cosmos(options: Options) -> _Fields:
    """Read Cosmos3's config: an Oobleck decoder, and an encoder of another architecture."""
    options.require("dec_type", "oobleck", "oobleck")
    options.require("bottleneck_type", "vae", "vae")
    if "bottleneck" in options:
        options.section("bottleneck").require("type", "vae", "vae")
    options.require("activation", "snakebeta", "snakebeta")
    for option in ("dec_use_snake", "snake_logscale"):
        options.require(option, True, True)
    for option in (
        "dec_final_tanh",
        "dec_use_tanh_at_final",
        "dec_anti_aliasing",
        "dec_use_nearest_upsample",
        "anti_aliasing",
    ):
        options.require(option, False, False)
    for option in ("latent_mean", "latent_std"):
        options.require(option, None, None)
    return {
        "samplerate": options.integer("sampling_rate", 48000),
        "latent_dim": options.integer("vocoder_input_dim", 64),
        "audio_channels": options.integer("dec_out_channels", 2),
        "channels": options.integer("dec_dim", 320),
        "multiples": options.integers("dec_c_mults", (1, 2, 4, 8, 16)),
        "strides": options.integers("dec_strides", (2, 4, 5, 6, 8)),
        "output_padding": "s%2",
        "has_encoder": False,
    }
