"""Flat files (`.bin`): numbers without a shape, read and written, as latents and as audio."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile
from command_line import assert_refused, run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_audio, random_latents, random_tensors, small, write_folder

import oobleck_stream as ob
from oobleck_stream.errors import InputError
from oobleck_stream.formats import flat
from oobleck_stream.formats.flat import read_flat, write_flat
from oobleck_stream.formats.flat_writer import FlatWriter

CONFIG = small("stable-audio-open-1.0", latent_dim=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tensors = random_tensors(CONFIG) | random_tensors(CONFIG, half="encoder")
    return write_folder(tmp_path_factory.mktemp("model"), CONFIG, tensors)


def with_count(count, numbers):
    return struct.pack("<i", count) + np.asarray(numbers, "<f4").tobytes()


# --- the format


@given(
    shape=st.lists(st.integers(1, 5), max_size=4),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i2"]),
    fortran=st.booleans(),
)
@settings(max_examples=40)
def test_whatever_is_written_is_read(tmp_path, shape, dtype, fortran):
    values = np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)
    values = np.asfortranarray(values) if fortran else values
    path = tmp_path / "a.bin"
    write_flat(path, values)
    assert path.read_bytes() == with_count(values.size, values.ravel("C"))
    numbers = read_flat(path)
    assert numbers.dtype == np.float32
    assert numbers.ndim == 1
    np.testing.assert_array_equal(numbers, values.ravel("C"))


def test_numbers_that_are_not_finite_are_read(tmp_path):
    path = tmp_path / "a.bin"
    write_flat(path, [np.nan, np.inf, -0.0])
    np.testing.assert_array_equal(read_flat(path), [np.nan, np.inf, -0.0])


FAULTS = {
    b"": "has 0 bytes",
    b"\1\0\0": "has 3 bytes",
    with_count(0, []): "count of 0",
    with_count(-3, [1, 2, 3]): "count of -3",
    with_count(3, [1, 2]): "cut off: its count says 3 float32 numbers, which are 12 bytes; 8 are",
    with_count(3, [1, 2, 3])[:-1]: "cut off",
    with_count(2, [1, 2, 3]): "too long",
    with_count(2, [1, 2]) + b"x": "too long",
    with_count(2**31 - 1, [1, 2]): "cut off",
}


@pytest.mark.parametrize("data", FAULTS)
def test_errors_name_the_damage(tmp_path, data):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=FAULTS[data]) as caught:
        read_flat(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_errors_name_a_file_that_can_not_be_read_or_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="No such file"):
        read_flat(tmp_path / "none.bin")
    with pytest.raises(InputError, match="can't be read"):
        read_flat(tmp_path)
    with pytest.raises(InputError, match="can't be written"):
        write_flat(tmp_path / "no" / "a.bin", [1.0])
    with pytest.raises(InputError, match="it is a folder"):
        write_flat(tmp_path, [1.0])
    with pytest.raises(InputError, match="can't hold 0 numbers"):
        write_flat(tmp_path / "a.bin", [])
    monkeypatch.setattr(flat, "MAX_NUMBERS", 3)
    with pytest.raises(InputError, match="can't hold 4 numbers, only 1 to 3"):
        write_flat(tmp_path / "a.bin", np.zeros((2, 2)))
    assert list(tmp_path.iterdir()) == []


def test_rows_written_in_pieces_come_channels_first(tmp_path):
    rows = random_latents(CONFIG, 11)
    with FlatWriter(tmp_path / "a.bin", 6) as writer:
        for first in range(0, 11, 3):
            writer.write(rows[first : first + 3])
            assert not (tmp_path / "a.bin").exists()
    np.testing.assert_array_equal(read_flat(tmp_path / "a.bin").reshape(6, 11), rows.T)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_writer_that_raises_leaves_nothing(tmp_path, monkeypatch):
    def interrupted():
        with FlatWriter(tmp_path / "a.bin", 2) as writer:
            writer.write(np.zeros((3, 2), np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(InputError, match="0 numbers"), FlatWriter(tmp_path / "a.bin", 2):
        pass
    for name in ("a.npy", "no/a.bin"):
        with pytest.raises(InputError):
            FlatWriter(tmp_path / name, 2)
    monkeypatch.setattr("oobleck_stream.formats.flat_writer.MAX_NUMBERS", 5)
    with FlatWriter(tmp_path / "b.bin", 2) as writer:
        writer.write(np.zeros((2, 2), np.float32))
        with pytest.raises(InputError, match="more than 5"):
            writer.write(np.zeros((1, 2), np.float32))
        writer.written = 2
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]


# --- as latents and as audio


def test_latents_in_both_axis_orders_decode_to_the_same_audio(tmp_path, folder):
    latents = random_latents(CONFIG, 9)
    wanted = ob.load(folder).decode(latents)
    write_flat(tmp_path / "ct.bin", latents.T)
    write_flat(tmp_path / "tc.bin", latents)
    for name, options in {"ct": [], "tc": ["--layout", "tc"]}.items():
        for suffix, more in {".wav": ["--bits", "float"], ".bin": []}.items():
            output = tmp_path / f"{name}-out{suffix}"
            decode = ("decode", tmp_path / f"{name}.bin", "-o", output, "--model", folder)
            assert run_command(*decode, *options, *more).returncode == 0
            if suffix == ".wav":
                sound = soundfile.read(output, dtype="float32")[0]
            else:
                sound = read_flat(output).reshape(2, -1).T
            np.testing.assert_array_equal(sound, wanted)


def test_encode_and_roundtrip_through_files_without_shapes(tmp_path, folder):
    model = ob.load(folder)
    audio = random_audio(CONFIG, 2 * CONFIG.hop + 7)
    write_flat(tmp_path / "in.bin", audio.T)
    done = run_command("encode", tmp_path / "in.bin", tmp_path / "z.bin", "--model", folder)
    assert done.returncode == 0, done.stderr
    latents = model.encode(audio)
    np.testing.assert_array_equal(read_flat(tmp_path / "z.bin").reshape(6, -1), latents.T)
    again = ("roundtrip", tmp_path / "in.bin", tmp_path / "out.bin", "--model", folder)
    assert run_command(*again).returncode == 0
    sound = read_flat(tmp_path / "out.bin").reshape(2, -1).T
    np.testing.assert_array_equal(sound, model.decode(latents)[: len(audio)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decode", "seven.bin", "-o", "a.wav"], ["seven.bin", "7 numbers", "6 latent numbers"]),
        (["encode", "seven.bin", "a.npy"], ["seven.bin", "7 numbers", "2 channels"]),
        (["encode", "nan.bin", "a.npy"], ["nan.bin", "sample 1 is not"]),
        (["decode", "nan.bin", "-o", "a.wav"], ["nan.bin", "frame 0 is not"]),
        (["decode", "six.bin", "-o", "a.bin", "--bits", "16"], ["a.bin", "float", "16"]),
        (["encode", "six.bin", "a.bin", "--dtype", "float16"], ["a.bin", "float16"]),
        (["decode", "short.bin", "-o", "a.wav"], ["short.bin", "cut off"]),
    ],
)
def test_refusals(tmp_path, folder, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_flat("seven.bin", np.zeros(7))
    write_flat("six.bin", np.zeros(6))
    write_flat("nan.bin", [0, 0, 0, 0, np.nan, 0])
    (tmp_path / "short.bin").write_bytes(with_count(12, np.zeros(11)))
    before = sorted(tmp_path.iterdir())
    done = run_command(*arguments, "--model", folder)
    assert_refused(done, *words, notes=done.stderr.count("assumed to be"))
    assert sorted(tmp_path.iterdir()) == before


def test_the_model_must_be_named_where_presets_fit(tmp_path):
    write_flat(tmp_path / "a.bin", np.zeros(64 * 24))
    done = run_command("decode", tmp_path / "a.bin", "-o", tmp_path / "a.wav")
    assert_refused(done, "--model must name the network")


def test_a_flat_file_is_not_a_checkpoint(tmp_path):
    write_flat(tmp_path / "a.bin", np.zeros(5))
    with pytest.raises(ob.CheckpointError, match="latents or sound"):
        ob.load(tmp_path / "a.bin")
