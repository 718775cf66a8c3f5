"""Runs the server: a socket, uvicorn, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import uvicorn

from oobleck_stream.errors import InputError
from oobleck_stream.model import Model
from oobleck_stream.server.admission import Load, measure_load
from oobleck_stream.server.app import make_app
from oobleck_stream.server.guard import LOCAL, Guard
from oobleck_stream.server.hub import Hub
from oobleck_stream.server.osc import serve_osc
from oobleck_stream.server.protocol import MAX_MESSAGE

DEFAULT_PORT = 8765
MAX_CONNECTIONS = 512
CLOSE_SECONDS = 1.0
"""How long connections may take to close."""

WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes
    ----------
    host, port
        Where to listen; port 0 is any free one.
    slots : int or None
        Number of sessions that are decoded at once; by default as many as the machine can decode
        in real time.
    load : float
        The share of real time that decoding may take.
    threads : int or None
    token : str or None
        What clients have to know. ``"auto"``: none on this machine's own addresses, else a new one.
    origins : tuple of str
        Other pages that may use the server.
    certificate, key : str or None
        Files for https.
    osc : int or None
        The UDP port for OSC messages.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    slots: int | None = None
    load: float = 0.85
    threads: int | None = None
    token: str | None = "auto"
    origins: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None
    osc: int | None = None


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `serve_forever`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


@dataclass
class Serving:
    """A socket that listens, and the server for it.

    Attributes
    ----------
    options : Options
    hub : Hub
    url : str
        The address for a browser, with the token.
    """

    options: Options
    hub: Hub
    url: str
    server: Server = field(repr=False)
    listener: socket.socket = field(repr=False)

    @classmethod
    def of(cls, model: Model, pieces: Mapping[str, npt.NDArray[Any]], options: Options) -> Serving:
        """Measure the machine and open the socket.

        Parameters
        ----------
        model : Model
        pieces : mapping of str to (frames, latent_dim) array
            What clients may play by name; finite.
        options : Options

        Raises
        ------
        InputError
            If the address can't be used.
        """
        listener = _listen(options.host, options.port)
        host, port = options.host, listener.getsockname()[1]
        token = options.token
        if token == "auto":
            token = None if host in LOCAL else secrets.token_urlsafe(16)
        guard = Guard(
            hosts=LOCAL | {host, socket.gethostname().lower()} - set(WILDCARDS),
            any_address=host in WILDCARDS,
            origins=frozenset(origin.rstrip("/") for origin in options.origins),
            token=token,
            port=port,
        )
        if options.slots is None:
            load, slots = measure_load(model, options.threads, options.load)
        else:
            load, slots = Load.unlimited(model), options.slots
        hub = Hub(model, pieces, slots, load, options.threads)
        scheme = "https" if options.certificate else "http"
        shown = "127.0.0.1" if host in WILDCARDS else host
        shown = f"[{shown}]" if ":" in shown else shown
        url = f"{scheme}://{shown}:{port}/" + (f"?token={token}" if token else "")
        config = uvicorn.Config(
            make_app(hub, guard),
            http="h11",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE,
            ws_per_message_deflate=False,
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
            ssl_certfile=options.certificate,
            ssl_keyfile=options.key,
            h11_max_incomplete_event_size=1 << 16,
        )
        return cls(options, hub, url, Server(config), listener)

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `close` is called."""
        async with serve_osc(self.hub, self.options.host, self.options.osc):
            task = asyncio.create_task(self.server.serve([self.listener]))
            while not self.server.started and not task.done():
                await asyncio.sleep(0.005)
            if not task.done():
                ready()
            await task

    async def close(self) -> None:
        """Refuse new sessions, tell every client, and stop serving."""
        self.hub.close_all()
        self.server.force_exit = False
        await asyncio.sleep(0.05)
        self.server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio turns off Nagle's algorithm, a delay of 40 ms, only if the protocol is named.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        raise InputError(f"{host}, port {port}: can't listen there: {error.strerror}") from error
    return listener


def serve_forever(serving: Serving, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        closing: list[asyncio.Task[None]] = []

        def stop() -> None:
            if closing:
                serving.server.force_exit = True
            closing.append(loop.create_task(serving.close()))

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        await serving.run(ready)

    asyncio.run(main())


class BackgroundServer:
    """A server in a thread of this process, for tests and notebooks; a context manager.

    Parameters
    ----------
    model : Model
    pieces : mapping of str to (frames, latent_dim) array, optional
    options : keyword arguments
        As `Options`; by default any free port.

    Attributes
    ----------
    url : str
        The server's address.
    hub : Hub
        Use it only through `call`.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> from oobleck_stream.server.serving import BackgroundServer
    >>> with BackgroundServer(ob.load("tiny"), slots=2) as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self, model: Model, pieces: Mapping[str, npt.NDArray[Any]] | None = None, **options: Any
    ) -> None:
        self._started = threading.Event()
        self._problem: BaseException | None = None
        self._model, self._pieces = model, pieces or {}
        self._options = Options(**{"port": 0, **options})
        self._thread = threading.Thread(target=self._run, name="oobleck_stream server", daemon=True)

    def __enter__(self) -> BackgroundServer:
        self._thread.start()
        self._started.wait()
        if self._problem is not None:
            raise self._problem
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._serving.close())
        self._thread.join()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._serving = Serving.of(self._model, self._pieces, self._options)
            self.url, self.hub = self._serving.url.rstrip("/"), self._serving.hub
            await self._serving.run(self._started.set)

        try:
            asyncio.run(main())
        except BaseException as error:
            self._problem = error
        finally:
            self._started.set()
