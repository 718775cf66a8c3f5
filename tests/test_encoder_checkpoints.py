"""Where an encoder comes from: checkpoints, names, the cache; and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkpoint_files import diffusers_config, safetensors_bytes
from networks import (
    model_of,
    random_audio,
    random_tensors,
    small,
    write_folder,
)

import oobleck_stream as ob
from oobleck_stream.checkpoints import cache
from oobleck_stream.checkpoints.names import diffusers_modules
from oobleck_stream.checkpoints.weights import StoredParameters


def both_halves(config, seed=1):
    return random_tensors(config, seed) | random_tensors(config, seed, "encoder")


@pytest.mark.parametrize("cached", [False, True])
def test_a_checkpoint_gives_both_halves(tmp_path, monkeypatch, cached):
    if cached:
        monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 1)
    config = small("ezaudio")
    folder = write_folder(tmp_path / "model", config, both_halves(config))
    audio = random_audio(config, 5000)
    expected = model_of(config, 1).encode(audio)
    for _ in range(2):
        np.testing.assert_array_equal(ob.load(folder).encode(audio), expected)
    packed = sorted((tmp_path / "cache").glob("*"))
    assert len(packed) == (2 if cached else 0)
    refusals = {"can't encode": 0, "with a network's decoder was expected": 0}
    for path in packed:
        with pytest.raises(ob.CheckpointError, match=path.name) as error:
            ob.load(path).encode(audio)
        refusals = {text: n + (text in str(error.value)) for text, n in refusals.items()}
    assert list(refusals.values()) == [len(packed) // 2] * 2


def test_a_cached_encoder_is_a_map_and_never_stale(tmp_path, monkeypatch):
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 1)
    config = small("ezaudio")
    folder = write_folder(tmp_path / "model", config, both_halves(config))
    assert not ob.load(folder).encoder.data.flags.writeable
    path = max((tmp_path / "cache").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    before = path.stat()
    data = ob.load(folder).encoder.data
    assert isinstance(data.base, np.ndarray)
    assert data.ctypes.data % 4096 == 0
    assert path.stat() == before
    content = path.read_bytes()
    path.unlink()  # The map is of this file, so it must not be cut.
    path.write_bytes(content[: len(content) // 2])
    np.testing.assert_array_equal(ob.load(folder).encoder.data, data)
    assert path.read_bytes() == content
    write_folder(folder, config, both_halves(config, 2))
    assert not np.array_equal(ob.load(folder).encoder.data, data)


def test_the_encoder_is_read_at_first_use(tmp_path, monkeypatch):
    config, asked = small("ezaudio"), []
    folder = write_folder(tmp_path / "model", config, both_halves(config))
    model = ob.load(folder)
    read = StoredParameters.weight

    def counted(self, layer):
        asked.append(layer.name)
        return read(self, layer)

    monkeypatch.setattr(StoredParameters, "weight", counted)
    model.decode(np.zeros((3, 128)))
    assert asked == []
    model.encode(np.zeros(480))
    assert len(asked) == len(model.encoder.layers)
    model.encode(np.zeros(480))
    assert len(asked) == len(model.encoder.layers)


@pytest.mark.parametrize("folded", [False, True])
def test_diffusers_names(tmp_path, folded):
    config = small("yue2").replace(latent_dim=2)
    tensors = both_halves(config)
    names = diffusers_modules("decoder", 6) | diffusers_modules("encoder", 6)
    renamed = {}
    for name, values in tensors.items():
        module, _, suffix = name.rpartition(".")
        values = values[None, :, None] if suffix in ("alpha", "beta") else values
        renamed[f"{names[module]}.{suffix}"] = values
    folder = write_folder(tmp_path / "model", config, renamed)
    (folder / "model_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(diffusers_config(config)))
    audio = random_audio(config, 5000)
    np.testing.assert_array_equal(ob.load(folder).encode(audio), model_of(config, 1).encode(audio))


def faulty(tensors, fault):
    """Tensors with an encoder that can't be used."""
    if fault == "none":
        return {name: values for name, values in tensors.items() if "decoder" in name}
    if fault == "missing":
        del tensors["encoder.layers.1.layers.0.layers.1.bias"]
        del tensors["encoder.layers.6.weight_v"]
    elif fault == "shape":
        tensors["encoder.layers.6.weight_g"] = tensors["encoder.layers.6.weight_g"][:100]
        tensors["encoder.layers.6.bias"] = tensors["encoder.layers.6.bias"][:100]
    elif fault == "unexpected":
        tensors["encoder.layers.9.weight"] = np.zeros((1, 1, 1), np.float32)
    else:
        tensors["encoder.layers.0.bias"][0] = np.nan
        tensors["encoder.layers.6.bias"][7] = np.inf
    return tensors


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", ["can't encode", "encoder"]),
        ("missing", ["encoder.layers.1.layers.0.layers.1.bias", "encoder.layers.6.weight_v"]),
        ("shape", ["encoder.layers.6.weight_g is 100 x 1 x 1, not 256 x 1 x 1", "6.bias is 100"]),
        ("unexpected", ["encoder.layers.9.weight is unexpected"]),
        ("not finite", ["encoder.layers.0.bias holds", "encoder.layers.6.bias holds"]),
    ],
)
def test_a_faulty_encoder_is_reported_at_the_first_encode(tmp_path, fault, words):
    config = small("ezaudio")
    path = tmp_path / "some.safetensors"
    path.write_bytes(safetensors_bytes(faulty(both_halves(config), fault)))
    model = ob.load(path)
    assert model.decode(np.zeros((3, 128))).shape == (1440, 1)
    for action in (
        lambda: model.encode(np.zeros(480)),
        lambda: model.encode_distribution(np.zeros(480)),
        lambda: ob.StreamingEncoder(model),
    ):
        with pytest.raises(ob.CheckpointError) as error:
            action()
        for word in (str(path), *words):
            assert word in str(error.value)


def test_a_network_with_another_encoder_is_refused_by_name():
    model = ob.random_model(small("cosmos3"))
    for action in (lambda: model.encode(np.zeros((9, 2))), lambda: ob.StreamingEncoder(model)):
        with pytest.raises(ob.CheckpointError, match=r"seed 0: can't encode.*Oobleck family"):
            action()
    model = ob.Model(small("yue2"), model_of(small("yue2")).decoder, "mine")
    with pytest.raises(ob.CheckpointError, match="mine: can't encode: it has only a decoder"):
        model.encode(np.zeros((9, 2)))
