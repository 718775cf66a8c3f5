"""Who may talk to the server: every combination of host, origin, token and route."""

from __future__ import annotations

import itertools

import httpx
import pytest
from networks import model_of, small
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from oobleck_stream.server.guard import Guard
from oobleck_stream.server.serving import BackgroundServer

HOSTS = {
    "127.0.0.1:{port}": True,
    "localhost:{port}": True,
    "[::1]:{port}": True,
    "LOCALHOST:{port}": True,
    "evil.example:{port}": False,
    "127.0.0.1.evil.example": False,
    "localhost@evil.example": False,
    "[::1": False,
    "": False,
}
ORIGINS = {
    None: True,
    "http://{host}": True,
    "https://friend.example": True,
    "http://evil.example": False,
    "https://friend.example.evil.example": False,
    "http://127.0.0.1:1": False,
    "null": False,
}
TOKENS = {
    "Bearer secret": True,
    "bearer secret": True,
    "Bearer wrong": False,
    "secret": False,
    None: False,
}
PATHS = ["/", "/v1/info", "/v1/health", "/v1/metrics", "/v1/sessions/x/latents.npy", "/page/app.js"]


@pytest.fixture(scope="module")
def server():
    model = model_of(small("ezaudio"))
    with BackgroundServer(
        model, slots=2, token="secret", origins=("https://friend.example",)
    ) as server:
        yield server


def expected(host, origin, token, path):
    if not HOSTS[host]:
        return 421
    if not ORIGINS[origin]:
        return 403
    return None if TOKENS[token] or path == "/v1/health" else 401


CASES = list(itertools.product(HOSTS, ORIGINS, TOKENS))


def headers_of(server, host, origin, token):
    port = server.url.split("/?")[0].rpartition(":")[2]
    host = host.format(port=port)
    fields = {"Host": host}
    if origin is not None:
        fields["Origin"] = origin.format(host=host)
    if token is not None:
        fields["Authorization"] = token
    return fields


@pytest.mark.parametrize("path", PATHS)
def test_requests(server, path):
    base = server.url.split("/?")[0]
    with httpx.Client(base_url=base) as client:
        for host, origin, token in CASES:
            answer = client.get(path, headers=headers_of(server, host, origin, token))
            wanted = expected(host, origin, token, path)
            passed = 404 if path.startswith("/v1/sessions") else 200
            assert answer.status_code == (wanted or passed), (host, origin, token)
            assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_judgement():
    """The table without a server, for every route that changes something."""
    guard = Guard(origins=frozenset({"https://friend.example"}), token="secret", port=2)
    for path in ("/v1/decode", "/v1/session", "/v1/listen/x.wav"):
        for host, origin, token in CASES:
            fields = {"host": host.format(port=2)}
            if origin is not None:
                fields["origin"] = origin.format(host=fields["host"])
            if token is not None:
                fields["authorization"] = token
            verdict = guard.judge(path, fields, {})
            assert (verdict and verdict.status) == expected(host, origin, token, path)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("token", TOKENS)
def test_websockets_are_refused_before_they_are_accepted(server, origin, token):
    base = server.url.split("/?")[0]
    fields = headers_of(server, "127.0.0.1:{port}", origin, token)
    fields.pop("Host")
    wanted = expected("127.0.0.1:{port}", origin, token, "/v1/session")
    status = None
    try:
        with connect(base.replace("http", "ws") + "/v1/session", additional_headers=fields):
            pass
    except InvalidStatus as error:
        status = error.response.status_code
    assert status == wanted


@pytest.mark.parametrize(
    ("site", "mode", "path", "passes"),
    [
        ("same-origin", "cors", "/v1/info", True),
        ("none", "navigate", "/", True),
        ("cross-site", "navigate", "/", True),
        ("cross-site", "navigate", "/v1/listen/x.wav", False),
        ("cross-site", "no-cors", "/v1/listen/x.wav", False),
        ("same-site", "no-cors", "/v1/decode", False),
        ("cross-site", "cors", "/v1/info", False),
    ],
)
def test_fetch_metadata(site, mode, path, passes):
    fields = {"host": "localhost:1", "sec-fetch-site": site, "sec-fetch-mode": mode}
    assert (Guard().judge(path, fields, {}) is None) == passes


def test_the_token_moves_from_the_address_to_a_cookie(server):
    base = server.url.split("/?")[0]
    with httpx.Client(base_url=base) as client:
        answer = client.get(httpx.URL(base + "//evil.example/?token=secret&x=1"))
        assert answer.status_code == 303
        assert answer.headers["location"] == "/evil.example/?x=1"
        for part in ("HttpOnly", "SameSite=strict"):
            assert part in answer.headers["set-cookie"]
        assert client.get("/v1/info").status_code == 200
        client.cookies.clear()
        assert client.get("/?token=wrong").status_code == 401


def test_addresses():
    anywhere = Guard(any_address=True)
    assert anywhere.judge("/", {"host": "192.168.1.5:8765"}, {}) is None
    assert anywhere.judge("/", {"host": "[fe80::1]:8765"}, {}) is None
    assert anywhere.judge("/", {"host": "evil.example"}, {}).status == 421
    proxied = Guard(origins=frozenset({"https://demo.example"}))
    fields = {"host": "demo.example", "origin": "https://demo.example"}
    assert proxied.judge("/v1/session", fields, {}) is None
