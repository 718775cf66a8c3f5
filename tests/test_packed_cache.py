"""Packed networks on disk: the same bits, and never a stale or damaged one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from networks import random_latents, random_tensors, small, write_folder

import oobleck_stream as ob
from oobleck_stream.checkpoints import cache
from oobleck_stream.checkpoints.packed_file import write_packed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 1)
    config = small("ezaudio", 8)
    return write_folder(tmp_path / "model", config, random_tensors(config, 1))


@pytest.fixture
def packed(tmp_path):
    """The one file in the cache, once something is loaded."""
    return lambda: next((tmp_path / "cache").glob("*.safetensors"))


def sound(source):
    model = ob.load(source)
    return model.decode(random_latents(model.config, 12))


def test_a_cached_network_has_the_same_bits(folder, packed, monkeypatch):
    first, second = sound(folder), sound(folder)
    assert isinstance(ob.load(folder).decoder.data.base, np.ndarray)
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", "off")
    np.testing.assert_array_equal(first, sound(folder))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, sound(packed()))
    data = ob.load(packed()).decoder.data
    assert data.ctypes.data % 4096 == 0
    assert not data.flags.writeable


def test_an_unchanged_checkpoint_is_not_packed_again(folder, packed):
    expected = sound(folder)
    before = packed().stat()
    np.testing.assert_array_equal(sound(folder), expected)
    assert packed().stat() == before


def test_a_changed_checkpoint_is_packed_again(folder, packed):
    sound(folder)
    config = small("ezaudio", 8)
    write_folder(folder, config, random_tensors(config, 2))
    # The same size: only the time tells.
    os.utime(folder / "model.safetensors", ns=(1, 1))
    changed = sound(folder)
    np.testing.assert_array_equal(changed, sound(folder))
    packed().unlink()
    np.testing.assert_array_equal(changed, sound(folder))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "header"])
def test_a_damaged_packed_network_is_packed_again(folder, packed, damage):
    expected, path = sound(folder), packed()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-1000] ^= 4
    elif damage == "empty":
        content.clear()
    elif damage == "text":
        content[:] = b"not a network" * 100
    else:
        content = content.replace(b'"checksum": "', b'"checksum": "0')
    path.write_bytes(content)
    with pytest.raises(ob.CheckpointError):
        ob.load(path)
    np.testing.assert_array_equal(sound(folder), expected)
    np.testing.assert_array_equal(sound(path), expected)


def test_a_packed_network_of_another_version_is_packed_again(folder, packed):
    expected, path = sound(folder), packed()
    path.write_bytes(path.read_bytes().replace(b"packed 4", b"packed 3"))
    with pytest.raises(ob.CheckpointError, match="packed by another version"):
        ob.load(path)
    np.testing.assert_array_equal(sound(folder), expected)


def test_a_cache_that_can_not_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(tmp_path / "file" / "cache"))
    expected = sound(folder)
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", "off")
    np.testing.assert_array_equal(sound(folder), expected)


def test_an_unknown_home_folder(folder, monkeypatch):
    expected = sound(folder)
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", "~no-such-user/cache")
    np.testing.assert_array_equal(sound(folder), expected)


def test_another_config_for_a_packed_or_random_network_is_refused(folder, tmp_path):
    model = ob.load(folder)
    write_packed(tmp_path / "a.packed.safetensors", model)
    for source, network in (
        (tmp_path / "a.packed.safetensors", model),
        ("random:ezaudio", ob.random_model("ezaudio")),
    ):
        same = ob.load(source, config=network.config)
        np.testing.assert_array_equal(same.decoder.data, ob.load(source).decoder.data)
        other = network.config.replace(samplerate=8000)
        with pytest.raises(ob.CheckpointError, match="samplerate is 24000 in it, not 8000"):
            ob.load(source, config=other)


def test_small_checkpoints_are_not_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 10**9)
    sound(folder)
    assert not (tmp_path / "cache").exists()
