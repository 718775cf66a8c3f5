"""Controls the instrument by OSC messages, with the same controls as on the page.

A message applies to all sessions that play the instrument. Their pages display the new settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from oobleck_stream.errors import InputError
from oobleck_stream.server.hub import Hub
from oobleck_stream.server.instrument import Instrument
from oobleck_stream.server.protocol import CONTROLS
from oobleck_stream.server.session import Session

ADDRESSES = ("/x", "/y", "/weight", "/offset", "/speed", "/freeze", "/play", "/pause")


def control(address: str, arguments: tuple[Any, ...], weights: dict[str, float]) -> dict[str, Any]:
    """Translate an OSC message to the fields of a ``set`` message.

    Parameters
    ----------
    address : str
        One of `ADDRESSES`, except ``/play`` and ``/pause``.
    arguments : tuple
        The value. For ``/weight``, the name of a piece comes before it. For ``/offset``, the number
        of a direction, counted from 1, comes before it.
    weights : dict
        The current weights. ``/weight`` changes one of them.

    Raises
    ------
    ValueError
        If an argument is missing or wrong.
    """
    name, *values = address[1:], *arguments
    if name == "weight" and len(values) == 2:
        fields: dict[str, Any] = {"weights": {**weights, str(values[0]): values[1]}}
    elif name == "offset" and len(values) == 2:
        fields = {"offset": {str(values[0]): values[1]}}
    elif name == "freeze" and len(values) == 1:
        fields = {"freeze": bool(values[0])}
    elif name in ("x", "y", "speed") and len(values) == 1:
        fields = {name: values[0]}
    else:
        raise ValueError(f"{address}: the addresses are: {', '.join(ADDRESSES)}")
    checks = CONTROLS["set"]
    return {key: checks[key][0](value) for key, value in fields.items()}


def _weights(source: Instrument, pieces: list[str]) -> dict[str, float]:
    return dict(source.settings.weights or dict.fromkeys(pieces, 0.0))


def handle(hub: Hub, address: str, arguments: tuple[Any, ...]) -> None:
    """Apply an OSC message to every session that plays the instrument.

    A message with a wrong address or wrong arguments is ignored.
    """
    players = [
        session for session in hub.sessions.values() if isinstance(session.source, Instrument)
    ]
    for session in players:
        try:
            _apply(hub, session, address, arguments)
        except ValueError:
            return
    hub.wake()


def _apply(hub: Hub, session: Session, address: str, arguments: tuple[Any, ...]) -> None:
    if address in ("/play", "/pause"):
        session.tell({"type": address[1:]})
        return
    source = session.source
    assert isinstance(source, Instrument)
    fields = control(address, arguments, _weights(source, list(hub.pieces)))
    source.settings = source.settings.changed(fields)
    session.settings_told = False
    session.awake.set()


@asynccontextmanager
async def serve_osc(hub: Hub, host: str, port: int | None) -> AsyncIterator[None]:
    """Listen for OSC messages during the block. If `port` is None, do nothing.

    Raises
    ------
    InputError
        If the port can't be used.
    """
    if port is None:
        yield
        return
    from pythonosc.dispatcher import Dispatcher
    from pythonosc.osc_server import AsyncIOOSCUDPServer

    dispatcher = Dispatcher()
    dispatcher.set_default_handler(_handler(hub))
    server = AsyncIOOSCUDPServer((host, port), dispatcher, asyncio.get_running_loop())  # type: ignore[arg-type]
    try:
        transport, _ = await server.create_serve_endpoint()
    except OSError as error:
        raise InputError(f"--osc {port}: can't listen there: {error.strerror}") from error
    try:
        yield
    finally:
        transport.close()


def _handler(hub: Hub) -> Callable[..., None]:
    return lambda address, *arguments: handle(hub, address, arguments)
