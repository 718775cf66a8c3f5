"""Runs the server: opens the socket, runs uvicorn, and shuts down cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import sys
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
EARLY_SHARE = 0.25
"""The default look-ahead of early sessions, as a share of the network's latency."""

MAX_CONNECTIONS = 512
CLOSE_SECONDS = 1.0
"""Maximum time that connections may take to close."""

WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Options:
    """The settings of a server.

    Attributes
    ----------
    host, port
        The address to listen on. Port 0 means any free port.
    slots : int or None
        Maximum number of sessions that are decoded at the same time. By default, this is the number
        that the machine can decode in real time.
    load : float
        The share of real time that steady pushes for all slots may take. If `slots` is None, it
        determines the number of slots when the server starts.
    threads : int or None
    look_ahead : int or None
        Look-ahead of early sessions in samples. None means that all sessions are exact.
    token : str or None
        The token that clients need, or None if they need none. ``"auto"`` means no token if `host`
        is a local address, and otherwise a new random token.
    origins : tuple of str
        Origins of other pages that may use the server.
    certificate, key : str or None
        Paths of the files for https.
    osc : int or None
        The UDP port for OSC messages. None means that no OSC messages are received.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    slots: int | None = None
    load: float = 0.85
    threads: int | None = None
    look_ahead: int | None = None
    token: str | None = "auto"
    origins: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None
    osc: int | None = None


class Server(uvicorn.Server):
    """A uvicorn server that does not handle signals, because `serve_forever` does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


@dataclass
class Serving:
    """A listening socket, and the server that uses it.

    Attributes
    ----------
    options : Options
    hub : Hub
    url : str
        The address to open in a browser, including the token.
    """

    options: Options
    hub: Hub
    url: str
    server: Server = field(repr=False)
    listener: socket.socket = field(repr=False)

    @classmethod
    def of(cls, model: Model, pieces: Mapping[str, npt.NDArray[Any]], options: Options) -> Serving:
        """Open the socket, measure the machine's speed, and return the server, ready to run.

        Parameters
        ----------
        model : Model
        pieces : mapping of str to (frames, latent_dim) array
            The pieces that clients may play, keyed by name. All values must be finite.
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
        whole = options.look_ahead is None or options.look_ahead >= model.latency
        look_ahead = None if whole else options.look_ahead
        if options.slots is None:
            load, slots = measure_load(model, options.threads, options.load, look_ahead)
        else:
            load, slots = Load.unlimited(model), options.slots
        hub = Hub(model, pieces, slots, load, options.threads, look_ahead)
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
        """Refuse new sessions, close the sessions of all clients, and stop serving."""
        self.hub.close_all()
        self.server.force_exit = False
        await asyncio.sleep(0.05)
        self.server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Name the protocol. Otherwise asyncio leaves Nagle's algorithm on, which delays by 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # This option allows a port whose last connections have just ended. On Windows, it would
        # also allow a port on which another program listens.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        raise InputError(f"{host}, port {port}: can't listen there: {error.strerror}") from error
    return listener


def serve_forever(serving: Serving, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM. A second signal ends the server immediately."""

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
    """A server in a thread of this process, for tests and notebooks.

    It is a context manager, which runs the server during the block.

    Parameters
    ----------
    model : Model
    pieces : mapping of str to (frames, latent_dim) array, optional
    options : keyword arguments
        The fields of `Options`. By default, `port` is 0, which means any free port.

    Attributes
    ----------
    url : str
        The server's address.
    hub : Hub
        Use it only in coroutines that are run by `call`.

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
