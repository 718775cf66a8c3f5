"""Decides who may use the server, by the addressed host, the origin of the page, and a token.

A page of another site can send requests to a server on this machine. It can also open WebSockets,
because the browser's same-origin policy does not apply to them. So every request is checked, and a
WebSocket is checked before it is accepted. The checks use headers that a page can't forge: `Host`,
`Origin`, `Sec-Fetch-Site` and `Sec-Fetch-Mode`.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/v1/health"})
"""Paths that need no token, because they reveal nothing and change nothing."""

COOKIE_SECONDS = 30 * 24 * 3600

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self'; worker-src 'self'; connect-src 'self'; form-action 'none'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), midi=(self)",
}


@dataclass(frozen=True)
class Verdict:
    """The HTTP status and the message with which a request is refused."""

    status: int
    message: str


@dataclass(frozen=True)
class Guard:
    """The rules by which requests are refused.

    Attributes
    ----------
    hosts : set of str
        Host names, without port, by which clients may address the server.
    any_address : bool
        Whether clients may also use any IP address. This is needed if the server listens on all
        addresses of the machine.
    origins : set of str
        Origins of other pages that may use the server, as ``scheme://host:port``.
    token : str or None
        The token that every request must contain. None means that no token is needed.
    port : int
        The server's port. It is part of the cookie's name, because several servers may run on one
        machine.
    """

    hosts: frozenset[str] = LOCAL
    any_address: bool = False
    origins: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)
    port: int = 0

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds the token."""
        return f"oobleck_stream_{self.port}"

    def judge(self, path: str, headers: Mapping[str, str], query: Mapping[str, Any]) -> Any:
        """Return None if a request is allowed, else the `Verdict`.

        Parameters
        ----------
        path : str
        headers : mapping
            The headers, with names in lower case.
        query : mapping of str to list of str
        """
        host = headers.get("host", "")
        if not self._is_host(host):
            return Verdict(421, "this server is not addressed by that name")
        origin = headers.get("origin")
        if origin is not None and not self._is_origin(origin, host):
            return Verdict(403, "pages of other sites may not use this server")
        # Links on other sites and in mails may open the page, but must not use ``/v1/``.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        foreign = site is not None and site not in ("same-origin", "none")
        if foreign and mode != "navigate" and origin not in self.origins:
            return Verdict(403, "pages of other sites may not use this server")
        if foreign and mode == "navigate" and path.startswith("/v1/"):
            return Verdict(403, "pages of other sites may not use this server")
        if self.token is None or path in OPEN_PATHS or self._knows_token(headers, query):
            return None
        return Verdict(401, "a token is needed: it is in the address that the server printed")

    def _is_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if any(part in host for part in "/?#@\\ \t"):
            return False
        if name in self.hosts or name in {urlsplit(one).hostname for one in self.origins}:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_origin(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin in (f"http://{host}", f"https://{host}")

    def _knows_token(self, headers: Mapping[str, str], query: Mapping[str, Any]) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        candidates = [bearer.strip()] if scheme.lower() == "bearer" else []
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            morsel = None
        if morsel is not None:
            candidates.append(morsel.value)
        candidates += query.get("token", [])
        expected = (self.token or "").encode()
        return any(secrets.compare_digest(one.encode(), expected) for one in candidates)


class GuardMiddleware:
    """Wraps an application: checks its requests and adds `HEADERS` to its responses."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        names: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            names.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        headers = {name: values[0] for name, values in names.items()}
        query = parse_qs(scope["query_string"].decode("latin-1"))
        doubled = [name for name in ("host", "origin") if len(names.get(name, [])) > 1]
        verdict = (
            Verdict(400, f"{doubled[0]}: one header was expected")
            if doubled
            else self._guard.judge(scope["path"], headers, query)
        )
        send = _with_headers(send)
        if verdict is not None:
            response = JSONResponse({"error": verdict.message}, verdict.status)
            return await _refuse(response, scope, receive, send)
        is_page = scope["type"] == "http" and scope["method"] == "GET"
        if is_page and self._guard.token and query.get("token"):
            return await self._exchange(scope, query)(scope, receive, send)
        await self._app(scope, receive, send)

    def _exchange(self, scope: Scope, query: dict[str, list[str]]) -> RedirectResponse:
        """Return a redirect that moves the token from the visible address to a cookie."""
        query = {name: values for name, values in query.items() if name != "token"}
        rest = urlencode(query, doseq=True)
        # A redirect to a path like //example.com would lead to another site.
        path = "/" + str(scope["path"]).lstrip("/\\")
        response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        response.set_cookie(
            self._guard.cookie,
            self._guard.token or "",
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        return response


async def _refuse(response: JSONResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Send `response` to refuse an HTTP request or the handshake of a WebSocket."""
    if scope["type"] == "http":
        await response(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        start = {"type": "websocket.http.response.start", "status": response.status_code}
        await send({**start, "headers": response.raw_headers})
        await send({"type": "websocket.http.response.body", "body": response.body})
    else:
        await send({"type": "websocket.close", "code": 1008})


def _with_headers(send: Send) -> Send:
    """Return a function that adds `HEADERS` to each response and then calls `send`."""

    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            message = {**message, "headers": headers.raw}
        await send(message)

    return sending
