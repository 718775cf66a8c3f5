"""A client of `WS /v1/session` that does one thing at a time."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from oobleck_stream.server.protocol import SUBPROTOCOL, pack_frames, parse_numbers

PATIENCE = 30


class LiveClient:
    """A connection; a context manager.

    Attributes
    ----------
    audio : list of array
        The samples that have come.
    got : int
        Their number.
    told : dict
        The last message of each type.
    """

    def __init__(self, url: str, path: str = "/v1/session?resume=1", **options) -> None:
        self._stack = ExitStack()
        connection = connect(
            url.replace("http", "ws", 1) + path,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=None,
            close_timeout=1,
            **options,
        )
        self.socket = self._stack.enter_context(connection)
        self.audio: list[np.ndarray] = []
        self.got = 0
        self.told: dict[str, dict] = {}
        self.channels = 2

    def __enter__(self) -> LiveClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, kind: str, **fields) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def open(self, source: str = "push", **fields) -> dict:
        self.send("open", source=source, **fields)
        return self.wait("ready")

    def push(self, first: int, frames: np.ndarray) -> None:
        self.socket.send(pack_frames(first, np.asarray(frames, np.float32)))

    def receive(self, seconds: float = PATIENCE) -> None:
        """Receive one message; say at once that its samples were heard."""
        message = self.socket.recv(seconds)
        if isinstance(message, bytes):
            kind, first, numbers = parse_numbers(message, self.channels)
            if kind == 2:
                assert first == self.got
                self.audio.append(numbers)
                self.got += len(numbers)
        else:
            told = json.loads(message)
            self.told[told["type"]] = told
            if told["type"] == "ready":
                self.channels = told["info"]["channels"]

    def wait(self, kind: str) -> dict:
        """The next message of a type."""
        self.told.pop(kind, None)
        while kind not in self.told:
            self.receive()
        return self.told[kind]

    def wait_samples(self, count: int) -> np.ndarray:
        """Receive until that many samples have come, and let more come."""
        while self.got < count:
            self.receive()
            self.send("heard", sample=self.got)
        return np.concatenate(self.audio)[:count]

    def close_code(self) -> int:
        """Receive until the server closes; its code."""
        try:
            while True:
                self.receive()
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd else 1006
