"""Finite input that makes float32 overflow inside a network: which frame is reported, and when."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from checkpoint_files import safetensors_bytes
from command_line import assert_refused, run_command
from contract import cuts, pieces
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import model_of, random_audio, random_latents, random_tensors, small
from overflows import (
    BAD,
    CONFIG,
    ENCODING,
    FIRST,
    FRAMES,
    HOP,
    LAST,
    LATENTS,
    MODEL,
    NAMED,
    SMALL,
    WHOLE,
    bad_rows,
    overflowing,
    unchecked,
)

import oobleck_stream as ob
from oobleck_stream.bottleneck import distribution
from oobleck_stream.engine.stack import Stack

pytestmark = pytest.mark.filterwarnings("error")
"""NumPy must not warn of overflows, since the package reports them itself, once."""


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


def test_decode_finds_an_overflow_in_any_block(monkeypatch):
    monkeypatch.setattr("oobleck_stream.whole.DECODE_FRAMES", 16)
    out = np.full_like(WHOLE, 7)
    with pytest.raises(ob.NonFiniteError, match=NAMED):
        MODEL.decode(LATENTS, out=out)
    np.testing.assert_array_equal(out[:FIRST], WHOLE[:FIRST])
    assert (out[(BAD + MODEL.context + 16) * HOP :] == 7).all()


@pytest.mark.parametrize("bad", [0, FRAMES - 1])
def test_only_existing_frames_are_named(bad):
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


def test_after_an_overflow_the_stream_is_closed():
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


def test_a_seek_past_an_overflow_is_exact():
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


def test_a_stream_yields_the_finite_samples_before_an_overflow():
    chunks = []
    blocks = (LATENTS[first : first + 7] for first in range(0, FRAMES, 7))
    with pytest.raises(ob.NonFiniteError, match=NAMED):
        chunks.extend(ob.StreamingDecoder(MODEL).stream(blocks))
    assert all(map(len, chunks))
    np.testing.assert_array_equal(np.concatenate(chunks), WHOLE[:FIRST])


def test_an_overflow_before_a_tanh_is_found():
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


def test_several_streams_yield_the_finite_samples_before_an_overflow():
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
