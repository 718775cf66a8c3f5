"""`RemoteDecoder`: the contract of `StreamingDecoder` over the network, and its manners."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from contract import (  # noqa: F401
    Subject,
    test_cuts,
    test_interleaved,
    test_nothing_from_the_future,
    test_reset,
    test_restore,
    test_two_threads,
)
from networks import GEOMETRIES, model_of, random_latents, small
from tcp_proxy import Proxy

import oobleck_stream as ob
from oobleck_stream.server.serving import BackgroundServer

SOME = [name for name in GEOMETRIES if name in ("stable-audio-open-1.0", "ezaudio", "document")]


@pytest.fixture(scope="module")
def models():
    return {name: model_of(small(name)) for name in SOME}


@pytest.fixture(scope="module", params=SOME)
def server(request, models):
    model = models[request.param]
    with BackgroundServer(model, slots=8, look_ahead=model.latency // 3) as server:
        yield server


@pytest.fixture(params=[False, True], ids=["exact", "early"])
def early(request):
    return request.param


@pytest.fixture
def subject(server, early):
    model = server.hub.model
    latency = model.latency // 3 if early else model.latency

    def whole(latents):
        if not early:
            return model.decode(latents, threads=1)
        decoder = ob.StreamingDecoder(model, threads=1, look_ahead=latency, exact=False)
        return np.concatenate([decoder.push(latents), decoder.flush()])

    return Subject(
        make=lambda _: ob.RemoteDecoder(server.url, early=early),
        whole=whole,
        due=lambda frames: max(0, frames * model.hop - latency),
        rows=random_latents(model.config, 40),
    )


@pytest.fixture
def decoder(server, subject):
    with subject.make(1) as decoder:
        yield decoder


def test_cut_connections(server, subject, early):
    """Connections are cut while frames and samples are under way; the bits are the same."""
    rows, expected = subject.rows, subject.whole(subject.rows)
    with (
        Proxy(int(server.url.rpartition(":")[2])) as proxy,
        ob.RemoteDecoder(proxy.url, early=early) as decoder,
    ):
        chunks = []
        for number, row in enumerate(rows):
            if number % 7 == 3:
                proxy.cut()
            chunks.append(decoder.push(row))
        proxy.cut()
        chunks.append(decoder.flush())
        np.testing.assert_array_equal(np.concatenate(chunks), expected)
        proxy.cut()
        decoder.reset()
        state = decoder.snapshot()
        proxy.cut()
        decoder.restore(state)
        again = np.concatenate([*decoder.stream(np.array_split(rows, 3))])
        np.testing.assert_array_equal(again, expected)
        assert proxy.connections >= 7


def test_a_long_push(decoder, subject):
    """More frames than may wait, and more samples than may be on their way."""
    rows = np.tile(subject.rows, (10, 1))
    audio = np.concatenate([decoder.push(rows), decoder.flush()])
    np.testing.assert_array_equal(audio, subject.whole(rows))


def test_seek(decoder, subject, server):
    model, whole = server.hub.model, subject.whole(subject.rows)
    decoder.push(subject.rows[:7])
    for frame in (0, 3, 25):
        first = decoder.seek(frame)
        assert first == max(0, frame - model.context)
        audio = np.concatenate([decoder.push(subject.rows[first:]), decoder.flush()])
        np.testing.assert_array_equal(audio, whole[frame * model.hop :])


def test_overflow():
    model, latents = ob.load("tiny"), ob.piece("keys")[:300].astype(np.float32)
    wrong = latents.copy()
    wrong[150] = 3e38
    with pytest.raises(ob.NonFiniteError) as here:
        ob.StreamingDecoder(model).push(wrong)
    with BackgroundServer(model, slots=1) as server, ob.RemoteDecoder(server.url) as decoder:
        with pytest.raises(ob.NonFiniteError) as there:
            decoder.push(wrong)
        assert there.value.frames == here.value.frames
        assert "float32 overflows" in str(there.value)
        np.testing.assert_array_equal(there.value.output, here.value.output)
        with pytest.raises(RuntimeError, match="reset"):
            decoder.push(wrong)
        decoder.reset()
        audio = np.concatenate([decoder.push(latents), decoder.flush()])
        np.testing.assert_array_equal(audio, model.decode(latents))


def test_manners(decoder, subject):
    before = decoder.push(subject.rows[:20])
    with pytest.raises(ValueError, match="frame 20"):
        decoder.push(np.full((1, decoder.latent_dim), np.nan))
    with pytest.raises(ValueError, match="shape"):
        decoder.push(np.zeros(decoder.latent_dim + 1))
    with pytest.raises(ValueError, match="state"):
        decoder.restore("state")
    rest = [decoder.push(subject.rows[20:]), decoder.flush()]
    np.testing.assert_array_equal(np.concatenate([before, *rest]), subject.whole(subject.rows))
    with pytest.raises(RuntimeError, match="flushed"):
        decoder.push(subject.rows[0])
    decoder.close()
    with pytest.raises(RuntimeError, match="closed"):
        decoder.reset()


def test_a_state_of_a_decoder_that_is_gone(server, decoder):
    with ob.RemoteDecoder(server.url) as other:
        state = other.snapshot()
    with pytest.raises(ValueError, match="no such copy"):
        decoder.restore(state)
    assert len(decoder.push(np.zeros((30, decoder.latent_dim)))) > 0


def test_a_forgotten_decoder_frees_its_place(server):
    before = server.hub.seats.used
    decoder = ob.RemoteDecoder(server.url)
    assert server.hub.seats.used == before + 1
    del decoder
    gc.collect()
    for _ in range(8 - before):
        with ob.RemoteDecoder(server.url):
            pass


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x", "", "http://"])
def test_wrong_addresses(url):
    with pytest.raises(ValueError, match="address like"):
        ob.RemoteDecoder(url)


def test_nobody_there():
    with pytest.raises(ob.RemoteError) as error:
        ob.RemoteDecoder("http://127.0.0.1:9", timeout=2)
    assert error.value.code == "unreachable"


def test_a_token(models):
    with BackgroundServer(models["ezaudio"], slots=1, token="secret") as server:
        with pytest.raises(ob.RemoteError, match="token"):
            ob.RemoteDecoder(server.url.partition("?")[0])
        ob.RemoteDecoder(server.url).close()
        ob.RemoteDecoder(server.url.partition("?")[0], token="secret").close()
