"""The player against real PortAudio and a real sound server."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pexpect
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from networks import random_latents, random_tensors, small, write_folder
from sound_server import SoundServer, sound_server

import oobleck_stream as ob
from oobleck_stream.player.callback import PlaybackCallback
from oobleck_stream.player.keys import split_keys
from oobleck_stream.player.playlist import Playlist
from oobleck_stream.player.producer import Producer, TimedDecoder
from oobleck_stream.player.ring import Ring
from oobleck_stream.player.status import Status
from oobleck_stream.player.tracks import Repeated, tracks_of

__all__ = ["sound_server"]

COMMAND = [sys.executable, "-m", "oobleck_stream"]
CONFIG = small("stable-audio-open-1.0", channels=8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"), CONFIG, random_tensors(CONFIG))


@pytest.fixture(scope="session")
def model(folder: Path) -> ob.Model:
    model = ob.load(folder)
    model.decode(np.zeros((1, 64)))  # Compiles the kernels if necessary.
    return model


def save_latents(path: Path, frames: int, seed: int = 1) -> np.ndarray:
    latents = random_latents(CONFIG, frames, seed)
    np.save(path, latents)
    return latents


def run_play(server: SoundServer, *arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, "play", "--quiet", *map(str, arguments)],
        env=server.environment,
        capture_output=True,
        timeout=60,
        **options,
    )


def run_script(server: SoundServer, script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run Python code that plays; its standard output is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=server.environment,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert (done.returncode, messages(done)) == (0, "")
    return done


def stood_still(done: subprocess.CompletedProcess) -> bool:
    """Whether ALSA reported that the whole machine was late, so that the device lost sound."""
    return "underrun occurred" in str(done.stderr)


def messages(done: subprocess.CompletedProcess) -> str:
    """Standard error without the messages of ALSA's library."""
    text = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("ALSA lib"))


def listen(
    server: SoundServer, run: Callable, *arguments: object, **options
) -> tuple[np.ndarray, subprocess.CompletedProcess]:
    """Run something that plays; return the sound between the silence at both ends, and the process.

    Repeated if the machine stood still meanwhile.
    """
    for _ in range(5):
        with server.recording() as recording:
            done = run(server, *arguments, **options)
        if not stood_still(done):
            return recording.sound, done
    pytest.skip("this machine stands still again and again")


def trimmed(samples: np.ndarray) -> np.ndarray:
    """The samples without the silence at both ends, as `Recording.sound`."""
    loud = np.flatnonzero(samples.any(axis=1))
    return samples[loud[0] : loud[-1] + 1]


def voiced(samples: np.ndarray) -> np.ndarray:
    """The samples that are not silent."""
    return samples[samples.any(axis=1)]


def runs_of(recorded: np.ndarray, samples: np.ndarray) -> list[tuple[int, int]]:
    """The ranges of `samples` that were recorded one after another, ignoring silence."""
    numbers = {row.tobytes(): number for number, row in enumerate(samples)}
    played = np.array([numbers[row.tobytes()] for row in voiced(recorded)])
    breaks = np.flatnonzero(np.diff(played) != 1)
    starts, stops = [0, *(breaks + 1)], [*breaks, len(played) - 1]
    return [(int(played[a]), int(played[b]) + 1) for a, b in zip(starts, stops, strict=True)]


# What is heard


@pytest.mark.sound
def test_played_samples_equal_those_of_decode(sound_server, tmp_path, folder, model):
    latents = save_latents(tmp_path / "a.npy", 30)
    heard, done = listen(sound_server, run_play, tmp_path / "a.npy", "--model", folder)
    assert (done.returncode, done.stdout, messages(done)) == (0, b"", "")
    assert np.array_equal(heard, trimmed(model.decode(latents)))


@pytest.mark.sound
def test_standard_input_is_heard_whole(sound_server, folder, model):
    latents = random_latents(CONFIG, 25)
    data = latents.tobytes()
    heard, done = listen(sound_server, run_play, "-", "--model", folder, input=data)
    assert (done.returncode, messages(done)) == (0, "")
    assert np.array_equal(heard, trimmed(model.decode(latents)))


@pytest.mark.sound
def test_two_files_are_gapless_and_recorded(sound_server, tmp_path, folder, model):
    pieces = [save_latents(tmp_path / f"{seed}.npy", 20, seed) for seed in (1, 2)]
    heard, done = listen(
        sound_server,
        run_play,
        *(tmp_path / "1.npy", tmp_path / "2.npy", "--model", folder),
        *("--json", "--record", tmp_path / "a.wav"),
    )
    assert (done.returncode, messages(done)) == (0, "")
    expected = np.concatenate([model.decode(piece) for piece in pieces])
    assert np.array_equal(heard, trimmed(expected))
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], expected)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    moments = [line for line in lines if "position" in line]
    assert moments[0]["tracks"] == 2
    assert moments[0]["length"] == 20 * 2048 / 44100
    assert sum(line["underflows"] for line in moments) == 0


@pytest.mark.sound
def test_start_length_and_volume(sound_server, tmp_path, folder, model):
    latents = save_latents(tmp_path / "a.npy", 40)
    heard, done = listen(
        sound_server,
        run_play,
        *(tmp_path / "a.npy", "--model", folder),
        *("--start", 0.5, "--length", 0.4, "--volume", 50),
    )
    assert (done.returncode, messages(done)) == (0, "")
    expected = model.decode(latents)[22050 : 22050 + 17640] * np.float32(0.5)
    assert np.array_equal(heard, trimmed(expected))


@pytest.mark.sound
@pytest.mark.parametrize("seam", ["restart", "blend"])
def test_loop(sound_server, tmp_path, folder, model, seam):
    latents = save_latents(tmp_path / "a.npy", 12)
    heard, done = listen(
        sound_server,
        run_play,
        *(tmp_path / "a.npy", "--model", folder),
        *("--loop", 3, "--seam", seam),
    )
    assert (done.returncode, messages(done)) == (0, "")
    if seam == "restart":
        expected = np.tile(model.decode(latents), (3, 1))
    else:
        expected = model.decode(np.tile(latents, (3, 1)))
    assert np.array_equal(heard, trimmed(expected))


PAUSE_AND_SEEK = """
import json, sys, time
import numpy as np
import oobleck_stream as ob

def reach(seconds):
    while player.position < seconds:
        time.sleep(0.005)

with ob.Player(np.load(sys.argv[2]), ob.load(sys.argv[1])) as player:
    player.play()
    reach(0.3)
    player.pause()
    time.sleep(0.2)
    paused_at = player.position
    time.sleep(0.2)
    assert player.position == paused_at
    player.play()
    reach(0.5)
    player.seek(1.5)
    assert player.position == 1.5
    reach(1.7)
    player.seek(0.25)
    assert player.wait()
    assert player.finished
    print(json.dumps([player.underflows, player.silent_seconds, player.position]))
"""


@pytest.mark.sound
def test_pause_and_seeks_are_exact(sound_server, tmp_path, folder, model):
    latents = save_latents(tmp_path / "a.npy", 50)
    heard, done = listen(sound_server, run_script, PAUSE_AND_SEEK, folder, tmp_path / "a.npy")
    samples = model.decode(latents)
    (first, second, third) = runs_of(heard, samples)
    assert first[0] == 0
    assert first[1] > 0.5 * 44100 - 1
    assert second[0] == round(1.5 * 44100)
    assert second[1] > 1.7 * 44100 - 1
    assert third == (round(0.25 * 44100), len(samples))
    assert json.loads(done.stdout) == [0, 0.0, len(samples) / 44100]


STALL = """
import json, sys, time
import numpy as np
import oobleck_stream as ob

def slow(latents):
    for number, frame in enumerate(latents):
        if number == 15:
            time.sleep(1.5)
        yield frame

with ob.Player(slow(np.load(sys.argv[2])), ob.load(sys.argv[1]), prebuffer=0.2) as player:
    player.play()
    player.wait()
    print(json.dumps([player.underflows, player.silent_seconds]))
"""


@pytest.mark.sound
def test_a_stalled_source_causes_counted_silence_and_loses_nothing(
    sound_server, tmp_path, folder, model
):
    latents = save_latents(tmp_path / "a.npy", 40)
    heard, done = listen(sound_server, run_script, STALL, folder, tmp_path / "a.npy")
    underflows, silent_seconds = json.loads(done.stdout)
    assert underflows >= 1
    assert np.array_equal(voiced(heard), voiced(model.decode(latents)))
    assert np.count_nonzero(~heard.any(axis=1)) == round(silent_seconds * 44100) > 0


OTHER_RATE = """
import sys
import sounddevice
from oobleck_stream.__main__ import run

# Imitates a device with one sample rate, since the sound server accepts any.
def check(device, channels, dtype, samplerate):
    if samplerate != 48000:
        raise sounddevice.PortAudioError("Invalid sample rate")

query = sounddevice.query_devices
def devices(*arguments):
    found = query(*arguments)
    return {**found, "default_samplerate": 48000.0} if isinstance(found, dict) else found

sounddevice.check_output_settings, sounddevice.query_devices = check, devices
sys.exit(run(["play", *sys.argv[1:]]))
"""


@pytest.mark.sound
def test_a_device_of_another_rate_receives_resampled_sound(tmp_path, folder, model):
    soxr = pytest.importorskip("soxr")
    latents = save_latents(tmp_path / "a.npy", 30)
    with SoundServer.running(tmp_path, rate=48000) as server:
        played, done = listen(
            server, run_script, OTHER_RATE, tmp_path / "a.npy", "--model", folder, "--json"
        )
    assert "resampled to 48000 Hz" in done.stdout
    expected = soxr.resample(model.decode(latents), 44100, 48000, quality="VHQ")
    start = np.flatnonzero((expected == played[0]).all(axis=1))[0]
    assert np.array_equal(played, expected[start : start + len(played)])
    assert len(expected) - len(played) < 10


LOOPING = """
import sys, time
import numpy as np
import oobleck_stream as ob

model = ob.load(sys.argv[1])
with ob.Player(np.load(sys.argv[2]), model, buffer=0.3, prebuffer=0.1) as player:
    player.looping = True
    player.play()
    last = 0.0
    while player.position >= last:
        last = player.position
        time.sleep(0.005)
    player.looping = False
    player.wait()
"""


@pytest.mark.sound
def test_looping_can_be_switched_while_playing(sound_server, tmp_path, folder, model):
    samples = model.decode(save_latents(tmp_path / "a.npy", 20))
    heard, _ = listen(sound_server, run_script, LOOPING, folder, tmp_path / "a.npy")
    assert runs_of(heard, samples) == [(0, len(samples))] * 2


SLOW = """
import sys, time
import numpy as np
import oobleck_stream as ob

push = ob.StreamingDecoder.push
def slow(self, frames):
    time.sleep(1.2 * len(frames) * self.hop / self.samplerate)
    return push(self, frames)
ob.StreamingDecoder.push = slow

latents, model = np.load(sys.argv[2]), ob.load(sys.argv[1])
with ob.Player(latents, model, prebuffer="all") as player:
    player.play()
    player.wait()
    assert player.underflows == 0
with ob.Player(np.tile(latents, (9, 1)), model, buffer=0.3) as player:
    try:
        player.play()
    except RuntimeError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.sound
def test_a_machine_too_slow_is_refused_unless_it_decodes_first(
    sound_server, tmp_path, folder, model
):
    latents = save_latents(tmp_path / "a.npy", 25)
    heard, done = listen(sound_server, run_script, SLOW, folder, tmp_path / "a.npy")
    assert np.array_equal(heard, trimmed(model.decode(latents)))
    assert done.stdout.startswith("PlaybackError decoding takes 1.")
    assert "--prebuffer all" in done.stdout


@pytest.mark.sound
def test_bad_live_latents_end_it_after_what_came_before(sound_server, tmp_path, folder, model):
    latents = random_latents(CONFIG, 40)
    latents[30, 7] = np.nan
    heard, done = listen(sound_server, run_play, "-", "--model", folder, input=latents.tobytes())
    assert done.returncode == 2
    assert b"frame 30 is not" in done.stderr
    assert len(messages(done).splitlines()) == 1
    runs = runs_of(heard, model.decode(np.nan_to_num(latents)))
    assert runs == [(0, 30 * 2048 - model.latency)]


@pytest.mark.sound
@pytest.mark.parametrize("live", [False, True])
def test_an_overflow_ends_it_after_what_came_before(sound_server, tmp_path, live):
    """Finite latents that overflow: the device receives the samples before them, and no others."""
    tensors = random_tensors(CONFIG)
    tensors["decoder.layers.0.weight_g"] *= np.float32(1e4)
    tensors["decoder.layers.7.weight_g"] /= np.float32(1e4)
    folder = write_folder(tmp_path / "model", CONFIG, tensors)
    latents = random_latents(CONFIG, 40)
    latents[24] = 3e38
    np.save(tmp_path / "a.npy", latents)
    model = ob.load(folder)
    with pytest.raises(ob.NonFiniteError) as caught:
        model.decode(latents)
    before = caught.value.output
    assert 5 * model.hop < len(before) < 24 * model.hop
    source, options = (tmp_path / "a.npy", {})
    if live:
        source, options = "-", {"input": latents.tobytes()}
    heard, done = listen(
        sound_server,
        run_play,
        *(source, "--model", folder, "--record", tmp_path / "a.wav"),
        **options,
    )
    assert done.returncode == 2
    name = "standard input" if live else str(source)
    frame = len(before) // model.hop
    assert f"{name}: the samples of frame {frame} are not finite" in messages(done)
    assert len(messages(done).splitlines()) == 1
    assert np.array_equal(heard, trimmed(before))
    recorded = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    assert np.array_equal(recorded, before)


# Devices


@pytest.mark.sound
def test_devices_are_listed_and_chosen(sound_server, tmp_path, folder):
    listed = run_play(sound_server, "--list-devices")
    assert listed.returncode == 0
    assert listed.stdout.decode().startswith("*   0  default")
    save_latents(tmp_path / "a.npy", 3)
    for device, status in [("DEFAULT", 0), ("trumpet", 2)]:
        done = run_play(sound_server, tmp_path / "a.npy", "--model", folder, "--device", device)
        assert done.returncode == status
        message = messages(done)
        assert message.count("\n") == (status != 0)
        assert status == 0 or (device in message and "--list-devices" in message)


# Endings


def start_play(server: SoundServer, *arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "play", *map(str, arguments)],
        env=server.environment,
        stderr=subprocess.PIPE,
        **options,
    )


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


# The parts


@pytest.mark.parametrize("preset", ["stable-audio-open-1.0", "yue2", "document"])
def test_a_track_is_exact_from_any_sample_on(preset):
    model = ob.random_model(small(preset))
    latents = random_latents(model.config, 60)
    samples = model.decode(latents)
    track = tracks_of(latents, model)[0]
    assert track.length == len(samples)
    decoder = ob.StreamingDecoder(model)
    for start in [0, 1, model.hop - 1, model.hop, 20 * model.hop + 7, len(samples) - 1]:
        chunks = list(track.samples(decoder, start))
        assert np.array_equal(np.concatenate(chunks), samples[start:])
    assert sum(map(len, track.samples(decoder, len(samples)))) == 0


def test_repeated_frames_are_those_of_a_tiled_array():
    frames = np.arange(10).reshape(5, 2)
    repeated, tiled = Repeated(frames, 3), np.tile(frames, (3, 1))
    assert len(repeated) == len(tiled)
    for start, stop in [(0, 15), (3, 12), (14, 20), (15, 20)]:
        assert np.array_equal(repeated[start:stop], tiled[start:stop])
    assert np.array_equal(Repeated(frames, float("inf"))[10**9 : 10**9 + 2], frames[:2])


def test_a_device_that_does_not_wait_loses_nothing():
    model = ob.random_model(small("stable-audio-open-1.0", channels=2))
    latents = random_latents(model.config, 700)
    ring = Ring(44100, 2)
    callback = PlaybackCallback(ring, start_level=8820, lead_in=0, lead_out=1)
    playlist = Playlist(tracks_of(latents, model), model.samplerate)
    producer = Producer(playlist, TimedDecoder(model), ring, rounds=3)
    producer.start()
    played, out, sizes = hashlib.sha256(), np.zeros((4410, 2), np.float32), []
    more = True
    while more:
        if ring.fill < len(out) and not ring.ended:
            time.sleep(0.0005)
            continue
        before = ring.read
        more = callback.fill(out)
        played.update(out[: ring.read - before].tobytes())
        sizes.append(len(producer.marks))
    producer.stop()
    expected = model.decode(latents)
    assert ring.read == 3 * len(expected)
    assert played.digest() == hashlib.sha256(np.tile(expected, (3, 1)).tobytes()).digest()
    assert callback.underflows == 0
    assert max(sizes) <= 3


@given(data=st.data(), capacity=st.integers(1, 12))
def test_a_ring_returns_the_samples_written_to_it(data, capacity):
    ring, numbers = Ring(capacity, 1), np.arange(1, 200, dtype=np.float32)[:, None]
    expected: list[float] = []
    played: list[float] = []
    written = 0
    for _ in range(30):
        action, count = data.draw(st.sampled_from("wwwrrrd")), data.draw(st.integers(0, 15))
        if action == "w":
            taken = ring.write(numbers[written : written + count])
            assert taken == min(count, ring.room + taken)
            expected += numbers[written : written + taken, 0].tolist()
            written += taken
        elif action == "r":
            out = np.zeros((count, 1), np.float32)
            got = ring.read_into(out)
            assert got == min(count, len(expected))
            assert out[:got, 0].tolist() == expected[:got]
            assert not out[got:].any()
            played += expected[:got]
            del expected[:got]
            if ring.discards == 0:
                latest = ring.latest(min(5, ring.capacity - ring.fill))[:, 0].tolist()
                assert latest == played[len(played) - len(latest) :]
        else:
            ring.discard()
            expected.clear()
        assert ring.fill == len(expected)


def test_the_ring_between_two_threads_loses_nothing():
    ring, total = Ring(1000, 2), 40_000
    samples = np.arange(2 * total, dtype=np.float32).reshape(-1, 2)
    received = []

    def read() -> None:
        out, count = np.zeros((333, 2), np.float32), 0
        while count < total:
            got = ring.read_into(out)
            received.append(out[:got].copy())
            count += got

    reader = threading.Thread(target=read)
    reader.start()
    position = 0
    while position < total:
        position += ring.write(samples[position : position + 777])
    reader.join()
    assert np.array_equal(np.concatenate(received), samples)


def test_a_status_line_fits_the_terminal():
    status = Status(
        track=1,
        tracks=3,
        name="a.npy",
        position=61.26,
        length=3700.0,
        paused=False,
        muted=False,
        looping=True,
        finished=False,
        volume=0.5,
        buffered=0.75,
        real_time_factor=0.3,
        level=1.0,
        underflows=2,
        device_underflows=0,
        silent_seconds=0.25,
    )
    line = status.as_line(200)
    for part in ("2/3", "1:01.2 / 1:01:40", "[========]", "buffer 750 ms", "RTF 0.30", "vol 50%"):
        assert part in line
    assert line.endswith("loop  late 2 (0.25 s)")
    for width in (80, 60):
        line = status.as_line(width)
        assert len(line) < width
        for part in ("2/3", "1:01.2 / 1:01:40", "vol 50%", "loop", "late 2 (0.25 s)"):
            assert part in line
    assert "RTF 0.30" in status.as_line(80)
    assert len(status.as_line(20)) == 19
