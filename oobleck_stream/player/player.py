"""Latents played live."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from oobleck_stream.errors import InputError, PlaybackError
from oobleck_stream.files.resampler import Resampler
from oobleck_stream.model import Model
from oobleck_stream.player.feeder import Feeder, Watch
from oobleck_stream.player.output import Output, find_device
from oobleck_stream.player.producer import NAP_SECONDS, Producer
from oobleck_stream.player.programme import Place, Programme
from oobleck_stream.player.recorder import Recorder
from oobleck_stream.player.ring import Ring
from oobleck_stream.player.timed import TimedDecoder
from oobleck_stream.player.tracks import tracks_of

START_SECONDS = 0.2
"""Sound that waits in the ring before the first sample is played, and after a seek."""

MARGIN_SECONDS = 0.05
"""Silence before the first sample and after the last one has left the device's buffer: sound
servers swallow the first moments of a stream, and PortAudio drops what a stopping stream holds."""

FAST_ENOUGH = 0.8
"""Real-time factor up to which the start waits for no more than usual."""

SLOW_START_SECONDS = 3.0
"""How much longer the start waits at most where decoding is slower."""

SILENT_DEVICE_SECONDS = 5.0
"""A device that has not asked for samples for so long is gone."""


class Player:
    """Plays latents through an output device, while they are decoded.

    A context manager. What it plays has the bits of `Model.decode` as long as the volume is 1 and
    the device takes the network's sample rate. Where decoding is late, silence is put in and
    counted; nothing is lost or played twice.

    Parameters
    ----------
    source : array_like, path, iterable of frames, Track, or sequence of such pieces
        Several play one after another without a gap. An iterable is played as its frames arrive.
    model : Model
    device : int or str, optional
        Number of an output device or part of its name; by default the system's.
    latency : float or {"low", "high"}
        Of the device, in seconds.
    buffer : float
        Seconds of sound decoded ahead at most.
    prebuffer : float or "all", optional
        Seconds of sound decoded before the first is heard; by default just enough to start.
    start : float
        Second of each track that it is played from.
    length : float, optional
        Seconds of each track that are played; by default to its end.
    rounds : float
        How often everything is played; may be infinite.
    volume : float
        1.0 leaves the samples as they are.
    record : path, optional
        A sound file (.wav with float samples, .flac or .ogg) to be written of what is played,
        before the volume.
    threads : int, optional
        As for `StreamingDecoder`.

    Attributes
    ----------
    model : Model
    tracks : list of Track
    device : Device
    samplerate : int
        Of the device: the network's, unless the device can't do that.

    Raises
    ------
    OutputError
        When there is no PortAudio, or no such device. It is an `InputError`.
    InputError
        When a file of latents can't be used, a live source is to be played more than once, a track
        has ended before `start`, or the volume is not finite.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> with ob.Player(ob.piece("keys")[:300], ob.load("tiny")) as player:
    ...     player.play()
    ...     player.wait()
    True
    >>> player.underflows, player.finished
    (0, True)
    """

    def __init__(
        self,
        source: Any,
        model: Model,
        *,
        device: int | str | None = None,
        latency: float | str = 0.1,
        buffer: float = 1.0,
        prebuffer: float | Literal["all"] | None = None,
        start: float = 0.0,
        length: float | None = None,
        rounds: float = 1,
        volume: float = 1.0,
        record: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = model
        volume = _checked_volume(volume)
        self.tracks = tracks_of(source, model)
        self._programme = Programme(self.tracks, model.samplerate, start, length)
        if rounds > 1:
            self._programme.require_repeatable()
        self._record = record
        self._prebuffered = prebuffer is not None
        self._target: Place | None = None
        self._closed = False
        self._finished = threading.Event()

        self.device = find_device(device)
        supported = self.device.supports(model.samplerate, model.channels)
        self.samplerate = model.samplerate if supported else self.device.samplerate
        resampler = None
        if self.resampled:
            resampler = Resampler(model.samplerate, self.samplerate, model.channels)

        start_level = max(1, self._samples(self._prebuffer_seconds(prebuffer)))
        self._ring = Ring(max(start_level, self._samples(buffer)), model.channels)
        self._output = Output(
            self.device, self.samplerate, model.channels, self._finished.set, latency
        )
        lead_in = self._samples(MARGIN_SECONDS)
        lead_out = self._samples(MARGIN_SECONDS + self._output.latency)
        self._feeder = Feeder(self._ring, start_level, lead_in, lead_out)
        self._feeder.volume = volume
        self._start_level = start_level
        self._watch = Watch(self._feeder)
        self._decoder = TimedDecoder(model, threads)
        self._producer = Producer(self._programme, self._decoder, self._ring, rounds, resampler)

    def play(self) -> None:
        """Begin, or go on after `pause`.

        Raises
        ------
        PlaybackError
            When decoding is too slow to be heard live.
        InputError
            When a live source is bad from the beginning, latents there are so large that float32
            overflows, or the recording can't be written.
        """
        self._feeder.paused = False
        if self._producer.ident is not None:
            return
        self._producer.start()
        self._wait_for_start()
        if self._record is not None:
            self._feeder.recorder = Recorder(self._record, self.samplerate, self.model.channels)
        self._output.start(self._feeder.fill)

    def pause(self) -> None:
        """Play silence until `play`; no sample is lost."""
        self._feeder.paused = True

    @property
    def paused(self) -> bool:
        """Whether `pause` was called last."""
        return self._feeder.paused

    @property
    def volume(self) -> float:
        """Factor of the samples, a finite number; 1.0 leaves them as they are. May be set."""
        return self._feeder.volume

    @volume.setter
    def volume(self, factor: float) -> None:
        self._feeder.volume = _checked_volume(factor)

    @property
    def muted(self) -> bool:
        """Whether silence is heard while playing goes on. May be set."""
        return self._feeder.muted

    @muted.setter
    def muted(self, wanted: bool) -> None:
        self._feeder.muted = wanted

    @property
    def underflows(self) -> int:
        """How often decoding was late."""
        return self._feeder.underflows

    @property
    def device_underflows(self) -> int:
        """How often the device's own buffer ran empty, as it tells."""
        return self._output.underflows

    @property
    def silent_seconds(self) -> float:
        """Silence put in because decoding was late."""
        return self._feeder.silent_samples / self.samplerate

    @property
    def resampled(self) -> bool:
        """Whether the device can't do the network's sample rate."""
        return self.samplerate != self.model.samplerate

    @property
    def finished(self) -> bool:
        """Whether the last sample has been heard."""
        return self._finished.is_set()

    @property
    def place(self) -> Place:
        """The track, and the number of its sample, that the device takes next."""
        target, marks = self._target, self._producer.marks
        if target is not None and (
            self._producer.requested is not None or self._feeder.discards != self._ring.discards
        ):
            return target
        read, latest = self._ring.read, None
        for mark in marks:
            if latest is None or mark.ring_sample <= read:
                latest = mark
        if latest is None:
            return Place(0, self._programme.begin)
        passed = (read - latest.ring_sample) * self.model.samplerate // self.samplerate
        return Place(latest.place.track, latest.place.sample + max(0, passed))

    @property
    def position(self) -> float:
        """Seconds from the beginning of the track that is playing."""
        return self.place.sample / self.model.samplerate

    @property
    def length(self) -> float | None:
        """Seconds of the track that is playing; None while it is not known."""
        samples = self.tracks[self.place.track].length
        return None if samples is None else samples / self.model.samplerate

    @property
    def buffered(self) -> float:
        """Seconds of sound decoded ahead."""
        return self._ring.fill / self.samplerate

    @property
    def real_time_factor(self) -> float:
        """Seconds that decoding a second of sound takes, lately."""
        return self._decoder.real_time_factor

    @property
    def level(self) -> float:
        """Peak of the last moments played, before the volume; 1.0 is full scale."""
        latest = self._ring.latest(self._samples(0.1))
        quiet = self._feeder.paused or self._feeder.filling or len(latest) == 0
        return 0.0 if quiet else float(np.abs(latest).max())

    @property
    def looping(self) -> bool:
        """Whether another round will follow; may be set."""
        return self._producer.rounds > 1

    @looping.setter
    def looping(self, wanted: bool) -> None:
        if wanted:
            self._programme.require_repeatable()
        self._producer.rounds = math.inf if wanted else 1

    def seek(self, seconds: float, track: int | None = None) -> None:
        """Go on from another place, exactly.

        Parameters
        ----------
        seconds : float
            From the beginning of the track; kept within it.
        track : int, optional
            Its number; by default the one that is playing.

        Raises
        ------
        InputError
            When the track arrives live. It is a ``ValueError``.
        """
        number = self.place.track if track is None else track
        self._target = self._programme.place(number, seconds)
        self._producer.go_to(self._target)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the last track.

        Returns
        -------
        bool
            False when `timeout` seconds have passed before.

        Raises
        ------
        PlaybackError
            When the device has gone. It is a ``RuntimeError``.
        InputError
            When live latents are bad, or latents are so large that float32 overflows in the
            network; what came before them has been played.
        """
        if self._producer.ident is None:
            raise RuntimeError("play() comes before wait()")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._finished.wait(0.05 if timeout is None else min(0.05, timeout)):
            if self._watch.silence > SILENT_DEVICE_SECONDS:
                raise PlaybackError(f"output device {self.device.name!r} takes no more samples")
            if end is not None and time.monotonic() >= end:
                return False
        if self._producer.error is not None:
            raise self._producer.error
        if not (self._feeder.is_over or self._closed):
            raise PlaybackError(f"output device {self.device.name!r} has gone")
        return True

    def close(self) -> None:
        """Stop at once, give the device back, put the recording in place."""
        self._closed = True
        self._output.close()
        self._producer.stop()
        recorder, self._feeder.recorder = self._feeder.recorder, None
        if recorder is not None:
            recorder.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _samples(self, seconds: float) -> int:
        """Of the device."""
        return round(seconds * self.samplerate)

    def _prebuffer_seconds(self, prebuffer: float | Literal["all"] | None) -> float:
        if prebuffer is None:
            return START_SECONDS
        if prebuffer != "all":
            return float(prebuffer)
        total = self._programme.seconds
        if math.isinf(total):
            raise InputError("a live source has no end that could be decoded before playing")
        return total + 1.0

    def _wait_for_start(self) -> None:
        """Let the ring fill; where decoding is slow, some more, or give up."""
        patience = SLOW_START_SECONDS
        while not (self._ring.ended or self._ring.fill >= self._start_level):
            time.sleep(NAP_SECONDS)
        while patience > 0 and not self._is_ready():
            time.sleep(NAP_SECONDS)
            patience -= NAP_SECONDS
        if self._producer.error is not None and self._ring.fill == 0:
            raise self._producer.error
        factor, left = self.real_time_factor, self._producer.rounds * self._programme.seconds
        if self._ring.ended or self._prebuffered or factor <= 1.0:
            return
        if left * (1 - 1 / factor) > self.buffered:
            raise PlaybackError(
                f"decoding takes {factor:.2f} s for a second of sound here: too slow to be heard "
                "live; --prebuffer all decodes everything first"
            )

    def _is_ready(self) -> bool:
        """Whether decoding is fast, or as far ahead as it can be."""
        fast = self._prebuffered or self.real_time_factor < FAST_ENOUGH
        return fast or self._ring.ended or self._ring.room == 0


def _checked_volume(factor: float) -> float:
    """A volume, if it is finite."""
    if not math.isfinite(factor):
        raise InputError(f"volume must be a finite number, not {factor}")
    return factor


def play(source: Any, model: Model, **options: Any) -> None:
    """Play latents to their end; sources and options are those of `Player`.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> ob.play(ob.piece("keys")[:300], ob.load("tiny"), volume=0.5)
    """
    with Player(source, model, **options) as player:
        player.play()
        player.wait()
