"""The encoder: the contract at every preset's geometry, its manners."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
from contract import (
    Subject,
    check_cuts,
    check_future,
    check_interleaved,
    check_reset,
    check_restore,
    check_two_threads,
    cuts,
    pieces,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    ENCODER_CONFIGS,
    SHORT_FRAMES,
    model_of,
    random_audio,
    small,
)

import oobleck_stream as ob
from oobleck_stream.engine import program as table
from oobleck_stream.engine.arena import ArenaLayout, Counters
from oobleck_stream.engine.backends import SIZES, Sizes
from oobleck_stream.engine.packed import parameter_offsets
from oobleck_stream.engine.planner import plan
from oobleck_stream.network import encoder_layers

FRAMES = 24


@pytest.fixture(scope="module")
def models():
    return {name: model_of(config) for name, config in ENCODER_CONFIGS.items()}


def subject_of(model, **options):
    """The contract's subject; `latency` says when a frame is due."""
    latency = ob.StreamingEncoder(model).latency
    return Subject(
        make=lambda threads: ob.StreamingEncoder(model, threads=threads, **options),
        whole=lambda audio: model.encode(audio, threads=1, **options),
        due=lambda samples: max(0, (samples - latency) // model.hop),
        rows=random_audio(model.config, FRAMES * model.hop),
    )


@pytest.fixture(params=ENCODER_CONFIGS)
def subject(request, models):
    return subject_of(models[request.param])


@pytest.fixture
def model(models):
    return models["ezaudio"]


@pytest.fixture(scope="module")
def tiny():
    return model_of(SHORT_FRAMES)


# The contract


@settings(max_examples=8)
@given(data=st.data())
def test_cuts(subject, data):
    length = data.draw(st.integers(0, len(subject.rows)))
    check_cuts(subject, length, data.draw(cuts(length)), data.draw(st.sampled_from([1, 2, 4])))


@settings(max_examples=25)
@given(data=st.data())
def test_cuts_of_samples(tiny, data):
    options = {
        "sample": data.draw(st.booleans()),
        "seed": data.draw(st.integers(0, 9)),
        "pad": data.draw(st.booleans()),
    }
    length = data.draw(st.integers(0, 400))
    lengths, threads = data.draw(cuts(length)), data.draw(st.sampled_from([1, 2, 4]))
    check_cuts(subject_of(tiny, **options), length, lengths, threads)


def test_reset(subject):
    check_reset(subject, 9 * 1111, 7 * 1111)


@pytest.mark.parametrize("at", [0, 333, 9001])
def test_restore(subject, at):
    check_restore(subject, 9999, at)


@pytest.mark.parametrize("sample", [False, True])
def test_interleaved(tiny, sample):
    check_interleaved(subject_of(tiny, sample=sample, seed=5), 300)


@pytest.mark.parametrize("sample", [False, True])
def test_two_threads(tiny, sample):
    check_two_threads(subject_of(tiny, sample=sample, seed=5), 305, repeats=3)


def test_two_threads_share_a_model(subject):
    rows = subject.rows[: 4 * 2048 + 77]
    expected, results = subject.whole(rows), {}

    def work(step):
        stream = subject.make(2)
        chunks = [stream.push(rows[at : at + step]) for at in range(0, len(rows), step)]
        results[step] = np.concatenate([*chunks, stream.flush()])

    workers = [threading.Thread(target=work, args=(step,)) for step in (512, 777)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results.values():
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("at", [2.01, 12])
def test_nothing_from_the_future(subject, at):
    hop = subject.make(1).hop
    check_future(subject, 18 * hop, int(at * hop), 50.0)


@pytest.mark.parametrize("sample", [False, True])
def test_restore_of_noise(tiny, sample):
    check_restore(subject_of(tiny, sample=sample, seed=3), 300, 200)


@pytest.mark.parametrize("step_floats", [300, 2000])
@pytest.mark.parametrize("name", ENCODER_CONFIGS)
def test_deep_layers_wait_for_rows(models, name, step_floats, monkeypatch):
    """Steps of deep layers cover several frames of a long push, and the bits stay the same."""
    model = models[name]
    audio = random_audio(model.config, 40 * model.hop + 5)
    expected = model.encode(audio)
    monkeypatch.setitem(SIZES, "cpu", Sizes(step_floats=step_floats, max_shares=1, max_group=1))
    layout = ArenaLayout.of(model.encoder.layers, step_floats)
    assert any(layout.gathers)
    generator = np.random.default_rng(step_floats)
    for _ in range(4):
        encoder, position, chunks = ob.StreamingEncoder(model, threads=2), 0, []
        while position < len(audio):
            size = int(generator.choice([1, model.hop // 2, 3 * model.hop, 17 * model.hop]))
            chunks.append(encoder.push(audio[position : position + size]))
            position += size
        np.testing.assert_array_equal(np.concatenate([*chunks, encoder.flush()]), expected)


def test_the_largest_layer_reads_its_weights_once():
    """A push of 32 frames runs the layer with the most weights once, not for each frame."""
    layers = encoder_layers(ob.preset("stable-audio-open-1.0"))
    layout, (offsets, _) = (
        ArenaLayout.of(layers, SIZES["cpu"].step_floats),
        parameter_offsets(layers),
    )
    largest = max(range(len(layers)), key=lambda index: layers[index].multiplications)
    counters = Counters.at(np.zeros((3, len(layers)), np.int64))
    for _ in range(3):
        steps, _ = plan(layout, offsets, counters, 32 * 2048, last=False)
    assert np.count_nonzero(steps[:, table.LAYER] == largest) == 1


# From the middle


@settings(max_examples=25)
@given(data=st.data())
def test_seek(tiny, data):
    """Frames from any place are those of the whole piece, with noise too."""
    options = {
        "sample": data.draw(st.booleans()),
        "seed": data.draw(st.integers(0, 9)),
        "pad": data.draw(st.booleans()),
    }
    audio = random_audio(tiny.config, data.draw(st.integers(0, 4000)))
    whole = tiny.encode(audio, **options)
    encoder = ob.StreamingEncoder(tiny, threads=1, **options)
    encoder.push(random_audio(tiny.config, 777))
    frame = data.draw(st.integers(0, len(whole)))
    first = encoder.seek(frame)
    assert (first % tiny.hop, encoder.samples_in, encoder.frames_out) == (0, first, frame)
    rest = audio[first:]
    lengths = data.draw(cuts(len(rest)))
    at = data.draw(st.integers(0, len(lengths)))
    chunks = [encoder.push(piece) for piece in pieces(rest, lengths)[:at]]
    state = encoder.snapshot()
    encoder = ob.StreamingEncoder(tiny, threads=2, **options)
    encoder.restore(state)
    assert encoder.frames_out == frame + sum(map(len, chunks))
    chunks += [encoder.push(piece) for piece in pieces(rest, lengths)[at:]]
    np.testing.assert_array_equal(np.concatenate([*chunks, encoder.flush()]), whole[frame:])


def test_seek_needs_no_sample_before_what_it_returns(subject):
    """And every sample from there on, up to the look-ahead."""
    encoder, at = subject.make(1), 20
    first, end = encoder.seek(at), (at + 1) * encoder.hop + encoder.latency
    assert first > 0
    audio = random_audio(encoder.model.config, end + encoder.hop)
    expected = subject.whole(audio)[at]
    assert len(encoder.push(audio[first : end - 1])) == 0
    np.testing.assert_array_equal(encoder.push(audio[end - 1 : end])[0], expected)
    encoder.seek(at)
    changed = audio[first:end].copy()
    changed[: encoder.hop] += 1
    assert not np.array_equal(encoder.push(changed)[0], expected)


@pytest.mark.parametrize("frame", [-1, 1.0, True, None])
def test_a_wrong_frame_is_refused(tiny, frame):
    encoder = ob.StreamingEncoder(tiny)
    encoder.push(random_audio(tiny.config, 100))
    with pytest.raises(ValueError, match="whole number"):
        encoder.seek(frame)
    assert encoder.samples_in == 100


# Manners


def test_counts(model):
    encoder = ob.StreamingEncoder(model)
    audio = random_audio(model.config, 20 * 480 + 7)
    assert (encoder.hop, encoder.samplerate, encoder.channels) == (480, 24000, 1)
    for first in range(0, len(audio), 480):
        frames = encoder.push(audio[first : first + 480])
        assert frames.shape[1] == 128
        assert frames.flags.c_contiguous
        assert encoder.samples_in == min(first + 480, len(audio))
        assert encoder.frames_out == max(0, (encoder.samples_in - encoder.latency) // 480)
    encoder.flush()
    assert encoder.samples_in == len(audio)
    assert encoder.frames_out == 21 == model.encoded_length(len(audio))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(6), r"\(samples, 2\).*not \(6,\)"),
        (np.zeros((6, 1)), r"\(samples, 2\).*\(6, 1\)"),
        (np.zeros((1, 2, 6, 2)), r"\(1, 2, 6, 2\)"),
        (np.zeros((6, 2), complex), "real numbers, not complex128"),
        (np.full((6, 2), "x"), "real numbers, not <U1"),
        (np.full((6, 2), np.nan), "sample 50"),
        (np.r_[np.zeros((1, 2)), np.full((1, 2), np.inf)], "sample 51"),
        (np.full((1, 2), 1e39), "sample 50"),
    ],
)
def test_a_rejected_push_changes_nothing(tiny, bad, message):
    audio = random_audio(tiny.config, 400)
    encoder = ob.StreamingEncoder(tiny, sample=True, seed=1)
    chunks = [encoder.push(audio[:50])]
    with pytest.raises(ValueError, match=message):
        encoder.push(bad)
    assert encoder.samples_in == 50
    chunks += [encoder.push(audio[50:]), encoder.flush()]
    np.testing.assert_array_equal(np.concatenate(chunks), tiny.encode(audio, sample=True, seed=1))
    with pytest.raises(ValueError, match=message.replace("50", "0").replace("51", "1")):
        tiny.encode(bad)


@pytest.mark.parametrize("shape", [(2, 6), (1, 6, 2), (1, 2, 6)])
def test_a_stream_takes_one_piece_time_first(tiny, shape):
    encoder = ob.StreamingEncoder(tiny)
    with pytest.raises(ValueError, match=re.escape(f"(samples, 2) was expected, not {shape}")):
        encoder.push(np.zeros(shape))
    assert encoder.samples_in == 0


def test_mono_needs_no_channel_axis(model):
    audio = random_audio(model.config, 3000)
    expected = model.encode(audio)
    np.testing.assert_array_equal(model.encode(audio[:, 0]), expected)
    encoder = ob.StreamingEncoder(model)
    result = [encoder.push(audio[:700, 0]), encoder.push(audio[700:, 0]), encoder.flush()]
    np.testing.assert_array_equal(np.concatenate(result), expected)
    with pytest.raises(ValueError, match=r"\(samples, 1\).*\(samples,\)"):
        model.encode(np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"\(samples, 1\) or \(samples,\)"):
        ob.StreamingEncoder(model).push(np.zeros((5, 2)))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", "bool", ">f4"])
def test_any_real_dtype_and_order(tiny, dtype):
    audio = np.clip(random_audio(tiny.config, 300) * 9, 0, 9).astype(dtype)
    expected = tiny.encode(audio.astype(np.float32))
    np.testing.assert_array_equal(tiny.encode(np.asfortranarray(audio)), expected)
    np.testing.assert_array_equal(tiny.encode(np.repeat(audio, 2, axis=1)[:, ::2]), expected)
    np.testing.assert_array_equal(tiny.encode(audio.tolist()), expected)


def test_after_flush(tiny):
    encoder = ob.StreamingEncoder(tiny)
    encoder.push(np.zeros((30, 2)))
    assert len(encoder.flush()) == 2
    for action in (encoder.flush, lambda: encoder.push(np.zeros((1, 2)))):
        with pytest.raises(RuntimeError, match=r"after flush: reset\(\)"):
            action()
    state = encoder.snapshot()
    encoder.reset()
    encoder.push(np.zeros((30, 2)))
    encoder.restore(state)
    with pytest.raises(RuntimeError, match="after flush"):
        encoder.flush()


@pytest.mark.parametrize("place", ["engine.cpu.engine.run_program", "bottleneck.means"])
def test_an_interrupted_push_closes_the_encoder(tiny, monkeypatch, place):
    audio = random_audio(tiny.config, 300)
    encoder = ob.StreamingEncoder(tiny)
    encoder.push(audio[:200])

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"oobleck_stream.{place}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encoder.push(audio[200:])
    for action in (encoder.flush, encoder.snapshot, lambda: encoder.push(audio[200:])):
        with pytest.raises(RuntimeError, match="interrupted"):
            action()
    encoder.reset()
    latents = np.concatenate([encoder.push(audio), encoder.flush()])
    np.testing.assert_array_equal(latents, tiny.encode(audio))


def test_states_belong_to_a_model(tiny, model):
    state = ob.StreamingEncoder(tiny).snapshot()
    for stranger in (model, model_of(tiny.config)):
        with pytest.raises(ValueError, match="not one of an encoder of this model"):
            ob.StreamingEncoder(stranger).restore(state)
    with pytest.raises(ValueError, match="another value of sample"):
        ob.StreamingEncoder(tiny, sample=True).restore(state)


def test_long_audio_in_blocks(tiny, monkeypatch):
    """Blocks of the full encode change nothing, and later samples are named by their number."""
    audio = random_audio(tiny.config, 1000)
    expected = tiny.encode(audio, sample=True, seed=1)
    monkeypatch.setattr("oobleck_stream.whole.CHECK_SAMPLES", 64)
    np.testing.assert_array_equal(tiny.encode(audio, sample=True, seed=1), expected)
    audio[777] = np.nan
    with pytest.raises(ValueError, match="sample 777"):
        tiny.encode(audio)


def test_random_model():
    config = small("ezaudio")
    audio = random_audio(config, 5000)
    first, second = (ob.random_model(config, seed=3).encode(audio) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, ob.random_model(config, seed=4).encode(audio))
    assert 1e-4 < first.std() < 10
