"""What `decode` writes and where: parts of pieces, several pieces, standard output, formats."""

from __future__ import annotations

import io
import os
import subprocess

import numpy as np
import pytest
import soundfile
from command_line import COMMAND, PATIENCE, assert_refused, run_command, run_process
from networks import random_latents, random_tensors, small, write_folder

import oobleck_stream as ob
from oobleck_stream.commands.decode import excerpt_chunks
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.excerpt import Excerpt

CONFIG = small("stable-audio-open-1.0")
RATE, HOP, FRAMES = 44100, 2048, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("checkpoint"), CONFIG, random_tensors(CONFIG))


@pytest.fixture(scope="module")
def model(folder):
    return ob.load(folder)


@pytest.fixture
def piece(tmp_path):
    np.save(tmp_path / "a.npy", random_latents(CONFIG, FRAMES))
    return tmp_path / "a.npy"


def read(source, **options):
    return soundfile.read(source, dtype="float32", always_2d=True, **options)[0]


def to_pipe(*arguments, data=b""):
    """Run `decode` in a new process, with its standard output as bytes."""
    command = [*COMMAND, "decode", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE)


# Parts of a piece


@pytest.mark.parametrize("given", ["file", "npy stream", "raw frames"])
@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 0.25), (1.0, None), (1.0, 0.5), (0.46439909, 0.00001), (2.7, 60), (2.786, 0.0001)],
)
def test_a_part_is_that_of_the_whole(tmp_path, folder, model, piece, given, start, length):
    latents = np.load(piece)
    data = {"file": b"", "npy stream": piece.read_bytes(), "raw frames": latents.tobytes()}[given]
    options = ["--start", start, *([] if length is None else ["--length", length])]
    done = run_command(
        *("decode", piece if given == "file" else "-", "-o", tmp_path / "a.wav"),
        *("--model", folder, "--bits", "float", *options),
        data=data,
    )
    assert done.returncode == 0, done.stderr
    begin = round(start * RATE)
    end = None if length is None else begin + max(1, round(length * RATE))
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), model.decode(latents)[begin:end])


def test_a_part_needs_only_its_own_frames(model):
    """Whatever the blocks are; what follows is not even read."""
    latents = random_latents(CONFIG, FRAMES)
    whole = model.decode(latents)
    for size in (1, 7, FRAMES):
        taken = []

        def blocks(size=size, taken=taken):
            for first in range(0, FRAMES, size):
                taken.append(first)
                yield latents[first : first + size]

        excerpt = Excerpt(20 * HOP + 5, 22 * HOP + 9)
        chunks = list(excerpt_chunks(ob.StreamingDecoder(model), blocks(), excerpt))
        np.testing.assert_array_equal(np.concatenate(chunks), whole[excerpt.begin : excerpt.end])
        assert len(taken) * size <= 23 + model.context + size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--start", "60"], ["a.npy", "lasts 2.79 s", "nothing at 60 s"]),
        (["--length", "0"], ["length above 0"]),
        (["--start", "-1"], ["--start", "seconds from 0"]),
        (["--length", "soon"], ["--length", "seconds from 0"]),
    ],
)
def test_parts_that_are_not_there_are_refused(tmp_path, folder, piece, options, words):
    done = run_command("decode", piece, "-o", tmp_path / "a.wav", "--model", folder, *options)
    assert_refused(done, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_pipe_that_ends_before_the_part_is_refused(tmp_path, folder):
    done = run_command(
        *("decode", "-", "-o", tmp_path / "a.wav", "--model", folder, "--start", 9),
        data=random_latents(CONFIG, 20).tobytes(),
    )
    assert_refused(done, "standard input: ends before 9 s")
    assert list(tmp_path.iterdir()) == []


# Several pieces


def test_several_pieces_become_files_in_a_folder(tmp_path, folder, model):
    pieces = []
    for number in range(3):
        path = tmp_path / f"{number}.npy"
        np.save(path, random_latents(CONFIG, 12, number))
        pieces.append(path)
    (tmp_path / "out").mkdir()
    arguments = ["decode", *pieces, "-o", tmp_path / "out", "--model", folder]
    done = run_command(*arguments, "--format", "flac", "--bits", 24, "--start", 0.1)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["0.flac", "1.flac", "2.flac"]
    for path in pieces:
        expected = model.decode(np.load(path))[4410:]
        found = read(tmp_path / "out" / f"{path.stem}.flac")
        assert np.abs(found - expected).max() <= 2.0**-24
        assert f"{path.stem}.flac: " in done.stderr
    # The folder of a single piece is one if its name ends so, or says nothing else.
    for place in (tmp_path / "out", f"{tmp_path / 'out'}/"):
        done = run_command("decode", pieces[0], "-o", place, "--model", folder)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "0.wav").exists()
        (tmp_path / "out" / "0.wav").unlink()


def test_a_bad_piece_does_not_stop_the_others(tmp_path, folder, model):
    latents = random_latents(CONFIG, 12)
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", latents)
    latents[7, 3] = np.nan
    np.save(tmp_path / "b.npy", latents)
    pieces = [tmp_path / f"{name}.npy" for name in "abc"]
    (tmp_path / "out").mkdir()
    done = run_command("decode", *pieces, "-o", tmp_path / "out", "--model", folder)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("oobleck_stream: ")]
    assert len(lines) == 2
    assert "b.npy: latents must be finite as float32: frame 7" in lines[0]
    assert lines[1] == "oobleck_stream: 1 of 3 pieces could not be decoded"
    assert sorted(os.listdir(tmp_path / "out")) == ["a.wav", "c.wav"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.npy", "b.npy", "-o", "a.wav"], ["-o a.wav: an existing folder was expected"]),
        (["a.npy", "b.npy", "-o", "nowhere/"], ["-o nowhere/: an existing folder"]),
        (["a.npy", "b.npy", "-o", "-"], ["one piece was expected"]),
        (["a.npy", "-", "-o", "out"], ["can only be decoded alone"]),
        (
            ["a.npy", "out/../a.npy", "-o", "out"],
            ["out/../a.npy and a.npy would both become out/a.wav"],
        ),
        (["a.npy", "missing.npy", "-o", "out"], ["missing.npy", "No such file"]),
        (["a.npy", "bad.npy", "-o", "out"], ["bad.npy", "(frames, 64)"]),
        (["a.npy", "b.npy", "-o", "out", "--format", "raw"], ["--format raw"]),
        (["a.npy", "-o", "a.wav", "--format", "wav"], ["the name of a file says its format"]),
        (["a.npy", "-o", "-", "--format", "flac"], ["--format wav or raw was expected"]),
        (["a.bin", "b.npy", "-o", ".", "--format", "bin"], ["a.bin: is the input itself"]),
        (["-o", "out"], ["LATENTS"]),
    ],
)
def test_outputs_that_do_not_suit_are_refused_before_any_work(
    tmp_path, monkeypatch, folder, arguments, words
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "b.npy"):
        np.save(name, random_latents(CONFIG, 3))
    np.save("bad.npy", np.zeros((3, 9), np.float32))
    (tmp_path / "a.bin").write_bytes(bytes(4))
    (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = run_command("decode", *arguments, "--model", folder)
    assert_refused(done, *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_piece_may_name_its_model(tmp_path, folder):
    from safetensors.numpy import save_file

    latents = random_latents(CONFIG, 3)
    save_file({"x": latents}, tmp_path / "a.safetensors", {"model": str(folder)})
    np.save(tmp_path / "b.npy", ob.piece("keys")[:100])
    pieces = [tmp_path / "a.safetensors", tmp_path / "b.npy"]
    done = run_command("decode", *pieces, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "a.wav")) == 3 * HOP
    assert len(read(tmp_path / "b.wav")) == 100 * 64


# Standard output


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bits", ["16", "24", "float"])
def test_standard_output_is_the_file(tmp_path, folder, piece, bits, known):
    """Bit for bit the samples; only the length in the header is unknown for raw frames."""
    latents = np.load(piece)
    file = tmp_path / "a.wav"
    done = run_command("decode", piece, "-o", file, "--model", folder, "--bits", bits)
    assert done.returncode == 0, done.stderr
    data = b"" if known else latents.tobytes()
    source = piece if known else "-"
    done = to_pipe(source, "-o", "-", "--model", folder, "--bits", bits, data=data)
    assert done.returncode == 0, done.stderr
    assert b"standard output: 2.8 s, 44100 Hz" in done.stderr
    np.testing.assert_array_equal(read(io.BytesIO(done.stdout)), read(file))
    stated = int.from_bytes(done.stdout[40:44], "little")
    assert stated == (len(done.stdout) - 44 if known else 0xFFFFFFFF)
    raw = to_pipe(piece, "-o", "-", "--model", folder, "--bits", bits, "--format", "raw")
    assert raw.stdout == done.stdout[44:]


def test_raw_samples_are_float32_by_default(folder, model, piece):
    done = to_pipe(piece, "-o", "-", "--model", folder, "--format", "raw", "--length", 1)
    samples = np.frombuffer(done.stdout, "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(samples, model.decode(np.load(piece))[:RATE])


def test_a_file_of_odd_size_is_padded(tmp_path):
    """A WAV chunk has an even size; a mono sample of 24 bits has three bytes."""
    config = small("ezaudio")
    model = write_folder(tmp_path / "model", config, random_tensors(config))
    np.save(tmp_path / "a.npy", random_latents(config, 9))
    options = ("--bits", 24, "--length", 0.00004)
    done = to_pipe(tmp_path / "a.npy", "-o", "-", "--model", model, *options)
    assert len(done.stdout) == 44 + 4
    assert int.from_bytes(done.stdout[4:8], "little") == len(done.stdout) - 8
    assert len(read(io.BytesIO(done.stdout))) == 1


def test_a_reader_that_leaves_ends_the_command(tmp_path, folder):
    np.save(tmp_path / "a.npy", random_latents(CONFIG, 300))
    command = [*COMMAND, "decode", str(tmp_path / "a.npy"), "-o", "-", "--model", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(44)
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert b"Traceback" not in process.stderr.read()


def test_a_terminal_gets_no_samples(folder, piece):
    master, slave = os.openpty()
    command = [*COMMAND, "decode", str(piece), "-o", "-", "--model", str(folder)]
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, timeout=PATIENCE)
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert b"standard output is a terminal" in done.stderr


# Formats


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("preset", ["stable-audio-open-1.0", "ezaudio"])
def test_lossy_formats_keep_the_length_and_the_sound(tmp_path, suffix, preset):
    config = small(preset)
    rate, channels = config.samplerate, config.audio_channels
    time = np.arange(rate + 77) / rate
    tones = [0.3 * np.sin(2 * np.pi * (330 + 110 * channel) * time) for channel in range(channels)]
    samples = np.stack(tones, axis=1).astype(np.float32)
    with AudioWriter(tmp_path / f"a{suffix}", rate, channels) as writer:
        for first in range(0, len(samples), 999):
            writer.write(samples[first : first + 999])
    assert writer.written == len(samples)
    found = soundfile.info(tmp_path / f"a{suffix}")
    resampled = suffix == ".opus" and rate == 44100
    assert found.samplerate == writer.file_samplerate == (48000 if resampled else rate)
    assert found.frames == round(len(samples) * found.samplerate / rate)
    again = np.arange(found.frames) / found.samplerate
    middle = slice(found.samplerate // 4, found.samplerate // 2)
    for channel in range(channels):
        tone = 0.3 * np.sin(2 * np.pi * (330 + 110 * channel) * again)
        difference = read(tmp_path / f"a{suffix}")[middle, channel] - tone[middle]
        assert np.sqrt(np.mean(difference**2)) < 0.02


def test_resampling_for_opus_is_said(tmp_path, folder, piece):
    done = run_process("decode", piece, "-o", tmp_path / "a.opus", "--model", folder)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'a.opus'}: 2.8 s, 48000 Hz (resampled from 44100 Hz)" in done.stderr
