"""The connection of a `RemoteDecoder` to its server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from oobleck_stream.errors import RemoteError
from oobleck_stream.server.protocol import GOING_AWAY, SUBPROTOCOL

HINT = "RemoteDecoder needs websockets: pip install 'oobleck_stream[web]'"
CLOSE_SECONDS = 1.0
CODES = {401: "refused", 403: "refused", 421: "refused", 503: "busy"}
"""Maps the HTTP status of a refused connection to the code of the `RemoteError`."""


class Connection:
    """A WebSocket whose failures are raised as `RemoteError`.

    If the server refuses the connection, the code of the error is ``refused`` or ``busy``. For all
    other failures, it is ``unreachable``.
    """

    def __init__(self) -> None:
        self._socket: Any = None
        self._stack = ExitStack()

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._socket is not None

    def open(self, address: str, token: str | None, timeout: float) -> None:
        """Connect to the server."""
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise ImportError(HINT) from error
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            connection = connect(
                address,
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
                additional_headers=headers,
                compression=None,
                open_timeout=timeout,
                close_timeout=CLOSE_SECONDS,
                max_size=None,
            )
            self._socket = self._stack.enter_context(connection)
        except InvalidStatus as error:
            status, body = error.response.status_code, bytes(error.response.body or b"")
            raise RemoteError(CODES.get(status, "refused"), _reason(status, body)) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise RemoteError("unreachable", f"{address}: {error}") from None

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        with self._failures():
            self._socket.send(message)

    def receive(self, timeout: float) -> str | bytes:
        """Return the next message. Raise `RemoteError` if none arrives within `timeout` seconds."""
        with self._failures():
            message: str | bytes = self._socket.recv(timeout)
            return message

    @contextmanager
    def _failures(self) -> Iterator[None]:
        from websockets.exceptions import WebSocketException

        try:
            yield
        except (OSError, TimeoutError, WebSocketException) as error:
            self.drop()
            raise RemoteError("unreachable", f"the connection was lost: {error}") from None

    def drop(self) -> None:
        """Close the connection. The server keeps the session for a new connection."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close(GOING_AWAY)
            self._stack.close()

    def end(self) -> None:
        """End the session, and wait until the server has closed the connection."""
        if self._socket is None:
            return
        with suppress(RemoteError):
            self.send(json.dumps({"type": "close"}))
            limit = time.monotonic() + CLOSE_SECONDS
            while time.monotonic() < limit:
                self.receive(CLOSE_SECONDS)
        self.drop()


def _reason(status: int, body: bytes) -> str:
    """Return the server's reason for refusing, or its HTTP status if it gave no reason."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"
