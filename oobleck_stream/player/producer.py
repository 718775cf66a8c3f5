"""The thread that decodes ahead of the sound card."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.files.errors import overflow_named
from oobleck_stream.files.resampler import Resampler
from oobleck_stream.player.programme import Place, Programme, name_of
from oobleck_stream.player.ring import Ring
from oobleck_stream.player.timed import TimedDecoder

NAP_SECONDS = 0.005
STOP_SECONDS = 0.5


@dataclass(frozen=True)
class Mark:
    """From this sample of the ring on, the samples are those of a track from `place` on."""

    ring_sample: int
    place: Place


class Producer(threading.Thread):
    """Decodes a programme into a ring, until it is stopped.

    Parameters
    ----------
    programme : Programme
    decoder : TimedDecoder
        Used by this thread alone.
    ring : Ring
        Where the samples go.
    rounds : float
        How often the programme is played; may be infinite.
    resampler : Resampler, optional
        Through which the samples go.

    Attributes
    ----------
    rounds : float
        Rounds that are left, with the one that is on; may be changed at any time.
    marks : tuple of Mark
        What the samples in the ring are, in order.
    error : BaseException or None
        What ended the thread early.
    """

    def __init__(
        self,
        programme: Programme,
        decoder: TimedDecoder,
        ring: Ring,
        rounds: float = 1,
        resampler: Resampler | None = None,
    ) -> None:
        super().__init__(name="oobleck_stream producer", daemon=True)
        self.rounds = rounds
        self.marks: tuple[Mark, ...] = ()
        self.error: BaseException | None = None
        self._programme = programme
        self._decoder = decoder
        self._ring = ring
        self._resampler = resampler
        self._request = Place(0, programme.begin)
        self._served: Place | None = None
        self._stopping = False

    def go_to(self, place: Place) -> None:
        """Go on from another place; what waits in the ring is dropped."""
        self._request = place

    @property
    def requested(self) -> Place | None:
        """The place to go to next, until it is taken up."""
        return None if self._request is self._served else self._request

    def stop(self) -> None:
        """End the thread, if it does not wait for a live source."""
        self._stopping = True
        if self.ident is not None:
            self.join(STOP_SECONDS)
        # It complains when Python ends before it is gone.
        self._resampler = None

    def run(self) -> None:
        """Play rounds and serve requests until stopped."""
        try:
            while not self._stopping:
                if (place := self.requested) is not None:
                    self._served = place
                    self._ring.ended = False
                    self._ring.discard()
                    if self._resampler:
                        self._resampler.clear()
                elif self.rounds > 1:
                    self.rounds -= 1
                    self._ring.ended = False
                    place = Place(0, self._programme.begin)
                else:
                    self._end()
                    time.sleep(NAP_SECONDS)
                    continue
                self._play_from(place)
        except BaseException as error:
            self.error = error
            self._ring.ended = True

    @property
    def _interrupted(self) -> bool:
        return self._stopping or self.requested is not None

    def _end(self) -> None:
        """The last track is over; give out what the resampler still holds."""
        if self._ring.ended:
            return
        if self._resampler:
            nothing = self._ring.empty_chunk()
            with overflow_named(name_of(self._programme.tracks[-1])):
                self._write(self._resampler.convert(nothing, last=True), "at the end")
        if not self._interrupted:
            self._ring.ended = True

    def _play_from(self, place: Place) -> None:
        """Decode from a place to the end of the last track."""
        tracks, end = self._programme.tracks, self._programme.end
        for number in range(place.track, len(tracks)):
            start = place.sample if number == place.track else self._programme.begin
            self._mark(Place(number, start))
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

    def _mark(self, place: Place) -> None:
        """Note that a track's samples follow; forget the marks that have been passed."""
        read = self._ring.read
        passed = sum(mark.ring_sample <= read for mark in self.marks)
        self.marks = (*self.marks[max(0, passed - 1) :], Mark(self._ring.written, place))

    def _write(self, samples: FloatArray, where: str) -> None:
        """Write to the ring as there is room, unless something else is wanted meanwhile.

        Raises
        ------
        NonFiniteError
            When a sample is not finite: says where in the track.
        """
        if first_not_finite(samples) is not None:
            raise NonFiniteError(f"the sound {where} is not finite")
        while len(samples) and not self._interrupted:
            count = self._ring.write(samples)
            samples = samples[count:]
            if len(samples):
                time.sleep(NAP_SECONDS)
