"""Folders of weights in protobuf: read tensor by tensor, and every fault named with its file."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
from checkpoint_files import model_of_tensors, parametrized
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import model_of, random_audio, random_latents, random_tensors, stable_audio_config

import oobleck_stream as ob
from oobleck_stream.checkpoints.opening import open_container
from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

CONFIG = ob.OobleckConfig(latent_dim=3, channels=4, multiples=(1, 3), strides=(2, 3))
TENSORS = random_tensors(CONFIG) | random_tensors(CONFIG, half="encoder")
LATENTS = random_latents(CONFIG, 7)


def library(tensors, double=False):
    """A library with all tensors, as bytes."""
    made = CollectionLibraryData()
    for name, values in tensors.items():
        entry = made.collections.add(key=name)
        entry.collection.traversal_policy.dims.extend(values.shape)
        numbers = entry.collection.data if double else entry.collection.data_32
        numbers.extend(values.ravel().tolist())
    return made.SerializeToString()


def folder_of(folder, *libraries, suffix=""):
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(libraries):
        (folder / f"part{number}{suffix}").write_bytes(data)
    return folder


def split(tensors, count):
    """Tensors dealt out to libraries like cards, so that no layer's lie together."""
    names = list(tensors)
    return [{name: tensors[name] for name in names[n::count]} for n in range(count)]


def refusal(folder):
    with pytest.raises(ob.CheckpointError) as caught:
        ob.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_folder_gives_the_same_bits(tmp_path, count, double):
    folder = folder_of(tmp_path, *(library(part, double) for part in split(TENSORS, count)))
    (folder / ".hidden").write_text("no library")
    (folder / "inner").mkdir()
    model, wanted = ob.load(folder), model_of(CONFIG)
    assert model.config == CONFIG
    assert any("no config" in note for note in model.notes)
    np.testing.assert_array_equal(model.decode(LATENTS), wanted.decode(LATENTS))
    audio = random_audio(CONFIG, 50)
    np.testing.assert_array_equal(model.encode(audio), wanted.encode(audio))


def test_tensors_are_read_in_any_order_with_their_own_dtype(tmp_path):
    values = {"a": np.arange(6.0).reshape(2, 3) / 7, "b": np.float32([[1], [2]]), "c": np.ones(())}
    parts = [library({"a": values["a"]}, True), library({"b": values["b"]}), library(values, True)]
    folder = folder_of(tmp_path, *parts[:2])
    container = open_container(folder)
    for name in "abba":
        tensor = container.tensors[name]
        assert tensor.dtype == ("F64" if name == "a" else "F32")
        stored = tensor.read()
        assert stored.dtype == values[name].dtype
        np.testing.assert_array_equal(stored, values[name])
    scalar = open_container(folder_of(tmp_path / "more", library({"c": np.float32(3.5)})))
    assert scalar.tensors["c"].shape == ()
    assert scalar.tensors["c"].read() == 3.5


def test_no_more_than_one_file_is_held(tmp_path, monkeypatch):
    from oobleck_stream.checkpoints import protobuf_folder

    alive = []

    class Counting(protobuf_folder._Parser):
        def parsed(self, path):
            found = super().parsed(path)
            held = [value for value in vars(self).values() if hasattr(value, "collections")]
            alive.append(len(held))
            return found

    monkeypatch.setattr(protobuf_folder, "_Parser", Counting)
    model = ob.load(folder_of(tmp_path, *(library(part) for part in split(TENSORS, 4))))
    np.testing.assert_array_equal(model.decode(LATENTS), model_of(CONFIG).decode(LATENTS))
    assert len(alive) > 4
    assert set(alive) == {1}


def test_doubles_are_preferred_to_floats_and_other_names_are_mapped(tmp_path):
    made = CollectionLibraryData.FromString(library(parametrized(TENSORS), True))
    for entry in made.collections:
        entry.collection.data_32.extend([9.0] * len(entry.collection.data))
        entry.key = f"autoencoder.{entry.key}"
        entry.collection.traversal_policy.traversal_axis = 1
    model = ob.load(folder_of(tmp_path, made.SerializeToString()))
    np.testing.assert_array_equal(model.decode(LATENTS), model_of(CONFIG).decode(LATENTS))


def test_numbers_that_are_not_packed_are_read(tmp_path):
    """A writer may give each number a tag of its own."""
    numbers = b"".join(b"\x1d" + np.float32(value).tobytes() for value in (1.5, -2.5))
    tensor = b"\x0a\x03\x0a\x01\x02" + numbers
    entry = b"\x0a\x01x" + b"\x12" + bytes([len(tensor)]) + tensor
    folder = folder_of(tmp_path, b"\x0a" + bytes([len(entry)]) + entry)
    np.testing.assert_array_equal(open_container(folder).tensors["x"].read(), [1.5, -2.5])


@pytest.mark.parametrize("name", [".config.json", "model_config.json", "config.json"])
def test_a_folder_of_libraries_may_have_a_config(tmp_path, name):
    config = CONFIG.replace(samplerate=32000, final_tanh=True)
    folder = folder_of(tmp_path, library(TENSORS))
    (folder / name).write_text(json.dumps(stable_audio_config(config)))
    model = ob.load(folder)
    assert model.config == config
    np.testing.assert_array_equal(
        model.decode(LATENTS), model_of_tensors(config, random_tensors(config)).decode(LATENTS)
    )


def test_the_65536x_geometry_is_loaded_with_its_config(tmp_path, monkeypatch):
    config = ob.PRESETS["document"].replace(channels=4, latent_dim=3, strides=(2, 3, 4, 2, 4))
    monkeypatch.setitem(ob.PRESETS, "document", config)
    tensors = random_tensors(config) | random_tensors(config, half="encoder")
    folder = folder_of(tmp_path, *(library(part) for part in split(tensors, 2)))
    model, wanted = ob.load(folder, config="document"), model_of(config)
    np.testing.assert_array_equal(model.decode(LATENTS), wanted.decode(LATENTS))
    audio = random_audio(config, 500)
    np.testing.assert_array_equal(model.encode(audio), wanted.encode(audio))
    assert "kernel" in refusal(folder)


def test_other_files_in_a_folder_of_libraries(tmp_path):
    """Beside .pb files anything may; without them all must begin like libraries."""
    folder = folder_of(tmp_path / "a", library(TENSORS))
    (folder / "README.md").write_text("# weights")
    assert "no .safetensors in it" in refusal(folder)
    (folder / "part0").rename(folder / "weights-00001.pb")
    (folder / "notes.txt").write_text("\n\n\nnotes")
    np.testing.assert_array_equal(ob.load(folder).decode(LATENTS), model_of(CONFIG).decode(LATENTS))
    (folder / "weights-00001.pb").rename(folder / "m.ckpt")
    (folder / "m.ckpt").write_bytes(b"PK\x03\x04")
    assert "convert m.ckpt" in refusal(folder)


# --- damage

SMALL = {name: TENSORS[name] for name in list(TENSORS)[:4]}


def test_every_cut_is_named_with_the_file(tmp_path):
    whole, rest = library(SMALL), library({n: v for n, v in TENSORS.items() if n not in SMALL})
    for end in range(0, len(whole), 7):
        folder = folder_of(tmp_path, whole[:end], rest, suffix=".pb")
        assert "part0" in refusal(folder), end


def changed(change):
    made = CollectionLibraryData.FromString(library(SMALL))
    change(made.collections)
    return made.SerializeToString()


FAULTS = {
    "empty": (b"", "no tensors"),
    "something else": (b"hello, world", "not a protobuf library"),
    "a negative dimension": (
        changed(lambda entries: entries[1].collection.traversal_policy.dims.__setitem__(0, -4)),
        "weight_g has a shape that can't be",
    ),
    "two numbers too few": (
        changed(lambda entries: [entries[0].collection.data_32.pop() for _ in range(2)]),
        "weight_v (12 x 3 x 7) has 250 numbers, 252 were expected",
    ),
    "a huge shape": (
        changed(lambda entries: entries[0].collection.traversal_policy.dims.extend([10**9] * 9)),
        "has 252 numbers",
    ),
    "too many dimensions": (
        changed(lambda entries: entries[0].collection.traversal_policy.dims.extend([1] * 99)),
        "has a shape that can't be",
    ),
    "no tensor": (changed(lambda entries: entries[2].ClearField("collection")), "has 0 numbers"),
    "no name": (changed(lambda entries: entries[2].ClearField("key")), "number 2 has no name"),
    "a doubled name": (
        changed(lambda entries: setattr(entries[3], "key", entries[0].key)),
        "weight_v is twice in it",
    ),
    "a name of no text": (library(SMALL).replace(b"decoder", b"decode\xff"), "damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named_with_the_file(tmp_path, fault):
    data, words = FAULTS[fault]
    rest = library({name: TENSORS[name] for name in TENSORS if name not in SMALL})
    message = refusal(folder_of(tmp_path, rest, data, suffix=".pb"))
    assert message.startswith(f"{tmp_path / 'part1.pb'}: ")
    assert words in message


def test_a_tensor_in_two_files_is_named_with_both(tmp_path):
    message = refusal(folder_of(tmp_path, library(TENSORS), library(SMALL)))
    assert "part1: " in message
    assert "is in part0 too" in message


def test_a_missing_tensor_is_named(tmp_path):
    rest = {name: TENSORS[name] for name in TENSORS if name != "decoder.layers.0.bias"}
    assert "decoder.layers.0.bias (12) is missing" in refusal(folder_of(tmp_path, library(rest)))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    folder = folder_of(tmp_path, *(library(part) for part in split(SMALL, 2)))
    container = open_container(folder)
    first, second, *_ = SMALL
    container.tensors[second].read()
    for data in (library({"other": np.ones(3, np.float32)}), b"\xff", b""):
        (folder / "part0").write_bytes(data)
        with pytest.raises(ob.CheckpointError, match="part0"):
            container.tensors[first].read()
        container.tensors[second].read()


def test_without_protobuf_there_is_a_hint(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, library(TENSORS))
    monkeypatch.delitem(sys.modules, "oobleck_stream.checkpoints.weights_pb2")
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    assert "pip install 'oobleck_stream[protobuf]'" in refusal(folder)


@settings(max_examples=150)
@given(data=st.data())
def test_mutated_files_load_or_are_refused(tmp_path, data):
    mutated = bytearray(library(random_tensors(CONFIG)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1) | st.integers(0, 80))
        removed = data.draw(st.integers(0, 8))
        mutated[place : place + removed] = data.draw(st.binary(max_size=8))
    (tmp_path / "part0").write_bytes(mutated)
    with contextlib.suppress(ob.CheckpointError):
        assert np.isfinite(ob.load(tmp_path).decoder.data).all()
