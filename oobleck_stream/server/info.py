"""Describes the server's model, sources and load to clients."""

from __future__ import annotations

from typing import Any

from oobleck_stream.server.hub import Hub
from oobleck_stream.server.instrument import DIRECTIONS
from oobleck_stream.server.protocol import (
    INSTRUMENT,
    MAX_AHEAD,
    MAX_MESSAGE,
    MIN_AHEAD,
    PUSH,
    SUBPROTOCOL,
)
from oobleck_stream.server.session import Session
from oobleck_stream.version import __version__


def server_info(hub: Hub) -> dict[str, Any]:
    """Return the content of ``/v1/info``.

    ``hop``, ``latency`` and ``look_ahead`` are in samples, and ``block`` is in frames.
    ``look_ahead`` is that of early sessions. If the server has no early sessions, it equals
    ``latency``.
    """
    model = hub.model
    pieces = [
        {
            "name": name,
            "frames": len(frames),
            "seconds": model.decoded_length(len(frames)) / model.samplerate,
        }
        for name, frames in hub.pieces.items()
    ]
    instrument = None
    if hub.bank:
        points = [{"name": name, "x": x, "y": y} for name, (x, y) in hub.bank.points.items()]
        instrument = {"points": points, "directions": DIRECTIONS}
    return {
        "version": __version__,
        "protocol": SUBPROTOCOL,
        "model": model.name,
        "latent_dim": model.latent_dim,
        "hop": model.hop,
        "samplerate": model.samplerate,
        "channels": model.channels,
        "frame_rate": model.config.frame_rate,
        "latency": model.latency,
        "look_ahead": (hub.seats.early or hub.seats.exact).latency,
        "context": model.context,
        "block": hub.ticks.block,
        "slots": len(hub.seats.sessions),
        "used": hub.seats.used,
        "load": round(hub.busy_share, 3),
        "sources": [PUSH, *hub.pieces, *([INSTRUMENT] if hub.bank else [])],
        "pieces": pieces,
        "instrument": instrument,
        "ahead": [MIN_AHEAD, MAX_AHEAD],
        "max_message": MAX_MESSAGE,
    }


def ready_message(hub: Hub, session: Session, resumed_at: int | None) -> dict[str, Any]:
    """Return the first message to a client whose session was opened or resumed.

    For a resumed session, `resumed_at` is the index of the first sample that will be sent. For a
    new session, it is None.
    """
    return {
        "type": "ready",
        "session": session.id,
        "resumed_at": resumed_at,
        "frames_in": session.pushed.received,
        "frames_until": session.pushed.frames_until,
        "sample": session.sample,
        "ahead": session.ahead / session.samplerate,
        "epoch": session.epoch.__dict__,
        "info": server_info(hub),
    }


def status_message(hub: Hub, session: Session) -> dict[str, Any]:
    """Return the message that reports the load.

    It is sent twice a second, except while the session is paused.
    """
    return {
        "type": "status",
        "load": round(hub.busy_share, 3),
        "used": hub.seats.used,
        "slots": len(hub.seats.sessions),
        "late": hub.load.late,
        "decoded": session.made,
        "kept": session.kept is not None and not session.kept.full,
    }
