"""Latents from files and pipes, audio to files."""

from __future__ import annotations

import io
import json
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.latents_pipe import LatentPipe
from oobleck_stream.files.latents_reader import read_latents

SIZE = 8


def frames_of(count: int, dtype: object = np.float32) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, SIZE)).astype(dtype)


def joined(source: object, layout: str | None = None, size: int = 32) -> np.ndarray:
    return np.concatenate(list(source.blocks(SIZE, layout, size)))


def write_safetensors(path: Path, arrays: dict, metadata: dict | None = None) -> Path:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
    return path


# Files


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int16])
@pytest.mark.parametrize(
    "store",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[None],
        lambda x: x.T[None],
        np.asfortranarray,
    ],
)
def test_every_layout_and_dtype_gives_the_same_frames(tmp_path, store, dtype):
    frames = (frames_of(21) * 8).astype(dtype)
    stored = store(frames)
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", stored)
    paths = [tmp_path / "a.npy", tmp_path / "a.npz"]
    if np.dtype(dtype).isnative and np.dtype(dtype).kind == "f":
        paths.append(write_safetensors(tmp_path / "a.safetensors", {"x": stored}))
    for path in paths:
        latents = read_latents(path)
        assert np.array_equal(latents.frames(SIZE), frames)
        assert latents.frames(SIZE).dtype == np.dtype(dtype)
        blocks = joined(latents, size=4)
        assert blocks.dtype == np.float32
        assert np.array_equal(blocks, frames.astype(np.float32))
    with (tmp_path / "a.npy").open("rb", buffering=0) as pipe:
        assert np.array_equal(joined(LatentPipe(pipe), size=4), frames.astype(np.float32))


def test_files_are_memory_mapped(tmp_path):
    np.save(tmp_path / "a.npy", frames_of(3))
    write_safetensors(tmp_path / "a.safetensors", {"x": frames_of(3)})
    for name in ("a.npy", "a.safetensors"):
        array = read_latents(tmp_path / name).array
        while isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array.base, mmap.mmap)


def test_the_array_named_latents_is_taken(tmp_path):
    arrays = {"mask": frames_of(4), "latents": frames_of(5)}
    np.savez(tmp_path / "a.npz", **arrays)
    path = write_safetensors(tmp_path / "a.safetensors", arrays, {"model": "tiny"})
    assert np.array_equal(read_latents(tmp_path / "a.npz").frames(SIZE), frames_of(5))
    assert np.array_equal(read_latents(path).frames(SIZE), frames_of(5))
    assert read_latents(path).metadata["model"] == "tiny"


def test_bfloat16_is_widened(tmp_path):
    upper = (frames_of(6).view(np.uint32) >> 16).astype(np.uint16)
    header = {"x": {"dtype": "BF16", "shape": [6, SIZE], "data_offsets": [0, upper.nbytes]}}
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + upper.tobytes())
    expected = (upper.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(read_latents(path).frames(SIZE), expected)


def test_the_layout_option_decides_where_both_fit(tmp_path):
    frames = frames_of(SIZE)
    np.save(tmp_path / "a.npy", frames)
    latents = read_latents(tmp_path / "a.npy")
    assert np.array_equal(latents.frames(SIZE, "tc"), frames)
    assert np.array_equal(latents.frames(SIZE, "ct"), frames.T)
    with pytest.raises(InputError, match=r"a\.npy.*--layout tc or --layout ct"):
        latents.frames(SIZE)
    np.save(tmp_path / "b.npy", frames_of(5))
    with pytest.raises(InputError, match=r"\(8, frames\) were expected, not \(5, 8\)"):
        read_latents(tmp_path / "b.npy").frames(SIZE, "ct")


def bad_npy(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.npy"
    good = io.BytesIO()
    np.save(good, frames_of(5))
    if kind == "truncated":
        path.write_bytes(good.getvalue()[:-1])
    elif kind == "header":
        path.write_bytes(good.getvalue()[:40])
    elif kind == "garbage":
        path.write_bytes(os.urandom(1000))
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "pickled":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "complex":
        np.save(path, frames_of(5).astype(np.complex64))
    elif kind == "flat":
        np.save(path, frames_of(5).ravel())
    elif kind == "batch":
        np.save(path, np.stack([frames_of(5)] * 2))
    elif kind == "size":
        np.save(path, np.zeros((5, SIZE + 1)))
    elif kind == "empty":
        np.save(path, np.zeros((0, SIZE)))
    elif kind == "infinite":
        frames = frames_of(5000, np.float64)
        frames[4321, 3] = 1e300
        np.save(path, frames)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("truncated", "cut off: 160 bytes of numbers were expected, 159 are there"),
        ("header", "not a .npy array"),
        ("garbage", "not a .npy array"),
        ("nothing", "not a .npy array"),
        ("pickled", "pickled"),
        ("complex", "real numbers"),
        ("flat", r"not an array of shape \(40,\)"),
        ("batch", r"latents of one piece.*not an array of shape \(2, 5, 8\)"),
        ("size", r"\(frames, 8\) or \(8, frames\) were expected, not \(5, 9\)"),
        ("empty", "no frames"),
        ("infinite", "frame 4321 is not"),
    ],
)
def test_bad_npy(tmp_path, kind, message):
    path = bad_npy(tmp_path, kind)
    with pytest.raises(InputError, match=message) as caught:
        read_latents(path).frames(SIZE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["truncated", "garbage", "nothing", "pickled", "two"])
def test_bad_npz(tmp_path, kind):
    path = tmp_path / "a.npz"
    np.savez(path, frames_of(5))
    if kind == "two":
        np.savez(path, a=frames_of(5), b=frames_of(5))
    elif kind == "pickled":
        np.savez(path, np.array([{}], dtype=object))
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-30], "garbage": whole[30:60], "nothing": b""}[kind])
    with pytest.raises(InputError, match=r"a\.npz"):
        read_latents(path)


@pytest.mark.parametrize("kind", ["truncated", "header", "garbage", "nothing", "two", "none"])
def test_bad_safetensors(tmp_path, kind):
    arrays = {"two": {"a": frames_of(2), "b": frames_of(2)}, "none": {"a": np.zeros(3)}}
    path = write_safetensors(
        tmp_path / "a.safetensors", arrays.get(kind, {"latents": frames_of(5)})
    )
    whole = path.read_bytes()
    cuts = {"truncated": whole[:-1], "header": whole[:20], "garbage": whole[9:], "nothing": b""}
    path.write_bytes(cuts.get(kind, whole))
    with pytest.raises(InputError, match=r"a\.safetensors"):
        read_latents(path)


def test_weights_passed_as_latents_are_recognized(tmp_path):
    names = [f"decoder.layers.{number}.weight_v" for number in range(99)]
    arrays = {name: np.ones((2, 3, 4), np.float32) for name in names}
    with pytest.raises(InputError, match=r"looks like a model \(for --model\)"):
        read_latents(write_safetensors(tmp_path / "a.safetensors", arrays))
    others = {f"x{number:02}": array for number, array in enumerate(arrays.values())}
    with pytest.raises(InputError, match="x00, x01, x02, x03 and 95 more"):
        read_latents(write_safetensors(tmp_path / "b.safetensors", others))


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from(["npy", "npz", "safetensors"]))
def test_garbage_always_raises_an_input_error(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"a.{suffix}"
    prefix = {"npy": b"\x93NUMPY\x01\x00", "npz": b"PK\x03\x04", "safetensors": b""}[suffix]
    path.write_bytes(prefix + data)
    with pytest.raises(InputError):
        read_latents(path)


@settings(max_examples=60, deadline=None)
@given(
    header=st.recursive(
        st.none() | st.integers() | st.text(max_size=4) | st.sampled_from(["F32", "BF16"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["latents", "dtype", "shape", "data_offsets", "__metadata__"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_a_strange_safetensors_header_is_an_input_error(tmp_path_factory, header):
    path = tmp_path_factory.mktemp("strange") / "a.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(InputError):
        read_latents(path)


def test_an_unknown_ending_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(InputError, match=r"\.npy, \.npz, \.safetensors, \.bin were expected"):
        read_latents(tmp_path / "a.txt")


# Pipes


class Trickle:
    """A pipe that returns its bytes in pieces of certain sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes = data, sizes

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.sizes.pop(0) if self.sizes else size)
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), max_size=40),
    count=st.integers(1, 30),
    raw=st.booleans(),
    size=st.integers(1, 40),
)
def test_a_pipe_yields_the_same_frames_however_they_arrive(sizes, count, raw, size):
    frames, data = frames_of(count), io.BytesIO()
    if raw:
        data.write(frames.tobytes())
    else:
        np.save(data, frames)
    pipe = LatentPipe(Trickle(data.getvalue(), list(sizes)))
    assert pipe.shape == (None if raw else frames.shape)
    assert pipe.count(SIZE, "tc") == (None if raw else count)
    blocks = list(pipe.blocks(SIZE, "tc", size))
    assert max(map(len, blocks)) <= size
    assert np.array_equal(np.concatenate(blocks), frames)


def test_frames_come_out_of_a_pipe_as_soon_as_they_are_whole():
    receiver, sender = os.pipe()
    with os.fdopen(receiver, "rb", buffering=0) as source:
        frames = frames_of(3)
        os.write(sender, frames[:1].tobytes())
        blocks = LatentPipe(source).blocks(SIZE)
        for number in range(3):
            # No later frame has been written when this one is requested.
            assert np.array_equal(next(blocks), frames[number : number + 1])
            if number < 2:
                os.write(sender, frames[number + 1 : number + 2].tobytes())
        os.close(sender)
        assert next(blocks, None) is None


def test_a_large_pipe_is_read_whole():
    receiver, sender = os.pipe()
    frames, data = frames_of(50_000), io.BytesIO()

    def send() -> None:
        with os.fdopen(sender, "wb") as sink:
            np.save(data, np.ascontiguousarray(frames.T))
            sink.write(data.getvalue())

    thread = threading.Thread(target=send)
    thread.start()
    with os.fdopen(receiver, "rb", buffering=0) as source:
        assert np.array_equal(joined(LatentPipe(source)), frames)
    thread.join()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "ended before the first frame"),
        ("empty", "no frames"),
        ("within", "middle of frame 4"),
        ("cut", "after 4 of 5 frames"),
        ("cut transposed", "cut off: 160 bytes of numbers were expected, 159 are there"),
        ("pickled", "pickled"),
        ("header", "not a .npy array"),
        ("size", r"\(frames, 8\) or \(8, frames\) were expected, not \(5, 9\)"),
        ("nan", "frame 2 is not"),
    ],
)
def test_bad_pipes(kind, message):
    data, frames = io.BytesIO(), frames_of(5)
    if kind in ("within", "nan"):
        frames[2, 1] = np.nan if kind == "nan" else 0
        data.write(frames.tobytes()[: -1 if kind == "within" else None])
    elif kind == "pickled":
        np.save(data, np.array([{}], dtype=object), allow_pickle=True)
    elif kind != "nothing":
        stored = {
            "empty": frames[:0],
            "cut transposed": np.ascontiguousarray(frames.T),
            "size": np.zeros((5, 9)),
        }.get(kind, frames)
        np.save(data, stored)
    whole = data.getvalue()
    whole = whole[:60] if kind == "header" else whole
    whole = whole[:-1] if kind.startswith("cut") else whole
    with pytest.raises(InputError, match=message) as caught:
        joined(LatentPipe(Trickle(whole, [])))
    assert "standard input" in str(caught.value)


def test_frames_before_a_bad_one_come_out_of_a_pipe():
    frames = frames_of(20)
    frames[13, 0] = np.inf
    blocks, got = LatentPipe(Trickle(frames.tobytes(), [])).blocks(SIZE), []
    with pytest.raises(InputError, match="frame 13 is not"):
        got.extend(blocks)
    assert np.array_equal(np.concatenate(got), frames[:13])


# Sound


def sound_of(count: int, channels: int = 2, scale: float = 0.3) -> np.ndarray:
    samples = np.random.default_rng(1).standard_normal((count, channels)) * scale
    return samples.astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "bits"),
    [("a.wav", "16"), ("a.wav", "24"), ("a.wav", "float"), ("a.flac", "16"), ("a.flac", "24")],
)
def test_samples_come_back_rounded_to_the_bits(tmp_path, name, bits, channels):
    samples = sound_of(40_000, channels, 0.1)
    with AudioWriter(tmp_path / name, 44100, channels, bits) as writer:
        for first in range(0, len(samples), 7_000):
            writer.write(samples[first : first + 7_000])
        assert [path.name for path in tmp_path.iterdir()] != [name]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    back, rate = soundfile.read(tmp_path / name, dtype="float64", always_2d=True)
    assert rate == 44100
    assert writer.written == len(samples)
    assert writer.clipped == 0
    if bits == "float":
        assert np.array_equal(back, samples)
    else:
        full = 2.0 ** (int(bits) - 1)
        assert np.array_equal(back, np.rint(samples.astype(np.float64) * full) / full)


def test_ogg(tmp_path):
    samples = sound_of(300_000, scale=0.1)
    with AudioWriter(tmp_path / "a.ogg", 48000, 2) as writer:
        writer.write(samples)
    back, rate = soundfile.read(tmp_path / "a.ogg")
    assert (back.shape, rate) == (samples.shape, 48000)


def test_clipped_numbers_are_counted_but_never_in_a_float_file(tmp_path):
    samples = np.array([[0.5, 1.0], [1.5, -1.0], [-2.0, 1.0001]], np.float32)
    for name, bits, clipped in [
        ("a.wav", "16", 3),
        ("a.wav", "24", 3),
        ("a.flac", None, 3),
        ("a.ogg", None, 3),
        ("a.wav", "float", 0),
    ]:
        with AudioWriter(tmp_path / name, 44100, 2, bits) as writer:
            writer.write(samples)
        assert (writer.clipped, writer.peak) == (clipped, 2.0)
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], samples)


def test_a_failed_writer_leaves_nothing_and_keeps_what_was_there(tmp_path):
    (tmp_path / "a.wav").write_text("old")

    def interrupted() -> None:
        with AudioWriter(tmp_path / "a.wav", 44100, 2) as writer:
            writer.write(sound_of(1000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "bits", "message"),
    [
        ("missing/a.wav", None, "No such file"),
        ("folder.wav", None, "folder"),
        ("a.mp4", None, r"\.ogg, \.opus, \.mp3 was expected"),
        ("a.flac", "float", "16 or 24 bits"),
        ("a.ogg", "16", "float bits"),
        ("file/a.wav", None, "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path, name, bits, message):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        AudioWriter(tmp_path / name, 44100, 2, bits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.wav"]


def test_more_channels_than_the_format_has_are_refused(tmp_path):
    with pytest.raises(InputError, match="FLAC can't hold 9 channels at 44100 Hz"):
        AudioWriter(tmp_path / "a.flac", 44100, 9)
    assert list(tmp_path.iterdir()) == []
