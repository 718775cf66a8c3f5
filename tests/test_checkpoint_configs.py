"""Configs of checkpoints: which are read, what overrides what, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkpoint_files import (
    cosmos_config,
    diffusers_config,
)
from networks import (
    random_tensors,
)
from small_checkpoint import (
    CONFIG,
    LATENTS,
    STABLE_AUDIO,
    TENSORS,
    changed,
    decoded,
    expected,
    in_diffusion_model,
    refusal,
    written,
)

import oobleck_stream as ob

SUPPORTED = {
    "autoencoder": (STABLE_AUDIO, {}),
    "diffusion model": (in_diffusion_model(STABLE_AUDIO), {}),
    "latent scale": (in_diffusion_model(STABLE_AUDIO, scale=0.5), {"latent_scale": 0.5}),
    "tanh by default": (
        changed(STABLE_AUDIO, "model.decoder.config.final_tanh", None),
        {"final_tanh": True},
    ),
    "soft clip": (changed(STABLE_AUDIO, "model.decoder.soft_clip", True), {"final_tanh": True}),
    "no bottleneck": (changed(STABLE_AUDIO, "model.bottleneck", None), {}),
    "another rate": (changed(STABLE_AUDIO, "sample_rate", 32000), {"samplerate": 32000}),
    "diffusers": (diffusers_config(CONFIG), {}),
    "diffusers at 48 kHz": (
        changed(diffusers_config(CONFIG), "sampling_rate", 48000),
        {"samplerate": 48000},
    ),
    "cosmos3": (cosmos_config(CONFIG), {"output_padding": "s%2", "has_encoder": False}),
}


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("place", ["metadata", "model_config.json", "config.json"])
def test_configs(tmp_path, name, place):
    values, changes = SUPPORTED[name]
    wanted = CONFIG.replace(**changes)
    file = written(tmp_path / "a.safetensors", config=values if place == "metadata" else None)
    if place != "metadata":
        (tmp_path / place).write_text(json.dumps(values))
    for source in (file, str(file), tmp_path):
        model = ob.load(source)
        assert model.config == wanted
        assert model.name == str(source)
        assert np.array_equal(model.decode(LATENTS), expected(wanted))


def test_the_argument_overrides_the_metadata_which_override_the_config_file(tmp_path):
    file = written(tmp_path / "a.safetensors", config=changed(STABLE_AUDIO, "sample_rate", 1))
    (tmp_path / "config.json").write_text(json.dumps(diffusers_config(CONFIG)))
    assert ob.load(file).samplerate == 1
    assert ob.load(file, config=CONFIG.replace(samplerate=2)).samplerate == 2


def test_a_config_of_an_unrelated_model_is_ignored_with_a_note(tmp_path):
    file = written(tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["Something"]}')
    assert "config.json" in ob.load(file).notes[0]


def test_a_config_in_an_unknown_form_is_refused(tmp_path):
    file = written(tmp_path / "a.safetensors")
    for values in ({"vae_config": {"c_mults": [1, 3]}}, STABLE_AUDIO["model"], ["AudioOobleck"]):
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert "in a form not known here" in refusal(file)
    assert np.array_equal(decoded(file, config=CONFIG), expected())


UNSUPPORTED = {
    "model.decoder.type": ["seanet", "dac", "local_attn", "taae", None],
    "model.decoder.config.use_snake": [False, None, "true", 1],
    "model.decoder.config.antialias_activation": [True],
    "model.decoder.config.use_nearest_upsample": [True],
    "model.decoder.config.causal": [True],
    "model.decoder.config.strides": [[2], [2, "3"], [], 2, [0, 1], [2, True]],
    "model.decoder.config.c_mults": [[1, 3.5], {}],
    "model.decoder.config.channels": [0, "4", 1.5, True],
    "model.bottleneck.type": ["rvq", "dac_rvq", "fsq", "wasserstein", "tanh"],
    "model.pretransform": [{"type": "pqmf"}, {"type": "wavelet"}, {"type": "patched"}, 3],
    "sample_rate": [None, "44100", -1],
}


@pytest.mark.parametrize("whole", [False, True], ids=["autoencoder", "diffusion model"])
@pytest.mark.parametrize("option", UNSUPPORTED)
def test_unsupported_options_are_refused_by_name(tmp_path, option, whole):
    for value in UNSUPPORTED[option]:
        values = changed(STABLE_AUDIO, option, value)
        values = in_diffusion_model(values) if whole else values
        message = refusal(written(tmp_path / "a.safetensors", config=values))
        assert option.split(".")[-1] in message, value
        if isinstance(value, dict):
            assert value.get("type", "") in message


def test_other_refusals_of_configs(tmp_path):
    def message(values):
        return refusal(written(tmp_path / "a.safetensors", config=values))

    both = changed(STABLE_AUDIO, "model.decoder.soft_clip", True)
    assert "soft_clip" in message(changed(both, "model.decoder.config.final_tanh", True))
    assert "pqmf" in message(
        {"sample_rate": 1, "model": {"pretransform": {"type": "pqmf", "config": {}}}}
    )
    for scale in (0, "1", 1e999, 10**400, True):
        assert "scale" in message(in_diffusion_model(STABLE_AUDIO, scale=scale))
    assert "AutoencoderKL" in message({"_class_name": "AutoencoderKL", "latent_channels": 4})
    for option, value in {
        "dec_use_snake": False,
        "dec_final_tanh": True,
        "dec_anti_aliasing": True,
        "snake_logscale": False,
        "latent_mean": [0.0],
        "dec_type": "dac",
        "bottleneck_type": "fsq",
    }.items():
        assert option in message(changed(cosmos_config(CONFIG), option, value))
    for values in ({"model": 3}, {"model": {}}, {"model": {"decoder": []}}):
        assert "model" in message(values)
    everything = changed(both, "model.decoder.config.antialias_activation", True)
    everything = message(changed(everything, "model.bottleneck.type", "rvq"))
    assert "antialias_activation" in everything
    assert "rvq" in everything


def test_a_config_that_is_not_json(tmp_path):
    file = written(tmp_path / "a.safetensors")
    for text in (b"{", b"\xff\xfe\x00", b"[" * 100_000, b""):
        (tmp_path / "model_config.json").write_bytes(text)
        assert "model_config.json" in refusal(file)


def test_a_config_of_another_shape_is_named(tmp_path):
    other = CONFIG.replace(strides=(2, 4), latent_dim=64)
    message = refusal(written(tmp_path / "a.safetensors"), config=other)
    assert "strides is (2, 4) in the config, (2, 3) in the tensors" in message
    assert "latent_dim" in message
    assert "channels is" not in message


def test_without_a_config_the_geometry_is_inferred_from_shapes(tmp_path):
    model = ob.load(written(tmp_path / "a.safetensors"))
    assert model.config == CONFIG
    assert np.array_equal(model.decode(LATENTS), expected())
    text = " ".join(model.notes)
    for word in ("no config", "44100 was assumed", "final tanh", "latent scale"):
        assert word in text


def test_without_a_config_the_sample_rate_is_that_of_a_preset_with_the_same_shapes(
    tmp_path, monkeypatch
):
    file = written(tmp_path / "a.safetensors")
    preset = CONFIG.replace(samplerate=48000, output_padding="s%2", has_encoder=False)
    monkeypatch.setitem(ob.PRESETS, "little", preset)
    document = preset.replace(
        samplerate=8000,
        kernel_per_stride=1,
        transpose_padding="(k-1)//2",
        output_padding="s-1",
    )
    monkeypatch.setitem(ob.PRESETS, "never guessed", document)
    model = ob.load(file)
    assert model.config == preset
    assert any("48000" in note and "little" in note for note in model.notes)
    monkeypatch.setitem(ob.PRESETS, "less", preset.replace(samplerate=32000))
    assert ob.load(file).samplerate == 44100


def test_the_65536x_geometry_is_loaded_with_its_config(tmp_path, monkeypatch):
    config = ob.PRESETS["document"].replace(channels=4, latent_dim=3, strides=(2, 3, 4, 2, 4))
    tensors = random_tensors(config)
    file = written(tmp_path / "a.safetensors", tensors)
    assert np.array_equal(decoded(file, config=config), expected(config, tensors))
    assert "kernel" in refusal(file)
    monkeypatch.setitem(ob.PRESETS, "document", config)
    assert ob.load(file, config="document").config == config
    with pytest.raises(ValueError, match="the presets are"):
        ob.load(file, config="nothing")


def test_without_a_config_unknown_parts_are_refused(tmp_path):
    for name in ("bottleneck.codebook", "pretransform.filters", "transformers.layers.0.weight"):
        extra = {name: np.ones(3, np.float32)}
        file = written(tmp_path / "a.safetensors", TENSORS | extra)
        assert name in refusal(file)
        assert np.array_equal(decoded(file, config=CONFIG), expected())
