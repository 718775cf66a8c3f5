"""Small files that describe huge work: refused by their sizes, before memory or time is spent."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from checkpoint_files import safetensors_bytes, with_header
from command_line import run_command
from fuzz_files import CHECKPOINTS, CONFIG
from fuzzing import FIXED_BYTES, bounded, watched
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_tensors
from test_fuzz_found import npy

import oobleck_stream as ob
from oobleck_stream import memory
from oobleck_stream.conversion.config_texts import own_config
from oobleck_stream.engine import needs
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_reader import AudioFile
from oobleck_stream.files.latents_pipe import LatentPipe
from oobleck_stream.files.latents_reader import read_latents
from oobleck_stream.network import decoder_layers, encoder_layers

ENDLESS = ob.OobleckConfig(
    latent_dim=1, audio_channels=1, channels=1, multiples=(1,) * 8, strides=(64,) * 8
)
"""A frame of 2.8e14 samples, in 34 kB of weights."""


def write(folder, config, **arguments):
    file = folder / "a.safetensors"
    metadata = {"config": own_config(config)}
    file.write_bytes(safetensors_bytes(random_tensors(config), metadata=metadata, **arguments))
    return file


def command(*arguments):
    """Exit code, and what is printed on standard error."""
    done = run_command(*arguments)
    return done.returncode, done.stderr


# Networks


def test_endless_work_is_refused_in_a_line(tmp_path):
    file = write(tmp_path, ENDLESS, dtype="F16")
    with bounded(FIXED_BYTES), watched(file), pytest.raises(ob.CheckpointError) as caught:
        ob.load(file)
    assert str(file) in str(caught.value)
    assert "OOBLECK_STREAM_LIMITS=off" in str(caught.value)
    status, told = command("info", "--model", file)
    assert (status, told.count("\n")) == (2, 1)
    assert str(file) in told


def test_the_limit_on_work_can_be_lifted(tmp_path, monkeypatch):
    file = write(tmp_path, CONFIG)
    work = needs.first_work(decoder_layers(CONFIG))
    monkeypatch.setattr(needs, "MAX_WORK", work)
    ob.load(file)
    monkeypatch.setattr(needs, "MAX_WORK", work - 1)
    with pytest.raises(ob.CheckpointError, match="multiply-adds"):
        ob.load(file)
    monkeypatch.setenv(memory.VARIABLE, "off")
    ob.load(file)


def test_the_limit_on_memory_can_be_lifted(tmp_path, monkeypatch):
    plain, packed = write(tmp_path, CONFIG), tmp_path / "b.packed.safetensors"
    assert command("convert", plain, packed) == (0, "")
    taken = needs.first_memory(decoder_layers(CONFIG))
    for file in (plain, packed):
        monkeypatch.setattr(memory, "_limits", lambda: iter([taken]))
        monkeypatch.delenv(memory.VARIABLE, raising=False)
        ob.load(file)
        monkeypatch.setattr(memory, "_limits", lambda: iter([10**15, taken - 1]))
        with pytest.raises(ob.CheckpointError, match=r"takes .* of memory"):
            ob.load(file)
        monkeypatch.setenv(memory.VARIABLE, "off")
        ob.load(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 10**7},
        {"latent_dim": 2**31 - 1},
        {"kernel": 10**12 + 1},
        {"strides": (2**31,) * 32, "multiples": (1,) * 32},
        {"dilations": (1024,) * 32, "kernel": 10**6 + 1},
        {"audio_channels": 10**12},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_random_network_beyond_all_memory_is_refused(changes):
    config = ob.OobleckConfig(channels=1).replace(**changes)
    with bounded(FIXED_BYTES), pytest.raises(ValueError, match="OOBLECK_STREAM_LIMITS=off"):
        ob.random_model(config)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_memory_is_what_the_process_may_have(kind):
    code = (
        "import resource, oobleck_stream as ob, oobleck_stream.model;"
        f"resource.setrlimit(resource.{kind}, (1_900_000_000, 1_900_000_000));"
        "ob.random_model('cosmos3')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "takes 2.5 GB of memory; 1.9 GB are there" in done.stderr


def test_the_memory_is_what_the_container_may_have(tmp_path, monkeypatch):
    files = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    monkeypatch.setattr(memory, "_CGROUPS", files)
    files[0].write_text("max\n")
    without = memory.machine_memory()
    files[1].write_text("1000000\n")
    assert memory.machine_memory() == 1_000_000 < without


def test_an_encoder_beyond_all_memory_is_refused(monkeypatch):
    config = CONFIG.replace(audio_channels=2)
    model = ob.random_model(config)
    monkeypatch.setattr(needs, "MAX_WORK", 1)
    with pytest.raises(ob.CheckpointError, match="multiply-adds"):
        model.encode(np.zeros((9, 2), np.float32))


@pytest.mark.parametrize("layers", [decoder_layers, encoder_layers])
@pytest.mark.parametrize("name", ob.PRESETS)
def test_every_published_network_has_room(monkeypatch, name, layers):
    monkeypatch.setattr(memory, "_limits", lambda: iter([3 * 10**9]))
    monkeypatch.setattr(needs, "MAX_WORK", needs.MAX_WORK // 8)
    needs.require_affordable(name, layers(ob.PRESETS[name]))


def geometries():
    """Networks of any geometry that few weights can have."""
    levels = st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from([1, 1, 2, 3, 7, 16, 64, 300])),
        min_size=1,
        max_size=8,
    )
    return st.builds(
        lambda levels, **fields: ob.OobleckConfig(
            multiples=[multiple for multiple, _ in levels],
            strides=[stride for _, stride in levels],
            **fields,
        ),
        levels,
        latent_dim=st.integers(1, 40),
        audio_channels=st.integers(1, 3),
        channels=st.integers(1, 9),
        dilations=st.lists(st.sampled_from([1, 3, 100, 1024]), min_size=1, max_size=4),
        kernel=st.sampled_from([1, 3, 7, 101]),
        output_padding=st.sampled_from(["0", "s%2"]),
    ).filter(lambda config: sum(map(weights, decoder_layers(config))) < 100_000)


def weights(layer):
    return layer.inputs * layer.outputs * layer.kernel


@pytest.mark.parametrize("cases", [25, pytest.param(1500, marks=pytest.mark.nightly)])
def test_the_first_frame_of_any_network_takes_what_was_computed(tmp_path, monkeypatch, cases):
    """What is not refused needs no more memory, and ends."""
    limit, outcomes = 24 * 2**20, {"refused": 0, "decoded": 0}
    monkeypatch.setattr(needs, "MAX_WORK", 10**9)
    monkeypatch.setattr(memory, "_limits", lambda: iter([limit]))
    ob.random_model(CONFIG).decode(np.zeros((1, 3)), threads=1)

    def used(config):
        file = write(tmp_path, config)
        with watched(config):
            try:
                with bounded(limit):
                    model = ob.load(file)
            except ob.CheckpointError:
                outcomes["refused"] += 1
                return
            with bounded(limit + FIXED_BYTES):
                decoder = ob.StreamingDecoder(model, threads=1)
                while decoder.samples_out < model.hop:
                    decoder.push(np.zeros((16 if model.hop < 100 else 1, model.latent_dim)))
        outcomes["decoded"] += 1

    settings(max_examples=cases)(given(geometries())(used))()
    print(outcomes)
    assert min(outcomes.values()) > cases // 10


def test_info_does_not_repeat_what_takes_long(tmp_path, monkeypatch):
    from oobleck_stream.commands import info

    facts = info.machine_facts(ob.random_model(CONFIG), threads=1)
    assert list(facts["real_time_factors"]) == [1, 4, 16]
    monkeypatch.setattr(info, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(info, "REPETITIONS", 10**9)
    with watched("info"):
        facts = info.machine_facts(ob.random_model(CONFIG), threads=1)
    assert list(facts["real_time_factors"]) == [1]


# Arrays


def zip_of(members, method=zipfile.ZIP_DEFLATED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def big_npz(folder, rows=2**21):
    """Few bytes that are many numbers: all zero."""
    file = folder / "a.npz"
    np.savez_compressed(file, latents=np.zeros((rows, 3), np.float32))
    assert file.stat().st_size < 12 * rows / 500
    return file


def test_a_compressed_array_is_unpacked_only_when_it_is_needed(tmp_path):
    file = big_npz(tmp_path)
    with bounded(FIXED_BYTES // 4):
        latents = read_latents(file)
        assert latents.shape == (2**21, 3)
        assert latents.fits(3)
        assert latents.count(3) == 2**21
    with bounded(12 * 2**21 * 1.3):
        assert not latents.array.any()
    assert not latents.array.flags.writeable


def test_an_array_beyond_all_memory_is_not_unpacked(tmp_path, monkeypatch):
    file, size = big_npz(tmp_path), 12 * 2**21
    monkeypatch.setattr(memory, "_limits", lambda: iter([size - 1]))
    with bounded(FIXED_BYTES), pytest.raises(InputError, match=r"a.npz: .*LIMITS=off"):
        read_latents(file).frames(3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (3, 2**40)}
    )
    pipe = LatentPipe(io.BytesIO(header.getvalue() + bytes(2**20)), "a pipe")
    with bounded(FIXED_BYTES), pytest.raises(InputError, match=r"a pipe: .*LIMITS=off"):
        next(pipe.blocks(3))
    monkeypatch.setenv(memory.VARIABLE, "off")
    assert len(read_latents(file).frames(3)) == 2**21


def with_sizes(data, **sizes):
    """An archive of one member whose directory, or the member itself, has other sizes."""
    changed = bytearray(data)
    places = {"compressed": (b"PK\1\2", 20), "size": (b"PK\1\2", 24), "own": (b"PK\3\4", 22)}
    for name, value in sizes.items():
        mark, offset = places[name]
        struct.pack_into("<I", changed, changed.rindex(mark) + offset, value)
    return bytes(changed)


GOOD = npy()
LYING_NPZ = {
    "the header promises more": zip_of({"latents.npy": npy("(2097152, 3)")}),
    "the directory promises more": with_sizes(
        zip_of({"latents.npy": npy("(2097152, 3)")}), size=12 * 2**21 + 128
    ),
    "both sizes promise more": with_sizes(
        zip_of({"latents.npy": npy("(2097152, 3)")}), size=2**31, own=2**31
    ),
    "the directory promises less": with_sizes(zip_of({"latents.npy": GOOD}), size=len(GOOD) - 4),
    "the directory promises nothing": with_sizes(zip_of({"latents.npy": GOOD}), size=0),
    "compressed to nothing": with_sizes(zip_of({"latents.npy": GOOD}), compressed=0),
}


@pytest.mark.parametrize("name", LYING_NPZ)
def test_an_archive_with_wrong_sizes_is_refused(tmp_path, name):
    file = tmp_path / "a.npz"
    file.write_bytes(LYING_NPZ[name])
    with bounded(FIXED_BYTES), pytest.raises(InputError, match=r"a\.npz: "):
        read_latents(file).frames(3)


def test_an_archive_that_changes_between_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    file.write_bytes(zip_of({"latents.npy": GOOD}))
    latents = read_latents(file)
    file.write_bytes(zip_of({"latents.npy": npy("(21, 1)")}))
    with pytest.raises(InputError, match="was changed"):
        latents.frames(3)
    file.unlink()
    with pytest.raises(InputError, match="can't be read"):
        latents.frames(3)


# Other containers


def test_json_beyond_what_any_config_has_is_not_parsed(tmp_path):
    for name in ("model_config.json", "model.safetensors.index.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(safetensors_bytes(random_tensors(CONFIG)))
        (folder / name).write_bytes(b"[" + b"{}," * 6_000_000 + b"1]")
        source = folder / name if "index" in name else folder
        with bounded(FIXED_BYTES), pytest.raises(ob.CheckpointError, match="too large") as caught:
            ob.load(source)
        assert str(folder / name) in str(caught.value)
    file = tmp_path / "a.safetensors"
    file.write_bytes(with_header(b'{"a":[' + b"{}," * 6_000_000 + b"1]}"))
    with bounded(FIXED_BYTES), pytest.raises(ob.CheckpointError, match="a header of 18"):
        ob.load(file)


@pytest.mark.parametrize("entry", [b"\n\0", b"\x10\0", b"\x1d1234", b"\x191234567\0", b"\x12\0"])
def test_a_library_of_millions_of_entries_is_not_parsed(tmp_path, entry):
    file = tmp_path / "a.pb"
    for count, message in ((99_999, "damaged"), (100_001, "more than 100000 tensors")):
        file.write_bytes(CHECKPOINTS["protobuf"]["part0.pb"] + entry * count)
        with pytest.raises(ob.CheckpointError, match=message) as caught:
            ob.load(tmp_path)
        assert "a.pb" in str(caught.value)


class Call:
    """Is pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def torch_files(torch):
    """Small files of torch that become large, by name."""
    name = "decoder.layers.1.layers.0.alpha"

    def saved(value, **arguments):
        made = io.BytesIO()
        torch.save({name: value, "other": torch.zeros(1)}, made, **arguments)
        return made.getvalue()

    plain = saved(torch.zeros(2**22))
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    doubled = io.BytesIO()
    with zipfile.ZipFile(doubled, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(member, data[:1000])
    files = {
        "compressed": zip_of(members),
        "a size beyond the file": with_sizes(doubled.getvalue(), size=2**31),
        "numbers repeated": saved(torch.zeros(1).expand(2**40)),
    }
    if sys.platform == "linux":
        files["a call"] = saved(Call(bytearray, 2**33))
        files["a call, old"] = saved(Call(bytearray, 2**33), _use_new_zipfile_serialization=False)
        files["a size without numbers"] = saved(Call(torch.Tensor, 2**33))
    return files


@pytest.mark.peers
def test_a_torch_file_that_becomes_large_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    for number, (name, data) in enumerate(torch_files(torch).items()):
        file, target = tmp_path / f"{number}.pt", tmp_path / "b.safetensors"
        file.write_bytes(data)
        with watched(name), bounded(FIXED_BYTES + 16 * len(data)):
            status, told = command("convert", file, target)
        assert (status, told.count("\n")) == (2, 1), name
        assert f"{file}: damaged: " in told, name
        assert os.listdir(tmp_path) == [file.name], name
        file.unlink()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory so")
def test_only_the_process_of_a_trial_has_its_limit():
    import resource

    def limit():
        return str(resource.getrlimit(resource.RLIMIT_DATA)[0])

    def allocate():
        with pytest.raises(MemoryError):
            bytearray(2**31)
        return limit()

    before = limit()
    assert memory.capped_trial(2**30, limit) != before
    assert memory.capped_trial(2**30, allocate) != before
    assert limit() == before
    with pytest.raises(MemoryError):
        memory.capped_trial(2**30, lambda: os._exit(3))


# Sound


def wav(rate, samples=2**16, claimed=None, channels=1):
    data = bytes(2 * samples * channels)
    size = len(data) if claimed is None else claimed
    form = struct.pack("<HHIIHH", 1, channels, rate, rate, 2 * channels, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", 2**32 - 1) + chunks


def rf64(frames):
    """A WAV file for more than 4 GiB, which has 1000 frames."""
    sizes = struct.pack("<QQQI", 2**63 - 1, min(2 * frames, 2**64 - 1), frames, 0)
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    return (
        b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes
        + b"fmt " + struct.pack("<I", 16) + form + b"data\xff\xff\xff\xff" + bytes(2000)
    )  # fmt: skip


SOUNDS = {
    "4 GB": wav(8000, claimed=2**32 - 2),
    "2 to the 61 frames": rf64(2**61),
    "2 to the 63 frames": rf64(2**63),
    "2 to the 64 frames": rf64(2**64 - 1),
    "a thousand channels": wav(8000, 20, channels=1024),
    "1 Hz": wav(1),
    "2 GHz": wav(2**31 - 1),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_header_takes_no_memory(tmp_path, name):
    file = tmp_path / "a.wav"
    file.write_bytes(SOUNDS[name])
    # Blocks of 2**16 samples in a few copies, whatever the file is.
    with watched(name), bounded(2**23), contextlib.suppress(InputError):
        assert sum(map(len, AudioFile(file).blocks(8000, 1))) <= 2**16


@pytest.mark.parametrize("rate", [689, 690, 44100 * 64, 44100 * 64 + 1])
def test_sample_rates_far_apart_are_refused(tmp_path, rate):
    file = tmp_path / "a.wav"
    file.write_bytes(wav(rate, 2000))
    source = AudioFile(file)
    if rate in (690, 44100 * 64):
        made = sum(map(len, source.blocks(44100, 1)))
        assert made == pytest.approx(2000 * 44100 / rate, abs=1)
    else:
        with pytest.raises(InputError, match=f"has {rate} Hz; 690 to 2822400 Hz were expected"):
            source.blocks(44100, 1)
