"""Assigns the streams of one `MultiStreamDecoder` to sessions, and decodes in a thread.

The decoder's calls run one after another in that thread. Everything else runs in the event loop.
`Seats.turn` is held during a call, so that no session can change its stream in the meantime.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server.admission import Load
from oobleck_stream.server.metrics import Metrics
from oobleck_stream.server.protocol import TRY_LATER, ProtocolError
from oobleck_stream.server.session import Epoch, Session
from oobleck_stream.server.sources import Source, Stored

IDLE_SECONDS = 30.0
"""If a session has had nothing to decode for this long, another session may get its stream."""

Result = TypeVar("Result")


def busy(message: str = "no more streams can be decoded in real time here: try later") -> Exception:
    """Return the error with which a session is refused because the server is fully loaded."""
    return ProtocolError("busy", message, TRY_LATER)


class Seats:
    """The streams of one decoder. Each is either free or used by a session.

    Parameters
    ----------
    model : Model
    slots : int
        Number of streams.
    load : Load
        Decides whether one more session can be decoded in real time.
    threads : int, optional
        Number of threads of the decoder.
    metrics : Metrics, optional
    clock : callable, optional

    Attributes
    ----------
    decoder : MultiStreamDecoder
    sessions : list of Session or None
        For each stream, the session that uses it, or None if it is free.
    turn : asyncio.Lock
        Must be held while the decoder is used.
    closing : bool
        Whether the server is closing, and therefore refuses every new session.
    """

    def __init__(
        self,
        model: Model,
        slots: int,
        load: Load,
        threads: int | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decoder = MultiStreamDecoder(model, slots, threads)
        self.sessions: list[Session | None] = [None] * slots
        self.turn = asyncio.Lock()
        self.closing = False
        self._model, self._load, self._clock = model, load, clock
        self._metrics = metrics or Metrics()
        self._thread = ThreadPoolExecutor(1, "oobleck_stream decoding")

    @property
    def used(self) -> int:
        """Number of sessions that currently need their stream."""
        return sum(self._is_active(session) for session in self.sessions if session)

    @property
    def full(self) -> bool:
        """Whether another session would be refused."""
        used = self.used
        return self.closing or used >= len(self.sessions) or not self._load.admits(used + 1)

    def require_room(self) -> None:
        """If another session would be refused, raise a `ProtocolError` that says why."""
        if self.full:
            self._metrics.refused.inc()
            if self.closing:
                raise ProtocolError("closing", "the server is closing", TRY_LATER)
            raise busy()

    async def seat(self, session: Session) -> None:
        """Give a session a stream of the decoder, and restore the state in which it was parked.

        Nothing happens if the session already has a stream.

        Raises
        ------
        ProtocolError
            If no stream is available for the session.
        """
        session.used_at = self._clock()
        if session.slot is not None:
            return
        self.require_room()
        if None not in self.sessions:
            resting = [other for other in self.sessions if other and not self._is_active(other)]
            await self.park(min(resting, key=lambda other: other.used_at))
        slot = self.sessions.index(None)
        self.sessions[slot], session.slot, session.seated_at = session, slot, self._clock()
        if session.state is not None:
            await self.call(self.decoder.restore, session.state, slot)
            session.state = None
        else:
            self.decoder.reset(slot)

    async def park(self, session: Session) -> None:
        """Save the state of a session's stream, and free the stream."""
        assert session.slot is not None
        if not session.overflowed:
            session.state = await self.call(self.decoder.snapshot, session.slot)
        self.free(session)

    def free(self, session: Session) -> None:
        """Free a session's stream, if it has one. The stream's state is lost."""
        if session.slot is not None:
            self.decoder.reset(session.slot)
            self.sessions[session.slot] = None
            session.slot = None

    async def begin(self, session: Session, source: Source, frame: int, jump: bool = False) -> None:
        """Start a session's stream at a frame of a source.

        Parameters
        ----------
        session : Session
            A session that has a stream.
        source : Source
        frame : int
            Index of the frame.
        jump : bool
            Whether the client asked for this. It then drops the samples that it has not played.
        """
        assert session.slot is not None
        first = await self.call(self.decoder.seek, frame, session.slot)
        if isinstance(source, Stored):
            source.position = first
        session.source = source
        seconds = frame / self._model.config.frame_rate
        epoch = Epoch(session.made, session.fed, source.name, seconds, first, jump)
        skipped = (frame - first) * self._model.hop
        session.begin(epoch, self._model.latency + skipped, self._model.hop)
        session.tell(epoch.as_message())

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call the decoder in its thread.

        The call can't be interrupted. If the task is cancelled, it still waits for the call.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, function, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def shutdown(self) -> None:
        """End the decoding thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _is_active(self, session: Session) -> bool:
        """Whether a session is active and was decoded within the last `IDLE_SECONDS`."""
        return session.active and self._clock() - session.used_at < IDLE_SECONDS
