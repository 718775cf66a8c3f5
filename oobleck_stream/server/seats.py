"""Assigns the streams of the decoders to sessions, and decodes in a thread.

There is an exact decoder and, if the server offers early sound, an early decoder with equally many
streams. All calls of the decoders run one after another in the decoding thread. Everything else
runs in the event loop. `Seats.turn` is held during a call, so that no session can change its stream
in the meantime.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server.admission import Load, early_decoder
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
    """The slots of a server. Each slot is either free or used by a session.

    A slot consists of a stream of the exact decoder and a stream of the early decoder, if there is
    one. A session uses one of the two streams at a time.

    Parameters
    ----------
    model : Model
    slots : int
        Number of slots.
    load : Load
        Decides whether one more session can be decoded in real time.
    threads : int, optional
        Number of threads of the decoders.
    look_ahead : int, optional
        Look-ahead of early sessions in samples. By default, all sessions are exact.
    metrics : Metrics, optional
    clock : callable, optional

    Attributes
    ----------
    exact : MultiStreamDecoder
    early : MultiStreamDecoder or None
        The decoder of early sessions.
    sessions : list of Session or None
        For each slot, the session that uses it, or None if it is free.
    turn : asyncio.Lock
        Must be held while a decoder is used.
    closing : bool
        Whether the server is closing, and therefore refuses every new session.
    """

    def __init__(
        self,
        model: Model,
        slots: int,
        load: Load,
        threads: int | None = None,
        look_ahead: int | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.exact = MultiStreamDecoder(model, slots, threads)
        self.early = None
        if look_ahead is not None:
            self.early = early_decoder(model, slots, threads, look_ahead)
        self.sessions: list[Session | None] = [None] * slots
        self.turn = asyncio.Lock()
        self.closing = False
        self._model, self._load, self._clock = model, load, clock
        self._metrics = metrics or Metrics()
        self._thread = ThreadPoolExecutor(1, "oobleck_stream decoding")

    @property
    def used(self) -> int:
        """Number of sessions that currently need their slot."""
        return sum(self.demand())

    def full(self, early: bool = False) -> bool:
        """Whether another session would be refused. `early` is whether that session is early."""
        demand = self.demand()
        if self.closing or sum(demand) >= len(self.sessions):
            return True
        return not self._load.admits(demand[0] + (not early), demand[1] + early)

    def demand(self, but: Session | None = None) -> tuple[int, int]:
        """Return the numbers of exact and of early sessions that currently need their slot.

        The session `but` is not counted.
        """
        active = [one for one in self.sessions if one and one is not but and self._is_active(one)]
        early = sum(session.early for session in active)
        return len(active) - early, early

    def decoder_of(self, session: Session) -> MultiStreamDecoder:
        """Return the decoder that the session uses."""
        if not session.early:
            return self.exact
        assert self.early is not None
        return self.early

    def require_room(self, early: bool = False) -> None:
        """If `full`, raise a `ProtocolError` that says why."""
        if self.full(early):
            self._metrics.refused.inc()
            if self.closing:
                raise ProtocolError("closing", "the server is closing", TRY_LATER)
            raise busy()

    async def seat(self, session: Session) -> None:
        """Give a session a slot, and restore the state in which it was parked.

        Nothing happens if the session already has a slot.

        Raises
        ------
        ProtocolError
            If no slot is available for the session.
        """
        session.used_at = self._clock()
        if session.slot is not None:
            return
        self.require_room(session.early)
        if None not in self.sessions:
            resting = [other for other in self.sessions if other and not self._is_active(other)]
            await self.park(min(resting, key=lambda other: other.used_at))
        slot = self.sessions.index(None)
        self.sessions[slot], session.slot, session.seated_at = session, slot, self._clock()
        if session.state is not None:
            await self.call(self.decoder_of(session).restore, session.state, slot)
            session.state = None
        else:
            self.decoder_of(session).reset(slot)

    async def park(self, session: Session) -> None:
        """Save the state of a session's stream, and free its slot."""
        assert session.slot is not None
        if not session.overflowed:
            session.state = await self.call(self.decoder_of(session).snapshot, session.slot)
        self.free(session)

    def free(self, session: Session) -> None:
        """Free a session's slot, if it has one. The stream's state is lost."""
        if session.slot is not None:
            self.decoder_of(session).reset(session.slot)
            self.sessions[session.slot] = None
            session.slot = None

    async def begin(
        self,
        session: Session,
        source: Source,
        frame: int,
        jump: bool = False,
        early: bool | None = None,
    ) -> None:
        """Start a session's stream at a frame of a source, in the exact decoder or the early one.

        Parameters
        ----------
        session : Session
            A session that has a slot.
        source : Source
        frame : int
            Index of the frame.
        jump : bool
            Whether the client asked for this start. If so, the client drops the samples that it has
            not played yet.
        early : bool, optional
            Whether to use the early decoder. By default, it is used if the client asked for early
            sound, the frames are not known in advance, and this machine is fast enough.
        """
        assert session.slot is not None
        session.early = self._may_be_early(session, source) if early is None else early
        decoder = self.decoder_of(session)
        first = await self.call(decoder.seek, frame, session.slot)
        if isinstance(source, Stored):
            source.position = first
        session.source = source
        seconds = frame / self._model.config.frame_rate
        ahead = decoder.latency
        epoch = Epoch(session.made, session.fed, source.name, seconds, first, jump, ahead)
        skipped = (frame - first) * self._model.hop
        session.begin(epoch, ahead + skipped, self._model.hop)
        session.tell(epoch.as_message())

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function of a decoder in the decoding thread, and return its result.

        The call can't be interrupted. If this coroutine is cancelled, it first waits until the call
        has ended.
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

    def _may_be_early(self, session: Session, source: Source) -> bool:
        """Whether an epoch of the session has early sound if its frames come from `source`."""
        if self.early is None or not session.wants_early or isinstance(source, Stored):
            return False
        exact, early = self.demand(session)
        return self._load.affords_early(exact, early + 1)

    def _is_active(self, session: Session) -> bool:
        """Whether a session is active and was decoded within the last `IDLE_SECONDS`."""
        return session.active and self._clock() - session.used_at < IDLE_SECONDS
