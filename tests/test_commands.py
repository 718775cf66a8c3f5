"""The commands `decode` and `info`, and what all commands have in common."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import COMMAND, PATIENCE, assert_refused, run_command, run_process
from networks import random_latents, random_tensors, small, write_folder
from sound_server import ALSA, missing_parts

import oobleck_stream as ob
from oobleck_stream.loading import load

CONFIG = small("stable-audio-open-1.0", channels=4)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 64 numbers a frame."""
    return write_folder(tmp_path_factory.mktemp("checkpoint"), CONFIG, random_tensors(CONFIG))


@pytest.fixture(scope="session")
def model(folder: Path) -> ob.Model:
    return load(folder)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


# decode


@pytest.mark.parametrize(("frames", "run"), [(1, run_process), (70, run_command)])
def test_decode_writes_the_samples_of_decode(tmp_path, folder, model, frames, run):
    latents = random_latents(CONFIG, frames)
    path = save(tmp_path / "a.npy", latents[None].transpose(0, 2, 1))
    done = run("decode", path, "-o", tmp_path / "a.wav", "--model", folder, "--bits", "float")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{tmp_path / 'a.wav'}: {frames * 2048 / 44100:.1f} s" in done.stderr
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 44100
    assert np.array_equal(samples, model.decode(latents))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npy", "a.wav"]


@pytest.mark.parametrize("raw", [True, False])
def test_decode_reads_standard_input(tmp_path, folder, model, raw):
    latents = random_latents(CONFIG, 40)
    path = save(tmp_path / "a.npy", latents)
    done = run_command(
        *("decode", "-", "-o", tmp_path / "a.flac", "--model", folder, "--bits", 24),
        data=latents.tobytes() if raw else path.read_bytes(),
    )
    assert done.returncode == 0, done.stderr
    samples, _ = soundfile.read(tmp_path / "a.flac")
    assert np.abs(samples - model.decode(latents)).max() <= 2.0**-24


def test_the_environment_names_the_model(tmp_path, monkeypatch, folder):
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    monkeypatch.setenv("OOBLECK_STREAM_MODEL", str(folder))
    done = run_command("decode", path, "-o", tmp_path / "a.wav")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OOBLECK_STREAM_THREADS", "abc"),
        ("OOBLECK_STREAM_THREADS", "0"),
        ("OOBLECK_STREAM_BACKEND", "gpu"),
        ("OOBLECK_STREAM_MODEL", "no/such/model.safetensors"),
    ],
)
def test_bad_values_of_variables_are_named_by_the_variable(tmp_path, monkeypatch, variable, value):
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    monkeypatch.setenv(variable, value)
    done = run_command("decode", path, "-o", tmp_path / "a.wav")
    assert_refused(done, f"${variable}", value)
    assert "--" not in done.stderr


def test_bad_options_are_not_named_by_the_variable(tmp_path, monkeypatch):
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    monkeypatch.setenv("OOBLECK_STREAM_THREADS", "abc")
    monkeypatch.setenv("OOBLECK_STREAM_MODEL", "no")
    arguments = ("decode", path, "-o", tmp_path / "a.wav")
    done = run_command(*arguments, "--threads", "many")
    assert_refused(done, "--threads", "many")
    done = run_command(*arguments, "--threads", 1, "--model", "no/such/model.safetensors")
    assert_refused(done, "no/such/model.safetensors: no such file")
    assert "$" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes file descriptors in a shell")
@pytest.mark.parametrize("streams", ["<&-", "<&- >&-"])
def test_a_closed_standard_input(tmp_path, folder, streams):
    arguments = ["decode", "-", "-o", str(tmp_path / "a.wav"), "--model", str(folder)]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join([*COMMAND, *arguments])} {streams}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert_refused(done, "standard input is closed")
    assert list(tmp_path.iterdir()) == []


def test_metadata_names_the_model(tmp_path, folder):
    from safetensors.numpy import save_file

    save_file({"x": random_latents(CONFIG, 3)}, tmp_path / "a.safetensors", {"model": str(folder)})
    done = run_command("decode", tmp_path / "a.safetensors", "-o", tmp_path / "a.wav")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.wav").exists()


def test_clipped_samples_are_reported(tmp_path, folder, model):
    latents = 40 * random_latents(CONFIG, 30)
    expected = model.decode(latents)
    clipped = np.count_nonzero(np.abs(expected) > 1)
    assert clipped
    path = save(tmp_path / "a.npy", latents)
    done = run_command("decode", path, "-o", tmp_path / "a.wav", "--model", folder)
    assert done.returncode == 0
    assert f"{clipped} samples clipped" in done.stderr
    assert f"the peak is {np.abs(expected).max():.2f}" in done.stderr


# Bad input


def bad_latents(tmp_path: Path, kind: str) -> Path:
    frames = random_latents(CONFIG, 20)
    path = save(tmp_path / "bad.npy", frames)
    whole = path.read_bytes()
    if kind == "missing":
        return tmp_path / "missing.npy"
    if kind == "truncated":
        path.write_bytes(whole[:-100])
    elif kind == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif kind == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "size":
        save(path, frames[:, :63])
    elif kind == "ambiguous":
        save(path, random_latents(CONFIG, 64))
    elif kind == "nan":
        frames[17, 5] = np.nan
        save(path, frames)
    elif kind == "empty":
        save(path, frames[:0])
    elif kind.endswith("safetensors"):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(b"garbage" * 100)
        if kind == "truncated safetensors":
            from safetensors.numpy import save_file

            save_file({"latents": frames}, path)
            path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "No such file"),
        ("truncated", "cut off"),
        ("garbage", "not a .npy array"),
        ("pickled", "pickled"),
        ("size", "(frames, 64) or (64, frames) were expected, not (20, 63)"),
        ("ambiguous", "--layout tc or --layout ct decides"),
        ("nan", "frame 17 is not"),
        ("empty", "holds no frames"),
        ("garbage safetensors", "not a"),
        ("truncated safetensors", "bad.safetensors"),
    ],
)
def test_bad_latents_are_refused_in_a_line(tmp_path, folder, kind, words):
    path = bad_latents(tmp_path, kind)
    before = sorted(tmp_path.iterdir())
    done = run_command("decode", path, "-o", tmp_path / "a.wav", "--model", folder)
    assert_refused(done, str(path), words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "before the first frame"),
        (np.zeros((5, 64), np.float32).tobytes()[:-1], "in the middle of frame 4"),
        (np.full((5, 64), np.inf, np.float32).tobytes(), "frame 0 is not"),
    ],
)
def test_bad_standard_input_leaves_nothing_behind(tmp_path, folder, data, words):
    done = run_command(*("decode", "-", "-o", tmp_path / "a.wav", "--model", folder), data=data)
    assert_refused(done, "standard input", words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("missing/a.wav", "No such file or directory"),
        ("a.mp4", ".wav, .flac, .ogg, .opus, .mp3 or .bin was expected"),
        ("folder.wav", "folder"),
    ],
)
def test_an_unwritable_output_is_refused(tmp_path, folder, output, words):
    (tmp_path / "folder.wav").mkdir()
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    before = sorted(tmp_path.iterdir())
    done = run_command("decode", path, "-o", tmp_path / output, "--model", folder)
    assert_refused(done, str(tmp_path / output), words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "random:nonsense"], ["unknown preset", "nonsense", "stable-audio-open-1.0"]),
        (["--model", "./nowhere"], ["./nowhere"]),
        (["--model", "random:ezaudio"], ["(frames, 128)", "a.npy"]),
        (["--threads", "0"], ["--threads"]),
        (["--threads", "many"], ["--threads", "many"]),
        (["--layout", "both"], ["--layout"]),
        (["--unknown"], ["--unknown"]),
    ],
)
def test_bad_options_are_refused_in_a_line(tmp_path, arguments, words):
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    done = run_command("decode", path, "-o", tmp_path / "a.wav", *arguments)
    assert_refused(done, *words)
    assert not (tmp_path / "a.wav").exists()


def test_without_a_model_the_presets_that_fit_are_listed(tmp_path, monkeypatch):
    monkeypatch.delenv("OOBLECK_STREAM_MODEL", raising=False)
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    done = run_command("decode", path, "-o", tmp_path / "a.wav")
    assert_refused(done, str(path), "--model", "stable-audio-open-1.0", "ace-step-1.5")
    assert "ezaudio" not in done.stderr
    path = save(tmp_path / "b.npy", np.zeros((3, 17), np.float32))
    done = run_command("decode", path, "-o", tmp_path / "a.wav")
    assert_refused(done, str(path), "--model", "(3, 17)")
    done = run_command("decode", "-", "-o", tmp_path / "a.wav", data=b"0" * 512)
    assert_refused(done, "standard input", "--model")


# Interruptions


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_an_interrupted_decode_leaves_nothing_behind(tmp_path, folder, number, status):
    process = subprocess.Popen(
        [*COMMAND, "decode", "-", "-o", str(tmp_path / "a.wav"), "--model", str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(random_latents(CONFIG, 30).tobytes())
    process.stdin.flush()
    wait_until(lambda: any(file.stat().st_size > 50_000 for file in tmp_path.rglob("*")))
    process.send_signal(number)
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert b"Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# info


def test_info_describes_a_network(tmp_path, folder, model):
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 50))
    done = run_command("info", path, "--model", folder, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["latents"]["frames"] == 50
    assert facts["latents"]["seconds"] == 50 * 2048 / 44100
    network = facts["network"]
    assert network["latency_samples"] == model.latency == 18981
    assert network["context_frames"] == 10
    assert network["weights_bytes"] == model.decoder.data.nbytes
    assert facts["machine"]["real_time_factors"].keys() == {"1", "4", "16"}
    text = run_command("info", path, "--model", folder).stdout
    assert "18981 samples = 430 ms" in text
    assert "50 frames, 2.32 s" in text


def test_info_of_a_full_size_network_agrees_with_the_published_numbers():
    from oobleck_stream.commands.info import network_facts
    from oobleck_stream.engine.packed import PackedNetwork
    from oobleck_stream.network import decoder_layers

    for convolution, work in (("fast", 34.2), ("direct", 54.3)):
        config = ob.PRESETS["stable-audio-open-1.0"].replace(convolution=convolution)
        facts = network_facts(ob.Model(config, PackedNetwork.empty(decoder_layers(config))))
        assert round(facts["weights"] / 1e6, 1) == 78.1
        assert round(facts["macs_per_second"] / 1e9, 1) == work


# The rest


def test_help_names_every_command_and_loads_no_numba():
    code = (
        "import sys, oobleck_stream.__main__ as m; status = m.run(['--help']);"
        "assert not {'numba', 'numpy', 'soundfile', 'sounddevice'} & set(sys.modules);"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("play", "decode", "info"):
        assert f"  {name} " in done.stdout
    assert done.stdout == run_process().stdout


def test_an_unknown_command_is_refused_in_a_line():
    assert_refused(run_command("dance"), "dance")


def test_without_portaudio_the_package_is_named(tmp_path, folder):
    # What sounddevice does where the library is missing.
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    done = run_process("play", path, "--model", folder, env={"PYTHONPATH": search})
    assert_refused(done, "PortAudio", "apt install libportaudio2")


@pytest.mark.sound
def test_without_an_output_device_play_is_refused(tmp_path, folder):
    if missing_parts():
        pytest.skip(f"needs {missing_parts()}")
    if list(Path("/proc/asound").glob("card*/pcm*p")):
        pytest.skip("needs a machine without a sound card")
    (tmp_path / "alsa.conf").write_text(ALSA)
    environment = {
        "ALSA_CONFIG_PATH": str(tmp_path / "alsa.conf"),
        "PULSE_SERVER": f"unix:{tmp_path / 'nowhere'}",
    }
    path = save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    done = run_process("play", path, "--model", folder, env=environment)
    assert_refused(done, "output device")
