"""Finite input that makes float32 overflow inside a network: named, and never written as sound."""

from __future__ import annotations

import json
import pickle
import time
import warnings

import numpy as np
import pytest
import soundfile
from checkpoint_files import safetensors_bytes
from command_line import assert_refused, run_command
from contract import cuts, pieces
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import model_of, random_audio, random_latents, random_tensors, small

import oobleck_stream as ob
from oobleck_stream.bottleneck import distribution
from oobleck_stream.engine.stack import Stack
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

SMALL = {"strides": (2, 3, 4), "multiples": (1, 2, 4)}
CONFIG = small("stable-audio-open-1.0", latent_scale=100.0, **SMALL)
MODEL = model_of(CONFIG)
HOP = MODEL.hop
FRAMES, BAD = 70, 30

ENCODING = model_of(small("stable-audio-open-1.0", latent_scale=1e-3, **SMALL))


@pytest.fixture(autouse=True)
def no_warnings():
    """NumPy's warnings of overflow are errors: the product says it in its own words, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def overflowing(bad=BAD, seed=1, frames=FRAMES):
    """Latents of which one frame is finite, but too large."""
    latents = random_latents(CONFIG, frames, seed)
    latents[bad] = 3e38
    return latents


def unchecked(latents, model=MODEL):
    """The network's output, whatever it is."""
    return Stack(model.decoder, 1).push(np.ascontiguousarray(latents), last=True)


def bad_rows(rows):
    """Numbers of the rows that are not finite; there are some."""
    found = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    assert len(found)
    return found


LATENTS = overflowing()
WHOLE = unchecked(LATENTS)
FIRST, *_, LAST = bad_rows(WHOLE).tolist()
NAMED = rf"^the samples of frame {FIRST // HOP} are not finite: .* float32 overflows"


# Decoding


def test_decode_names_the_first_frame():
    with pytest.raises(ob.NonFiniteError, match=NAMED) as caught:
        MODEL.decode(LATENTS)
    assert caught.value.frames == {0: FIRST // HOP}
    np.testing.assert_array_equal(caught.value.output, WHOLE[:FIRST])
    # The frame to blame is within the frames that are named.
    words = str(caught.value).split()
    first, last = (int(words[words.index(word) + 1]) for word in ("frames", "to"))
    assert first <= BAD <= last == FIRST // HOP + MODEL.context


def test_decode_far_behind_the_first_block(monkeypatch):
    monkeypatch.setattr("oobleck_stream.model.DECODE_FRAMES", 16)
    out = np.full_like(WHOLE, 7)
    with pytest.raises(ob.NonFiniteError, match=NAMED):
        MODEL.decode(LATENTS, out=out)
    np.testing.assert_array_equal(out[:FIRST], WHOLE[:FIRST])
    assert (out[(BAD + MODEL.context + 16) * HOP :] == 7).all()


@pytest.mark.parametrize("bad", [0, FRAMES - 1])
def test_only_frames_that_exist_are_blamed(bad):
    with pytest.raises(ob.NonFiniteError, match=r"among frames \d+ to \d+ ") as caught:
        MODEL.decode(overflowing(bad))
    words = str(caught.value).split()
    first, last = (int(words[words.index(word) + 1]) for word in ("frames", "to"))
    assert 0 <= first <= bad <= last < FRAMES


def push_all(stream, parts, chunks):
    """Push some parts and flush; what comes is put into `chunks`, also when an error ends it."""
    for part in parts:
        chunks.append(stream.push(part))
    chunks.append(stream.flush())


@settings(max_examples=20)
@given(data=st.data())
def test_however_the_frames_are_cut(data):
    """The samples before the first that is not finite are given out, and the same frame named."""
    decoder = ob.StreamingDecoder(MODEL, data.draw(st.sampled_from([1, 2])))
    bad = data.draw(st.sampled_from([BAD, FRAMES - 1]))
    latents = overflowing(bad)
    first = bad_rows(unchecked(latents))[0]
    chunks = []
    with pytest.raises(ob.NonFiniteError) as caught:
        push_all(decoder, pieces(latents, data.draw(cuts(FRAMES))), chunks)
    assert caught.value.frames == {0: first // HOP}
    chunks.append(caught.value.output)
    np.testing.assert_array_equal(np.concatenate(chunks), unchecked(latents)[:first])


def broken_decoder(model=MODEL, latents=LATENTS):
    decoder = ob.StreamingDecoder(model)
    with pytest.raises(ob.NonFiniteError):
        decoder.push(latents)
    return decoder


def test_afterwards_the_stream_is_closed():
    decoder = broken_decoder()
    for action in (decoder.flush, decoder.snapshot, lambda: decoder.push(LATENTS[:1])):
        with pytest.raises(RuntimeError, match=r"after output that is not finite: reset\(\)"):
            action()


def test_reset_restore_and_seek_open_it_again():
    """Nothing that is not finite stays behind in the windows."""
    good = random_latents(CONFIG, FRAMES, 3)
    expected = MODEL.decode(good)
    decoder = broken_decoder()
    decoder.reset()
    np.testing.assert_array_equal(np.concatenate([*decoder.stream(good)]), expected)
    other = ob.StreamingDecoder(MODEL)
    other.push(good[:40])
    decoder = broken_decoder()
    decoder.restore(other.snapshot())
    rest = np.concatenate([*decoder.stream(good[40:])])
    np.testing.assert_array_equal(rest, expected[other.samples_out :])
    decoder = broken_decoder()
    first = decoder.seek(50)
    rest = np.concatenate([*decoder.stream(good[first:])])
    np.testing.assert_array_equal(rest, expected[50 * HOP :])


def test_behind_the_overflow_a_seek_goes_on_exactly():
    decoder, frame = broken_decoder(), LAST // HOP + 1
    first = decoder.seek(frame)
    rest = np.concatenate([*decoder.stream(LATENTS[first:])])
    np.testing.assert_array_equal(rest, WHOLE[frame * HOP :])
    first = decoder.seek(frame - 1)
    with pytest.raises(ob.NonFiniteError) as caught:
        decoder.push(LATENTS[first:])
    assert caught.value.frames == {0: frame - 1}


def test_samples_that_a_seek_drops_may_be_anything():
    model = model_of(small("document", latent_scale=100.0))
    latents = random_latents(model.config, FRAMES)
    latents[BAD] = 3e38
    whole = unchecked(latents, model)
    frame = bad_rows(whole)[-1] // model.hop + 1
    decoder = ob.StreamingDecoder(model)
    first = decoder.seek(int(frame))
    assert first <= BAD
    rest = np.concatenate([*decoder.stream(latents[first:])])
    np.testing.assert_array_equal(rest, whole[frame * model.hop :])


def test_stream_gives_what_came_before():
    chunks = []
    blocks = (LATENTS[first : first + 7] for first in range(0, FRAMES, 7))
    with pytest.raises(ob.NonFiniteError, match=NAMED):
        chunks.extend(ob.StreamingDecoder(MODEL).stream(blocks))
    assert all(map(len, chunks))
    np.testing.assert_array_equal(np.concatenate(chunks), WHOLE[:FIRST])


def test_a_tanh_hides_nothing():
    model = model_of(CONFIG.replace(final_tanh=True))
    first = bad_rows(np.where(np.isnan(WHOLE), np.nan, 0))[0]
    with pytest.raises(ob.NonFiniteError) as caught:
        model.decode(LATENTS)
    assert caught.value.frames == {0: first // HOP}
    np.testing.assert_allclose(caught.value.output, np.tanh(WHOLE[:first]), atol=1e-6)


def test_the_error_can_be_pickled():
    with pytest.raises(ob.NonFiniteError) as caught:
        MODEL.decode(LATENTS)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.frames) == (str(caught.value), caught.value.frames)
    np.testing.assert_array_equal(error.output, WHOLE[:FIRST])


# Many streams


@pytest.mark.parametrize("streams", [2, 5, 20])
def test_only_the_stream_that_overflows_suffers(streams):
    decoder = ob.MultiStreamDecoder(MODEL, streams)
    frames = np.stack([random_latents(CONFIG, FRAMES, seed) for seed in range(streams)])
    frames[1] = LATENTS
    chunks = []
    parts = (frames[:, first : first + 10] for first in range(0, FRAMES, 10))
    with pytest.raises(ob.NonFiniteError, match=rf"^stream 1: {NAMED[1:]}") as caught:
        push_all(decoder, parts, chunks)
    assert caught.value.frames == {1: FIRST // HOP}
    chunks.append(caught.value.output)
    rest = slice(10 * len(chunks), None)
    with pytest.raises(RuntimeError, match="push of stream 1 after output that is not finite"):
        decoder.push(frames[:, rest])
    active = np.arange(streams) != 1
    chunks += [decoder.push(frames[:, rest], active), decoder.flush(active)]
    for number, mine in enumerate(zip(*chunks, strict=True)):
        expected = WHOLE[:FIRST] if number == 1 else MODEL.decode(frames[number])
        np.testing.assert_array_equal(np.concatenate(mine), expected)
    decoder.reset(1)
    good = np.stack([frames[0]] * streams)
    chunks = [decoder.push(good, ~active)[1], decoder.flush(~active)[1]]
    np.testing.assert_array_equal(np.concatenate(chunks), MODEL.decode(frames[0]))


def test_every_stream_that_overflows_is_named():
    decoder = ob.MultiStreamDecoder(MODEL, 4)
    latents = [random_latents(CONFIG, FRAMES), LATENTS, random_latents(CONFIG, FRAMES)]
    latents.append(overflowing(BAD + 5))
    with pytest.raises(ob.NonFiniteError, match=r"stream 1: .*; stream 3: ") as caught:
        decoder.push(np.stack(latents))
    assert caught.value.frames == {1: FIRST // HOP, 3: FIRST // HOP + 5}
    for number in (1, 3):
        with pytest.raises(RuntimeError, match="not finite"):
            decoder.snapshot(number)
    assert len(decoder.flush([True, False, True, False])[2])


def test_streams_stream_gives_what_came_before():
    frames = np.stack([LATENTS, random_latents(CONFIG, FRAMES)])
    chunks = []
    with pytest.raises(ob.NonFiniteError):
        chunks.extend(ob.MultiStreamDecoder(MODEL, 2).stream([frames]))
    (mine, other), *_ = chunks
    np.testing.assert_array_equal(mine, WHOLE[:FIRST])
    due = FRAMES * HOP - MODEL.latency
    np.testing.assert_array_equal(other, MODEL.decode(frames[1])[:due])


# Encoding


AUDIO = random_audio(ENCODING.config, 60 * ENCODING.hop)
AUDIO[30 * ENCODING.hop + 5] = 3e38


def unchecked_latents():
    """Means and deviations, whatever they are."""
    rows = Stack(ENCODING.encoder, 1).push(AUDIO, last=True)
    with np.errstate(all="ignore"):
        return distribution(rows, ENCODING.config.latent_scale)


def test_encode_names_the_first_frame():
    mean, deviation = unchecked_latents()
    first = bad_rows(mean)[0]
    sample = first * ENCODING.hop
    named = rf"^latent frame {first} is not finite: .*sample {sample} .* float32 overflows"
    with pytest.raises(ob.NonFiniteError, match=named) as caught:
        ENCODING.encode(AUDIO)
    assert caught.value.frames == {0: first}
    np.testing.assert_array_equal(caught.value.output, mean[:first])
    both = bad_rows(np.concatenate([mean, deviation], axis=1))[0]
    with pytest.raises(ob.NonFiniteError) as caught:
        ENCODING.encode_distribution(AUDIO)
    assert caught.value.frames == {0: both}
    for found, expected in zip(caught.value.output, (mean, deviation), strict=True):
        np.testing.assert_array_equal(found, expected[:both])


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("step", [1, 700, len(AUDIO)])
def test_however_the_sound_is_cut(sample, step):
    with pytest.raises(ob.NonFiniteError) as whole:
        ENCODING.encode(AUDIO, sample=sample, seed=4)
    encoder, chunks = ob.StreamingEncoder(ENCODING, sample=sample, seed=4), []
    start = 0 if step > 1 else 28 * ENCODING.hop
    chunks.append(encoder.push(AUDIO[:start]))
    parts = (AUDIO[first : first + step] for first in range(start, len(AUDIO), step))
    with pytest.raises(ob.NonFiniteError) as caught:
        push_all(encoder, parts, chunks)
    assert caught.value.frames == whole.value.frames
    latents = np.concatenate([*chunks, caught.value.output])
    np.testing.assert_array_equal(latents, whole.value.output)
    for action in (encoder.flush, encoder.snapshot, lambda: encoder.push(AUDIO[:1])):
        with pytest.raises(RuntimeError, match=r"after output that is not finite: reset\(\)"):
            action()
    encoder.reset()
    good = AUDIO[: 20 * ENCODING.hop]
    latents = np.concatenate([encoder.push(good), encoder.flush()])
    np.testing.assert_array_equal(latents, ENCODING.encode(good, sample=sample, seed=4))


# Loading


def test_weights_that_overflow_with_the_latent_scale_are_named(tmp_path):
    config = small("stable-audio-open-1.0", latent_scale=1e20, **SMALL)
    metadata = {"config": json.dumps({"oobleck_stream": vars(config)})}
    tensors = random_tensors(config)
    tensors["decoder.layers.0.weight_g"] *= np.float32(1e20)
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(tensors, metadata=metadata))
    with pytest.raises(ob.CheckpointError, match=r"decoder\.layers\.0 .*latent scale 1e\+20"):
        ob.load(path)
    done = run_command("convert", path, tmp_path / "a.packed.safetensors")
    assert_refused(done, "decoder.layers.0", "latent scale 1e+20")
    assert list(tmp_path.iterdir()) == [path]


# Files


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "float.wav", "a.bin", "a.npy"])
def test_no_writer_takes_what_is_not_finite(tmp_path, name, value):
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


def test_validate_says_what_is_not_finite(tmp_path, tiny):
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
def test_what_came_before_is_played_and_the_track_named(live):
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


def test_a_track_of_ones_own_that_is_not_finite_ends_it():
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
def test_no_device_gets_what_is_not_finite(volume):
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


def test_a_recording_that_fails_says_so(tmp_path):
    recorder = Recorder(tmp_path / "a.wav", 44100, 2)
    recorder.take(np.full((5, 2), np.nan, np.float32))
    with pytest.raises(InputError, match=r"a\.wav: sample 0 is not finite"):
        recorder.close()
    assert list(tmp_path.iterdir()) == []
