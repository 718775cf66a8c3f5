"""Opens, changes, resumes and ends the sessions of a server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from oobleck_stream.decoder_streams import DecoderState
from oobleck_stream.model import Model
from oobleck_stream.server.admission import Load
from oobleck_stream.server.instrument import Bank, Instrument
from oobleck_stream.server.kept import KeptFrames, Pool
from oobleck_stream.server.metrics import Metrics
from oobleck_stream.server.protocol import (
    GOING_AWAY,
    INSTRUMENT,
    PUSH,
    TRY_LATER,
    ProtocolError,
)
from oobleck_stream.server.seats import Seats, busy
from oobleck_stream.server.session import Session
from oobleck_stream.server.sources import Pushed, Source, Stored
from oobleck_stream.server.ticks import Ticks
from oobleck_stream.server.waiting import wait_until_set

PARKED_SECONDS = 30.0
"""How long a session is kept after the connection to its client was lost. In the meantime, it is
parked, and the client can resume it."""

OVERLOAD_SECONDS = 2.0
"""If ticks are slower than real time for longer than this, the newest session is parked."""

QUEUED_BLOCKS = 16
"""Blocks of frames that a client may send ahead of the decoder."""

SESSIONS_PER_SLOT = 4
MAX_SNAPSHOTS = 4
"""Maximum number of snapshots that a session keeps. A further snapshot replaces the oldest one."""

SNAPSHOT_SECONDS = 5.0
"""How long `Hub.snapshot` waits at most for the session's frames to be decoded."""

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Snapshot:
    """A copy of a stream's state. The state None means the beginning of the stream."""

    state: DecoderState | None
    lead: int
    early: bool


class Hub:
    """The sessions of a server, and the loop that decodes for them.

    Parameters
    ----------
    model : Model
    pieces : mapping of str to (frames, latent_dim) array
        The pieces that clients may play, keyed by name.
    slots : int
        The number of sessions that are decoded at the same time.
    load : Load
    threads : int, optional
    look_ahead : int, optional
        Look-ahead of early sessions in samples. By default, all sessions are exact.
    metrics : Metrics, optional
    clock : callable, optional

    Attributes
    ----------
    sessions : dict of str to Session
        The sessions, keyed by `Session.id`.
    seats : Seats
        Assigns the decoders' streams to sessions.
    ticks : Ticks
        Decodes for the sessions that have a slot.
    """

    def __init__(
        self,
        model: Model,
        pieces: Mapping[str, npt.NDArray[Any]],
        slots: int,
        load: Load,
        threads: int | None = None,
        look_ahead: int | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.pieces, self.load, self.clock = model, pieces, load, clock
        self.metrics = metrics or Metrics()
        self.seats = Seats(model, slots, load, threads, look_ahead, self.metrics, clock)
        self.ticks = Ticks(model, pieces, self.seats, load, self.metrics, clock)
        self.window = QUEUED_BLOCKS * self.ticks.block + 2 * self.ticks.lead
        self.sessions: dict[str, Session] = {}
        self.bank = Bank.of(pieces) if pieces else None
        self._snapshots: dict[str, Snapshot] = {}
        self._pool = Pool()
        self._wake = asyncio.Event()
        self._overloaded_since: float | None = None
        self.metrics.watch("sessions", "Sessions, parked ones included", lambda: len(self.sessions))
        self.metrics.watch("active_sessions", "Sessions that are decoded", lambda: self.seats.used)
        self.metrics.watch("slots", "Sessions that can be decoded at once", lambda: slots)
        self.metrics.watch("load", "Share of real time that ticks take", lambda: self.busy_share)

    # Requests of clients

    @property
    def busy_share(self) -> float:
        """The share of real time that ticks take now. It is 0 while nothing is decoded."""
        return self.load.recent / self.load.block_seconds if self.seats.used else 0.0

    def wake(self) -> None:
        """Wake the loop, because a session may have become ready to decode."""
        self._wake.set()

    async def open(self, fields: Mapping[str, Any]) -> Session:
        """Open a session, give it a slot, and return it.

        Parameters
        ----------
        fields : mapping
            The fields of an ``open`` message.

        Raises
        ------
        ProtocolError
            If there is no such source, or if no more sessions can be decoded.
        """
        self.seats.require_room()
        if len(self.sessions) >= SESSIONS_PER_SLOT * len(self.seats.sessions):
            parked = [session for session in self.sessions.values() if not session.connected]
            if not parked:
                self.metrics.refused.inc()
                raise busy("too many sessions are open here: try later")
            await self.forget(min(parked, key=lambda session: session.left_at))
        model = self.model
        pushed = Pushed(model.latent_dim, self.window)
        session = Session(
            id=secrets.token_urlsafe(16),
            source=pushed,
            pushed=pushed,
            samplerate=model.samplerate,
            channels=model.channels,
            ahead=max(1, round(fields["ahead"] * model.samplerate)),
            sample=fields["sample"],
            clock=self.clock,
            wants_frames=fields["frames"],
            wants_early=fields.get("early", False),
            looping=fields["loop"],
            share=fields.get("share"),
            heard_at=self.clock(),
            kept=KeptFrames(self._pool, model.latent_dim),
        )
        source = self._source(fields["source"], session)
        self.sessions[session.id] = session
        try:
            async with self.seats.turn:
                await self.seats.seat(session)
                await self.seats.begin(session, source, self._frame_at(fields["seconds"], source))
                session.controls.clear()  # The first message, ``ready``, contains the epoch.
        except BaseException:
            await self.forget(session)
            raise
        self.metrics.opened.inc()
        self.wake()
        return session

    async def leave(self, session: Session) -> None:
        """Park a session whose client was lost. It is kept for `PARKED_SECONDS`."""
        if not session.connected:
            return
        session.connected = False
        session.left_at = self.clock()
        async with self.seats.turn:
            if session.slot is not None and not session.connected:
                await self.seats.park(session)
                self.metrics.parked.inc()

    async def resume(self, identity: str, have: int) -> Session:
        """Continue a session on a new connection, and return the session.

        The client already has all samples before index `have`. The old connection may still be
        open, because the server may not have noticed that it was lost.

        Raises
        ------
        ProtocolError
            If there is no such session, if the client can't continue from `have`, or if no more
            sessions can be decoded.
        """
        session = self.sessions.get(identity)
        if session is None:
            raise ProtocolError("unknown-session", "there is no such session (any more)")
        needs_place = session.slot is None and not session.complete and not session.paused
        if needs_place:
            self.seats.require_room(session.early)
        session.resume_from(have)
        session.connected, session.closing = True, None
        session.connection += 1
        session.frames_told = 0
        session.heard_at = session.used_at = self.clock()
        if needs_place:
            try:
                async with self.seats.turn:
                    await self.seats.seat(session)
            except ProtocolError:
                session.connected, session.left_at = False, self.clock()
                raise
        self.metrics.resumed.inc()
        self.wake()
        return session

    async def forget(self, session: Session) -> None:
        """End a session."""
        session.connected = False
        if self.sessions.pop(session.id, None) is None:
            return
        if session.on_end is not None:
            session.on_end()
        for token in session.snapshots:
            self._snapshots.pop(token, None)
        if session.kept is not None:
            session.kept.clear()
        async with self.seats.turn:
            self.seats.free(session)

    async def seek(
        self, session: Session, name: str | None, seconds: float | None, frame: int | None
    ) -> None:
        """Move to a time or a frame of a source.

        If `name` is None, the current source is kept. If `frame` is None, `seconds` is used.

        Raises
        ------
        ProtocolError
            If there is no such source, or if the session lost its slot and no slot is free.
        """
        source = session.source if name is None else self._source(name, session)
        start = self._frame_at(seconds or 0.0, source) if frame is None else frame
        if isinstance(source, Stored):
            source = Stored(source.name, self.pieces[source.name])
            start = min(start, source.available - 1)
        async with self.seats.turn:
            await self.seats.seat(session)
            if isinstance(source, Pushed):
                source.clear()
            session.discard_unsent()
            await self.seats.begin(session, source, start, jump=True)
        self.wake()

    async def snapshot(self, session: Session) -> str:
        """Copy the state of a session's stream.

        Returns
        -------
        str
            The copy's name, for `restore`. The copy is kept until the session ends, or until
            `MAX_SNAPSHOTS` further copies of this session have been made.
        """
        end = self.clock() + SNAPSHOT_SECONDS
        while session.ready and session.source is session.pushed and session.pushed.available:
            session.room.clear()
            await wait_until_set(session.room, SNAPSHOT_SECONDS)
            if self.clock() >= end:
                break
        async with self.seats.turn:
            if session.pushed.available and session.source is session.pushed:
                raise ProtocolError("too-fast", "snapshot: frames are still to be decoded", None)
            state = session.state
            if session.overflowed:
                raise ProtocolError("overflow", "samples were not finite: send reset first", None)
            if session.slot is not None:
                decoder = self.seats.decoder_of(session)
                state = await self.seats.call(decoder.snapshot, session.slot)
        token = secrets.token_urlsafe(16)
        self._snapshots[token] = Snapshot(state, session.lead, session.early)
        session.snapshots.append(token)
        if len(session.snapshots) > MAX_SNAPSHOTS:
            self._snapshots.pop(session.snapshots.popleft(), None)
        return token

    async def restore(self, session: Session, token: str) -> None:
        """Continue a session from a copy of its own state or of another session's state.

        `token` is the copy's name, which `snapshot` returned.

        Raises
        ------
        ProtocolError
            If there is no such copy.
        """
        kept = self._snapshots.get(token)
        if kept is None:
            raise ProtocolError("unknown-state", "there is no such copy (any more)", None)
        async with self.seats.turn:
            await self.seats.seat(session)
            assert session.slot is not None
            session.discard_unsent()
            session.pushed.clear()
            await self.seats.begin(session, session.pushed, 0, jump=True, early=kept.early)
            if kept.state is not None:
                decoder = self.seats.decoder_of(session)
                await self.seats.call(decoder.restore, kept.state, session.slot)
                session.flushed = kept.state.flushed
            session.lead = kept.lead

    # Where the frames come from

    def _source(self, name: str, session: Session) -> Source:
        if name == PUSH:
            return session.pushed
        if name == INSTRUMENT and self.bank:
            return Instrument(self.bank, self.model.config.frame_rate)
        if name in self.pieces:
            return Stored(name, self.pieces[name])
        names = ", ".join([PUSH, *self.pieces, *([INSTRUMENT] if self.bank else [])])
        raise ProtocolError("unknown-source", f"the sources are: {names}")

    def _frame_at(self, seconds: float, source: Source) -> int:
        if not isinstance(source, Stored):
            return 0
        frame = int(seconds * self.model.config.frame_rate)
        return min(frame, len(self.pieces[source.name]) - 1)

    # The loop

    async def run(self) -> None:
        """Decode until cancelled."""
        while True:
            self._wake.clear()
            if not await self.ticks.tick():
                await wait_until_set(self._wake, POLL_SECONDS)
            await self._keep_house()

    async def _keep_house(self) -> None:
        """End sessions whose clients did not return, assign streams, and react to overload."""
        now = self.clock()
        for session in [*self.sessions.values()]:
            if not session.connected and now - session.left_at > PARKED_SECONDS:
                await self.forget(session)
            elif session.slot is None and self._waits_for_place(session):
                try:
                    async with self.seats.turn:
                        await self.seats.seat(session)
                except ProtocolError as error:
                    session.close(error)
        demand = self.seats.demand()
        if self.load.share(*demand) <= 1 or sum(demand) < 2:
            self._overloaded_since = None
        elif self._overloaded_since is None:
            self._overloaded_since = now
        elif now - self._overloaded_since > OVERLOAD_SECONDS:
            self._overloaded_since = None
            self._shed()

    def _waits_for_place(self, session: Session) -> bool:
        has_work = session.credit > 0 and (session.source.available > 0 or session.source.ended)
        return session.connected and not session.paused and not session.complete and has_work

    def _shed(self) -> None:
        """Park the newest session by closing its connection, so that the others keep up."""
        active = [session for session in self.seats.sessions if session and session.active]
        newest = max(active, key=lambda session: session.seated_at)
        self.metrics.shed.inc()
        message = "this machine has become too slow"
        newest.close(ProtocolError("overloaded", message, TRY_LATER))

    def close_all(self) -> None:
        """Refuse new sessions, and close every connection."""
        self.seats.closing = True
        for session in self.sessions.values():
            session.close(ProtocolError("closing", "the server is closing", GOING_AWAY))
