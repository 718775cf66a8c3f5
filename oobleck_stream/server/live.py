"""``WS /v1/session``: reads a client's messages, and sends the results of the client's session."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from oobleck_stream.server.hub import Hub
from oobleck_stream.server.info import ready_message, status_message
from oobleck_stream.server.instrument import Instrument
from oobleck_stream.server.listening import Rooms
from oobleck_stream.server.protocol import (
    GOING_AWAY,
    NORMAL,
    SILENT,
    SUBPROTOCOL,
    TRY_LATER,
    Control,
    ProtocolError,
    error_message,
    pack_decoded,
    pack_samples,
    parse_frames,
    parse_text,
)
from oobleck_stream.server.session import Session
from oobleck_stream.server.waiting import wait_until_set, within

OPEN_SECONDS = 10.0
"""How long a client may take to open or resume a session after connecting."""

SILENT_SECONDS = 900.0
"""How long a client may send nothing before its connection is closed."""

STATUS_SECONDS = 0.5
RETRY_SECONDS = "5"
RESUMABLE = (GOING_AWAY, TRY_LATER)
"""If the server closes a connection with one of these codes, the client may resume the session."""


async def serve_session(websocket: WebSocket) -> None:
    """Answer one connection."""
    hub: Hub = websocket.app.state.hub
    offered = websocket.scope["subprotocols"]
    if offered and SUBPROTOCOL not in offered:
        answer = {"error": f"the subprotocol is {SUBPROTOCOL}"}
        await websocket.send_denial_response(JSONResponse(answer, 400))
        return
    # If the client is not a browser, refuse it with an HTTP status. A browser would hide the status
    # from the page, so accept its connection, and report the error in a message.
    if (
        hub.seats.full()
        and "origin" not in websocket.headers
        and "resume" not in websocket.query_params
    ):
        hub.metrics.refused.inc()
        answer = {"error": "no more streams can be decoded in real time here: try later"}
        headers = {"Retry-After": RETRY_SECONDS}
        await websocket.send_denial_response(JSONResponse(answer, 503, headers))
        return
    await websocket.accept(SUBPROTOCOL if offered else None)
    await _Connection(websocket, hub, websocket.app.state.rooms).run()


class _Connection:
    """A connection, and the session that it has opened or resumed."""

    def __init__(self, websocket: WebSocket, hub: Hub, rooms: Rooms) -> None:
        self._websocket, self._hub, self._rooms = websocket, hub, rooms
        self._session: Session | None = None
        self._number = 0

    async def run(self) -> None:
        """Open or resume a session, then read and write until one of the two ends."""
        keep = True
        tasks: list[asyncio.Task[bool]] = []
        try:
            await self._enter()
            tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            keep = all(task.result() for task in done)
        except ProtocolError as error:
            keep = error.close in RESUMABLE
            await self._stop(tasks)
            await self._refuse(error)
        except (WebSocketDisconnect, ConnectionError):
            keep = True
        finally:
            await self._stop(tasks)
            await self._exit(keep)

    async def _stop(self, tasks: list[asyncio.Task[bool]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _exit(self, keep: bool) -> None:
        """Park the session if `keep`, else end it. Do nothing if another connection has it now."""
        session = self._session
        if session is None or session.connection != self._number:
            return
        if keep:
            await self._hub.leave(session)
        else:
            await self._hub.forget(session)

    async def _refuse(self, error: ProtocolError) -> None:
        """Send an error message and close the connection."""
        if self._websocket.client_state != WebSocketState.CONNECTED:
            return
        await self._send_text(error_message(error.code, error.message))
        await self._websocket.close(error.close or NORMAL, error.code)

    async def _receive(self, seconds: float) -> str | bytes | int:
        """Return the next message, or the code with which the client closed the connection."""
        try:
            message = await within(seconds, _received(self._websocket))
        except TimeoutError:
            raise ProtocolError("silent", f"nothing came for {seconds:.0f} s", SILENT) from None
        if message["type"] == "websocket.disconnect":
            return int(message.get("code") or NORMAL)
        text = message.get("text")
        return message["bytes"] if text is None else str(text)

    async def _enter(self) -> None:
        """Open or resume a session, as the first message requests."""
        message = await self._receive(OPEN_SECONDS)
        if isinstance(message, int):
            return
        control = parse_text(message) if isinstance(message, str) else None
        if control is None or control.kind not in ("open", "resume"):
            raise ProtocolError("bad-message", "open or resume was expected first")
        fields = control.fields
        if control.kind == "open":
            self._rooms.require_free(fields["share"])
            session, resumed_at = await self._hub.open(fields), None
            self._rooms.share(session)
        else:
            session = await self._hub.resume(fields["session"], fields["have"])
            resumed_at = session.sent
            if session.flushed:
                session.tell({"type": "end", "sample": session.made})
        session.controls.appendleft(ready_message(self._hub, session, resumed_at))
        session.awake.set()
        self._session, self._number = session, session.connection

    # Reading

    async def _read(self) -> bool:
        """Handle messages until the connection ends. Return whether to keep the session."""
        session = self._session
        while session is not None:
            message = await self._receive(SILENT_SECONDS)
            if isinstance(message, int):
                return message != NORMAL
            try:
                if isinstance(message, bytes):
                    parsed = parse_frames(message, self._hub.model.latent_dim)
                    session.pushed.put(parsed.first, parsed.frames)
                    self._hub.wake()
                elif not await self._control(session, parse_text(message)):
                    return False
            except ProtocolError as error:
                if error.close is not None:
                    raise
                session.tell(error_message(error.code, error.message))
        return False

    async def _control(self, session: Session, control: Control) -> bool:
        """Handle a text message. Return whether the session continues."""
        hub, kind, fields = self._hub, control.kind, control.fields
        if kind == "heard":
            self._hear(session, fields)
        elif kind == "set":
            self._set(session, fields)
        elif kind == "seek":
            await hub.seek(session, fields["source"], fields["seconds"], fields["frame"])
        elif kind == "reset":
            await hub.seek(session, None, None, 0)
        elif kind in ("pause", "play"):
            session.paused = kind == "pause"
            session.heard_at = session.clock()
        elif kind == "loop":
            session.looping = fields["on"]
        elif kind == "end":
            session.pushed.end()
        elif kind == "snapshot":
            state = await hub.snapshot(session)
            session.tell({"type": "snapshot", "state": state})
        elif kind == "restore":
            await hub.restore(session, fields["state"])
        elif kind == "close":
            return False
        else:
            raise ProtocolError("bad-message", f"{kind}: the session is open already")
        hub.wake()
        return True

    def _hear(self, session: Session, fields: dict[str, Any]) -> None:
        session.hear(fields["sample"])
        new = min(fields["underruns"] - session.underruns, 1000)
        if new > 0:
            session.underruns = fields["underruns"]
            self._hub.metrics.underruns.inc(new)

    def _set(self, session: Session, fields: dict[str, Any]) -> None:
        source = session.source
        if not isinstance(source, Instrument):
            raise ProtocolError("bad-message", "set: the source is not the instrument", None)
        try:
            source.settings = source.settings.changed(fields)
        except ValueError as error:
            raise ProtocolError("bad-message", f"set: {error}", None) from None
        session.settings_told = False
        session.awake.set()

    # Writing

    async def _write(self) -> bool:
        """Send what the session produces. Return whether to keep the session afterwards."""
        session, status_at = self._session, time.monotonic()
        while session is not None and session.connection == self._number:
            session.awake.clear()
            if session.closing is not None:
                raise session.closing
            while session.controls:
                await self._send_text(session.controls.popleft())
            await self._write_progress(session)
            if time.monotonic() - status_at >= STATUS_SECONDS:
                status_at = time.monotonic()
                if not session.paused:
                    await self._send_text(status_message(self._hub, session))
            if not await self._write_numbers(session):
                await wait_until_set(session.awake, STATUS_SECONDS)
        return True

    async def _write_progress(self, session: Session) -> None:
        """Tell the client how many frames it may send, and from which frame new settings apply."""
        until = session.pushed.frames_until
        waited = until - session.frames_told
        if session.source is session.pushed and (
            waited >= 4 * self._hub.ticks.block or (waited and not session.pushed.available)
        ):
            session.frames_told = until
            await self._send_text({"type": "more", "frames_until": until})
        if not session.settings_told and isinstance(session.source, Instrument):
            session.settings_told = True
            fields = session.source.settings.as_fields()
            await self._send_text({"type": "set_at", "frame": session.fed, **fields})

    async def _write_numbers(self, session: Session) -> bool:
        """Send the decoded frames and samples. Return whether there were any."""
        decoded = session.pop_decoded()
        if decoded is not None:
            await self._websocket.send_bytes(pack_decoded(*decoded))
        chunk = session.take_unsent()
        if chunk is not None:
            message = pack_samples(*chunk, session.sample)
            self._hub.metrics.sent.inc(len(message))
            await self._websocket.send_bytes(message)
        return decoded is not None or chunk is not None

    async def _send_text(self, message: dict[str, Any]) -> None:
        await self._websocket.send_text(json.dumps(message))


async def _received(websocket: WebSocket) -> Message:
    return await websocket.receive()
