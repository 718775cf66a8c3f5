"""`oobleck_stream convert`: round trips through every container, and what it reports."""

from __future__ import annotations

import json
import os
import tracemalloc

import numpy as np
import pytest
from checkpoint_files import folded, parametrized, rounded, safetensors_bytes
from conversions import (
    AUDIO,
    CONFIG,
    DECODER,
    LATENTS,
    TARGETS,
    TENSORS,
    assert_same,
    assert_sounds_the_same,
    convert,
    stored,
    written,
)
from hypothesis import given
from hypothesis import strategies as st
from networks import random_tensors, write_folder
from safetensors.numpy import load_file

import oobleck_stream as ob
from oobleck_stream.checkpoints.opening import open_container
from oobleck_stream.formats.flat import read_flat, write_flat
from oobleck_stream.formats.safetensors import write_safetensors
from oobleck_stream.formats.tensors import Tensor


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


# --- there and back


@pytest.mark.parametrize(
    ("dtype", "norm"),
    [
        pytest.param(
            dtype, norm, marks=[pytest.mark.nightly] if norm != "kept" and dtype != "F32" else []
        )
        for dtype in ("F32", "F16", "BF16", "F64")
        for norm in ("kept", "folded", "parametrized")
    ],
)
@pytest.mark.parametrize("kind", TARGETS)
def test_converting_there_and_back_loses_nothing(tmp_path, kind, dtype, norm):
    tensors = {"kept": dict, "folded": folded, "parametrized": parametrized}[norm](TENSORS)
    source = written(tmp_path / "source.safetensors", tensors, dtype=dtype)
    name, *options = TARGETS[kind]
    convert(source, tmp_path / name, *options)
    assert ob.load(tmp_path / name).config == CONFIG
    assert_sounds_the_same(tmp_path / name, source)
    convert(tmp_path / name, tmp_path / "back", "--to", "stable-audio-tools")
    spelled = folded(TENSORS) if norm == "folded" else TENSORS
    wanted = {name: (dtype, rounded(values, dtype)) for name, values in spelled.items()}
    if dtype == "F64":
        wanted = {name: (dtype, values.astype(float)) for name, (_, values) in wanted.items()}
    elif dtype == "F16" and kind != "protobuf":
        wanted = {n: (dtype, values.astype(np.float16)) for n, (_, values) in wanted.items()}
    elif kind == "protobuf":
        wanted = {name: ("F32", values) for name, (_, values) in wanted.items()}
    assert_same(stored(tmp_path / "back"), wanted)
    assert_sounds_the_same(tmp_path / "back", source)


@pytest.mark.parametrize("kind", [*TARGETS, "packed", "flat latents", "flat sound"])
def test_every_container_is_read_as_it_was_written(tmp_path, folder, kind):
    if kind.startswith("flat"):
        values = LATENTS if kind == "flat latents" else AUDIO
        write_flat(tmp_path / "a.bin", values.T)
        np.testing.assert_array_equal(read_flat(tmp_path / "a.bin"), values.T.ravel())
        return
    name, *options = {**TARGETS, "packed": ("a.packed.safetensors",)}[kind]
    convert(folder, tmp_path / name, *options)
    model = ob.load(tmp_path / name)
    assert model.config == CONFIG
    assert_sounds_the_same(tmp_path / name, folder, encoder=kind != "packed")
    umask = os.umask(0)
    os.umask(umask)
    files = [tmp_path / name, *(tmp_path / name).glob("*")]
    assert {f.stat().st_mode & 0o666 for f in files if f.is_file()} == {0o666 & ~umask}


def test_files_are_those_that_other_readers_know(tmp_path, folder):
    """safetensors' own reader, and an index as transformers writes it."""
    convert(folder, tmp_path / "a.safetensors")
    plain = load_file(tmp_path / "a.safetensors")
    assert_same(
        {n: (v.dtype, v) for n, v in plain.items()}, {n: (v.dtype, v) for n, v in TENSORS.items()}
    )
    convert(folder, tmp_path / "b.safetensors.index.json", "--shard-size", "3KB")
    index = json.loads((tmp_path / "b.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in TENSORS.values())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"b-00001-of-{len(files):05}.safetensors"
    assert len(files) > 3
    for file in files:
        tensors = load_file(tmp_path / file)
        assert len(tensors) == 1 or sum(v.nbytes for v in tensors.values()) <= 3000
        assert {index["weight_map"][name] for name in tensors} == {file}
    convert(folder, tmp_path / "c", "--to", "diffusers")
    names = load_file(tmp_path / "c" / "diffusion_pytorch_model.safetensors")
    assert names["decoder.block.1.res_unit2.snake1.alpha"].shape == (1, 6, 1)


def test_a_long_chain_comes_back(tmp_path, folder):
    chain = ["diffusers", "protobuf", "sharded", "safetensors", "stable-audio-tools"]
    source = folder
    for number, kind in enumerate(chain):
        (tmp_path / str(number)).mkdir()
        name, *options = TARGETS[kind]
        convert(source, tmp_path / str(number) / name, *options)
        source = tmp_path / str(number) / name
    assert_same(stored(source), stored(folder))


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_from_a_packed_network_the_sound_keeps_its_bits(tmp_path, scale):
    source = tmp_path / "source.safetensors"
    values = {"oobleck_stream": {**vars(CONFIG.replace(latent_scale=scale, final_tanh=True))}}
    tensors = DECODER | {
        "decoder.layers.3.alpha": np.float32([-200, 60, 0, 0.1, -1, 3]),
        "decoder.layers.3.beta": np.float32([-200, 87, -30, -21, -20, 80]),
    }
    source.write_bytes(safetensors_bytes(tensors, metadata={"config": json.dumps(values)}))
    convert(source, tmp_path / "a.packed.safetensors")
    report = convert(tmp_path / "a.packed.safetensors", tmp_path / "b", "--to", "protobuf")
    assert "weight norm was folded" in report
    assert ("latent scale 0.7" in report) == (scale != 1.0)
    for name in ("a.packed.safetensors", "b"):
        assert_sounds_the_same(tmp_path / name, source, encoder=False)
    convert(tmp_path / "b", tmp_path / "c.safetensors")
    assert_sounds_the_same(tmp_path / "c.safetensors", source, encoder=False)
    assert "decoder.layers.0.weight" in stored(tmp_path / "c.safetensors")


def test_every_tensor_begins_at_a_multiple_of_its_width(tmp_path):
    """So that a reader can map the file and view the numbers in place."""
    values = {"a": np.float16([1, 2, 3]), "b": np.float64([4]), "c": np.float32([5]), "d": LATENTS}
    short = {"a": "F16", "b": "F64", "c": "F32", "d": "F32"}
    tensors = [
        Tensor(name, array.shape, short[name], lambda array=array: array)
        for name, array in values.items()
    ]
    with (tmp_path / "a.safetensors").open("wb") as file:
        write_safetensors(file, tensors, {"said": "ü"}, lambda size: None)
    for name, array in load_file(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(array, values[name], strict=True)
    data = (tmp_path / "a.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, array in values.items():
        assert (start + header[name]["data_offsets"][0]) % array.itemsize == 0


def test_random_networks_have_both_halves(tmp_path, monkeypatch):
    monkeypatch.setitem(ob.PRESETS, "little", CONFIG)
    convert("random:little:3", tmp_path / "a.safetensors")
    model, wanted = ob.load(tmp_path / "a.safetensors"), ob.random_model("little", 3)
    np.testing.assert_array_equal(model.decode(LATENTS), wanted.decode(LATENTS))
    np.testing.assert_array_equal(model.encode(AUDIO), wanted.encode(AUDIO))


def test_the_geometry_with_65536_samples_a_latent(tmp_path, monkeypatch):
    config = ob.PRESETS["oobleck-65536x"].replace(channels=4, latent_dim=3, strides=(2, 3, 4, 2, 4))
    monkeypatch.setitem(ob.PRESETS, "oobleck-65536x", config)
    tensors = random_tensors(config) | random_tensors(config, half="encoder")
    source = tmp_path / "source.safetensors"
    source.write_bytes(safetensors_bytes(tensors))
    assert "kernel" in convert(source, tmp_path / "a", "--to", "protobuf", status=2)
    wanted = ob.load(source, config="oobleck-65536x")
    for kind in ("protobuf", "safetensors", "sharded"):
        name, *options = TARGETS[kind]
        convert(source, tmp_path / name, *options, "--config", "oobleck-65536x")
        model = ob.load(tmp_path / name)
        assert model.config == config
        np.testing.assert_array_equal(model.decode(LATENTS), wanted.decode(LATENTS))
    for form in ("diffusers", "stable-audio-tools"):
        message = convert(
            source, tmp_path / "b", "--to", form, "--config", "oobleck-65536x", status=2
        )
        for field in ("dilations", "kernel_per_stride", "output_padding", "snake_log_scale"):
            assert field in message


# --- what changes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(tmp_path, folder, dtype):
    short = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype]
    report = convert(folder, tmp_path / "a.safetensors", "--dtype", dtype)
    assert ("(rounded)" in report) == (dtype != "float32")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--dtype", "float32")
    wanted = {name: ("F32", rounded(values, short)) for name, values in TENSORS.items()}
    assert_same(stored(tmp_path / "b.safetensors"), wanted)
    assert {kind for kind, _ in stored(tmp_path / "a.safetensors").values()} == {short}
    assert_sounds_the_same(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


@given(
    upper=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=50),
    lower=st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]) | st.integers(0, 2**16 - 1),
)
def test_bfloat16_is_the_nearest_and_ties_are_even(upper, lower):
    values = np.uint32([bits << 16 | lower for bits in upper]).view(np.float32)
    values = values[np.abs(values) < 3.3e38]
    if not len(values):
        return
    found = Tensor("x", values.shape, "BF16", lambda: values).read_stored().astype(np.int64)
    here = np.uint32(found << 16).view(np.float32).astype(float)
    error = np.abs(here - values)
    for step in (-1, 1):
        beside = np.uint32(((found + step) & 0xFFFF) << 16).view(np.float32).astype(float)
        distance = np.abs(beside - values)
        good = (error < distance) | ((error == distance) & (found % 2 == 0)) | ~np.isfinite(beside)
        # The neighbours of zero have the other sign.
        assert (good | (found & 0x7FFF == 0)).all()


def test_bfloat16_from_float64_is_rounded_once():
    """Values closer to a tie than float32 resolves, which rounding twice would get wrong."""
    half, little = 2.0**-8, 2.0**-40
    values = np.array([1 + half + little, 1 + half, 1 + 3 * half - little, 1e-300, 1.0, 2e38])
    values = np.concatenate([values, -values])
    found = Tensor("x", values.shape, "BF16", lambda: values).read_stored()
    numbers = (found.astype(np.uint32) << 16).view(np.float32)
    wanted = np.array([1 + 2 * half, 1, 1 + 2 * half, 0, 1])
    np.testing.assert_array_equal(numbers[:5], wanted)
    np.testing.assert_array_equal(numbers[6:11], -wanted)
    np.testing.assert_allclose(numbers[[5, 11]], [2e38, -2e38], rtol=2**-8)


@pytest.mark.parametrize("spelling", [dict, parametrized])
def test_weight_norm_is_folded(tmp_path, spelling):
    source = written(tmp_path / "source.safetensors", spelling(TENSORS))
    report = convert(source, tmp_path / "a.safetensors", "--weight-norm", "fold")
    assert "weight_g, *.weight_v -> *.weight" in report
    wanted = {name: ("F32", values) for name, values in folded(TENSORS).items()}
    assert_same(stored(tmp_path / "a.safetensors"), wanted)
    assert_sounds_the_same(tmp_path / "a.safetensors", source)


def test_what_is_kept_dropped_and_renamed_is_reported(tmp_path):
    mine = {f"pretransform.model.{name}": values for name, values in TENSORS.items()}
    others = {f"model.layers.{number}.weight": np.ones(2, np.float32) for number in range(40)}
    source = written(tmp_path / "a.safetensors", mine | others | {"table": np.ones(3, np.int64)})
    report = convert(source, tmp_path / "b.safetensors")
    count = len(DECODER)
    assert f"kept       {count} of the decoder and {len(TENSORS) - count} of the encoder" in report
    assert "41: model.layers.* (40), table" in report
    assert "renamed    pretransform.model.* -> *" in report
    assert len(report.splitlines()) < 8
    assert open_container(tmp_path / "b.safetensors").metadata["licence"] == "free"
    facts = json.loads(convert(source, tmp_path / "c", "--to", "protobuf", "--json"))
    assert facts["kept"] == {"decoder": count, "encoder": len(TENSORS) - count}
    assert sorted(facts["dropped"]) == sorted([*others, "table"])
    facts = json.loads(convert(source, tmp_path / "d.safetensors", "--half", "decoder", "--json"))
    assert facts["kept"] == {"decoder": count}
    assert set(facts["dropped"]) >= {name for name in mine if "encoder" in name}
    assert stored(tmp_path / "d.safetensors").keys() == DECODER.keys()
    report = convert(tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    assert "note       only the decoder: there is no encoder in it" in report
    report = convert(source, tmp_path / "f", "--to", "diffusers", "--weight-norm", "fold")
    assert "diffusers itself expects weight_g and weight_v" in report
    assert "expects an encoder" not in report
    report = convert(source, tmp_path / "g", "--to", "stable-audio-tools", "--half", "decoder")
    assert "stable-audio-tools itself expects an encoder too" in report
    assert "weight_g" not in report


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(
            kind,
            options,
            marks=[] if (kind == "safetensors") == bool(options) else [pytest.mark.nightly],
        )
        for kind in ("safetensors", "sharded", "diffusers")
        for options in ([], ["--dtype", "bfloat16"], ["--weight-norm", "fold"])
    ],
)
def test_no_more_than_a_tensor_is_held(tmp_path, kind, options):
    config = CONFIG.replace(channels=64, latent_dim=32, multiples=(4, 8), strides=(2, 3))
    tensors = random_tensors(config) | random_tensors(config, half="encoder")
    source = written(tmp_path / "source.safetensors", tensors, config)
    name, *more = TARGETS[kind]
    convert(write_folder(tmp_path / "other", CONFIG, TENSORS), tmp_path / "warm.safetensors")
    tracemalloc.start()
    convert(source, tmp_path / name, *more, *options)
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = max(values.nbytes for values in tensors.values())
    assert largest > 2**21
    assert sum(values.nbytes for values in tensors.values()) > 6 * largest
    assert allocated < 4 * largest
