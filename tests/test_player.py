"""What is heard of the player, with real PortAudio and a real sound server."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from networks import random_latents, random_tensors, write_folder
from playing import (
    CONFIG,
    folder,
    listen,
    messages,
    model,
    run_play,
    run_script,
    runs_of,
    save_latents,
    trimmed,
    voiced,
)
from sound_server import SoundServer, sound_server

import oobleck_stream as ob

__all__ = ["folder", "model", "sound_server"]


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
def test_paired_frames_are_heard_whole(sound_server, folder, model):
    latents = random_latents(CONFIG, 25)
    arguments = ("-", "--model", folder, "--pairing", 2)
    heard, done = listen(sound_server, run_play, *arguments, input=latents.tobytes())
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
        *("--start", 0.5, "--length", 0.4, "--volume", 50, "--json"),
    )
    assert (done.returncode, messages(done)) == (0, "")
    expected = model.decode(latents)[22050 : 22050 + 17640] * np.float32(0.5)
    assert np.array_equal(heard, trimmed(expected))
    moments = [moment for moment in map(json.loads, done.stdout.splitlines()) if "start" in moment]
    assert {(moment["start"], moment["length"]) for moment in moments} == {(0.5, 0.9)}
    assert all(0.5 <= moment["position"] <= 0.9 for moment in moments)


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
