"""`oobleck_stream.load`: every form of a checkpoint gives the same bits, and every fault a line."""

from __future__ import annotations

import contextlib
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
        file = written(
            tmp_path / "a.safetensors", tensors, stable_audio_config(CONFIG), dtype=dtype
        )
        assert np.array_equal(decoded(file), wanted), prefix


def test_averaged_weights_are_taken_and_it_is_said(tmp_path):
    plain = {f"autoencoder.{name}": values for name, values in random_tensors(CONFIG, 5).items()}
    average = {f"autoencoder_ema.ema_model.{name}": values for name, values in TENSORS.items()}
    online = {
        f"autoencoder_ema.online_model.{name}": plain[f"autoencoder.{name}"] for name in TENSORS
    }
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
    assert "else." in refusal(file)
    assert "something." in refusal(file)


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
    assert first in refusal(index)
    assert places[last] in refusal(index)
    outside = written(tmp_path / "outside.safetensors")
    for file in ("../outside.safetensors", str(outside), "..\\outside.safetensors", "", ".."):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, file)}))
        assert "is not the name of a file beside the index" in refusal(index)
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
    return {
        "model_type": "diffusion_cond",
        "sample_rate": values.get("sample_rate"),
        "model": model,
    }


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


def test_without_a_config_the_shapes_speak(tmp_path):
    model = ob.load(written(tmp_path / "a.safetensors"))
    assert model.config == CONFIG
    assert np.array_equal(model.decode(LATENTS), expected())
    text = " ".join(model.notes)
    for word in ("no config", "44100 was assumed", "final tanh", "latent scale"):
        assert word in text


def test_without_a_config_a_preset_of_the_same_shapes_speaks(tmp_path, monkeypatch):
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


def test_the_documents_geometry_is_loaded_when_named(tmp_path, monkeypatch):
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


# --- tensors that are not as they should be


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("prefix", ["", "pretransform.model."])
def test_every_missing_tensor_is_named(tmp_path, naming, prefix):
    tensors = {prefix + name: values for name, values in NAMINGS[naming](TENSORS).items()}
    for name in tensors:
        rest = {other: tensors[other] for other in tensors if other != name}
        message = refusal(written(tmp_path / "a.safetensors", rest), config=CONFIG)
        assert message.endswith("is missing")
        assert f"{name} (" in message


def test_missing_tensors_are_named_without_a_config(tmp_path):
    for name in ("decoder.layers.0.weight_v", "decoder.layers.4.weight_v"):
        rest = {other: TENSORS[other] for other in TENSORS if other != name}
        assert name.removesuffix("_v") in refusal(written(tmp_path / "a.safetensors", rest))


def test_all_faults_are_named_at_once(tmp_path):
    tensors = dict(TENSORS)
    del tensors["decoder.layers.0.bias"]
    tensors["decoder.layers.3.alpha"] = np.zeros(5, np.float32)
    tensors["decoder.layers.3.beta"] = np.zeros(4, np.int64)
    tensors["decoder.layers.1.layers.1.bias"] = np.zeros((12, 1, 1), np.float32)
    tensors["decoder.layers.4.bias"] = np.zeros(2, np.float32)
    tensors["decoder.something"] = np.zeros(2, np.float32)
    with pytest.raises(ob.CheckpointError) as caught:
        ob.load(written(tmp_path / "a.safetensors", tensors), config=CONFIG)
    assert sorted(caught.value.problems) == [
        "decoder.layers.0.bias (12) is missing",
        "decoder.layers.1.layers.1.bias is 12 x 1 x 1, not 4",
        "decoder.layers.3.alpha is 5, not 4 or 1 x 4 x 1",
        "decoder.layers.3.beta is I64, not F16, BF16, F32, F64",
        "decoder.layers.4.bias is unexpected",
        "decoder.something is unexpected",
    ]


def test_a_long_list_of_faults_is_cut_with_a_count(tmp_path):
    extra = {f"decoder.more.{number}": np.zeros(1, np.float32) for number in range(100)}
    message = refusal(written(tmp_path / "a.safetensors", TENSORS | extra))
    assert "and 94 problems more" in message
    assert len(message) < 500


def test_a_tensor_under_two_namings_is_refused(tmp_path):
    twice = TENSORS | {
        "decoder.layers.0.parametrizations.weight.original0": TENSORS["decoder.layers.0.weight_g"]
    }
    assert "original0 occurs twice" in refusal(written(tmp_path / "a.safetensors", twice))
    twice = TENSORS | {"decoder.layers.0.weight": TENSORS["decoder.layers.0.weight_v"]}
    assert "decoder.layers.0.weight is unexpected" in refusal(
        written(tmp_path / "a.safetensors", twice)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm", ["old", "folded"])
def test_values_that_are_not_finite_are_named(tmp_path, norm, value):
    tensors = WEIGHT_NORMS[norm](TENSORS)
    for name in tensors:
        spoilt = tensors[name].copy()
        spoilt.flat[-1] = value
        message = refusal(written(tmp_path / "a.safetensors", tensors | {name: spoilt}))
        assert message.endswith(f": {name} holds values that are not finite")
    spoilt = {name: values * value for name, values in tensors.items()}
    with pytest.raises(ob.CheckpointError) as caught:
        ob.load(written(tmp_path / "a.safetensors", spoilt))
    assert len(caught.value.problems) == len(tensors)


def test_weights_that_fold_to_nothing_finite_are_named(tmp_path):
    for name in ("decoder.layers.0.weight_v", "decoder.layers.1.layers.0.beta"):
        values = TENSORS[name] * 0 if name.endswith("v") else TENSORS[name] - 1e4
        config = CONFIG.replace(snake_epsilon=0.0)
        message = refusal(
            written(tmp_path / "a.safetensors", TENSORS | {name: values}), config=config
        )
        assert name in message
        assert message.endswith("give weights that are not finite")
    big = {name: values * 1e300 for name, values in folded_doubles().items()}
    assert "not finite" in refusal(written(tmp_path / "a.safetensors", big, dtype="F64"))


def folded_doubles():
    return {name: values.astype(float) for name, values in WEIGHT_NORMS["folded"](TENSORS).items()}


# --- damaged files

WHOLE = safetensors_bytes(TENSORS)
HEADER_END = 8 + int.from_bytes(WHOLE[:8], "little")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    ends = {*range(0, 40), *range(0, len(WHOLE), len(WHOLE) // 200), len(WHOLE) - 1}
    for end in ends | {HEADER_END - 1, HEADER_END, HEADER_END + 1}:
        file.write_bytes(WHOLE[:end])
        assert str(file) in refusal(file), end
    file.write_bytes(WHOLE + b"\0")
    assert "after the last tensor" in refusal(file)
    file.write_bytes(WHOLE[:-4])
    assert "cut short" in refusal(file)


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES = {
    "an endless header": (2**63).to_bytes(8, "little") + b"{}",
    "a header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "not JSON": with_header(b"{a}"),
    "not UTF-8": with_header(b'{"\xff": 1}'),
    "a list": with_header([1, 2]),
    "a deep nest": with_header(b"[" * 200_000),
    "a long number": with_header(b'{"a": ' + b"9" * 10_000 + b"}"),
    "the same name twice": with_header(
        f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}'.encode(), bytes(8)
    ),
    "no tensors": with_header({}),
    "a tensor that is no object": with_header({"a": 3}),
    "no shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "a negative shape": with_header({"a": entry([-2])}, bytes(8)),
    "a shape of twice less than nothing": with_header({"a": entry([-2, -1])}, bytes(8)),
    "a shape of texts": with_header({"a": entry(["2"])}, bytes(8)),
    "a shape of truths": with_header({"a": entry([True, 2])}, bytes(8)),
    "a huge shape": with_header({"a": entry([2**62, 2**62])}, bytes(8)),
    "endless dimensions": with_header({"a": entry([1] * 100_000)}, bytes(8)),
    "a dtype that is no text": with_header({"a": entry(dtype=4)}, bytes(8)),
    "reversed offsets": with_header({"a": entry([0], 8, 0)}, bytes(8)),
    "three offsets": with_header({"a": {**entry(), "data_offsets": [0, 8, 8]}}, bytes(8)),
    "an overlap": with_header({"a": entry(), "b": entry((2,), 4, 12)}, bytes(12)),
    "a hole": with_header({"a": entry(), "b": entry((2,), 12, 20)}, bytes(20)),
    "beyond the end": with_header({"a": entry((4,), 0, 16)}, bytes(8)),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "a pickle": b"PK\x03\x04" + bytes(200),
    "garbage": bytes(range(256)) * 20,
    "web page": b"<!DOCTYPE html><html><body>Not found</body></html>",
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused(tmp_path, lie):
    file = tmp_path / "a.safetensors"
    file.write_bytes(LIES[lie])
    tracemalloc.start()
    message = refusal(file)
    assert tracemalloc.get_traced_memory()[1] < 100_000 + 20 * len(LIES[lie])
    tracemalloc.stop()
    assert str(file) in message
    assert ("no Oobleck decoder" in message) == (lie == "no tensors")


@settings(max_examples=300)
@given(st.data())
def test_mutated_files_load_or_are_refused(tmp_path, data):
    mutated = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of the meaning is in the header.
        last = data.draw(st.sampled_from([7, HEADER_END - 1, HEADER_END - 1, len(WHOLE) - 1]))
        place = data.draw(st.integers(0, min(last, len(mutated) - 1)))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from(
                    [b"0", b"-1", b"99999999", b"null", b"F16", b"}", b'"', b"[", b"]"]
                ),
            )
        )
        removed = data.draw(st.integers(0, 4))
        mutated[place : place + removed] = piece
    file = tmp_path / "a.safetensors"
    file.write_bytes(mutated)
    with contextlib.suppress(ob.CheckpointError):
        assert np.isfinite(ob.load(file).decoder.data).all()


@settings(max_examples=200)
@given(st.data())
def test_mutated_configs_load_or_are_refused(tmp_path, data):
    file = written(tmp_path / "a.safetensors")
    text = bytearray(json.dumps(in_diffusion_model(STABLE_AUDIO, scale=2.0)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        removed = data.draw(st.integers(0, 5))
        text[place : place + removed] = data.draw(
            st.one_of(
                st.binary(max_size=2), st.sampled_from([b"9" * 400, b"1e400", b"null", b"{}"])
            )
        )
    (tmp_path / "model_config.json").write_bytes(text)
    with contextlib.suppress(ob.CheckpointError):
        assert np.isfinite(ob.load(file).decoder.data).all()


# --- memory


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_huge_checkpoint_costs_no_more_than_its_decoder(tmp_path):
    config = CONFIG.replace(channels=64, multiples=(2, 8), strides=(4, 8))
    tensors = random_tensors(config)
    wanted = model_of_tensors(config, tensors)
    others = 12 * 2**30
    file = tmp_path / "a.safetensors"
    mine = {f"pretransform.model.{name}": values for name, values in tensors.items()}
    small = safetensors_bytes(mine)
    end = 8 + int.from_bytes(small[:8], "little")
    header = json.loads(small[8:end])
    for tensor in header.values():
        tensor["data_offsets"] = [others + offset for offset in tensor["data_offsets"]]
    header["model.model.transformer"] = entry((others // 4,), 0, others)
    start = with_header(header)
    with file.open("wb") as stream:
        stream.write(start)
        stream.seek(others, 1)
        stream.write(small[end:])
    before = resident_bytes()
    tracemalloc.start()
    model = ob.load(file, config=config)
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(model.decoder.data, wanted.decoder.data)
    size = model.decoder.data.nbytes
    assert size > 4 * 2**20
    assert allocated < 2 * size + 2**20
    assert resident_bytes() - before < 4 * size + 16 * 2**20


# --- files and folders


def test_a_folder_in_stable_audio_tools_form(tmp_path):
    folder = write_folder(tmp_path / "model", CONFIG, TENSORS)
    for source in (folder, str(folder), folder / "model.safetensors"):
        assert np.array_equal(decoded(source), expected())


@pytest.mark.parametrize("name", ["vae", "sound_tokenizer"])
def test_the_autoencoder_of_a_pipeline_is_taken(tmp_path, name):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"the whole model, not to be opened")
    (tmp_path / "config.json").write_text("of something else")
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(diffusers_config(CONFIG)))
    written(tmp_path / name / "diffusion_pytorch_model.safetensors", NAMINGS["diffusers"](TENSORS))
    written(tmp_path / name / "diffusion_pytorch_model.fp16.safetensors", TENSORS, dtype="F16")
    assert np.array_equal(decoded(tmp_path), expected())


def test_a_pipeline_whose_autoencoder_is_no_safetensors_gives_its_whole_model(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    write_folder(tmp_path, CONFIG, TENSORS)
    assert np.array_equal(decoded(tmp_path), expected())


def test_a_file_of_any_name_in_a_folder(tmp_path):
    written(tmp_path / "what.ever.safetensors", config=STABLE_AUDIO)
    assert np.array_equal(decoded(tmp_path), expected())
    written(tmp_path / "other.safetensors")
    message = refusal(tmp_path)
    assert "other.safetensors" in message
    assert "what.ever.safetensors" in message


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "pth", "bin"])
def test_pickles_get_a_hint(tmp_path, suffix):
    file = tmp_path / f"model.{suffix}"
    file.write_bytes(b"PK")
    for source in (file, tmp_path):
        assert f"oobleck_stream convert model.{suffix}" in refusal(source)


def test_what_is_not_there_is_refused(tmp_path):
    assert "no .safetensors" in refusal(tmp_path)
    for source in (tmp_path / "no.safetensors", str(tmp_path / "no"), "no.safetensors", "x/y.bin"):
        assert "no such file or folder" in refusal(source)
    for source in ("", "x" * 5000, "a\0b", "./no/where", Path("organisation/name")):
        assert "no such file or folder" in refusal(source)
    (tmp_path / "notes.txt").write_text("hello")
    assert ".safetensors" in refusal(tmp_path / "notes.txt")
    assert "no Oobleck decoder" in refusal(
        written(tmp_path / "a.safetensors", {"a": np.ones(3, np.float32)})
    )


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
    file = written(tmp_path / "a.safetensors")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "memmap", refuse)
    assert "Permission denied" in refusal(file)


def test_messages_stay_on_one_printable_line(tmp_path):
    name = "decoder.\n\x1b[31m" + "x" * 5000
    file = written(tmp_path / "a.safetensors", TENSORS | {name: np.ones(1, np.float32)})
    message = refusal(file)
    assert message.isprintable()
    assert len(message) < 1000


def test_random_models():
    model = ob.load("random:ezaudio:3")
    other = ob.random_model("ezaudio", 3)
    assert model.config == ob.PRESETS["ezaudio"]
    assert np.array_equal(model.decoder.data, other.decoder.data)
    assert "the presets are" in refusal("random:nothing")
    for source in ("random:", "random:ezaudio:x", "random:ezaudio:-1", "random:ezaudio:1:2"):
        assert "random:PRESET" in refusal(source)


def test_the_bundled_network_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "TINY", tmp_path / "tiny.safetensors")
    assert "not in this installation" in refusal("tiny")
    written(tmp_path / "tiny.safetensors", config=STABLE_AUDIO)
    model = ob.load("tiny")
    assert model.name == "tiny"
    assert np.array_equal(model.decode(LATENTS), expected())


# --- written by diffusers itself


def save_with_diffusers(folder, **options):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.AutoencoderOobleck(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(0, 0.3, generator=generator)
    network.save_pretrained(folder)
    return network


@pytest.mark.peers
def test_a_folder_written_by_diffusers(tmp_path):
    network = save_with_diffusers(
        tmp_path / "vae",
        encoder_hidden_size=8,
        downsampling_ratios=[2, 5],
        channel_multiples=[1, 2],
        decoder_channels=6,
        decoder_input_channels=4,
        audio_channels=1,
        sampling_rate=16000,
    )
    model = ob.load(tmp_path)
    assert model.config == ob.OobleckConfig(
        latent_dim=4,
        audio_channels=1,
        samplerate=16000,
        channels=6,
        multiples=(1, 2),
        strides=(2, 5),
    )
    latents = random_latents(model.config, 9)
    sound = model.decode(latents)
    import torch

    with torch.no_grad():
        z = torch.from_numpy(latents.T.copy())[None].double()
        reference = network.double().decode(z).sample[0].T.numpy()
    assert np.abs(sound - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.peers
def test_both_forms_of_a_full_size_checkpoint_give_the_same_bits(tmp_path):
    save_with_diffusers(tmp_path / "diffusers")
    from safetensors.numpy import load_file, save_file

    from oobleck_stream.checkpoints.names import diffusers_modules

    modules = {
        theirs: ours
        for half in ("decoder", "encoder")
        for ours, theirs in diffusers_modules(half, 5).items()
    }
    renamed = {}
    for name, values in load_file(
        tmp_path / "diffusers" / "diffusion_pytorch_model.safetensors"
    ).items():
        module, _, suffix = name.rpartition(".")
        values = values.reshape(-1) if suffix in ("alpha", "beta") else values
        renamed[f"pretransform.model.{modules[module]}.{suffix}"] = values
    assert len(renamed) == 182 + 183
    model = ob.load(tmp_path / "diffusers")
    assert model.config == ob.PRESETS["stable-audio-open-1.0"]
    latents = random_latents(model.config, 2)
    wanted = model.decode(latents)
    assert np.abs(wanted).max() > 0
    file = tmp_path / "model.safetensors"
    save_file(renamed, file)
    autoencoder = stable_audio_config(model.config)
    for values in (autoencoder, in_diffusion_model(autoencoder), None):
        if values is not None:
            (tmp_path / "model_config.json").write_text(json.dumps(values))
        else:
            (tmp_path / "model_config.json").unlink()
        other = ob.load(file)
        assert other.config == model.config
        assert np.array_equal(other.decode(latents), wanted)
