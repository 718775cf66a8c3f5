"""The commands `encode` and `roundtrip`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import assert_refused, run_command, run_process
from networks import random_audio, random_tensors, small, write_folder

import oobleck_stream as ob
from oobleck_stream.commands.progress import Progress
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_reader import AudioFile
from oobleck_stream.files.latents_writer import LatentWriter
from oobleck_stream.formats.flat import write_flat

CONFIG = small("yue2")
MONO = small("ezaudio")


def checkpoint(folder, config):
    """Both halves with random weights."""
    return write_folder(
        folder, config, random_tensors(config) | random_tensors(config, half="encoder")
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("stereo"), CONFIG)


@pytest.fixture(scope="session")
def mono(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("mono"), MONO)


@pytest.fixture
def sound(tmp_path):
    return write(tmp_path / "in.wav", random_audio(CONFIG, 30_000))


def write(path: Path, samples, samplerate=48000, subtype="FLOAT"):
    soundfile.write(path, samples, samplerate, subtype=subtype)
    return path


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def test_encode_and_decode_through_files_as_in_memory(tmp_path, folder, sound):
    latents, output = tmp_path / "a.npy", tmp_path / "out.wav"
    done = run_command("encode", sound, latents, "--model", folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"{latents}: 16 frames of 64, 0.6 s" in done.stderr
    model, audio = ob.load(folder), read(sound)
    np.testing.assert_array_equal(np.load(latents), model.encode(audio))
    done = run_command("decode", latents, "-o", output, "--model", folder, "--bits", "float")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read(output), model.decode(model.encode(audio)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npy", "in.wav", "out.wav"]


def test_options(tmp_path, monkeypatch, folder, sound):
    monkeypatch.setenv("OOBLECK_STREAM_MODEL", str(folder))
    path = tmp_path / "a.npy"
    options = ("--sample", "--seed", 3, "--dtype", "float16", "--threads", 1)
    done = run_command("encode", sound, path, *options)
    assert done.returncode == 0, done.stderr
    expected = ob.load(folder).encode(read(sound), sample=True, seed=3)
    stored = np.load(path)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, expected.astype(np.float16))


def test_direct_convolution(tmp_path, sound):
    wide = ob.OobleckConfig(8, samplerate=48000, channels=64, multiples=(1,), strides=(32,))
    source, latents = checkpoint(tmp_path / "wide", wide), {}
    for convolution in ("fast", "direct"):
        path = tmp_path / f"{convolution}.npy"
        options = ["--model", source, "--convolution", convolution]
        assert run_command("encode", sound, path, *options).returncode == 0
        latents[convolution] = np.load(path)
        model = ob.load(source, convolution=convolution)
        np.testing.assert_array_equal(latents[convolution], model.encode(read(sound)))
    assert not np.array_equal(latents["fast"], latents["direct"])


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".aiff"])
def test_other_formats(tmp_path, folder, suffix):
    path = tmp_path / f"in{suffix}"
    soundfile.write(path, random_audio(CONFIG, 5000).clip(-1, 1), 48000)
    done = run_command("encode", path, tmp_path / "a.npy", "--model", folder)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ob.load(folder).encode(read(path)))


def test_mono_goes_to_all_channels(tmp_path, folder):
    audio = random_audio(MONO, 9000)
    path = write(tmp_path / "in.wav", audio)
    done = run_command("encode", path, tmp_path / "a.npy", "--model", folder)
    assert f"{path}: mono on all 2 channels\n" in done.stderr
    expected = ob.load(folder).encode(np.repeat(audio, 2, axis=1))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


def test_stereo_becomes_mono(tmp_path, mono):
    audio = random_audio(CONFIG, 9000)
    path = write(tmp_path / "in.wav", audio, MONO.samplerate)
    done = run_command("encode", path, tmp_path / "a.npy", "--model", mono)
    assert f"{path}: the mean of both channels\n" in done.stderr
    expected = ob.load(mono).encode(audio[:, :1] * 0.5 + audio[:, 1:] * 0.5)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


def test_resampling(tmp_path, folder):
    soxr = pytest.importorskip("soxr")
    audio = random_audio(CONFIG, 200_000)
    path = write(tmp_path / "in.wav", audio, 44100)
    done = run_command("encode", path, tmp_path / "a.npy", "--model", folder)
    assert f"{path}: resampled from 44100 to 48000 Hz\n" in done.stderr
    converted = soxr.resample(audio, 44100, 48000, quality="VHQ")
    expected = ob.load(folder).encode(converted)
    result = np.load(tmp_path / "a.npy")
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-4)


def bad_sound(tmp_path, kind):
    path, audio = tmp_path / "bad.wav", random_audio(CONFIG, 100_000)
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif kind == "empty":
        write(path, audio[:0])
    elif kind == "nan":
        audio[70_000, 1] = np.nan
        write(path, audio)
    elif kind == "channels":
        write(path, np.zeros((9, 3)))
    elif kind == "cut off":
        path = tmp_path / "bad.flac"
        soundfile.write(path, audio.clip(-1, 1), 48000)
        path.write_bytes(path.read_bytes()[:200_000])
    return path


@pytest.mark.parametrize("command", ["encode", "roundtrip"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["No such file"]),
        ("folder", ["directory"]),
        ("garbage", ["not a sound file"]),
        ("empty", ["no samples"]),
        ("nan", ["sample 70000"]),
        ("channels", ["3 channels", "2 were expected"]),
        ("cut off", ["cut off", "after sample 0"]),
    ],
)
def test_bad_sound_is_refused_in_a_line(tmp_path, folder, command, kind, words):
    path = bad_sound(tmp_path, kind)
    output = tmp_path / ("out.npy" if command == "encode" else "out.wav")
    before = sorted(tmp_path.iterdir())
    done = run_command(command, path, output, "--model", folder)
    assert_refused(done, str(path), *words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.wav"], [".npy or .bin was expected"]),
        (["nowhere/a.npy"], ["nowhere/a.npy", "can't be written"]),
        (["a.npy", "--seed", "3"], ["--sample"]),
        (["a.npy", "--dtype", "int8"], ["--dtype"]),
        (["a.npy", "--model", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_options_are_refused_in_a_line(tmp_path, monkeypatch, folder, arguments, words):
    sound = write(tmp_path / "in.wav", random_audio(CONFIG, 100))
    monkeypatch.setenv("OOBLECK_STREAM_MODEL", str(folder))
    monkeypatch.chdir(tmp_path)
    done = run_command("encode", sound, *arguments)
    assert_refused(done, *words)
    assert list(tmp_path.iterdir()) == [sound]


@pytest.mark.parametrize("command", ["encode", "roundtrip"])
def test_a_decoder_alone_is_refused_in_a_line(tmp_path, command):
    sound = write(tmp_path / "in.wav", random_audio(CONFIG, 100))
    folder = write_folder(tmp_path / "model", CONFIG, random_tensors(CONFIG))
    output = tmp_path / ("out.npy" if command == "encode" else "out.wav")
    done = run_command(command, sound, output, "--model", folder)
    assert_refused(done, f"{folder / 'model.safetensors'}: can't encode")
    assert not output.exists()


def test_numbers_beyond_float16(tmp_path):
    frames = np.array([[0, 0], [0, 0], [1, 1e5]], np.float32)

    def write_latents():
        with LatentWriter(tmp_path / "a.npy", 2, "float16") as writer:
            writer.write(frames[:2])
            writer.write(frames[2:])

    with pytest.raises(InputError, match=r"a\.npy: frame 2 is not finite as float16"):
        write_latents()
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_any_file(tmp_path, monkeypatch):
    audio = random_audio(CONFIG, 1000)
    monkeypatch.setattr("oobleck_stream.files.audio_reader.BLOCK", 77)
    source = AudioFile(write(tmp_path / "in.wav", audio))
    assert (source.samplerate, source.channels, source.samples) == (48000, 2, 1000)
    for _ in range(2):
        blocks = list(source.blocks(48000, 2))
        assert len(blocks) == 13
        np.testing.assert_array_equal(np.concatenate(blocks), audio)
    assert source.length(24000) == 500


def test_an_input_is_not_written_over(tmp_path, folder, sound):
    (tmp_path / "link.wav").symlink_to(sound)
    np.save(tmp_path / "a.npy", np.zeros((3, 64), np.float32))
    write_flat(tmp_path / "a.bin", np.zeros(192))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments in (
        ("roundtrip", sound, sound),
        ("roundtrip", sound, tmp_path / "link.wav"),
        ("encode", tmp_path / "a.bin", tmp_path / ".." / tmp_path.name / "a.bin"),
        ("decode", tmp_path / "a.bin", "-o", tmp_path / "a.bin"),
    ):
        assert_refused(run_command(*arguments, "--model", folder), "is the input itself")
        assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("told", [-5, 0])
def test_the_progress_bar_ends_at_its_total(monkeypatch, told):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(44100, 1000 * 7 + told) as progress:
        progress._bar.mininterval = 0
        for _ in range(1000):
            progress.add(7)
    shown = terminal.getvalue()
    assert "100%" in shown
    assert "0.2 of 0.2 s [00:00 left" in shown
    assert "-0" not in shown


# roundtrip


def test_roundtrip(tmp_path, folder, sound):
    output = tmp_path / "out.wav"
    done = run_command("roundtrip", sound, output, "--model", folder, "--bits", "float")
    assert done.returncode == 0, done.stderr
    model, before = ob.load(folder), read(sound)
    after = read(output)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after, model.decode(model.encode(before))[: len(before)])
    x, y = before.astype(float).ravel(), after.astype(float).ravel()
    part = x * (x @ y) / (x @ x)
    expected = 10 * np.log10((part @ part) / ((y - part) @ (y - part)))
    assert done.stdout == f"SI-SDR {expected:.2f} dB\n"


def test_roundtrip_of_a_whole_number_of_frames(tmp_path, folder):
    """An odd stride gives less sound than the frames have: the end is filled up."""
    sound = write(tmp_path / "in.wav", random_audio(CONFIG, 5 * 1920))
    done = run_command("roundtrip", sound, tmp_path / "out.wav", "--model", folder)
    assert done.returncode == 0, done.stderr
    after = read(tmp_path / "out.wav")
    assert len(after) == 5 * 1920
    assert after[-65].any()
    assert not after[-64:].any()


def test_roundtrip_of_silence(tmp_path, folder):
    sound = write(tmp_path / "in.wav", np.zeros((5000, 2)))
    done = run_command("roundtrip", sound, tmp_path / "out.wav", "--model", folder)
    assert (done.returncode, done.stdout) == (0, "SI-SDR undefined for silence\n"), done.stderr


def test_the_bundled_network_keeps_its_music(tmp_path, monkeypatch):
    monkeypatch.delenv("OOBLECK_STREAM_MODEL", raising=False)
    model = ob.load("tiny")
    music = model.decode(ob.piece("keys")[:2000])
    sound = write(tmp_path / "in.wav", music, model.samplerate)
    done = run_process("roundtrip", sound, tmp_path / "out.wav")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[1]) > 6
