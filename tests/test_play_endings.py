"""How `play` ends, and the terminal: signals, a lost device, a closed pipe, keys."""

from __future__ import annotations

import signal
import subprocess

import numpy as np
import pexpect
import pytest
import soundfile
from command_line import COMMAND
from networks import random_latents
from playing import (
    CONFIG,
    folder,
    listen,
    messages,
    run_play,
    save_latents,
    start_play,
    trimmed,
)
from sound_server import SoundServer, sound_server

import oobleck_stream as ob
from oobleck_stream.player.keys import split_keys

__all__ = ["folder", "sound_server"]


# Endings


@pytest.mark.sound
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_signals_end_it_cleanly_with_live_input(sound_server, tmp_path, folder, number, status):
    with sound_server.recording() as recording:
        process = start_play(
            *(sound_server, "-", "--model", folder, "--quiet", "--record", tmp_path / "a.wav"),
            stdin=subprocess.PIPE,
        )
        process.stdin.write(random_latents(CONFIG, 30).tobytes())
        process.stdin.flush()
        recording.wait_for(lambda samples: samples.any())
        process.send_signal(number)
        _, message = process.communicate(timeout=30)
    assert process.returncode == status
    assert b"Traceback" not in message
    # The recording is a complete file.
    played = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    assert len(played)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.sound
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_vanished_sound_server_ends_it_with_a_line(tmp_path, folder, number):
    save_latents(tmp_path / "a.npy", 600)
    with SoundServer.running(tmp_path) as server, server.recording() as recording:
        process = start_play(server, tmp_path / "a.npy", "--model", folder, "--quiet")
        recording.wait_for(lambda samples: samples.any())
        server.process.send_signal(number)
        _, message = process.communicate(timeout=60)
        server.kill()
    assert process.returncode == 1
    lines = [line for line in message.decode().splitlines() if line.startswith("oobleck_stream")]
    assert len(lines) == 1
    assert "output device" in lines[0]
    assert b"Traceback" not in message


@pytest.mark.sound
def test_a_closed_pipe_ends_it_cleanly(sound_server, tmp_path, folder):
    save_latents(tmp_path / "a.npy", 600)
    process = start_play(
        *(sound_server, tmp_path / "a.npy", "--model", folder, "--json"), stdout=subprocess.PIPE
    )
    assert b"message" in process.stdout.readline()
    process.stdout.close()
    _, message = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"Traceback" not in message


# The terminal

WITH_TERMINAL = """
trap : INT
"$@"
echo "status $?"
stty -a
"""


def in_terminal(server: SoundServer, *arguments: object) -> pexpect.spawn:
    """Run `play` in a pseudo-terminal, then print its exit code and the terminal's settings."""
    child = pexpect.spawn(
        "sh",
        ["-c", WITH_TERMINAL, "sh", *COMMAND, "play", *map(str, arguments)],
        env=server.environment,
        dimensions=(24, 120),
        timeout=30,
    )
    child.delaybeforesend = None
    return child


def assert_restored(child: pexpect.spawn, status: int) -> None:
    child.expect_exact(f"status {status}\r\n")
    settings = child.read().decode().replace(";", " ").split()
    assert {"icanon", "echo", "isig"} <= set(settings)
    assert b"Traceback" not in child.before
    child.close()


@pytest.mark.sound
def test_keys(sound_server, tmp_path, folder):
    save_latents(tmp_path / "a.npy", 2000)
    child = in_terminal(sound_server, tmp_path / "a.npy", "--model", folder)
    child.expect_exact("q quit")
    child.expect(r"0:0\d\.\d / 1:32\.8")
    for key, shown in [
        (" ", r"\|\|  0:0"),
        (" ", r">   0:0"),
        ("\x1b[A", r"1:0\d\.\d / 1:32\.8"),
        ("\x1b[D", r"0:5\d\.\d / 1:32\.8"),
        ("9", "vol 95%"),
        ("m", "muted"),
        ("m", "vol 95%"),
        ("0", r"RTF \d\.\d\d\s*\r"),
        ("l", "loop"),
        ("?", "left/right 5 s"),
        ("z", r"RTF"),
    ]:
        child.send(key)
        child.expect(shown)
    child.send("q")
    assert_restored(child, 0)


@pytest.mark.sound
@pytest.mark.parametrize("way", ["interrupt", "end", "bad"])
def test_the_terminal_is_restored(sound_server, tmp_path, folder, way):
    save_latents(tmp_path / "a.npy", 30 if way == "end" else 2000)
    record = ["--record", tmp_path / "missing" / "a.wav"] if way == "bad" else []
    child = in_terminal(sound_server, tmp_path / "a.npy", "--model", folder, *record)
    if way != "bad":
        child.expect_exact("RTF")
    if way == "interrupt":
        child.sendintr()
    assert_restored(child, {"interrupt": 130, "end": 0, "bad": 2}[way])


@pytest.mark.sound
def test_no_key_is_swallowed_when_standard_input_carries_latents(sound_server, tmp_path, folder):
    # 0x20 and 0x71 are space and q. Here they are bytes of two latent frames.
    latents = np.frombuffer(b"\x20\x71\x3f\x3f" * 128, "<f4")
    heard, done = listen(sound_server, run_play, "-", "--model", folder, input=latents.tobytes())
    assert (done.returncode, messages(done)) == (0, "")
    expected = ob.load(folder).decode(latents.reshape(2, 64))
    assert np.array_equal(heard, trimmed(expected))


def test_terminal_input_is_split_into_keys():
    assert split_keys(b" \x1b[Aq\x1bOD?\xc3\xa4\x1b[5~9") == [
        *("space", "up", "q", "left", "?", "[", "5", "~", "9"),
    ]
