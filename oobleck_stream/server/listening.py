"""``GET /v1/listen/NAME.wav``: decodes a sound once for many listeners.

A room is a session that others listen to. Either a client shares its session, or the server plays a
piece in real time as long as somebody listens.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from oobleck_stream.arrays import FloatArray
from oobleck_stream.files.wav_header import wav_header
from oobleck_stream.server.encoding import WIDTHS, sample_bytes
from oobleck_stream.server.hub import Hub
from oobleck_stream.server.protocol import ProtocolError
from oobleck_stream.server.session import Session

BEHIND_SECONDS = 5.0
"""A listener that is further behind than this is disconnected."""

BURST_SECONDS = 0.5
"""Seconds of past sound that a new listener gets immediately, so that its player can start."""

GROUP_SECONDS = 0.1
"""Minimum seconds of sound in each chunk that is sent to listeners."""

CLOCK_SECONDS = 0.03
MAX_LISTENERS = 256
NOT_KEPT = {"Cache-Control": "no-store"}
RETRY = {"Retry-After": "5"}


@dataclass(eq=False)
class Room:
    """The most recent sound of a session, encoded once for all listeners.

    Attributes
    ----------
    end : int
        Number of bytes of sound so far.
    """

    session: Session
    sample: str
    end: int = 0
    listeners: int = 0
    closed: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: list[bytes] = field(default_factory=list)
    _chunks: deque[tuple[int, bytes]] = field(default_factory=deque)

    @property
    def byte_rate(self) -> int:
        """Bytes per second."""
        return self.session.samplerate * self.session.channels * WIDTHS[self.sample]

    def add(self, audio: FloatArray) -> None:
        """Add decoded samples, and wake the listeners when enough samples have accumulated."""
        self._waiting.append(sample_bytes(audio, self.sample))
        size = sum(map(len, self._waiting))
        if size < GROUP_SECONDS * self.byte_rate:
            return
        self._chunks.append((self.end, b"".join(self._waiting)))
        self._waiting.clear()
        self.end += size
        while self._chunks[0][0] < self.end - BEHIND_SECONDS * self.byte_rate:
            self._chunks.popleft()
        self._wake()

    def close(self) -> None:
        """End the sound of all listeners."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the sound in chunks of bytes, beginning with the last `BURST_SECONDS`.

        The sound ends when the room is closed, or when the listener is too far behind. It begins
        with a whole chunk, and therefore with a whole sample.
        """
        position = max(0, self.end - int(BURST_SECONDS * self.byte_rate))
        if self._chunks:
            position = next((start for start, _ in self._chunks if start >= position), self.end)
        while True:
            news = self.news
            if self._chunks and position < self._chunks[0][0]:
                return
            for start, data in [*self._chunks]:
                if start >= position:
                    position = start + len(data)
                    yield data
            if self.closed:
                return
            if position == self.end:
                await news.wait()


class Rooms:
    """The rooms of a server, keyed by name.

    Attributes
    ----------
    hub : Hub
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._rooms: dict[str, Room] = {}
        self._clocks: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        hub.metrics.watch("listeners", "Listeners of shared sound", lambda: self.listeners)

    @property
    def listeners(self) -> int:
        """Number of listeners in all rooms."""
        return sum(room.listeners for room in self._rooms.values())

    def require_free(self, name: str | None) -> None:
        """Raise `ProtocolError` if `name` is already in use."""
        if name is not None and self.knows(name):
            raise ProtocolError("name-taken", f"share: {name} is in use")

    def share(self, session: Session) -> None:
        """Let others listen to a session if its client gave it a name for sharing."""
        if session.share is not None:
            room = self._rooms[session.share] = Room(session, session.sample)
            session.on_audio, session.on_end = room.add, room.close

    def knows(self, name: str) -> bool:
        """Whether `name` is a piece or an open room."""
        room = self._rooms.get(name)
        return name in self.hub.pieces or (room is not None and not room.closed)

    async def join(self, name: str) -> Room | None:
        """Add a listener to a room and return the room, or None if there is no such room.

        If `name` is a piece that is not played yet, the server starts to play it.
        """
        async with self._opening:
            room = self._rooms.get(name)
            if room is not None and room.closed:
                room = None
            if room is None and name in self.hub.pieces:
                fields = {"source": name, "sample": "f32", "ahead": 1.0, "frames": False}
                session = await self.hub.open({**fields, "seconds": 0.0, "loop": True})
                session.share = name
                self.share(session)
                room = self._rooms[name]
                self._clocks[name] = asyncio.create_task(self._play(session))
            if room is not None:
                room.listeners += 1
            return room

    async def leave(self, name: str, room: Room) -> None:
        """Remove a listener from a room. A piece without listeners is stopped."""
        room.listeners -= 1
        if room.listeners == 0 and name in self._clocks and self._rooms.get(name) is room:
            self._clocks.pop(name).cancel()
            await self.hub.forget(room.session)
        if room.closed and self._rooms.get(name) is room:
            del self._rooms[name]

    async def _play(self, session: Session) -> None:
        """Act as a session's client: mark the session's samples as heard as real time passes."""
        start = time.monotonic()
        while session.id in self.hub.sessions and session.closing is None:
            # No client gets the samples. So mark all decoded samples as sent, and mark them as
            # heard in real time.
            session.sent = session.made
            session.controls.clear()
            passed = int((time.monotonic() - start) * session.samplerate)
            session.hear(min(session.made, passed))
            self.hub.wake()
            await asyncio.sleep(CLOCK_SECONDS)

    def close_all(self) -> None:
        """End every listener's sound."""
        for clock in self._clocks.values():
            clock.cancel()
        for room in self._rooms.values():
            room.close()


class _Sound(StreamingResponse):
    """A response with the sound of a room. When it ends for any reason, the listener leaves."""

    def __init__(self, rooms: Rooms, name: str, room: Room) -> None:
        model = rooms.hub.model
        header = wav_header(model.samplerate, model.channels, WIDTHS[room.sample], None)
        super().__init__(_sound(header, room), media_type="audio/wav", headers=NOT_KEPT)
        self._rooms, self._name, self._room = rooms, name, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._rooms.leave(self._name, self._room))


async def _sound(header: bytes, room: Room) -> AsyncIterator[bytes]:
    yield header
    async for chunk in room.chunks():
        yield chunk


async def listen(request: Request) -> Response:
    """Answer a request to listen."""
    rooms: Rooms = request.app.state.rooms
    name = request.path_params["name"]
    if not rooms.knows(name):
        return JSONResponse({"error": "there is no such piece or shared session"}, 404)
    if request.method == "HEAD":
        return Response(media_type="audio/wav", headers=NOT_KEPT)
    if rooms.listeners >= MAX_LISTENERS:
        return JSONResponse({"error": "too many listeners: try later"}, 503, RETRY)
    try:
        room = await rooms.join(name)
    except ProtocolError as error:
        return JSONResponse({"error": error.message}, 503, RETRY)
    if room is None:
        return JSONResponse({"error": "there is no such piece or shared session"}, 404)
    return _Sound(rooms, name, room)
