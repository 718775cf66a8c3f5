"""The early sound: the contract against its definition; the exact stream underneath; errors."""

from __future__ import annotations

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
    run,
)
from early_sound import early_sound
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import GEOMETRIES, model_of, random_latents, small

import oobleck_stream as ob

MODELS = {name: model_of(small(name)) for name in GEOMETRIES}
FRAMES = 26


def samples_of(model, share):
    """A share of a network's look-ahead, in samples."""
    return round(share * model.latency)


def subject_of(model, look_ahead, fade, missing, exact=True):
    """What the contract needs to know of a decoder with a look-ahead in samples."""
    options = {"look_ahead": look_ahead, "fade": fade, "missing": missing, "exact": exact}
    latency = ob.StreamingDecoder(model, **options).latency
    return Subject(
        make=lambda threads: ob.StreamingDecoder(model, threads=threads, **options),
        whole=lambda latents: early_sound(model, latents, look_ahead, fade, missing),
        due=lambda frames: max(0, frames * model.hop - latency),
        rows=random_latents(model.config, FRAMES),
    )


@pytest.fixture(params=GEOMETRIES)
def model(request):
    return MODELS[request.param]


@pytest.fixture(
    params=[
        (0.0, "zeros", True),
        (0.25, "zeros", True),
        (0.25, "zeros", False),
        (0.25, "held", True),
        (0.97, "zeros", True),
        (0.97, "held", False),
    ],
    ids=str,
)
def subject(request):
    model, (share, missing, exact) = MODELS["yue2"], request.param
    return subject_of(model, samples_of(model, share), model.hop // 8, missing, exact)


@settings(max_examples=6)
@given(data=st.data())
def test_cuts(model, data):
    subject = subject_of(
        model,
        data.draw(st.integers(0, model.latency), label="look-ahead"),
        data.draw(st.sampled_from([0, 1, model.hop // 8, model.hop]), label="fade"),
        data.draw(st.sampled_from(["zeros", "held"]), label="missing"),
        data.draw(st.booleans(), label="exact"),
    )
    length = data.draw(st.integers(0, FRAMES - 6))
    check_cuts(subject, length, data.draw(cuts(length)), data.draw(st.sampled_from([1, 2, 4])))


def test_reset(subject):
    check_reset(subject, 15, 14)


@pytest.mark.parametrize("at", [0, 3, 14])
def test_restore(subject, at):
    check_restore(subject, 18, at)


def test_interleaved(subject):
    check_interleaved(subject, 14)


def test_two_threads(subject):
    check_two_threads(subject, 14, repeats=2)


def test_nothing_from_the_future(subject):
    check_future(subject, 24, 15, 50.0)


@settings(max_examples=6)
@given(data=st.data())
def test_seek(subject, data):
    length = data.draw(st.integers(1, FRAMES))
    frame = data.draw(st.integers(0, length - 1))
    decoder = subject.make(2)
    decoder.push(subject.rows[:7])
    rest = subject.rows[decoder.seek(frame) : length]
    chunks, came = [], [frame * decoder.hop]
    for piece in pieces(rest, data.draw(cuts(len(rest)))):
        assert decoder.samples_out == sum(came)
        chunks.append(decoder.push(piece))
        came.append(len(chunks[-1]))
    sound = np.concatenate([*chunks, decoder.flush()])
    expected = subject.whole(subject.rows[:length])
    np.testing.assert_array_equal(sound, expected[frame * decoder.hop :])
    assert decoder.samples_out == len(expected)


@settings(max_examples=6)
@given(data=st.data())
def test_the_exact_stream_goes_on(model, data):
    look_ahead = data.draw(st.integers(0, model.latency))
    missing = data.draw(st.sampled_from(["zeros", "held"]))
    latents, frame = random_latents(model.config, FRAMES), data.draw(st.integers(0, 12))
    decoder = ob.StreamingDecoder(model, look_ahead=look_ahead, missing=missing)
    exact = []
    for piece in pieces(
        latents[decoder.seek(frame) :], data.draw(cuts(FRAMES - decoder.frames_in))
    ):
        decoder.push(piece)
        exact.append(decoder.exact)
    decoder.flush()
    sound = np.concatenate([*exact, decoder.exact])
    np.testing.assert_array_equal(sound, model.decode(latents)[frame * model.hop :])


WIDE = {
    "first layers": small("stable-audio-open-1.0", channels=20),
    "joined tiles": small("ezaudio", channels=64, multiples=(1, 1, 1), strides=(2, 16, 4)),
    "tiles": small("ace-step-1.5", channels=192, multiples=(1, 1, 1), strides=(2, 16, 4)),
}
"""Networks wide enough for first layers that compute final and provisional rows together, and for
fast convolutions, joined and not."""


@pytest.mark.parametrize("share", [0.1, 0.25, 0.75])
@pytest.mark.parametrize("name", WIDE)
def test_a_wide_network(name, share):
    model = model_of(WIDE[name])
    missing = "held" if name == "tiles" else "zeros"
    subject = subject_of(model, samples_of(model, share), model.hop // 8, missing, share < 0.5)
    length = 20 if model.hop < 1000 else 13
    check_cuts(subject, length, [1, length - 1], 2)
    # What a flush leaves in the windows is not read as the zeros behind the next piece.
    stream, expected = subject.make(2), subject.whole(subject.rows[:length])
    run(stream, 9 * subject.rows[:15], [15])
    stream.reset()
    np.testing.assert_array_equal(run(stream, subject.rows[:length], [length]), expected)


def test_the_whole_look_ahead_is_the_exact_stream(model):
    latents = random_latents(model.config, FRAMES)
    seconds = model.latency / model.samplerate
    for look_ahead in (model.latency, seconds, None):
        decoder = ob.StreamingDecoder(model, look_ahead=look_ahead)
        plain = ob.StreamingDecoder(model)
        for frame in latents:
            chunk = decoder.push(frame)
            np.testing.assert_array_equal(chunk, plain.push(frame))
            np.testing.assert_array_equal(chunk, decoder.exact)
        np.testing.assert_array_equal(decoder.flush(), plain.flush())


def test_a_state_serves_any_look_ahead(model):
    """A state taken with one look-ahead goes on with another, as if it had always been so."""
    latents, hop = random_latents(model.config, FRAMES), model.hop
    shares = (0.1, 0.25, 1.0)
    states = []
    for share in shares:
        decoder = ob.StreamingDecoder(model, look_ahead=samples_of(model, share))
        decoder.push(latents[:16])
        states.append(decoder.snapshot())
    for share in shares:
        samples = samples_of(model, share)
        expected = early_sound(model, latents, samples, hop // 8)
        decoder = ob.StreamingDecoder(model, look_ahead=samples)
        for state in states:
            decoder.restore(state)
            start = decoder.samples_out
            sound = np.concatenate([decoder.push(latents[16:]), decoder.flush()])
            np.testing.assert_array_equal(sound, expected[start:])


def test_without_the_exact_stream():
    model = MODELS["ezaudio"]
    cheap = ob.StreamingDecoder(model, look_ahead=500, exact=False)
    cheap.push(random_latents(model.config, 3))
    with pytest.raises(RuntimeError, match="made with exact=False"):
        print(cheap.exact)
    for options in ({}, {"look_ahead": 500}):
        with pytest.raises(ValueError, match="exact=False: it lacks rows"):
            ob.StreamingDecoder(model, **options).restore(cheap.snapshot())
    ob.StreamingDecoder(model, look_ahead=9, exact=False).restore(cheap.snapshot())
    with pytest.raises(ValueError, match="exact=False: it lacks rows"):
        ob.StreamingDecoder(model, look_ahead=3900, exact=False).restore(cheap.snapshot())


def test_streams_of_different_age():
    model = MODELS["ace-step-1.5"]
    samples, count = samples_of(model, 0.25), 18
    frames = np.stack([random_latents(model.config, 20, seed=number) for number in range(count)])
    decoder = ob.MultiStreamDecoder(model, count, look_ahead=samples)
    ages = np.arange(count) % 5
    early, exact = ([[] for _ in range(count)] for _ in range(2))

    def keep(chunks, active):
        for number in np.flatnonzero(active):
            early[number].append(chunks[number])
            exact[number].append(decoder.exact[number])

    for age in range(5):
        active = ages == age
        pushed = np.zeros((count, age, model.latent_dim), np.float32)
        pushed[active] = frames[active, :age]
        keep(decoder.push(pushed, active), active)
    everyone = np.ones(count, bool)
    for step in range(6):
        rows = np.stack([frames[n, ages[n] + 2 * step :][:2] for n in range(count)])
        keep(decoder.push(rows), everyone)
    keep(decoder.flush(), everyone)
    for number in range(count):
        latents = frames[number, : ages[number] + 12]
        expected = early_sound(model, latents, samples, model.hop // 8)
        np.testing.assert_array_equal(np.concatenate(early[number]), expected)
        np.testing.assert_array_equal(np.concatenate(exact[number]), model.decode(latents))


def test_an_overflow_is_named_and_closes_the_stream():
    model = ob.load("tiny")
    latents = ob.piece("keys")[:60].astype(np.float32)
    latents[40] = 1e38
    decoder = ob.StreamingDecoder(model, look_ahead=265)
    with pytest.raises(ob.NonFiniteError, match="among frames") as caught:
        decoder.push(latents)
    output = caught.value.output
    # What was given out before frame 40 came is as it was.
    known = 40 * model.hop - 265
    np.testing.assert_array_equal(output[:known], early_sound(model, latents[:40], 265, 8)[:known])
    assert len(output) // model.hop == caught.value.frames[0]
    assert np.isfinite(output).all()
    with pytest.raises(RuntimeError, match="not finite"):
        decoder.push(latents[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"look_ahead": -1}, "look_ahead must be from 0 to 1056 samples"),
        ({"look_ahead": 1057}, "look_ahead must be from 0 to 1056 samples"),
        ({"look_ahead": 0.1}, r"1056 samples \(0.0239 s\), not 0.1"),
        ({"look_ahead": np.nan}, "look_ahead must be finite"),
        ({"look_ahead": "80ms"}, "seconds .float. or samples .int., not '80ms'"),
        ({"look_ahead": True}, "not True"),
        ({"look_ahead": 99, "fade": 65}, "fade must be from 0 to 64 samples, not 65"),
        ({"look_ahead": 99, "missing": "nothing"}, "missing must be 'zeros' or 'held'"),
    ],
)
def test_bad_options(options, message):
    model = ob.load("tiny")
    with pytest.raises(ValueError, match=message):
        ob.StreamingDecoder(model, **options)
    with pytest.raises(ValueError, match=message):
        ob.MultiStreamDecoder(model, 2, **options)
