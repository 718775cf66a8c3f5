"""A TCP proxy that cuts, holds up and delays connections."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class Proxy:
    """Listens on `port` and passes everything on to another port; a context manager.

    Attributes
    ----------
    port : int
    url : str
    connections : int
        How many there were.
    jitter : float
        Up to this many seconds of delay for each piece.
    """

    def __init__(self, target: int, jitter: float = 0.0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self.jitter = jitter
        self._held = threading.Event()
        self._held.set()
        self._open: list[socket.socket] = []
        self._random = random.Random(0)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    @contextlib.contextmanager
    def held(self):
        """Pass nothing on during the block."""
        self._held.clear()
        try:
            yield
        finally:
            self._held.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self.connections += 1
            self._open += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 14):
                self._held.wait()
                if self.jitter:
                    time.sleep(self._random.random() * self.jitter)
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
