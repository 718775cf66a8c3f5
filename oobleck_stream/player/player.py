"""Plays latents live."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from oobleck_stream.errors import InputError, PlaybackError
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.resampler import Resampler
from oobleck_stream.model import Model
from oobleck_stream.player.callback import PlaybackCallback, StallDetector
from oobleck_stream.player.device import DeviceStream, find_device
from oobleck_stream.player.playlist import Playlist, Position
from oobleck_stream.player.producer import POLL_SECONDS, Producer, TimedDecoder
from oobleck_stream.player.recorder import Recorder
from oobleck_stream.player.ring import Ring
from oobleck_stream.player.tracks import tracks_of

LATENCY_SECONDS, BUFFER_SECONDS = 0.1, 1.0
"""Default latency of the device, and default maximum of audio decoded ahead."""

LIVE_LATENCY_SECONDS, LIVE_BUFFER_SECONDS = 0.02, 0.02
"""The same two defaults with a look-ahead, with which changes of the latents must be heard soon."""

START_SECONDS = 0.2
"""Seconds of audio that must be in the ring before playing starts, or continues after a seek."""

MARGIN_SECONDS = 0.05
"""Seconds of silence before the first sample, and after the last sample has left the device's
buffer. They are needed because sound servers drop the beginning of a stream, and PortAudio drops
the buffer of a stream that stops."""

MAX_FAST_FACTOR = 0.8
"""With a higher real-time factor than this, playing starts later, with more audio in the ring."""

MAX_SLOW_START_SECONDS = 3.0
"""Maximum seconds by which the start of playing is delayed if decoding is slow."""

MAX_STALL_SECONDS = 5.0
"""A device that has not called its callback for this many seconds is considered disconnected."""


class Player:
    """Plays latents through an output device while they are decoded.

    A player is a context manager, and is closed at the end of the block. The played samples are
    bit-identical to `Model.decode` if the volume is 1, no look-ahead is given, and the device
    supports the network's sample rate. If decoding is late, silence is inserted and counted. No
    sample is lost or played twice.

    Parameters
    ----------
    source : array_like, path, iterable of frames, Track, or sequence of such pieces
        Several pieces are played one after another without a gap. The frames of an iterable are
        played as they arrive. An array is a piece or a batch of pieces, as for `Model.decode`. It
        may be a tensor of torch or another library.
    model : Model
    device : int or str, optional
        Index of an output device, or a part of its name. By default, it is the system's default
        device.
    look_ahead : float or int, optional
        As for `StreamingDecoder`: samples are played before they are final. This is meant for
        latents that are made while they are played. A change of the latents is heard after a delay,
        which is the sum of the look-ahead, `buffer` and `latency`.
    pairing : {1, 2}
        As for `StreamingDecoder`. With 2, frames that arrive one by one take less time to decode,
        and are heard one frame later. Can't be combined with `look_ahead`.
    latency : float or {"low", "high"}, optional
        The device's latency in seconds. By default, it is 0.1, or 0.02 with `look_ahead`.
    buffer : float, optional
        Maximum audio decoded ahead, in seconds. By default, it is 1. With `look_ahead`, the default
        is 0.02, but at least one frame.
    prebuffer : float or "all", optional
        Duration of audio that is decoded before playing starts, in seconds. With ``"all"``,
        everything is decoded first. By default, playing starts as soon as possible.
    start : float
        Start position within each track, in seconds.
    length : float, optional
        Maximum duration of each track in seconds. By default, each track is played to its end.
    rounds : float
        Number of times to play everything; may be infinite.
    volume : float
        Factor by which the samples are multiplied. 1.0 leaves them unchanged.
    record : path, optional
        An audio file (.wav with float samples, .flac, .ogg, .opus or .mp3) to record the played
        samples to, before the volume is applied. With `look_ahead`, the exact samples are recorded
        instead of the played samples.
    threads : int, optional
        As for `StreamingDecoder`.
    layout : {"tc", "ct"}, optional
        The order of the axes of arrays and files, as for `Model.decode`.

    Attributes
    ----------
    model : Model
    tracks : list of Track
    playlist : Playlist
        The tracks, and the time range to play within each track.
    device : Device
    samplerate : int
        The sample rate that is played, in hertz. This is the network's sample rate, or, if the
        device does not support that rate, the device's default rate.

    Raises
    ------
    OutputError
        If PortAudio or the device is missing. This error is an `InputError`.
    InputError
        If a file of latents can't be used, if a live source would be played more than once, if a
        track ends before `start`, or if the volume is not finite.

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
        look_ahead: float | None = None,
        pairing: int = 1,
        latency: float | str | None = None,
        buffer: float | None = None,
        prebuffer: float | Literal["all"] | None = None,
        start: float = 0.0,
        length: float | None = None,
        rounds: float = 1,
        volume: float = 1.0,
        record: str | Path | None = None,
        threads: int | None = None,
        layout: AxisOrder | None = None,
    ) -> None:
        self.model = model
        volume = _checked_volume(volume)
        self.tracks = tracks_of(source, model, layout)
        self.playlist = Playlist(self.tracks, model.samplerate, start, length)
        if rounds > 1:
            self.playlist.require_repeatable()
        live = look_ahead is not None
        if latency is None:
            latency = LIVE_LATENCY_SECONDS if live else LATENCY_SECONDS
        if buffer is None:
            frame = 1 / model.config.frame_rate
            buffer = max(LIVE_BUFFER_SECONDS, frame) if live else BUFFER_SECONDS
        self._record = record
        self._prebuffered = prebuffer is not None
        self._target: Position | None = None
        self._closed = False
        self._finished = threading.Event()

        self.device = find_device(device)
        supported = self.device.supports(model.samplerate, model.channels)
        self.samplerate = model.samplerate if supported else self.device.samplerate
        resampler = None
        if self.resampled:
            resampler = Resampler(model.samplerate, self.samplerate, model.channels)

        start_seconds = self._prebuffer_seconds(prebuffer, buffer if live else START_SECONDS)
        start_level = max(1, self._samples(start_seconds))
        self._ring = Ring(max(start_level, self._samples(buffer)), model.channels)
        self._stream = DeviceStream(
            self.device, self.samplerate, model.channels, self._finished.set, latency
        )
        lead_in = self._samples(MARGIN_SECONDS)
        lead_out = self._samples(MARGIN_SECONDS + self._stream.latency)
        self._callback = PlaybackCallback(self._ring, start_level, lead_in, lead_out)
        self._callback.volume = volume
        self._start_level = start_level
        self._stalls = StallDetector(self._callback)
        self._records_exact = record is not None and live
        self._decoder = TimedDecoder(model, threads, look_ahead, self._records_exact, pairing)
        if live:
            self._decoder.warm()
        self._producer = Producer(self.playlist, self._decoder, self._ring, rounds, resampler)

    def play(self) -> None:
        """Start playing, or resume after `pause`.

        Raises
        ------
        PlaybackError
            If decoding is too slow to play live.
        InputError
            If the first latents of a live source are invalid, if float32 overflows while the first
            latents are decoded, or if the recording can't be written.
        """
        self._callback.paused = False
        if self._producer.ident is not None:
            return
        self._producer.start()
        self._wait_for_start()
        if self._record is not None and self._records_exact:
            rate = self.model.samplerate
            self._decoder.recorder = Recorder(self._record, rate, self.model.channels)
        elif self._record is not None:
            self._callback.recorder = Recorder(self._record, self.samplerate, self.model.channels)
        self._stream.start(self._callback.fill)

    def pause(self) -> None:
        """Play silence until `play` is called. No sample is lost."""
        self._callback.paused = True

    @property
    def paused(self) -> bool:
        """Whether the player is paused."""
        return self._callback.paused

    @property
    def volume(self) -> float:
        """The factor by which the samples are multiplied, a finite number. It may be set."""
        return self._callback.volume

    @volume.setter
    def volume(self, factor: float) -> None:
        self._callback.volume = _checked_volume(factor)

    @property
    def muted(self) -> bool:
        """Whether the output is silent while playing continues. It may be set."""
        return self._callback.muted

    @muted.setter
    def muted(self, muted: bool) -> None:
        self._callback.muted = muted

    @property
    def underflows(self) -> int:
        """How often decoding was late."""
        return self._callback.underflows

    @property
    def device_underflows(self) -> int:
        """How often PortAudio has reported that the device's own buffer ran empty."""
        return self._stream.underflows

    @property
    def silent_seconds(self) -> float:
        """Seconds of silence inserted because decoding was late."""
        return self._callback.silent_samples / self.samplerate

    @property
    def device_latency(self) -> float:
        """The device's latency in seconds, as PortAudio reports it."""
        return self._stream.latency

    @property
    def buffer(self) -> float:
        """Maximum audio decoded ahead, in seconds."""
        return self._ring.capacity / self.samplerate

    @property
    def resampled(self) -> bool:
        """Whether samples are resampled because the device does not support the network's rate."""
        return self.samplerate != self.model.samplerate

    @property
    def finished(self) -> bool:
        """Whether the last sample has been played."""
        return self._finished.is_set()

    @property
    def place(self) -> Position:
        """The track and the sample that the device receives next."""
        target, marks = self._target, self._producer.marks
        # A seek is pending until the producer has served it and the callback has skipped the
        # samples that were discarded for it.
        if target is not None and (
            self._producer.requested is not None or self._callback.discards != self._ring.discards
        ):
            return target
        read, latest = self._ring.read, None
        for mark in marks:
            if latest is None or mark.ring_sample <= read:
                latest = mark
        if latest is None:
            return Position(0, self.playlist.begin)
        passed = (read - latest.ring_sample) * self.model.samplerate // self.samplerate
        return Position(latest.position.track, latest.position.sample + max(0, passed))

    @property
    def position(self) -> float:
        """Seconds from the beginning of the current track."""
        return self.place.sample / self.model.samplerate

    @property
    def start(self) -> float:
        """Seconds from the beginning of each track to the first sample that is played."""
        return self.playlist.begin / self.model.samplerate

    @property
    def length(self) -> float | None:
        """Seconds from the beginning of the current track to the last sample that is played.

        Usually this is the end of the track. With the parameter `length`, it may be earlier. None
        if unknown.
        """
        end = self.playlist.end_of(self.tracks[self.place.track])
        return None if end is None else end / self.model.samplerate

    @property
    def buffered(self) -> float:
        """Seconds of audio decoded ahead."""
        return self._ring.fill / self.samplerate

    @property
    def real_time_factor(self) -> float:
        """The seconds needed to decode a second of audio, as the median of the last pushes."""
        return self._decoder.real_time_factor

    @property
    def level(self) -> float:
        """Peak of the last 0.1 s played, before the volume is applied. Full scale is 1.0."""
        latest = self._ring.latest(self._samples(0.1))
        quiet = self._callback.paused or self._callback.filling or len(latest) == 0
        return 0.0 if quiet else float(np.abs(latest).max())

    @property
    def looping(self) -> bool:
        """Whether another round follows the current one. It may be set."""
        return self._producer.rounds > 1

    @looping.setter
    def looping(self, looping: bool) -> None:
        if looping:
            self.playlist.require_repeatable()
        self._producer.rounds = math.inf if looping else 1

    def seek(self, seconds: float, track: int | None = None) -> None:
        """Continue from another position.

        The samples from that position on are also bit-identical to `Model.decode`.

        Parameters
        ----------
        seconds : float
            Seconds from the beginning of the track. The value is clamped to the range that is
            played.
        track : int, optional
            Index of the track. By default it is the current track.

        Raises
        ------
        InputError
            If the track is live. This error is a ``ValueError``.
        """
        number = self.place.track if track is None else track
        self._target = self.playlist.position_at(number, seconds)
        self._producer.go_to(self._target)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the last track.

        Returns
        -------
        bool
            False if `timeout` seconds passed before the end, otherwise true.

        Raises
        ------
        PlaybackError
            If the device was disconnected. This error is a ``RuntimeError``.
        InputError
            If live latents are invalid, or if latents are so large that float32 overflows in the
            network. All samples before these latents have then been played.
        """
        if self._producer.ident is None:
            raise RuntimeError("play() comes before wait()")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._finished.wait(0.05 if timeout is None else min(0.05, timeout)):
            if self._stalls.silence > MAX_STALL_SECONDS:
                raise PlaybackError(
                    f"output device {self.device.name!r} no longer requests samples"
                )
            if end is not None and time.monotonic() >= end:
                return False
        if self._producer.error is not None:
            raise self._producer.error
        if not (self._callback.is_over or self._closed):
            raise PlaybackError(f"output device {self.device.name!r} was disconnected")
        return True

    def close(self) -> None:
        """Stop immediately, release the device and complete the recording."""
        self._closed = True
        self._stream.close()
        self._producer.stop()
        self._decoder.record()
        played, self._callback.recorder = self._callback.recorder, None
        exact, self._decoder.recorder = self._decoder.recorder, None
        for recorder in (played, exact):
            if recorder is not None:
                recorder.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Player holds an audio device and can't be copied or pickled: make another one"
        )

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _samples(self, seconds: float) -> int:
        """Convert seconds to a number of samples at the device's sample rate."""
        return round(seconds * self.samplerate)

    def _prebuffer_seconds(self, prebuffer: float | Literal["all"] | None, default: float) -> float:
        if prebuffer is None:
            return default
        if prebuffer != "all":
            return float(prebuffer)
        total = self.playlist.seconds
        if math.isinf(total):
            raise InputError("a live source can't be decoded completely before playing")
        # This is longer than the sound, so playing starts when the producer has finished.
        return total + 1.0

    def _wait_for_start(self) -> None:
        """Wait until playing can start. Raise a `PlaybackError` if decoding is too slow."""
        patience = MAX_SLOW_START_SECONDS
        while not (self._ring.ended or self._ring.fill >= self._start_level):
            time.sleep(POLL_SECONDS)
        while patience > 0 and not self._is_ready():
            time.sleep(POLL_SECONDS)
            patience -= POLL_SECONDS
        if self._producer.error is not None and self._ring.fill == 0:
            raise self._producer.error
        factor, left = self.real_time_factor, self._producer.rounds * self.playlist.seconds
        if self._ring.ended or self._prebuffered or factor <= 1.0:
            return
        if left * (1 - 1 / factor) > self.buffered:
            raise PlaybackError(
                f"decoding takes {factor:.2f} s for a second of sound here: too slow to play "
                "live; --prebuffer all decodes everything first"
            )

    def _is_ready(self) -> bool:
        """Whether decoding is fast enough, or the ring is full."""
        fast = self._prebuffered or self.real_time_factor < MAX_FAST_FACTOR
        return fast or self._ring.ended or self._ring.room == 0


def _checked_volume(factor: float) -> float:
    """Return the volume. Raise an `InputError` if it is not finite."""
    if not math.isfinite(factor):
        raise InputError(f"volume must be a finite number, not {factor}")
    return factor
