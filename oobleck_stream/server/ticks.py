"""Runs ticks: each tick decodes one block for every session that has frames and credit."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import decoder_overflow
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server.admission import Load, block_frames, settling_frames
from oobleck_stream.server.metrics import Metrics
from oobleck_stream.server.protocol import INTERNAL, ProtocolError
from oobleck_stream.server.seats import Seats
from oobleck_stream.server.session import Session
from oobleck_stream.server.sources import Stored

LOG = logging.getLogger("oobleck_stream.server")


@dataclass(frozen=True)
class Job:
    """A push of `count` frames for each of `sessions`, or a flush of them if `count` is 0.

    A job is `steady` if it pushes one block for sessions that are all so far from the start of
    their streams that a push always takes equally long.
    """

    decoder: MultiStreamDecoder
    early: bool
    count: int
    sessions: list[Session]
    rows: FloatArray
    active: npt.NDArray[np.bool_]
    steady: bool


@dataclass(frozen=True)
class Decoded:
    """The result of a job.

    Attributes
    ----------
    chunks : list of (n, channels) float32
        The samples of each session, ordered by slot.
    overflowed : dict of int to int
        Maps the slot of each stream that overflowed to the index of the first frame whose samples
        are not finite.
    seconds : float
        How long the job took.
    """

    chunks: list[FloatArray]
    overflowed: dict[int, int]
    seconds: float


class Ticks:
    """Decodes for the sessions that have a slot.

    Parameters
    ----------
    model : Model
    pieces : mapping of str to (frames, latent_dim) array
        The pieces that sessions can repeat, keyed by name.
    seats : Seats
    load : Load
        Records the time of steady ticks.
    metrics : Metrics
    clock : callable, optional

    Attributes
    ----------
    block : int
        Number of frames per stream in a steady push.
    lead : int
        Number of frames that an exact stream needs before its first sample.
    """

    def __init__(
        self,
        model: Model,
        pieces: Mapping[str, npt.NDArray[Any]],
        seats: Seats,
        load: Load,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.block = block_frames(model)
        self.lead = math.ceil(model.latency / model.hop)
        self._settling = settling_frames(model)
        self._model, self._pieces, self._seats = model, pieces, seats
        self._load, self._metrics, self._clock = load, metrics, clock

    async def tick(self) -> bool:
        """Decode one block for each session that is ready. Return whether any session was."""
        async with self._seats.turn:
            start = time.perf_counter()
            jobs = self._jobs()
            for job in jobs:
                try:
                    decoded = await self._seats.call(self._decode, job)
                except Exception as error:
                    self._fail(job, error)
                    continue
                streams = len(job.sessions)
                self._metrics.pushed(streams, job.early, job.steady, decoded.seconds)
                await self._deliver(job, decoded)
            if jobs:
                seconds = time.perf_counter() - start
                self._metrics.ticks.observe(seconds)
                if all(job.steady for job in jobs):
                    early = sum(len(job.sessions) for job in jobs if job.early)
                    exact = sum(len(job.sessions) for job in jobs) - early
                    self._load.measured(exact, early, seconds)
            return bool(jobs)

    def _jobs(self) -> list[Job]:
        """Return the jobs of this tick.

        All sessions that push equally many frames into the same decoder share one job.
        """
        seated = [session for session in self._seats.sessions if session]
        groups: dict[tuple[bool, int], list[Session]] = {}
        for session in seated:
            if not session.ready:
                continue
            hurried = False
            if session.lead > 0 or not session.source.available:  # a first push, or a flush
                hurried = self._others_can_wait(session, seated)
            count = session.next_count(self.block, hurried)
            if count == 0 and not hurried and session.buffered() > self._lead_seconds(session):
                continue  # A flush takes as long as a first push, and this one can still wait.
            groups.setdefault((session.early, count), []).append(session)
        return [self._job(count, sessions) for (_, count), sessions in groups.items()]

    def _job(self, count: int, sessions: list[Session]) -> Job:
        slots = len(self._seats.sessions)
        rows = np.zeros((slots, count, self._model.latent_dim), np.float32)
        active = np.zeros(slots, bool)
        steady = count == self.block and all(
            session.fed - session.epoch.frame >= self._settling for session in sessions
        )
        decoder = self._seats.decoder_of(sessions[0])
        for session in sessions:
            session.used_at = self._clock()
            active[session.slot] = True
            if count:
                rows[session.slot] = session.take(count)
        return Job(decoder, sessions[0].early, count, sessions, rows, active, steady)

    def _others_can_wait(self, session: Session, seated: list[Session]) -> bool:
        """Whether all other sessions have enough sound buffered to wait for a long push."""
        needed = self._lead_seconds(session)
        return all(
            other.buffered() > needed for other in seated if other is not session and other.active
        )

    def _lead_seconds(self, session: Session) -> float:
        """Estimate how long a first push or a flush takes, including the tick that follows it."""
        blocks = (max(session.lead, self.lead) + self.block) / self.block
        return (blocks + 1) * self._load.expected(1) * self._load.ratio

    def _decode(self, job: Job) -> Decoded:
        """Run a job. This is called in the decoding thread."""
        decoder = job.decoder
        start = time.perf_counter()
        overflowed: dict[int, int] = {}
        try:
            chunks = decoder.push(job.rows, job.active) if job.count else decoder.flush(job.active)
        except NonFiniteError as error:
            chunks, overflowed = error.output, error.frames
        chosen = [chunks[int(slot)] for slot in np.flatnonzero(job.active)]
        return Decoded(chosen, overflowed, time.perf_counter() - start)

    def _fail(self, job: Job, error: Exception) -> None:
        """Close the sessions of a job that raised an unexpected error. Other jobs continue."""
        LOG.error("decoding failed", exc_info=error)
        for session in job.sessions:
            session.overflowed = True
            if session.slot is not None:
                job.decoder.reset(session.slot)
            session.close(ProtocolError("internal", "decoding failed", INTERNAL))

    async def _deliver(self, job: Job, decoded: Decoded) -> None:
        self._metrics.frames.inc(job.count * len(job.sessions))
        by_slot = sorted(job.sessions, key=lambda session: session.slot or 0)
        for session, chunk in zip(by_slot, decoded.chunks, strict=True):
            self._metrics.samples.inc(len(chunk))
            session.append(chunk)
            session.awake.set()
            if session.slot in decoded.overflowed:
                self._overflowed(session, decoded.overflowed[session.slot])
            elif not job.count:
                await self._ended(session)

    def _overflowed(self, session: Session, frame: int) -> None:
        """Stop a session's stream, because the samples of `frame` are not finite."""
        assert session.slot is not None
        self._metrics.overflows.inc()
        session.overflowed = True
        pushed = self._seats.decoder_of(session).frames_in[session.slot]
        problem = decoder_overflow(frame, self._model.context, pushed)
        place = {"sample": session.made, "frame": frame}
        session.tell({"type": "overflow", **place, "message": problem})

    async def _ended(self, session: Session) -> None:
        """After a flush, start the piece again if the session loops, else report the end."""
        session.flushed = True
        if session.looping and isinstance(session.source, Stored):
            again = Stored(session.source.name, self._pieces[session.source.name])
            await self._seats.begin(session, again, 0)
        else:
            session.tell({"type": "end", "sample": session.made})
