"""`oobleck_stream.load`: every form of a checkpoint gives the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    DTYPES,
    WEIGHT_NORMS,
    diffusers_config,
    rounded,
)
from networks import (
    random_latents,
    random_tensors,
    stable_audio_config,
    write_folder,
)
from small_checkpoint import (
    CONFIG,
    LATENTS,
    NAMINGS,
    PREFIXES,
    STABLE_AUDIO,
    TENSORS,
    decoded,
    expected,
    in_diffusion_model,
    refusal,
    written,
)

import oobleck_stream as ob
from oobleck_stream import loading

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


def test_averaged_weights_are_preferred_with_a_note(tmp_path):
    plain = {f"autoencoder.{name}": values for name, values in random_tensors(CONFIG, 5).items()}
    average = {f"autoencoder_ema.ema_model.{name}": values for name, values in TENSORS.items()}
    online = {
        f"autoencoder_ema.online_model.{name}": plain[f"autoencoder.{name}"] for name in TENSORS
    }
    file = written(tmp_path / "a.safetensors", plain | average | online)
    model = ob.load(file, config=CONFIG)
    assert np.array_equal(model.decode(LATENTS), expected())
    assert [note for note in model.notes if "EMA" in note and "'autoencoder.'" in note]


def test_of_two_decoders_that_of_the_pretransform_is_preferred(tmp_path):
    other = {f"something.{name}": values for name, values in random_tensors(CONFIG, 5).items()}
    mine = {f"pretransform.model.{name}": values for name, values in TENSORS.items()}
    file = written(tmp_path / "a.safetensors", other | mine)
    assert np.array_equal(decoded(file, config=CONFIG), expected())
    unknown = {f"else.{name}": values for name, values in TENSORS.items()}
    file = written(tmp_path / "b.safetensors", other | unknown)
    assert "else." in refusal(file)
    assert "something." in refusal(file)


def test_other_parts_of_a_diffusion_model_are_ignored(tmp_path):
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
        assert np.array_equal(other.decoder.data, model.decoder.data)
