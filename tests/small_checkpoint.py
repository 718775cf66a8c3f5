"""A small checkpoint in every form, and its configs."""

from __future__ import annotations

import json

import pytest
from checkpoint_files import (
    diffusers_form,
    model_of_tensors,
    safetensors_bytes,
)
from networks import (
    random_latents,
    random_tensors,
    stable_audio_config,
)

import oobleck_stream as ob

CONFIG = ob.OobleckConfig(latent_dim=3, channels=4, multiples=(1, 3), strides=(2, 3))
TENSORS = random_tensors(CONFIG)
LATENTS = random_latents(CONFIG, 7)
PREFIXES = (
    "",
    "pretransform.model.",
    "model.pretransform.model.",
    "autoencoder.",
    "autoencoder_ema.ema_model.",
)
NAMINGS = {
    "stable-audio-tools": lambda tensors: tensors,
    "diffusers": lambda tensors: diffusers_form(tensors, len(CONFIG.strides)),
}


def decoded(source, **options):
    return ob.load(source, **options).decode(LATENTS)


def expected(config=CONFIG, tensors=TENSORS):
    return model_of_tensors(config, tensors).decode(LATENTS)


def written(path, tensors=TENSORS, config=None, **options):
    """A safetensors file; its config in its metadata where there is one."""
    if config is not None:
        options["metadata"] = {"config": json.dumps(config)}
    path.write_bytes(safetensors_bytes(tensors, **options))
    return path


def refusal(source, **options):
    with pytest.raises(ob.CheckpointError) as caught:
        ob.load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(values, path, value):
    """A config with the option at a dotted path changed; None leaves it out."""
    values = json.loads(json.dumps(values))
    *sections, option = path.split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
    place[option] = value
    if value is None:
        del place[option]
    return values


def in_diffusion_model(values, **options):
    """An autoencoder's model_config.json as the pretransform of a diffusion model's."""
    pretransform = {"type": "autoencoder", "config": values["model"], **options}
    model = {"pretransform": pretransform, "diffusion": {"type": "dit"}}
    return {
        "model_type": "diffusion_cond",
        "sample_rate": values.get("sample_rate"),
        "model": model,
    }


STABLE_AUDIO = stable_audio_config(CONFIG)
