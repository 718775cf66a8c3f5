"""Pairing: deep levels that compute two frames at once give the same bits, one frame later."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import run_command
from contract import (  # noqa: F401
    Subject,
    check_cuts,
    check_seek,
    cuts,
    test_cuts,
    test_interleaved,
    test_nothing_from_the_future,
    test_reset,
    test_restore,
    test_two_threads,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import model_of, random_latents, small
from overflows import LATENTS, MODEL, NAMED, WHOLE
from test_layers import STACKS, Stream, pack, unit_in_tiles

import oobleck_stream as ob
from oobleck_stream.engine.backends import SIZES, Sizes
from oobleck_stream.network import Layer, due_rows, growth, paired_layers

NETWORKS = ("stable-audio-open-1.0", "yue2", "document")

LAYERS = {
    "nothing is paired": STACKS["up, unit, tanh"][1:],
    "tiles after the paired layers": STACKS["up, tiles, up"],
    "more layers after the paired layers": [
        Layer("c", 3, 4, 7, padding=3),
        Layer("t", 4, 16, 8, stride=4, padding=2, transposed=True, snake="s"),
        *unit_in_tiles(16, 3, 2, 1),
        Layer("t", 16, 5, 8, stride=4, padding=2, transposed=True, snake="s"),
        *STACKS["up, unit, tanh"][1:3],
        Layer("t", 5, 3, 4, stride=2, padding=1, transposed=True, snake="s"),
        Layer("o", 3, 2, 7, padding=3, snake="o", tanh=True),
    ],
}


@pytest.fixture(scope="module")
def models():
    return {name: model_of(small(name)) for name in NETWORKS}


def decoder_subject(model):
    return Subject(
        make=lambda threads: ob.StreamingDecoder(model, threads=threads, pairing=2),
        whole=lambda latents: model.decode(latents, threads=1),
        due=lambda frames: max(0, (frames - 1) * model.hop - model.latency),
        rows=random_latents(model.config, 40),
    )


@pytest.fixture(params=NETWORKS)
def decoders(request, models):
    return decoder_subject(models[request.param])


@pytest.fixture(params=[*NETWORKS, *LAYERS])
def subject(request, models):
    """A decoder, or a stack of layers in which the paired layers and the others have tiles."""
    if request.param in NETWORKS:
        return decoder_subject(models[request.param])
    layers = LAYERS[request.param]
    network = pack(layers)
    return Subject(
        make=lambda threads: Stream(network, threads, pairing=2),
        whole=lambda rows: Stream(network, 1).push(np.ascontiguousarray(rows), last=True),
        due=lambda count: due_rows(layers, max(0, count - 1)),
        rows=np.random.default_rng(1).standard_normal((40, layers[0].inputs), np.float32),
    )


@pytest.mark.parametrize("lengths", [[1] * 24, [1, *[2] * 11, 1], [3] * 8])
def test_the_windows_have_room(subject, lengths, monkeypatch):
    """Rows that wait for the next frame overwrite nothing, however short the steps are."""
    monkeypatch.setitem(SIZES, "cpu", Sizes(step_floats=64, max_shares=1, max_group=1))
    check_cuts(subject, 24, lengths, 1)


@settings(max_examples=6)
@given(data=st.data())
def test_seek(decoders, data):
    length = data.draw(st.integers(1, 36))
    frame = data.draw(st.integers(0, length - 1))
    first = max(0, frame - decoders.make(1).model.context)
    check_seek(decoders, length, frame, data.draw(cuts(length - first)))


def test_latency(models):
    model = models["yue2"]
    decoder = ob.StreamingDecoder(model, pairing=2)
    assert decoder.latency == ob.StreamingDecoder(model).latency + 1920
    assert ob.MultiStreamDecoder(model, 3, pairing=2).latency == decoder.latency


@pytest.mark.parametrize("name", NETWORKS)
def test_the_paired_layers_compute_in_every_second_push(models, name):
    """They compute two frames then. The other layers compute one frame in every push."""
    layers = models[name].decoder.layers
    stream, paired = Stream(models[name].decoder, 1, pairing=2), paired_layers(layers)
    assert 0 < paired < len(layers)
    stream.push(random_latents(models[name].config, 40))
    for pushed in range(4):
        before = stream.snapshot().counts
        stream.push(random_latents(models[name].config, 1))
        _, blocks, _ = stream.snapshot().counts - before
        for index, layer in enumerate(layers):
            frames = blocks[index] * layer.stride_in / growth(layers[:index])
            assert frames == (2 * (pushed % 2) if index < paired else 1)
        worked = {layer for layer, _ in stream.step_times() if layer >= 0}
        assert worked == set(range(0 if pushed % 2 else paired, len(layers)))


@pytest.mark.parametrize("pairing", [0, 3, -1, True, 1.5, "2", None])
def test_bad_pairing(models, pairing):
    model = models["yue2"]
    for make in (ob.StreamingDecoder, lambda *a, **k: ob.MultiStreamDecoder(*a, 2, **k)):
        with pytest.raises(ValueError, match=f"^pairing must be 1 or 2, not {pairing!r}$"):
            make(model, pairing=pairing)


@pytest.mark.parametrize("look_ahead", [0, 0.05, 22831])
def test_pairing_and_look_ahead_exclude_each_other(models, look_ahead):
    with pytest.raises(ValueError, match=r"^pairing can't be combined with look_ahead: "):
        ob.StreamingDecoder(models["yue2"], look_ahead=look_ahead, pairing=2)


def test_states_belong_to_a_pairing(models):
    model = models["yue2"]
    latents = random_latents(model.config, 20)
    for own, other in ((1, 2), (2, 1)):
        decoder = ob.StreamingDecoder(model, pairing=own)
        chunks = [decoder.push(latents[:15])]
        foreign = ob.StreamingDecoder(model, pairing=other)
        foreign.push(latents[5:10])
        said = f"^the state is of a decoder with pairing={other}, .* has pairing={own}$"
        with pytest.raises(ValueError, match=said):
            decoder.restore(foreign.snapshot())
        chunks += [decoder.push(latents[15:]), decoder.flush()]
        np.testing.assert_array_equal(np.concatenate(chunks), model.decode(latents))


def test_overflow():
    """The finite samples come first, and the error names the frame, as without pairing."""
    decoder, chunks = ob.StreamingDecoder(MODEL, pairing=2), []
    with pytest.raises(ob.NonFiniteError, match=NAMED):
        chunks.extend(decoder.stream(LATENTS))
    sound = np.concatenate(chunks)
    assert np.isfinite(sound).all()
    np.testing.assert_array_equal(sound, WHOLE[: len(sound)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--pairing", "2", "--look-ahead", "25%"],
            "--pairing 2 can't be combined with --look-ahead",
        ),
        (["--pairing", "3"], "3 is not in the range 1<=x<=2"),
    ],
)
def test_play_refuses(arguments, said):
    done = run_command("play", "a.npy", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
