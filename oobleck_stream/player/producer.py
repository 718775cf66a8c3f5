"""The thread that decodes ahead of the audio device."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.files.resampler import Resampler
from oobleck_stream.files.sources import overflow_named
from oobleck_stream.model import Model
from oobleck_stream.player.playlist import Playlist, Position, name_of
from oobleck_stream.player.recorder import Recorder
from oobleck_stream.player.ring import Ring

POLL_SECONDS = 0.005
"""Interval in seconds at which the thread polls for room in the ring and for requests."""

MAX_STOP_SECONDS = 0.5
"""Maximum seconds that `Producer.stop` waits for the thread, which a live source may block."""

MEASURED_PUSHES = 9


class TimedDecoder(StreamingDecoder):
    """A `StreamingDecoder` that measures its speed.

    Parameters
    ----------
    model, threads, look_ahead, pairing
        As for `StreamingDecoder`.
    exact : bool
        Whether to pass all exact samples to `recorder`, in order. If not, a decoder with a
        look-ahead computes no exact samples.

    Attributes
    ----------
    recorder : Recorder or None
        Receives the exact samples. It may be set after the first pushes.
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        look_ahead: float | None = None,
        exact: bool = False,
        pairing: int = 1,
    ) -> None:
        super().__init__(model, threads, look_ahead=look_ahead, exact=exact, pairing=pairing)
        self.recorder: Recorder | None = None
        self._recorded = exact
        self._waiting: list[FloatArray] = []
        self._factors: deque[float] = deque(maxlen=MEASURED_PUSHES)
        self._factor = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds to decode a second of audio, as the median of the last pushes. Initially 0.0."""
        return self._factor

    def push(self, frames: Any) -> FloatArray:
        """Push frames as `StreamingDecoder.push` does, and measure the time."""
        start, before = time.perf_counter(), self.frames_in
        chunk = super().push(frames)
        if seconds := (self.frames_in - before) * self.hop / self.samplerate:
            self._factors.append((time.perf_counter() - start) / seconds)
            self._factor = statistics.median(self._factors)
        self._keep()
        return chunk

    def flush(self) -> FloatArray:
        """Flush as `StreamingDecoder.flush` does."""
        chunk = super().flush()
        self._keep()
        return chunk

    def warm(self) -> None:
        """Plan the first pushes, so that none of them is late, and then reset the decoder."""
        super().push(np.zeros((2 * self.model.context + 5, self.model.latent_dim), np.float32))
        self.reset()

    def record(self) -> None:
        """Pass the waiting exact samples to the recorder."""
        while self.recorder is not None and self._waiting:
            self.recorder.put(self._waiting.pop(0))

    def _keep(self) -> None:
        if self._recorded:
            self._waiting.append(self.exact)
            self.record()


@dataclass(frozen=True)
class Mark:
    """Maps one sample in the ring to its position in the playlist.

    The samples from this sample to the next mark have consecutive positions.

    Attributes
    ----------
    ring_sample : int
        Index of the sample, counted over all samples ever written to the ring.
    position : Position
        The sample's track, and its index in the track.
    """

    ring_sample: int
    position: Position


class Producer(threading.Thread):
    """Decodes a playlist into a ring until it is stopped.

    Parameters
    ----------
    playlist : Playlist
    decoder : TimedDecoder
        Used only by this thread.
    ring : Ring
        Receives the samples.
    rounds : float
        Number of times to play the playlist. It may be infinite.
    resampler : Resampler, optional
        Converts the samples to the device's sample rate.

    Attributes
    ----------
    rounds : float
        Number of remaining rounds, including the current round. Any thread may set it at any time.
    marks : tuple of Mark
        The positions in the playlist of the samples in the ring, in order.
    error : BaseException or None
        The exception that ended the thread.
    """

    def __init__(
        self,
        playlist: Playlist,
        decoder: TimedDecoder,
        ring: Ring,
        rounds: float = 1,
        resampler: Resampler | None = None,
    ) -> None:
        super().__init__(name="oobleck_stream producer", daemon=True)
        self.rounds = rounds
        self.marks: tuple[Mark, ...] = ()
        self.error: BaseException | None = None
        self._playlist = playlist
        self._decoder = decoder
        self._ring = ring
        self._resampler = resampler
        self._request = Position(0, playlist.begin)
        self._served: Position | None = None
        self._stopping = False

    def go_to(self, position: Position) -> None:
        """Continue from another position. The samples in the ring are discarded."""
        self._request = position

    @property
    def requested(self) -> Position | None:
        """The position passed to `go_to`, or None once the thread has continued from there."""
        # Compare identities, because a second request for an equal position is another request.
        return None if self._request is self._served else self._request

    def stop(self) -> None:
        """Stop the thread, unless it is blocked by a live source."""
        self._stopping = True
        if self.ident is not None:
            self.join(MAX_STOP_SECONDS)
        # soxr reports a leak if its stream still exists when the interpreter exits.
        self._resampler = None

    def run(self) -> None:
        """Decode the rounds, and go to another position on request, until `stop` is called."""
        try:
            while not self._stopping:
                if (position := self.requested) is not None:
                    self._served = position
                    self._ring.ended = False
                    self._ring.discard()
                    if self._resampler:
                        self._resampler.clear()
                elif self.rounds > 1:
                    self.rounds -= 1
                    self._ring.ended = False
                    position = Position(0, self._playlist.begin)
                else:
                    self._end()
                    time.sleep(POLL_SECONDS)
                    continue
                self._play_from(position)
        except BaseException as error:
            self.error = error
            self._ring.ended = True

    @property
    def _interrupted(self) -> bool:
        return self._stopping or self.requested is not None

    def _end(self) -> None:
        """Write the resampler's remaining samples after the last track, and set `Ring.ended`."""
        if self._ring.ended:
            return
        if self._resampler:
            nothing = self._ring.empty_chunk()
            with overflow_named(name_of(self._playlist.tracks[-1])):
                self._write(self._resampler.convert(nothing, last=True), "at the end")
        if not self._interrupted:
            self._ring.ended = True

    def _play_from(self, position: Position) -> None:
        """Decode from a position to the end of the last track."""
        tracks, end = self._playlist.tracks, self._playlist.end
        for number in range(position.track, len(tracks)):
            start = position.sample if number == position.track else self._playlist.begin
            self._mark(Position(number, start))
            with overflow_named(name_of(tracks[number])):
                for chunk in tracks[number].samples(self._decoder, start):
                    if self._interrupted:
                        return
                    if end is not None:
                        chunk = chunk[: max(0, end - start)]
                    samples = self._resampler.convert(chunk) if self._resampler else chunk
                    self._write(samples, f"from sample {start} on")
                    start += len(chunk)
                    if end is not None and start >= end:
                        break

    def _mark(self, position: Position) -> None:
        """Add a mark for the next sample, and drop the marks that were played completely."""
        read = self._ring.read
        passed = sum(mark.ring_sample <= read for mark in self.marks)
        self.marks = (*self.marks[max(0, passed - 1) :], Mark(self._ring.written, position))

    def _write(self, samples: FloatArray, where: str) -> None:
        """Write samples to the ring as room becomes available. Stop early on `go_to` or `stop`.

        Raises
        ------
        NonFiniteError
            If a sample is not finite. The error's message contains `where`.
        """
        if first_not_finite(samples) is not None:
            raise NonFiniteError(f"the sound {where} is not finite")
        while len(samples) and not self._interrupted:
            count = self._ring.write(samples)
            samples = samples[count:]
            if len(samples):
                time.sleep(POLL_SECONDS)
