"""The sessions of a server, and the ticks that decode for all of them at once.

Everything here runs in the event loop, except for the calls of the decoder: they run one after
another in the decoding thread, and `_turn` is held meanwhile, so that no session changes its stream
during a tick.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import decoder_overflow
from oobleck_stream.decoder_streams import DecoderState
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server.admission import Load, block_frames
from oobleck_stream.server.instrument import Bank, Instrument
from oobleck_stream.server.kept import KeptFrames, Pool
from oobleck_stream.server.metrics import Metrics
from oobleck_stream.server.protocol import (
    GOING_AWAY,
    INSTRUMENT,
    INTERNAL,
    PUSH,
    TRY_LATER,
    ProtocolError,
)
from oobleck_stream.server.session import Epoch, Session
from oobleck_stream.server.sources import Pushed, Source, Stored
from oobleck_stream.server.waiting import wait_until_set

PARKED_SECONDS = 30.0
"""How long a session waits for a client that was lost."""

IDLE_SECONDS = 30.0
"""After this long without anything to decode, a session's place may be given to another one."""

OVERLOAD_SECONDS = 2.0
"""How long ticks may take longer than real time before the newest session is parked."""

QUEUED_BLOCKS = 16
"""Blocks of frames that a client may send ahead of the decoder."""

SESSIONS_PER_SLOT = 4
MAX_SNAPSHOTS = 4
"""Copies of the state that are kept for a session; the oldest is dropped."""

SNAPSHOT_SECONDS = 5.0
"""How long a snapshot waits until the frames before it are decoded."""

POLL_SECONDS = 0.25
LOG = logging.getLogger("oobleck_stream.server")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """A push for some sessions; `count` 0 ends their streams."""

    count: int
    sessions: list[Session]
    rows: FloatArray
    active: npt.NDArray[np.bool_]
    steady: bool


@dataclass(frozen=True)
class Decoded:
    """What a job gave: a chunk for each session, and the frames that overflowed, by slot."""

    chunks: list[FloatArray]
    overflowed: dict[int, int]
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """A copy of a stream's state; None is the beginning."""

    state: DecoderState | None
    lead: int


def busy(message: str = "no more streams can be decoded in real time here: try later") -> Exception:
    """The error for a session that is refused because of the load."""
    return ProtocolError("busy", message, TRY_LATER)


class Hub:
    """The sessions, their places in one decoder, and the loop that decodes for them.

    Parameters
    ----------
    model : Model
    pieces : mapping of str to (frames, latent_dim) array
        What clients may play by name.
    slots : int
        Number of streams of the decoder.
    load : Load
    threads : int, optional
    metrics : Metrics, optional
    clock : callable, optional

    Attributes
    ----------
    block : int
        Frames of a steady push.
    sessions : dict of str to Session
    """

    def __init__(
        self,
        model: Model,
        pieces: Mapping[str, npt.NDArray[Any]],
        slots: int,
        load: Load,
        threads: int | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.pieces, self.load, self.clock = model, pieces, load, clock
        self.block = block_frames(model)
        self.lead = math.ceil(model.latency / model.hop)
        self.window = QUEUED_BLOCKS * self.block + 2 * self.lead
        self.metrics = metrics or Metrics()
        self.sessions: dict[str, Session] = {}
        self.slots: list[Session | None] = [None] * slots
        self.bank = Bank.of(pieces) if pieces else None
        self.decoder = MultiStreamDecoder(model, slots, threads)
        self.closing = False
        self._snapshots: dict[str, Snapshot] = {}
        self._pool = Pool()
        self._thread = ThreadPoolExecutor(1, "oobleck_stream decoding")
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._overloaded_since: float | None = None
        self.metrics.watch("sessions", "Sessions, parked ones included", lambda: len(self.sessions))
        self.metrics.watch("active_sessions", "Sessions that are decoded", lambda: self.used)
        self.metrics.watch("slots", "Sessions that can be decoded at once", lambda: slots)
        self.metrics.watch("load", "Share of real time that ticks take", lambda: self.busy_share)

    # What clients ask

    @property
    def used(self) -> int:
        """Number of sessions with a claim on the decoder."""
        return sum(self._is_active(session) for session in self.slots if session)

    @property
    def busy_share(self) -> float:
        """The share of real time that ticks take now; 0 when nothing is decoded."""
        return self.load.recent / self.load.block_seconds if self.used else 0.0

    @property
    def full(self) -> bool:
        """Whether another session would be refused."""
        return self.closing or self.used >= len(self.slots) or not self.load.admits(self.used + 1)

    def wake(self) -> None:
        """Something may have become ready to decode."""
        self._wake.set()

    async def open(self, fields: Mapping[str, Any]) -> Session:
        """Open a session and give it a place.

        Parameters
        ----------
        fields : mapping
            Those of an ``open`` message.

        Raises
        ------
        ProtocolError
            If there is no such source, or no more sessions can be decoded.
        """
        self._require_room()
        if len(self.sessions) >= SESSIONS_PER_SLOT * len(self.slots):
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
            looping=fields["loop"],
            share=fields.get("share"),
            heard_at=self.clock(),
            kept=KeptFrames(self._pool, model.latent_dim),
        )
        source = self._source(fields["source"], session)
        self.sessions[session.id] = session
        try:
            async with self._turn:
                await self._seat(session)
                await self._begin(session, source, self._frame_at(fields["seconds"], source))
                session.controls.clear()  # the first message, ready, has the epoch
        except BaseException:
            await self.forget(session)
            raise
        self.metrics.opened.inc()
        self.wake()
        return session

    async def leave(self, session: Session) -> None:
        """The client was lost: keep the session, but not its place, for `PARKED_SECONDS`."""
        if not session.connected:
            return
        session.connected = False
        session.left_at = self.clock()
        async with self._turn:
            if session.slot is not None and not session.connected:
                await self._park(session)
                self.metrics.parked.inc()

    async def resume(self, identity: str, have: int) -> Session:
        """Continue a session whose client was lost, or still seems to be connected.

        Raises
        ------
        ProtocolError
            If there is no such session, the client can't continue from `have`, or no more sessions
            can be decoded.
        """
        session = self.sessions.get(identity)
        if session is None:
            raise ProtocolError("unknown-session", "there is no such session (any more)")
        needs_place = session.slot is None and not session.complete and not session.paused
        if needs_place:
            self._require_room()
        session.resume_from(have)
        session.connected, session.closing = True, None
        session.connection += 1
        session.frames_told = 0
        session.heard_at = session.used_at = self.clock()
        if needs_place:
            try:
                async with self._turn:
                    await self._seat(session)
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
        async with self._turn:
            self._free(session)

    async def seek(
        self, session: Session, name: str | None, seconds: float | None, frame: int | None
    ) -> None:
        """Go to a moment, or a frame, of a source; by default of the present one.

        Raises
        ------
        ProtocolError
            If there is no such source, or the session lost its place and none is free.
        """
        source = session.source if name is None else self._source(name, session)
        start = self._frame_at(seconds or 0.0, source) if frame is None else frame
        if isinstance(source, Stored):
            source = Stored(source.name, self.pieces[source.name])
            start = min(start, source.available - 1)
        async with self._turn:
            await self._seat(session)
            if isinstance(source, Pushed):
                source.clear()
            session.discard_unsent()
            await self._begin(session, source, start, jump=True)
        self.wake()

    async def snapshot(self, session: Session) -> str:
        """Copy the state of a session's stream.

        Returns
        -------
        str
            The copy's name, for `restore`. It is kept while the session lives.
        """
        end = self.clock() + SNAPSHOT_SECONDS
        while session.ready and session.source is session.pushed and session.pushed.available:
            session.room.clear()
            await wait_until_set(session.room, SNAPSHOT_SECONDS)
            if self.clock() >= end:
                break
        async with self._turn:
            if session.pushed.available and session.source is session.pushed:
                raise ProtocolError("too-fast", "snapshot: frames are still to be decoded", None)
            state = session.state
            if session.overflowed:
                raise ProtocolError("overflow", "samples were not finite: send reset first", None)
            if session.slot is not None:
                state = await self._call(self.decoder.snapshot, session.slot)
        token = secrets.token_urlsafe(16)
        self._snapshots[token] = Snapshot(state, session.lead)
        session.snapshots.append(token)
        if len(session.snapshots) > MAX_SNAPSHOTS:
            self._snapshots.pop(session.snapshots.popleft(), None)
        return token

    async def restore(self, session: Session, token: str) -> None:
        """Continue from a copy, which may be of another session.

        Raises
        ------
        ProtocolError
            If there is no such copy.
        """
        kept = self._snapshots.get(token)
        if kept is None:
            raise ProtocolError("unknown-state", "there is no such copy (any more)", None)
        async with self._turn:
            await self._seat(session)
            assert session.slot is not None
            session.discard_unsent()
            session.pushed.clear()
            await self._begin(session, session.pushed, 0, jump=True)
            if kept.state is not None:
                await self._call(self.decoder.restore, kept.state, session.slot)
                session.flushed = kept.state.flushed
            session.lead = kept.lead

    # Places

    def _require_room(self) -> None:
        if self.full:
            self.metrics.refused.inc()
            if self.closing:
                raise ProtocolError("closing", "the server is closing", TRY_LATER)
            raise busy()

    def _is_active(self, session: Session) -> bool:
        """Whether a session has a claim on the decoder: not for long without anything to decode."""
        return session.active and self.clock() - session.used_at < IDLE_SECONDS

    async def _seat(self, session: Session) -> None:
        """Give a session a stream of the decoder, with the state in which it was parked."""
        session.used_at = self.clock()
        if session.slot is not None:
            return
        self._require_room()
        if None not in self.slots:
            resting = [other for other in self.slots if other and not self._is_active(other)]
            await self._park(min(resting, key=lambda other: other.used_at))
        slot = self.slots.index(None)
        self.slots[slot], session.slot, session.seated_at = session, slot, self.clock()
        if session.state is not None:
            await self._call(self.decoder.restore, session.state, slot)
            session.state = None
        else:
            self.decoder.reset(slot)

    async def _park(self, session: Session) -> None:
        """Take a session's stream away, and keep its state."""
        assert session.slot is not None
        if not session.overflowed:
            session.state = await self._call(self.decoder.snapshot, session.slot)
        self._free(session)

    def _free(self, session: Session) -> None:
        if session.slot is not None:
            self.decoder.reset(session.slot)
            self.slots[session.slot] = None
            session.slot = None

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

    async def _begin(
        self, session: Session, source: Source, frame: int, jump: bool = False
    ) -> None:
        """Let a session's stream begin at a frame of a source."""
        assert session.slot is not None
        first = await self._call(self.decoder.seek, frame, session.slot)
        if isinstance(source, Stored):
            source.position = first
        session.source = source
        seconds = frame / self.model.config.frame_rate
        epoch = Epoch(session.made, session.fed, source.name, seconds, first, jump)
        skipped = (frame - first) * self.model.hop
        session.begin(epoch, self.model.latency + skipped, self.model.hop)
        session.tell(epoch.as_message())

    # Ticks

    async def run(self) -> None:
        """Decode until cancelled."""
        while True:
            self._wake.clear()
            if not await self.tick():
                await wait_until_set(self._wake, POLL_SECONDS)
            await self._keep_house()

    async def tick(self) -> bool:
        """Decode one block for each session that is ready; return whether there was any."""
        async with self._turn:
            jobs = self._jobs()
            for job in jobs:
                try:
                    decoded = await self._call(self._decode, job)
                except Exception as error:
                    self._fail(job, error)
                    continue
                self.metrics.ticks.observe(decoded.seconds)
                if job.steady and len(jobs) == 1:
                    self.load.measured(len(job.sessions), decoded.seconds)
                await self._deliver(job, decoded)
            return bool(jobs)

    def _jobs(self) -> list[Job]:
        """The pushes that are due, each for all sessions that push the same number of frames."""
        seated = [session for session in self.slots if session]
        groups: dict[int, list[Session]] = {}
        for session in seated:
            if not session.ready:
                continue
            hurried = self._others_can_wait(session, seated)
            count = session.next_count(self.block, hurried)
            if count == 0 and not hurried and session.buffered() > self._lead_seconds(session):
                continue  # ending a stream takes as long as beginning one
            groups.setdefault(count, []).append(session)
        return [self._job(count, sessions) for count, sessions in groups.items()]

    def _job(self, count: int, sessions: list[Session]) -> Job:
        rows = np.zeros((len(self.slots), count, self.model.latent_dim), np.float32)
        active = np.zeros(len(self.slots), bool)
        steady = count == self.block and all(session.lead <= 0 for session in sessions)
        for session in sessions:
            session.used_at = self.clock()
            active[session.slot] = True
            if count:
                rows[session.slot] = session.take(count)
        return Job(count, sessions, rows, active, steady)

    def _others_can_wait(self, session: Session, seated: list[Session]) -> bool:
        """Whether all other sessions have enough sound for a long push of this one."""
        needed = self._lead_seconds(session)
        return all(
            other.buffered() > needed for other in seated if other is not session and other.active
        )

    def _lead_seconds(self, session: Session) -> float:
        """How long the push that begins, or ends, a stream takes, and the next tick."""
        blocks = (max(session.lead, self.lead) + self.block) / self.block
        return (blocks + 1) * self.load.expected(1) * self.load.ratio

    def _decode(self, job: Job) -> Decoded:
        """Run a job, in the decoding thread."""
        start = time.perf_counter()
        overflowed: dict[int, int] = {}
        try:
            if job.count:
                chunks = self.decoder.push(job.rows, job.active)
            else:
                chunks = self.decoder.flush(job.active)
        except NonFiniteError as error:
            chunks, overflowed = error.output, error.frames
        chosen = [chunks[int(slot)] for slot in np.flatnonzero(job.active)]
        return Decoded(chosen, overflowed, time.perf_counter() - start)

    def _fail(self, job: Job, error: Exception) -> None:
        """A job raised what it should not: close its sessions, so that the others go on."""
        LOG.error("decoding failed", exc_info=error)
        for session in job.sessions:
            session.overflowed = True
            if session.slot is not None:
                self.decoder.reset(session.slot)
            self._close(session, ProtocolError("internal", "decoding failed", INTERNAL))

    async def _deliver(self, job: Job, decoded: Decoded) -> None:
        self.metrics.frames.inc(job.count * len(job.sessions))
        by_slot = sorted(job.sessions, key=lambda session: session.slot or 0)
        for session, chunk in zip(by_slot, decoded.chunks, strict=True):
            self.metrics.samples.inc(len(chunk))
            session.append(chunk)
            session.awake.set()
            if session.slot in decoded.overflowed:
                self.metrics.overflows.inc()
                session.overflowed = True
                frame = decoded.overflowed[session.slot]
                pushed = self.decoder.frames_in[session.slot]
                problem = decoder_overflow(frame, self.model.context, pushed)
                place = {"sample": session.made, "frame": frame}
                session.tell({"type": "overflow", **place, "message": problem})
            elif not job.count:
                await self._ended(session)

    async def _ended(self, session: Session) -> None:
        """A stream was flushed: begin again if the session repeats a piece."""
        session.flushed = True
        if session.looping and isinstance(session.source, Stored):
            again = Stored(session.source.name, self.pieces[session.source.name])
            await self._begin(session, again, 0)
        else:
            session.tell({"type": "end", "sample": session.made})

    async def _keep_house(self) -> None:
        """Forget sessions whose clients did not come back; give places; act on overload."""
        now = self.clock()
        for session in [*self.sessions.values()]:
            if not session.connected and now - session.left_at > PARKED_SECONDS:
                await self.forget(session)
            elif session.slot is None and self._waits_for_place(session):
                try:
                    async with self._turn:
                        await self._seat(session)
                except ProtocolError as error:
                    self._close(session, error)
        if self.load.share(self.used) <= 1 or self.used < 2:
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
        """Park the newest session, so that the others keep up."""
        newest = max((one for one in self.slots if one and one.active), key=lambda s: s.seated_at)
        self.metrics.shed.inc()
        self._close(
            newest, ProtocolError("overloaded", "this machine has become too slow", TRY_LATER)
        )

    def _close(self, session: Session, error: ProtocolError) -> None:
        """Let a session's connection say why and close; the client may resume later."""
        if session.closing is None:
            session.closing = error
            session.awake.set()

    def close_all(self) -> None:
        """Refuse new sessions, and close every connection."""
        self.closing = True
        for session in self.sessions.values():
            self._close(session, ProtocolError("closing", "the server is closing", GOING_AWAY))

    def shutdown(self) -> None:
        """End the decoding thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call the decoder in its thread.

        Cancelling waits for the call, which can't be interrupted.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, function, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
