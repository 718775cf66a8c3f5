"""`oobleck_stream.load`: every form of a checkpoint gives the same bits, and every fault a line."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    DTYPES,
    WEIGHT_NORMS,
    cosmos_config,
    diffusers_config,
    diffusers_form,
    model_of_tensors,
    rounded,
    safetensors_bytes,
    with_header,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    random_latents,
    random_tensors,
    stable_audio_config,
    write_folder,
)

import oobleck_stream as ob
from oobleck_stream import loading

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


# --- every form of the same network


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", WEIGHT_NORMS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_bits(tmp_path, naming, norm, dtype):
    stored = {
        name: rounded(values, dtype)
        for name, values in (WEIGHT_NORMS[norm](TENSORS) if norm == "folded" else TENSORS).items()
    }
    wanted = expected(tensors=stored)
    assert np.abs(wanted).max() > 0
    spelled = NAMINGS[naming](stored if norm == "folded" else WEIGHT_NORMS[norm](stored))
    for prefix in PREFIXES:
        tensors = {prefix + name: values for name, values in spelled.items()}
        file = written(tmp_path / "a.safetensors", tensors, stable_audio_config(CONFIG), dtype=dtype)
        assert np.array_equal(decoded(file), wanted), prefix


def test_averaged_weights_are_taken_and_it_is_said(tmp_path):
    plain = {f"autoencoder.{name}": values for name, values in random_tensors(CONFIG, 5).items()}
    average = {f"autoencoder_ema.ema_model.{name}": values for name, values in TENSORS.items()}
    online = {f"autoencoder_ema.online_model.{name}": plain[f"autoencoder.{name}"] for name in TENSORS}
    file = written(tmp_path / "a.safetensors", plain | average | online)
    model = ob.load(file, config=CONFIG)
    assert np.array_equal(model.decode(LATENTS), expected())
    assert [note for note in model.notes if "EMA" in note and "'autoencoder.'" in note]


def test_of_two_plain_decoders_the_pretransform_is_taken(tmp_path):
    other = {f"something.{name}": values for name, values in random_tensors(CONFIG, 5).items()}
    mine = {f"pretransform.model.{name}": values for name, values in TENSORS.items()}
    file = written(tmp_path / "a.safetensors", other | mine)
    assert np.array_equal(decoded(file, config=CONFIG), expected())
    unknown = {f"else.{name}": values for name, values in TENSORS.items()}
    file = written(tmp_path / "b.safetensors", other | unknown)
    assert "else." in refusal(file) and "something." in refusal(file)


def test_other_parts_of_a_diffusion_model_are_no_concern(tmp_path):
    others = {
        "pretransform.model.encoder.layers.0.weight_g": np.ones((4, 1, 1), np.float32),
        "model.model.transformer.layers.0.weight": np.full((2, 2), np.nan, np.float32),
        "conditioner.table": np.ones(3, np.int64),
    }
    mine = {f"pretransform.model.{name}": values for name, values in TENSORS.items()}
    file = written(tmp_path / "a.safetensors", others | mine)
    assert np.array_equal(decoded(file, config=CONFIG), expected())


def shards(folder, tensors=TENSORS, count=3, name="model"):
    """A sharded checkpoint; the path of its index."""
    places = {key: f"{name}-{i % count}-of-{count}.safetensors" for i, key in enumerate(tensors)}
    folder.mkdir(exist_ok=True)
    for file in set(places.values()):
        written(folder / file, {key: tensors[key] for key in places if places[key] == file})
    index = folder / f"{name}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_sharded(tmp_path):
    index = shards(tmp_path / "sharded")
    (index.parent / "model_config.json").write_text(json.dumps(stable_audio_config(CONFIG)))
    assert np.array_equal(decoded(index), expected())
    assert np.array_equal(decoded(index.parent), expected())


def test_faulty_shards_are_named(tmp_path):
    index = shards(tmp_path / "sharded")
    places = json.loads(index.read_text())["weight_map"]
    first, *_, last = places
    index.write_text(json.dumps({"weight_map": {**places, first: places[last]}}))
    assert first in refusal(index) and places[last] in refusal(index)
    for file in ("../a.safetensors", "/etc/passwd", "..\\a", "", ".."):
        index.write_text(json.dumps({"weight_map": {first: file}}))
        refusal(index)
    for text in ("[", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', '"\xff"'):
        index.write_text(text, "latin-1")
        refusal(index)
    index.write_text(json.dumps({"weight_map": places}))
    (index.parent / places[last]).unlink()
    assert places[last] in refusal(index)


# --- configs


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
    return {"model_type": "diffusion_cond", "sample_rate": values["sample_rate"], "model": model}


STABLE_AUDIO = stable_audio_config(CONFIG)
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


def test_metadata_counts_before_a_file_beside_and_config_before_both(tmp_path):
    file = written(tmp_path / "a.safetensors", config=changed(STABLE_AUDIO, "sample_rate", 1))
    (tmp_path / "config.json").write_text(json.dumps(diffusers_config(CONFIG)))
    assert ob.load(file).samplerate == 1
    assert ob.load(file, config=CONFIG.replace(samplerate=2)).samplerate == 2


def test_a_config_of_something_else_is_left_aside_and_it_is_said(tmp_path):
    file = written(tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["Something"]}')
    assert "config.json" in ob.load(file).notes[0]


UNSUPPORTED = {
    "model.decoder.type": ["seanet", "dac", "local_attn", "taae", None],
    "model.decoder.config.use_snake": [False, None, "true"],
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
        if whole and value is None and option == "sample_rate":
            continue
        message = refusal(written(tmp_path / "a.safetensors", config=values))
        assert option.split(".")[-1] in message, value
        if isinstance(value, dict):
            assert value.get("type", "") in message


