"""``POST /v1/decode``: returns sound while the request's frames are still arriving.

The body has the format that `oobleck_stream decode -` reads: an `.npy` file or raw float32 frames.
Reading it blocks, so a separate thread reads it. The event loop passes the bytes that arrive to
that thread.

The endpoint is a plain ASGI application. A framework's streaming response would consume the
request's body while it waits for the client to disconnect.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import InputError
from oobleck_stream.files import axis_order
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.latents_pipe import LatentPipe
from oobleck_stream.files.wav_header import HEADER_BYTES, wav_header
from oobleck_stream.server.encoding import WIDTHS, sample_bytes
from oobleck_stream.server.hub import Hub
from oobleck_stream.server.protocol import PUSH, ProtocolError
from oobleck_stream.server.session import Session
from oobleck_stream.server.waiting import within

AHEAD_SECONDS = 2.0
"""Decoding pauses while the unsent sound is at least this long, in seconds."""

MAX_WAITING = 4 << 20
"""The server stops receiving a body while at least this number of its bytes are unread. While fewer
bytes are unread, the server notices immediately when the client disconnects."""

MAX_WHOLE = 64 << 20
"""Maximum bytes of an array that is stored channel by channel, and can't be decoded as it comes."""

BODY_SECONDS = 300.0
"""Maximum seconds between two parts of a body."""


async def _received(receive: Receive) -> Message:
    return await receive()


class BodyReader:
    """Passes the bytes of a body from the event loop to the thread that reads them.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The event loop in which `feed` is called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended: InputError | bool = False
        self._changed = threading.Condition()
        self._room = asyncio.Event()

    async def feed(self, piece: bytes) -> None:
        """Append bytes. This waits while `MAX_WAITING` bytes or more have not been read."""
        while self._size >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        if piece:
            with self._changed:
                self._pieces.append(piece)
                self._size += len(piece)
                self._changed.notify()

    def end(self, problem: str = "") -> None:
        """Mark the end of the body. If `problem` is not empty, `read` raises an `InputError`."""
        with self._changed:
            if not self._ended:
                self._ended = InputError(problem) if problem else True
            self._changed.notify()

    def read(self, size: int = 1 << 16) -> bytes:
        """Wait for bytes and return at most `size` of them. Empty bytes mean the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._ended)
            if isinstance(self._ended, InputError):
                raise self._ended
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            self._size -= len(piece)
        self._loop.call_soon_threadsafe(self._room.set)
        return piece


@dataclass
class Answer:
    """The options of a request to ``/v1/decode``, from its query string.

    Attributes
    ----------
    container : {"wav", "raw"}
        The format of the response.
    sample : {"f32", "s16"}
        The format of the samples in the response.
    layout : {"tc", "ct"} or None
        The axis order of the latents in the request. None means that it is inferred.
    """

    container: str = "wav"
    sample: str = "f32"
    layout: AxisOrder | None = None

    @classmethod
    def of(cls, query: bytes) -> Answer:
        """Parse a query string. Raise a ``ValueError`` if a parameter or its value is unknown."""
        choices = {"format": ("wav", "raw"), "sample": tuple(WIDTHS), "layout": ("tc", "ct")}
        fields: dict[str, Any] = {}
        for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items():
            if name not in choices:
                raise ValueError(f"unknown parameter; there are: {', '.join(choices)}")
            if len(values) > 1 or values[0] not in choices[name]:
                raise ValueError(f"{name}: one of {', '.join(choices[name])} was expected")
            fields["container" if name == "format" else name] = values[0]
        return cls(**fields)

    def headers(self, hub: Hub, samples: int | None) -> dict[str, str]:
        """Return the response's headers. `samples` is its length, or None if that is unknown."""
        model = hub.model
        kind = "audio/wav" if self.container == "wav" else "application/octet-stream"
        headers = {
            "content-type": kind,
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-samplerate": str(model.samplerate),
            "x-channels": str(model.channels),
            "x-sample": self.sample,
        }
        if samples is not None:
            size = samples * model.channels * WIDTHS[self.sample]
            size += HEADER_BYTES if self.container == "wav" else 0
            headers["content-length"] = str(size)
        return headers


class DecodeEndpoint:
    """The ASGI application that answers all requests to ``/v1/decode``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = Answer.of(scope["query_string"])
        except ValueError as error:
            return await JSONResponse({"error": str(error)}, 400)(scope, receive, send)
        fields = {"source": PUSH, "sample": answer.sample, "ahead": AHEAD_SECONDS}
        try:
            session = await self._hub.open(
                {**fields, "frames": False, "seconds": 0.0, "loop": False}
            )
        except ProtocolError as error:
            headers = {"Retry-After": "5"}
            return await JSONResponse({"error": error.message}, 503, headers)(scope, receive, send)
        session.kept = None
        request = _Request(self._hub, session, answer)
        try:
            await request.run(scope, receive, send)
        finally:
            request.stop()
            await self._hub.forget(session)


class _Request:
    """A request that is being answered."""

    def __init__(self, hub: Hub, session: Session, answer: Answer) -> None:
        self._hub, self._session, self._answer = hub, session, answer
        self._loop = asyncio.get_running_loop()
        self._body = BodyReader(self._loop)
        self._problem: tuple[int, str] | None = None
        self._count: int | None = None
        self._gone = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and send the sound, until the sound ends or the client leaves."""
        thread = threading.Thread(target=self._read_frames, name="oobleck_stream body", daemon=True)
        thread.start()
        self._tasks.append(asyncio.create_task(self._receive(receive)))
        started = False
        async for chunk in self._chunks():
            if not started:
                await self._start(send)
                started = True
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self._gone:
            return
        if self._problem is None:
            if not started:
                await self._start(send)
            await send({"type": "http.response.body", "body": b""})
        elif not started:
            status, message = self._problem
            await JSONResponse({"error": message}, status)(scope, receive, send)
        # If a problem occurs after the start, the response stays incomplete. The client can detect
        # this.

    def stop(self) -> None:
        """End the thread and the tasks."""
        self._body.end("the client has left")
        self._session.closing = self._session.closing or ProtocolError("closing", "done")
        self._session.room.set()
        for task in self._tasks:
            task.cancel()

    async def _receive(self, receive: Receive) -> None:
        """Pass the body to its reader, and note when the client has left."""
        while True:
            try:
                message = await within(BODY_SECONDS, _received(receive))
            except TimeoutError:
                self._body.end(f"nothing came for {BODY_SECONDS:.0f} s")
                return
            if message["type"] == "http.disconnect":
                self._gone = True
                self._body.end("the client has left")
                self._session.awake.set()
                return
            await self._body.feed(message.get("body", b""))
            if not message.get("more_body"):
                self._body.end()

    async def _start(self, send: Send) -> None:
        """Send the HTTP headers of the response. For a WAV file, also send the file's header."""
        model, answer = self._hub.model, self._answer
        samples = None if self._count is None else model.decoded_length(self._count)
        headers = answer.headers(self._hub, samples)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if answer.container == "wav":
            header = wav_header(model.samplerate, model.channels, WIDTHS[answer.sample], samples)
            await send({"type": "http.response.body", "body": header, "more_body": True})

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Yield the samples as bytes until the stream ends or a problem occurs."""
        session = self._session
        while not self._gone:
            session.awake.clear()
            chunk = session.take_unsent()
            if chunk is not None:
                first, audio = chunk
                yield sample_bytes(audio, self._answer.sample)
                session.hear(first + len(audio))
                self._hub.metrics.sent.inc(audio.nbytes)
                self._hub.wake()
                continue
            if session.closing is not None:
                self._problem = self._problem or (503, session.closing.message)
            elif session.overflowed:
                told = [message for message in session.controls if message["type"] == "overflow"]
                self._problem = (422, str(told[0]["message"]))
            if self._problem is not None or session.flushed:
                return
            await session.awake.wait()

    # Reading frames: `_read_frames` and `_require_streamable` run in a separate thread.

    def _read_frames(self) -> None:
        problem = None
        try:
            pipe = LatentPipe(self._body, "body")
            dim, layout = self._hub.model.latent_dim, self._answer.layout
            self._count = pipe.count(dim, layout)
            self._require_streamable(pipe)
            block = min(256, 8 * self._hub.ticks.block)
            for frames in pipe.blocks(dim, layout, block):
                asyncio.run_coroutine_threadsafe(self._put(frames), self._loop).result()
        except InputError as error:
            problem = (400, str(error))
        except (ProtocolError, MemoryError) as error:
            problem = (413, str(error))
        with suppress(RuntimeError):  # the loop may be closed
            self._loop.call_soon_threadsafe(self._end, problem)

    def _require_streamable(self, pipe: LatentPipe) -> None:
        """Refuse a large array in which the first frame is complete only at the end of the body."""
        header = pipe.header
        if header is None or header.size_in_bytes <= MAX_WHOLE:
            return
        dim, layout = self._hub.model.latent_dim, self._answer.layout
        _, time_first = axis_order.time_first(header.shape, dim, layout, "body")
        if time_first == header.fortran:
            raise ProtocolError(
                "too-big", f"frames one after another were expected, or up to {MAX_WHOLE} bytes"
            )

    async def _put(self, frames: FloatArray) -> None:
        """Wait until the session has room for the frames, then append them."""
        pushed, session = self._session.pushed, self._session
        while pushed.received + len(frames) > pushed.frames_until:
            if session.closing is not None:
                raise ProtocolError("closing", session.closing.message)
            session.room.clear()
            self._hub.wake()
            await session.room.wait()
        pushed.put(pushed.received, frames)
        self._hub.wake()

    def _end(self, problem: tuple[int, str] | None) -> None:
        """Note that the body has ended, and with which problem, if any."""
        self._problem = self._problem or problem
        if problem is None:
            self._session.pushed.end()
        self._session.awake.set()
        self._hub.wake()
