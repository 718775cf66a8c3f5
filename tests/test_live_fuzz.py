"""Hostile input: every message is answered by a message, an error code or a close."""

from __future__ import annotations

import contextlib
import json
import random

import httpx
import numpy as np
import pytest
from live_client import LiveClient
from networks import model_of, random_latents, small
from websockets.exceptions import ConnectionClosed

from oobleck_stream.server.app import page_files
from oobleck_stream.server.protocol import (
    CONTROLS,
    MAX_MESSAGE,
    Control,
    Frames,
    ProtocolError,
    pack_frames,
    pack_samples,
    parse_frames,
    parse_numbers,
    parse_text,
)
from oobleck_stream.server.serving import BackgroundServer

DIM = 8
TEXTS = [
    '{"type":"open","source":"push","sample":"f32","ahead":0.3,"frames":true,"early":true,"share":"x"}',
    '{"type":"resume","session":"abcdefgh","have":100}',
    '{"type":"heard","sample":123456,"underruns":2,"buffered":0.25}',
    '{"type":"set","x":0.5,"y":0.1,"weights":{"keys":1},"offset":{"1":0.5},"speed":1,"freeze":false}',
    '{"type":"seek","source":"keys","seconds":12.5}',
    '{"type":"seek","frame":12}',
    *(f'{{"type":"{kind}"}}' for kind in ("pause", "play", "end", "reset", "snapshot", "close")),
    '{"type":"loop","on":true}',
    '{"type":"restore","state":"abc"}',
]
BINARIES = [pack_frames(0, np.zeros((count, DIM), np.float32)) for count in (0, 1, 5)]
TOKENS = [
    *(
        "null",
        "true",
        "[]",
        "{}",
        '""',
        "-1",
        "1e400",
        "NaN",
        "9" * 400,
        '"\\ud800"',
        "0.5",
        "[[[[",
    ),
    *(f'"{kind}"' for kind in CONTROLS),
]


def mutated(chance: random.Random) -> str | bytes:
    """A message with one to four faults."""
    message = chance.choice([*TEXTS, *BINARIES])
    data = bytearray(message.encode() if isinstance(message, str) else message)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at : at + chance.randint(1, 20)]
        elif kind == 2:
            data[at:at] = chance.choice(TOKENS).encode("utf-8", "surrogatepass")
        elif kind == 3:
            data[at:at] = data[: chance.randint(0, 50)]
        else:
            data[at : at + 8] = chance.choice([bytes(8), b"\xff" * 8, b"\0\0\xc0\x7f" * 2])
    if isinstance(message, str):
        return data.decode("utf-8", "replace")
    return bytes(data)


def check_parsers(count: int, seed: int) -> int:
    """Parse mutated messages; the number that were accepted."""
    chance, accepted = random.Random(seed), 0
    for _ in range(count):
        result = parsed(mutated(chance))
        if isinstance(result, ProtocolError):
            assert result.code in ("bad-message", "too-big", "not-finite")
            assert len(result.message) < 500
            continue
        accepted += 1
        assert isinstance(result, Control) or np.isfinite(result.frames).all()
    return accepted


def parsed(message: str | bytes) -> Control | Frames | ProtocolError:
    try:
        return parse_text(message) if isinstance(message, str) else parse_frames(message, DIM)
    except ProtocolError as error:
        return error


def test_parsers():
    accepted = check_parsers(10_000, 0)
    assert 50 < accepted < 5_000


@pytest.mark.nightly
def test_parsers_at_length():
    check_parsers(1_000_000, 1)


def test_every_message_without_a_fault():
    for text in TEXTS:
        assert parse_text(text).kind in CONTROLS
    for data in BINARIES:
        parse_frames(data, DIM)


@pytest.mark.parametrize("sample", ["f32", "s16"])
def test_samples_round_trip(sample):
    audio = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    kind, first, numbers = parse_numbers(pack_samples(2**40, audio, sample), 2)
    assert (kind, first) == (2, 2**40)
    expected = audio if sample == "f32" else np.rint(audio * np.float32(32767))
    np.testing.assert_array_equal(numbers, expected)


def test_a_big_message():
    with pytest.raises(ProtocolError):
        parse_frames(bytes(MAX_MESSAGE + 1), DIM)


@pytest.fixture(scope="module")
def server():
    model = model_of(small("ezaudio"))
    pieces = {"keys": random_latents(model.config, 60), "x": random_latents(model.config, 3)}
    with BackgroundServer(model, pieces, slots=4) as server:
        yield server


def check_server(server, connections: int, seed: int) -> None:
    """Send mutated messages to sessions, beside one that must not notice."""
    chance = random.Random(seed)
    with LiveClient(server.url) as other:
        other.open("keys", loop=True)
        for _ in range(connections):
            with LiveClient(server.url) as client, contextlib.suppress(ConnectionClosed):
                client.open(chance.choice(["push", "keys", "instrument", "x"]))
                for _ in range(chance.randint(1, 12)):
                    client.socket.send(mutated(chance))
                client.send("close")
                while True:
                    client.receive()
            other.wait_samples(other.got + 10)
    assert httpx.get(server.url + "/v1/health").status_code == 200


def test_server(server):
    check_server(server, 60, 2)


@pytest.mark.nightly
def test_server_at_length(server):
    check_server(server, 5_000, 3)


# The description of the requests


def test_every_route_is_described(server):
    import re

    from starlette.routing import Route

    described = json.loads(page_files()["openapi.json"].body)["paths"]
    app = server._serving.server.config.app
    routes = {route.path: route.methods for route in app.routes if isinstance(route, Route)}
    assert set(described) == set(routes)
    for path, methods in routes.items():
        assert {method.lower() for method in methods} - {"head"} == set(described[path])
        names = {parameter["name"] for parameter in described[path].get("parameters", [])}
        for operation in described[path].values():
            names |= {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert names == set(re.findall(r"{(\w+)}", path))


def test_schemathesis(server):
    """Requests made from the description get the answers that it describes."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    endless = schema.exclude(path="/v1/listen/{name}.wav")
    done = set()

    for found in endless.get_all_operations():
        operation = found.ok()

        @settings(max_examples=15, deadline=None)
        @pytest.mark.filterwarnings("ignore")
        def check(case):
            case.call_and_validate(excluded_checks=[positive_data_acceptance])
            done.add(case.operation.path)

        schemathesis_given(operation, check)
    assert len(done) >= 8


def schemathesis_given(operation, check):
    from hypothesis import given

    given(case=operation.as_strategy())(check)()
