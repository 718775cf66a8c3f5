"""No file, command or device receives values that are not finite."""

from __future__ import annotations

import time

import numpy as np
import pytest
import soundfile
from command_line import assert_refused, run_command
from networks import random_audio
from overflows import (
    FIRST,
    FRAMES,
    HOP,
    LATENTS,
    MODEL,
    WHOLE,
    bad_rows,
    unchecked,
)

import oobleck_stream as ob
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.latents_writer import LatentWriter
from oobleck_stream.files.resampler import Resampler
from oobleck_stream.formats.flat_writer import FlatWriter
from oobleck_stream.player.callback import PlaybackCallback
from oobleck_stream.player.playlist import Playlist
from oobleck_stream.player.producer import Producer, TimedDecoder
from oobleck_stream.player.recorder import Recorder
from oobleck_stream.player.ring import Ring
from oobleck_stream.player.tracks import LiveTrack, StoredTrack

pytestmark = pytest.mark.filterwarnings("error")
"""NumPy must not warn of overflows, since the package reports them itself, once."""


# Files


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "float.wav", "a.bin", "a.npy"])
def test_no_writer_accepts_values_that_are_not_finite(tmp_path, name, value):
    rows = np.zeros((40_000, 2), np.float32)
    rows[23_456, 1] = value
    if name == "a.bin":
        writer = FlatWriter(tmp_path / name, 2)
    elif name == "a.npy":
        writer = LatentWriter(tmp_path / name, 2)
    else:
        bits = "float" if name == "float.wav" else None
        writer = AudioWriter(tmp_path / name, 44100, 2, bits)
    row = "frame" if name == "a.npy" else "row" if name == "a.bin" else "sample"

    def write():
        with writer:
            writer.write(rows[:10_000])
            writer.write(rows)

    with pytest.raises(InputError, match=rf"{name}: {row} 33456 is not finite"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", ["16", "24"])
def test_huge_samples_are_cut_and_do_not_wrap(tmp_path, bits):
    values = np.array([3.4e38, -3.4e38, 1.5, -1.5, 65537.0, 0.5], np.float32)[:, None]
    with AudioWriter(tmp_path / "a.wav", 44100, 1, bits) as writer:
        writer.write(values)
    assert (writer.clipped, writer.peak) == (5, np.float32(3.4e38))
    top = 1 - 2.0 ** (1 - int(bits))
    found = soundfile.read(tmp_path / "a.wav")[0]
    np.testing.assert_array_equal(found, [top, -1, top, -1, top, 0.5])


# Commands


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Latents and sound that overflow in the bundled network."""
    folder = tmp_path_factory.mktemp("tiny")
    latents = ob.piece("keys")[:60].astype(np.float32)
    latents[20] = 3e38
    np.save(folder / "a.npy", latents)
    sound = random_audio(ob.PRESETS["stable-audio-open-1.0"], 30_000)
    sound[9000:9100] = 3.3e38
    for name, samplerate in (("same.wav", 44100), ("other.wav", 48000)):
        soundfile.write(folder / name, sound, samplerate, subtype="FLOAT")
    return folder


def first_frame(path):
    model = ob.load("tiny")
    return bad_rows(unchecked(np.load(path), model))[0] // model.hop


@pytest.mark.parametrize(
    "output",
    [["a.wav"], ["a.wav", "--bits", "float"], ["a.wav", "--bits", 24], ["a.flac"], ["a.bin"]],
)
def test_decode_refuses(tmp_path, tiny, output):
    name, *options = output
    done = run_command("decode", tiny / "a.npy", "-o", tmp_path / name, *options)
    frame = first_frame(tiny / "a.npy")
    assert_refused(done, f"{tiny / 'a.npy'}: the samples of frame {frame} are not finite")
    assert list(tmp_path.iterdir()) == []


def test_decode_refuses_standard_input_and_keeps_an_older_file(tmp_path, tiny):
    older = tmp_path / "a.wav"
    older.write_bytes(b"older")
    data = (tiny / "a.npy").read_bytes()
    done = run_command("decode", "-", "-o", older, "--model", "tiny", data=data)
    assert_refused(done, "standard input: the samples of frame")
    assert (list(tmp_path.iterdir()), older.read_bytes()) == ([older], b"older")


@pytest.mark.parametrize("arguments", [["a.npy"], ["a.npy", "--sample", "--seed", 1], ["a.bin"]])
def test_encode_refuses(tmp_path, tiny, arguments):
    name, *options = arguments
    done = run_command("encode", tiny / "same.wav", tmp_path / name, *options)
    assert_refused(done, f"{tiny / 'same.wav'}: latent frame ", "is not finite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.wav", "a.bin"])
def test_roundtrip_refuses(tmp_path, tiny, name):
    done = run_command("roundtrip", tiny / "same.wav", tmp_path / name)
    assert_refused(done, f"{tiny / 'same.wav'}: latent frame ", "is not finite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["encode", "roundtrip"])
def test_sound_that_only_resampling_makes_infinite(tmp_path, tiny, command):
    output = tmp_path / ("a.npy" if command == "encode" else "a.wav")
    done = run_command(command, tiny / "other.wav", output)
    words = (str(tiny / "other.wav"), "resampled", "must be finite", "sample 82")
    assert_refused(done, *words, notes=1)
    assert list(tmp_path.iterdir()) == []


def test_validate_counts_values_that_are_not_finite(tmp_path, tiny):
    np.save(tmp_path / "ref.npy", np.zeros((60 * 64, 2), np.float32))
    bad = np.count_nonzero(~np.isfinite(unchecked(np.load(tiny / "a.npy"), ob.load("tiny"))))
    done = run_command("validate", tiny / "a.npy", tmp_path / "ref.npy")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{bad} of ours are not finite (time " in done.stdout
    done = run_command("validate", tiny / "a.npy", tmp_path / "ref.npy", "--json")
    assert f'"ours_not_finite": {bad}' in done.stdout


@pytest.mark.parametrize("form", ["npy", "bin"])
def test_validate_saves_no_rows_that_are_not_finite(tmp_path, tiny, form):
    done = run_command(
        *("validate", tiny / "a.npy", "--layers", "--save", tmp_path / "rows", "--format", form)
    )
    assert_refused(done, f"input_conv.{form}: row ", "is not finite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["play", "a.npy", "--volume", "nan"],
        ["validate", "a.npy", "b.npy", "--tolerance", "nan"],
        ["validate", "a.npy", "b.npy", "--tolerance", "inf"],
        ["bench", "--seconds", "nan"],
        ["bench", "--seconds", "inf"],
    ],
)
def test_options_are_finite(arguments):
    assert_refused(run_command(*arguments), arguments[-2], "a finite number", arguments[-1])


# Playing


def played(track, resampler=None):
    """What a producer puts into the ring, and the error that ended it."""
    ring = Ring(100_000, 2)
    playlist = Playlist([track], MODEL.samplerate)
    producer = Producer(playlist, TimedDecoder(MODEL), ring, resampler=resampler)
    producer.start()
    while not ring.ended:
        time.sleep(0.001)
    producer.stop()
    samples = ring.empty_chunk(ring.fill)
    ring.read_into(samples)
    return samples, producer.error


@pytest.mark.parametrize("live", [False, True])
def test_the_samples_before_an_overflow_are_played_and_the_track_is_named(live):
    if live:
        track = LiveTrack((LATENTS[i : i + 3] for i in range(0, FRAMES, 3)), "mine")
    else:
        track = StoredTrack(LATENTS, MODEL.decoded_length(FRAMES), "mine")
    samples, error = played(track)
    np.testing.assert_array_equal(samples, WHOLE[:FIRST])
    assert isinstance(error, InputError)
    assert str(error).startswith(f"mine: the samples of frame {FIRST // HOP} are not finite")


def test_a_resampler_that_overflows_ends_it():
    class Loud:
        name, seekable, length = "loud", True, None

        def samples(self, decoder, start):
            yield np.zeros((5000, 2), np.float32)
            yield np.tile(np.float32([[3.4e38], [-3.4e38]]).repeat(3, axis=0), (900, 2))

    samples, error = played(Loud(), Resampler(44100, 48000, 2))
    assert np.isfinite(samples).all()
    assert isinstance(error, InputError)
    assert str(error).startswith("loud: the sound from sample 5000 on")
    assert str(error).endswith("is not finite")


def test_a_custom_track_that_is_not_finite_ends_playback():
    class Broken:
        name, seekable, length = "", True, None

        def samples(self, decoder, start):
            yield np.ones((500, 2), np.float32)
            yield np.full((500, 2), np.nan, np.float32)

    samples, error = played(Broken())
    np.testing.assert_array_equal(samples, np.ones((500, 2)))
    assert isinstance(error, InputError)
    assert "the source: the sound from sample 500 on is not finite" in str(error)


@pytest.mark.parametrize("volume", [1.0, 2.0, 1e10])
def test_no_device_receives_values_that_are_not_finite(volume):
    ring = Ring(100, 2)
    values = np.float32([[3e38, -3e38], [0.25, -0.5], [np.nan, np.inf], [-np.inf, 0.125]])
    ring.write(values)
    ring.ended = True
    callback = PlaybackCallback(ring, start_level=1, lead_in=0, lead_out=1)
    callback.volume = volume
    out = np.full((6, 2), 7, np.float32)
    callback.fill(out)
    assert np.isfinite(out).all()
    assert (out[1] == np.float32([0.25, -0.5]) * np.float32(volume)).all()
    assert out[2, 0] == 0
    largest = np.float32(np.finfo(np.float32).max)
    expected = values[0] if volume == 1.0 else np.float32([largest, -largest])
    np.testing.assert_array_equal(out[0], expected)


@pytest.mark.parametrize("volume", [np.nan, np.inf, -np.inf])
def test_the_volume_is_finite(volume):
    with pytest.raises(InputError, match="volume must be a finite number"):
        ob.Player(LATENTS, MODEL, volume=volume)


def test_a_failed_recording_is_reported(tmp_path):
    recorder = Recorder(tmp_path / "a.wav", 44100, 2)
    recorder.take(np.full((5, 2), np.nan, np.float32))
    with pytest.raises(InputError, match=r"a\.wav: sample 0 is not finite"):
        recorder.close()
    assert list(tmp_path.iterdir()) == []
