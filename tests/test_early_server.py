"""Early sessions of the server are `StreamingDecoder(model, look_ahead=...)`, the others exact."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from live_client import LiveClient

import oobleck_stream as ob
from oobleck_stream.server import serving
from oobleck_stream.server.admission import Load, PushTimes
from oobleck_stream.server.serving import BackgroundServer

LATENTS = ob.piece("keys")[500:1100]
LOOK_AHEAD = 264


@pytest.fixture(scope="module")
def model():
    return ob.load("tiny")


@pytest.fixture(scope="module")
def server(model):
    pieces = {"keys": LATENTS, "pads": ob.piece("pads")[:3000]}
    with BackgroundServer(model, pieces, slots=6, look_ahead=LOOK_AHEAD) as server:
        yield server


@pytest.fixture
def client(server):
    with LiveClient(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def early_sound(model):
    decoder = ob.StreamingDecoder(model, look_ahead=LOOK_AHEAD)
    return np.concatenate([decoder.push(LATENTS), decoder.flush()])


def kept_frames(server, client):
    """The frames that a session has played."""
    session = client.told["ready"]["session"]
    answer = httpx.get(f"{server.url}/v1/sessions/{session}/latents.npy")
    return np.load(io.BytesIO(answer.content))


def test_the_instrument(server, client, model):
    """Its sound is early, and the frames that it played give the exact sound."""
    ready = client.open("instrument", early=True)
    assert ready["epoch"]["look_ahead"] == ready["info"]["look_ahead"] == LOOK_AHEAD
    client.send("set", x=0.1, y=0.9, offset={"1": 2.0}, speed=0.5)
    heard = client.wait_samples(30_000)
    kept = kept_frames(server, client)
    decoder = ob.StreamingDecoder(model, look_ahead=LOOK_AHEAD)
    np.testing.assert_array_equal(heard, decoder.push(kept)[: len(heard)])
    exact = model.decode(kept)[: len(heard)]
    assert not np.array_equal(heard, exact)
    np.testing.assert_array_equal(decoder.exact[: len(exact)], exact[: len(decoder.exact)])


def test_pushed_frames(client, early_sound):
    client.open(early=True)
    for first in range(0, 600, 150):
        client.push(first, LATENTS[first : first + 150])
        client.wait_samples((first + 150) * 64 - LOOK_AHEAD)
    client.send("end")
    np.testing.assert_array_equal(client.wait_samples(len(early_sound)), early_sound)


def test_pieces_are_exact(client, model):
    """They are known in advance, so nothing has to be early. The instrument after them is."""
    ready = client.open("keys", early=True)
    assert ready["epoch"]["look_ahead"] == model.latency
    exact = model.decode(LATENTS)
    np.testing.assert_array_equal(client.wait_samples(len(exact)), exact)
    client.send("seek", source="instrument", seconds=0)
    assert client.wait("epoch")["look_ahead"] == LOOK_AHEAD


def test_exact_unless_it_is_asked_for(server, client, model):
    ready = client.open("instrument")
    assert ready["epoch"]["look_ahead"] == model.latency
    with LiveClient(server.url) as other:
        other.open("instrument", early=True)
        other.wait_samples(20_000)
        heard = client.wait_samples(20_000)
    np.testing.assert_array_equal(model.decode(kept_frames(server, client))[:20_000], heard)


def test_parked_and_resumed(server, early_sound):
    with LiveClient(server.url) as first:
        ready = first.open(early=True)
        first.push(0, LATENTS[:300])
        before = first.wait_samples(300 * 64 - LOOK_AHEAD)
        first.socket.socket.shutdown(2)
    with LiveClient(server.url) as second:
        second.send("resume", session=ready["session"], have=len(before))
        second.got = second.wait("ready")["resumed_at"]
        second.push(300, LATENTS[300:])
        second.send("end")
        rest = second.wait_samples(len(early_sound))
    np.testing.assert_array_equal(np.concatenate([before, rest]), early_sound)


def test_a_copy_of_an_early_stream_is_early(server, client, early_sound):
    client.open(early=True)
    client.push(0, LATENTS[:300])
    client.wait_samples(300 * 64 - LOOK_AHEAD)
    client.send("snapshot")
    state = client.wait("snapshot")["state"]
    with LiveClient(server.url) as other:  # which did not ask for early sound
        other.open()
        other.send("restore", state=state)
        epoch = other.wait("epoch")
        assert epoch["look_ahead"] == LOOK_AHEAD
        other.push(0, LATENTS[300:])
        other.send("end")
        start = 300 * 64 - LOOK_AHEAD
        rest = other.wait_samples(len(early_sound) - start)
    np.testing.assert_array_equal(rest, early_sound[start:])


def test_overflow(client, model):
    wrong = LATENTS[:200].astype(np.float32)
    wrong[100] = 3e38
    client.open(early=True)
    client.push(0, wrong)
    told = client.wait("overflow")
    with pytest.raises(ob.NonFiniteError) as error:
        ob.StreamingDecoder(model, look_ahead=LOOK_AHEAD, exact=False).push(wrong)
    assert told["frame"] == error.value.frames[0]
    np.testing.assert_array_equal(client.wait_samples(told["sample"]), error.value.output)


def test_a_machine_that_is_too_slow_for_early_sound(model, monkeypatch):
    """Then the sound is exact, and the session is told so."""
    load = Load(0.046, PushTimes([1], [0.001]), PushTimes([1, 2], [0.03, 0.045]))
    monkeypatch.setattr(serving, "measure_load", lambda *_: (load, 4))
    pieces = {"keys": LATENTS}
    with (
        BackgroundServer(model, pieces, look_ahead=LOOK_AHEAD) as server,
        LiveClient(server.url) as first,
        LiveClient(server.url) as second,
    ):
        assert first.open("instrument", early=True)["epoch"]["look_ahead"] == LOOK_AHEAD
        assert second.open("instrument", early=True)["epoch"]["look_ahead"] == model.latency


@pytest.mark.parametrize("look_ahead", [None, 10**6])
def test_a_server_without_early_sound(model, look_ahead):
    pieces = {"keys": LATENTS}
    with (
        BackgroundServer(model, pieces, slots=1, look_ahead=look_ahead) as server,
        LiveClient(server.url) as client,
    ):
        ready = client.open("instrument", early=True)
        assert ready["epoch"]["look_ahead"] == ready["info"]["look_ahead"] == model.latency
