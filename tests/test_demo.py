"""The bundled network and its pieces, and the command that shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import run_command
from networks import signal_to_noise

import oobleck_stream as ob
from oobleck_stream.loading import TINY

FINGERPRINTS = Path(__file__).with_name("fingerprints.npz")
"""Loudness in bands and in time of every piece, as it sounded when it was made.

``python tests/test_demo.py`` makes them anew after the pieces have been changed and heard.
"""


def fingerprint(audio):
    """Decibels in 24 bands by 16 stretches of time, of the sum of the channels."""
    mono = audio.sum(axis=1)
    window = np.hanning(2048)
    frames = np.lib.stride_tricks.sliding_window_view(mono, 2048)[::1024] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(2, 1024, 25).astype(int))
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    times = np.linspace(0, len(bands), 16, endpoint=False).astype(int)
    return 10 * np.log10(np.add.reduceat(bands, times, axis=0) + 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def tiny():
    return ob.load("tiny")


@pytest.fixture(scope="module")
def sounds(tiny):
    return {name: tiny.decode(ob.piece(name)) for name in ob.PIECES}


def test_network(tiny):
    assert TINY.stat().st_size <= 8_000_000
    assert (tiny.samplerate, tiny.channels) == (44100, 2)
    assert tiny.latent_dim not in (64, 128)
    assert not tiny.notes


def test_pieces(tiny, sounds):
    assert 3 <= len(sounds) <= 5
    assert sum(ob.piece(name).nbytes for name in sounds) <= 2_000_000
    for name, sound in sounds.items():
        assert 10 <= len(sound) / tiny.samplerate <= 30, name
        assert 0.2 < np.abs(sound).max() < 1.5, name
        assert np.abs(sound.mean(axis=0)).max() < 0.01, name
        assert np.sqrt(np.mean(sound**2)) > 0.02, name


@pytest.mark.parametrize("name", ["keys", "plucked", "groove", "pads"])
def test_sounds_as_it_was_heard(sounds, name):
    with np.load(FINGERPRINTS) as stored:
        assert np.abs(fingerprint(sounds[name]) - stored[name]).max() < 0.5


def test_unknown_piece():
    with pytest.raises(ValueError, match="unknown piece 'noise'; the pieces are: keys"):
        ob.piece("noise")


def run_demo(folder, *arguments):
    """The command, where there is no sound device."""
    nowhere = {"PULSE_SERVER": "unix:/nonexistent", "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "oobleck_stream", "demo", *arguments],
        cwd=folder,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_demo_without_a_sound_card(tmp_path, sounds):
    result = run_demo(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "identical: yes" in result.stdout
    (file,) = tmp_path.glob("*.wav")
    assert file.name in result.stdout
    written, rate = soundfile.read(file, dtype="float32")
    assert rate == 44100
    assert np.abs(written - np.clip(sounds["keys"], -1, 1)).max() < 2**-15
    with np.load(FINGERPRINTS) as stored:
        assert np.abs(fingerprint(written) - stored["keys"]).max() < 0.5


def test_demo_into_a_file(tmp_path):
    result = run_demo(tmp_path, "groove", "-o", "out.flac")
    assert result.returncode == 0, result.stderr
    assert soundfile.info(tmp_path / "out.flac").duration > 10
    assert run_command("demo", "noise").returncode == 2
    listed = run_command("demo", "--list").stdout
    assert all(name in listed for name in ob.PIECES)


DEMOS = Path(__file__).parent.parent / "demos"


def test_a_generator_piped_into_the_command(tmp_path, tiny):
    generate = [sys.executable, str(DEMOS / "generate.py"), "--fast", "--seconds", "3"]
    decode = [sys.executable, "-m", "oobleck_stream", "decode", "-", "--model", "tiny"]
    frames = subprocess.run(generate, capture_output=True, check=True).stdout
    out = tmp_path / "out.wav"
    command = [*decode, "-o", str(out), "--bits", "float"]
    subprocess.run(command, input=frames, check=True, capture_output=True)
    latents = np.frombuffer(frames, "<f4").reshape(-1, tiny.latent_dim)
    assert len(latents) == int(3 * tiny.config.frame_rate)
    np.testing.assert_array_equal(soundfile.read(out, dtype="float32")[0], tiny.decode(latents))


def test_a_pipe_that_closes_early_ends_the_generator():
    command = f'"{sys.executable}" "{DEMOS / "generate.py"}" | head -c 1000 | wc -c'
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "1000"
    assert result.stderr == ""


def test_a_pipeline_with_a_stand_in(tmp_path):
    latents = tmp_path / "latents.npy"
    command = [sys.executable, str(DEMOS / "stable_audio.py"), "--seconds", "1", "--silent"]
    result = subprocess.run(
        [*command, "-o", str(latents)], capture_output=True, text=True, check=True, timeout=300
    )
    assert "stand in" in result.stdout
    assert np.load(latents).shape == (22, 64)


@pytest.mark.peers
def test_other_readers_give_the_same_sound(tiny, sounds):
    """Diffusers' decoder takes the shipped tensors, renamed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import peers
    from safetensors.numpy import load_file

    tensors = {name: value.astype(np.float32) for name, value in load_file(TINY).items()}
    decoder = {name: value for name, value in tensors.items() if name.startswith("decoder.")}
    for name in [name for name in decoder if name.endswith(".weight")]:
        weight = decoder.pop(name)
        norm = np.sqrt((weight.astype(float) ** 2).sum(axis=(1, 2), keepdims=True))
        decoder[f"{name}_g"], decoder[f"{name}_v"] = norm.astype(np.float32), weight
    latents = ob.piece("keys")[:300].astype(np.float32)
    with torch.no_grad():
        expected = peers.diffusers_decode(tiny.config, decoder, latents)
    assert signal_to_noise(expected, tiny.decode(latents)) >= 100


if __name__ == "__main__":
    network = ob.load("tiny")
    made = {name: fingerprint(network.decode(ob.piece(name))) for name in ob.PIECES}
    np.savez_compressed(FINGERPRINTS, **made)
