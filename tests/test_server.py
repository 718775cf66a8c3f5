"""The server, with real clients: sessions, credit, parking, `/v1/decode`, listeners, the end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from live_client import LiveClient
from websockets.exceptions import ConnectionClosed, InvalidStatus

import oobleck_stream as ob
from oobleck_stream.server.protocol import pack_frames
from oobleck_stream.server.serving import BackgroundServer

LATENTS = ob.piece("keys")[500:1500]


@pytest.fixture(scope="module")
def model():
    return ob.load("tiny")


@pytest.fixture(scope="module")
def audio(model):
    return model.decode(LATENTS)


@pytest.fixture(scope="module")
def server(model):
    pieces = {"keys": LATENTS, "pads": ob.piece("pads")[:3000]}
    with BackgroundServer(model, pieces, slots=6) as server:
        yield server


@pytest.fixture
def client(server):
    with LiveClient(server.url) as client:
        yield client


def session_of(server, client):
    return server.hub.sessions[client.told["ready"]["session"]]


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# Sessions


def test_a_piece(client, audio):
    client.open("keys")
    np.testing.assert_array_equal(client.wait_samples(len(audio)), audio)
    assert client.told.get("end", {"sample": len(audio)})["sample"] == len(audio)


def test_int16(client, audio):
    client.open("keys", sample="s16")
    expected = np.rint(np.clip(audio, -1, 1) * np.float32(32767)).astype(np.int16)
    np.testing.assert_array_equal(client.wait_samples(len(audio)), expected)


def test_from_a_moment_on(client, audio, model):
    client.open("keys", seconds=0.7)
    first = int(0.7 * model.config.frame_rate) * model.hop
    np.testing.assert_array_equal(client.wait_samples(len(audio) - first), audio[first:])


def test_pushed_frames_repeats_are_ignored(client, audio):
    client.open()
    client.push(0, LATENTS[:300])
    client.push(100, LATENTS[100:400])
    client.wait_samples(300 * 64)
    client.push(400, LATENTS[400:700])
    client.wait_samples(600 * 64)
    client.push(700, LATENTS[700:])
    client.send("end")
    np.testing.assert_array_equal(client.wait_samples(len(audio)), audio)


def test_many_at_once(server, audio):
    def hear(_):
        with LiveClient(server.url) as one:
            one.open("keys")
            return np.array_equal(one.wait_samples(len(audio)), audio)

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(hear, range(6)))


@pytest.mark.parametrize("ahead", [0.05, 0.3, 2.0])
def test_no_client_makes_the_decoder_run_ahead(server, client, ahead):
    """A client that reads nothing, or reads everything without having heard it."""
    client.open("pads", ahead=ahead)
    session, block = session_of(server, client), server.hub.ticks.block * 64
    most = round(ahead * 44100) + block + server.hub.ticks.lead * 64
    eventually(lambda: session.made >= session.ahead)
    time.sleep(0.2)
    assert session.made <= most
    client.send("heard", sample=1000)
    eventually(lambda: session.heard == 1000)
    time.sleep(0.2)
    assert session.made <= 1000 + most


def test_parked_and_resumed(server, audio):
    """The samples that were on their way, and were not heard, come again."""
    with LiveClient(server.url) as first:
        ready = first.open("keys", ahead=0.5)
        first.wait_samples(5000)
        before = np.concatenate(first.audio)
        heard = len(before)
        while first.got < heard + 9000:
            first.receive()
        first.socket.socket.shutdown(2)
    session = server.hub.sessions[ready["session"]]
    eventually(lambda: session.slot is None)
    made = session.made
    time.sleep(0.2)
    assert session.made == made
    with LiveClient(server.url) as second:
        second.send("resume", session=ready["session"], have=heard)
        second.got = second.wait("ready")["resumed_at"]
        assert second.got == heard
        rest = second.wait_samples(len(audio))
    np.testing.assert_array_equal(np.concatenate([before, rest])[: len(audio)], audio)


def test_decoding_stops_when_the_client_leaves(server):
    with LiveClient(server.url) as client:
        client.open("pads", ahead=5.0)
        session = session_of(server, client)
        client.send("close")
        client.close_code()
    assert session.id not in server.hub.sessions
    made = session.made
    time.sleep(0.3)
    assert session.made == made
    assert session not in server.hub.seats.sessions


def test_a_full_house(model):
    with (
        BackgroundServer(model, {"keys": LATENTS}, slots=1) as server,
        LiveClient(server.url) as first,
    ):
        first.open("keys")
        with pytest.raises(InvalidStatus) as refused:
            LiveClient(server.url, "/v1/session")
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        with LiveClient(server.url, "/v1/session", origin=server.url) as browser:
            browser.send("open", source="keys")
            assert browser.close_code() == 1013
            assert browser.told["error"]["code"] == "busy"
        answer = httpx.post(server.url + "/v1/decode", content=b"x")
        assert answer.status_code == 503
        with pytest.raises(ob.RemoteError, match="try later") as error:
            ob.RemoteDecoder(server.url)
        assert error.value.code == "busy"
        first.send("pause")
        # Who pauses may lose the place, but not the session.
        eventually(lambda: session_of(server, first).paused)
        with LiveClient(server.url) as second:
            second.open("keys")
            second.wait_samples(3000)
            second.send("close")
            second.close_code()
        first.send("play")
        first.wait_samples(30_000)


def test_the_latents_that_were_played(server, client, model):
    ready = client.open("instrument")
    client.send("set", x=0.1, y=0.9, offset={"1": 2.0}, speed=0.5)
    heard = client.wait_samples(60_000)
    answer = httpx.get(f"{server.url}/v1/sessions/{ready['session']}/latents.npy")
    kept = np.load(io.BytesIO(answer.content))
    np.testing.assert_array_equal(model.decode(kept)[: len(heard)], heard)
    assert httpx.get(f"{server.url}/v1/sessions/wrong/latents.npy").status_code == 404


# Errors


@pytest.mark.parametrize(
    ("message", "code", "close"),
    [
        ("{", "bad-message", 4400),
        ("[" * 9000, "bad-message", 4400),
        ('{"type": "fly"}', "bad-message", 4400),
        ('{"type": "heard", "sample": 5000000}', "bad-message", 4400),
        ('{"type": "heard", "sample": 1e999}', "bad-message", 4400),
        ('{"type": "open"}', "bad-message", 4400),
        ("x" * 20_000, "too-big", 4400),
        (pack_frames(0, np.full((1, 24), np.nan, np.float32)), "not-finite", 4400),
        (pack_frames(7, np.zeros((1, 24), np.float32)), "bad-frame", 4400),
        (pack_frames(0, np.zeros((1, 23), np.float32)), "bad-message", 4400),
        (pack_frames(0, np.zeros((5000, 24), np.float32)), "too-fast", 4400),
        (b"", "bad-message", 4400),
    ],
    ids=range(12),
)
def test_a_wrong_message_ends_its_session_alone(server, client, message, code, close):
    with LiveClient(server.url) as other:
        other.open("keys")
        client.open()
        session = session_of(server, client)
        client.socket.send(message)
        assert client.close_code() == close
        assert client.told["error"]["code"] == code
        eventually(lambda: session.id not in server.hub.sessions)
        other.wait_samples(other.got + 4000)


def test_a_message_of_two_megabytes(server, client):
    client.open()
    # The header of a WebSocket frame, RFC 6455 section 5.2: final, binary, masked, its size, the
    # mask. It is refused before its content comes. (If content arrived after the server has closed,
    # TCP would reset the connection, and the code could be lost.)
    client.socket.socket.sendall(struct.pack("!BBQ4x", 0x82, 0xFF, 2 << 20))
    assert client.close_code() == 1009
    with LiveClient(server.url) as other:
        other.open()
        with contextlib.suppress(ConnectionClosed):
            other.socket.send(bytes(2 << 20))
        assert other.close_code() in (1009, 1006)  # 1006: TCP was reset.
    with LiveClient(server.url) as other:
        other.open("keys")
        other.wait_samples(1000)


def test_overflow(server, client, model):
    wrong = LATENTS[:400].astype(np.float32)
    wrong[200] = 3e38
    with LiveClient(server.url) as other:
        other.open("keys")
        client.open()
        client.push(0, wrong)
        told = client.wait("overflow")
        with pytest.raises(ob.NonFiniteError) as error:
            ob.StreamingDecoder(model).push(wrong)
        assert told["frame"] == error.value.frames[0]
        np.testing.assert_array_equal(client.wait_samples(told["sample"]), error.value.output)
        other.wait_samples(other.got + 4000)
        client.send("reset")
        client.got = client.wait("epoch")["sample"]
        client.audio.clear()
        client.push(400, LATENTS[:100])
        client.wait_samples(client.got + 1000)


def test_a_client_that_never_reads(command):
    """It costs little, and no more when it goes on asking."""
    process, facts = command

    def resident():
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    url = facts["url"].rstrip("/")
    with LiveClient(url) as client:
        client.open("my latents", ahead=5.0, loop=True)
        client.send("close")
        client.close_code()
    before = resident()
    with LiveClient(url) as client:
        client.open("my latents", ahead=5.0, loop=True)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20_000):
                client.send("snapshot")
        time.sleep(0.3)
        assert resident() - before < 20


# Requests


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("body", [npy(LATENTS), npy(LATENTS.T), LATENTS.astype("<f4").tobytes()])
@pytest.mark.parametrize("sample", ["f32", "s16"])
def test_decode(server, audio, body, sample):
    answer = httpx.post(f"{server.url}/v1/decode?sample={sample}", content=body)
    assert answer.status_code == 200
    dtype = {"f32": "float32", "s16": "int16"}[sample]
    expected = audio
    if sample == "s16":
        expected = np.rint(np.clip(audio, -1, 1) * np.float32(32767)).astype(np.int16)
    np.testing.assert_array_equal(
        np.frombuffer(answer.content[44:], dtype).reshape(-1, 2), expected
    )
    if "content-length" in answer.headers:
        read, rate = soundfile.read(io.BytesIO(answer.content), dtype=dtype)
        assert rate == 44100
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("query", "body", "status", "words"),
    [
        ("", b"", 400, "ended before the first frame"),
        ("", b"abc", 400, "middle of frame 0"),
        ("", npy(np.zeros((5, 7), "f4")), 400, "24"),
        ("", npy(np.full((5, 24), np.nan, "f4")), 400, "frame 0"),
        ("?format=mp3", b"", 400, "wav, raw"),
        ("?x=1", b"", 400, "unknown parameter"),
        ("", npy(np.full((60, 24), 3e38, "f4")), 422, "not finite"),
    ],
)
def test_decode_refuses(server, query, body, status, words):
    answer = httpx.post(f"{server.url}/v1/decode{query}", content=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    eventually(lambda: server.hub.seats.used == 0)


def test_a_fault_in_the_middle_breaks_the_answer_off(server):
    wrong = LATENTS.astype(np.float32)
    wrong[900] = np.nan
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(server.url + "/v1/decode", content=npy(wrong))


def test_the_sound_comes_while_frames_go(server, audio):
    """The second half of the frames is sent only after sound of the first half has come."""
    came = threading.Event()

    def body():
        yield LATENTS[:500].astype("<f4").tobytes()
        assert came.wait(20)
        yield LATENTS[500:].astype("<f4").tobytes()

    # httpx sends the whole body before it reads, so by hand:
    import http.client

    connection = http.client.HTTPConnection(server.url.rpartition("/")[2])
    connection.putrequest("POST", "/v1/decode?format=raw")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    pieces = body()
    piece = next(pieces)
    connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    answer = connection.getresponse()
    first = answer.read(1000 * 8)
    came.set()
    piece = next(pieces)
    connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece))
    heard = np.frombuffer(first + answer.read(), "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(heard, audio)


def test_decode_stops_when_the_client_leaves(server):
    body = npy(np.tile(LATENTS, (20, 1)))
    with httpx.stream("POST", server.url + "/v1/decode", content=body) as answer:
        next(answer.iter_raw())
    eventually(lambda: server.hub.seats.used == 0, 5)


def test_listeners_share_one_decode(server, model):
    whole = np.tile(model.decode(LATENTS), (4, 1))

    def hear(_):
        with httpx.stream("GET", server.url + "/v1/listen/keys.wav") as answer:
            data = b""
            for piece in answer.iter_raw():
                data += piece
                if len(data) > 400_000:
                    return data[44:400_004]

    with ThreadPoolExecutor(8) as threads:
        heard = list(threads.map(hear, range(8)))
    for data in heard:
        assert data in whole.tobytes()
    eventually(lambda: server.hub.seats.used == 0)


def test_listening_to_a_session(server, client):
    client.open("pads", share="my room")
    client.wait_samples(20_000)
    with LiveClient(server.url) as second:
        second.send("open", share="my room")
        assert second.close_code() == 4400
        assert second.told["error"]["code"] == "name-taken"
    heard = b""
    with httpx.stream("GET", server.url + "/v1/listen/my room.wav") as answer:
        for piece in answer.iter_raw():
            heard += piece
            if len(heard) > 50_000:
                break
            client.wait_samples(client.got + 4000)
    assert heard[44:50_000] in np.concatenate(client.audio).tobytes()


def test_health_info_metrics(server):
    assert httpx.get(server.url + "/v1/health").json() == {"ready": True}
    info = httpx.get(server.url + "/v1/info").json()
    assert info["latent_dim"] == 24
    assert [piece["name"] for piece in info["pieces"]] == ["keys", "pads"]
    assert "oobleck_stream_tick_seconds_count" in httpx.get(server.url + "/v1/metrics").text
    assert httpx.head(server.url + "/v1/listen/keys.wav").status_code == 200
    assert httpx.get(server.url + "/v1/listen/nothing.wav").status_code == 404
    assert httpx.get(server.url + "/page/../app.py").status_code == 404
    assert httpx.get(server.url + "/page/%2e%2e%2fapp.py").status_code == 404


# The command


@pytest.fixture
def command(tmp_path):
    np.save(tmp_path / "my latents.npy", LATENTS)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "oobleck_stream", "serve", "my latents.npy"),
            *("--port", "0", "--slots", "2", "--json", "--model", "tiny"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end(command, number):
    process, facts = command
    with LiveClient(facts["url"].rstrip("/")) as client:
        client.open("my latents")
        client.wait_samples(1000)
        process.send_signal(number)
        assert client.close_code() == 1001
        assert client.told["error"]["code"] == "closing"
    assert process.wait(10) == 0


def test_look_ahead_of_the_command(command):
    _, facts = command
    assert (facts["latency"], facts["look_ahead"]) == (1056, 264)


def test_the_lines_for_curl(command, audio, tmp_path):
    """As the README prints them, but for the port and ffplay."""
    _, facts = command
    url = facts["url"].rstrip("/")
    np.save(tmp_path / "latents.npy", LATENTS)
    line = f"curl -s {url}/v1/decode --data-binary @latents.npy -o out.wav"
    subprocess.run(line, shell=True, cwd=tmp_path, check=True, timeout=60)
    heard, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    np.testing.assert_array_equal(heard, audio)
    line = f"cat latents.npy | curl -sN -X POST -T . {url}/v1/decode > live.wav"
    subprocess.run(line, shell=True, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "live.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-key", __file__], "used together"),
        (["--allow-origin", "evil"], "--allow-origin"),
        (["--host", "203.0.113.1"], "can't listen"),
        (["--look-ahead", "soon"], "--look-ahead"),
        (["--look-ahead", "1s"], "--look-ahead"),
        (["missing.npy"], "missing.npy"),
    ],
)
def test_the_command_refuses(options, words):
    done = subprocess.run(
        [sys.executable, "-m", "oobleck_stream", "serve", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
