"""One client's stream: what was decoded, what was sent, and how much more may be decoded.

Frames and samples are numbered from the beginning of the session. After a seek, the numbering
continues, and a new `Epoch` relates the following numbers to a time in a source.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.decoder_streams import DecoderState
from oobleck_stream.server.kept import KeptFrames
from oobleck_stream.server.protocol import REFUSED, ProtocolError
from oobleck_stream.server.sources import Pushed, Source

MAX_CONTROLS = 64
"""Maximum number of text messages that wait for a client. One more disconnects the client."""


@dataclass(frozen=True)
class Epoch:
    """The part of a session from one start of its stream to the next.

    It relates the session's indices of samples and frames to a time in a source.

    Attributes
    ----------
    sample : int
        Index of the epoch's first sample in the session.
    frame : int
        Index of the first frame that is decoded for the epoch, in the session.
    source : str
        Name of the source.
    seconds : float
        The time in the source to which the epoch's first sample belongs.
    decoded : int
        Index of the first frame that is decoded for the epoch, in the source. After a seek, this is
        up to `Model.context` frames before the frame at `seconds`.
    jump : bool
        Whether the client has to drop earlier samples that it has not played yet.
    look_ahead : int
        Number of samples that are withheld until later frames are decoded. The epoch's sound is
        early if this is less than `Model.latency`, and exact otherwise.
    """

    sample: int = 0
    frame: int = 0
    source: str = ""
    seconds: float = 0.0
    decoded: int = 0
    jump: bool = False
    look_ahead: int = 0

    def as_message(self) -> dict[str, Any]:
        """Return the epoch as a message to the client."""
        return {"type": "epoch", **self.__dict__}


@dataclass(eq=False)
class Session:
    """The state of one client's stream, without I/O. Only the event loop may use it.

    Attributes
    ----------
    id : str
        A random name of 128 bits. A client that knows it may resume the session.
    source : Source
        The current source of the frames.
    pushed : Pushed
        The source whose frames the client sends.
    ahead : int
        Decoding pauses while at least this number of samples beyond `heard` have been decoded.
    wants_early : bool
        Whether the client asked for early sound where its frames are not known in advance.
    early : bool
        Whether the session uses the early decoder instead of the exact one.
    slot : int or None
        Index of the decoder's stream that the session uses. None while the session is parked.
    state : DecoderState or None
        The saved state of the stream while the session is parked. None means the beginning.
    fed : int
        Number of frames that were decoded.
    made, sent, heard : int
        Number of samples that were decoded, sent, and heard by the client.
    lead : int
        Number of frames that still have to be pushed before the first sample is final.
    flushed : bool
        Whether the stream has ended.
    overflowed : bool
        Whether samples were not finite, or decoding failed. If so, the client has to seek, reset or
        restore before more is decoded.
    active : bool
        Whether the session needs the decoder. A session that is parked, disconnected, paused or
        complete does not need it.
    connected : bool
        Whether a client is connected.
    connection : int
        Index of the client's current connection. An older connection must not change the session.
    closing : ProtocolError or None
        The reason why the connection has to be closed. None means that it stays open.
    awake : asyncio.Event
        Set when there may be something to send.
    room : asyncio.Event
        Set when frames were taken from the source.
    on_audio : callable, optional
        Called with the samples whenever some were decoded.
    on_end : callable, optional
        Called without arguments when the session ends.
    """

    id: str
    source: Source
    pushed: Pushed
    samplerate: int
    channels: int
    ahead: int
    sample: str = "f32"
    clock: Callable[[], float] = time.monotonic
    wants_frames: bool = False
    wants_early: bool = False
    early: bool = False
    slot: int | None = None
    state: DecoderState | None = None
    fed: int = 0
    made: int = 0
    sent: int = 0
    heard: int = 0
    lead: int = 0
    flushed: bool = False
    overflowed: bool = False
    paused: bool = False
    looping: bool = False
    connected: bool = True
    closing: ProtocolError | None = None
    connection: int = 0
    underruns: int = 0
    epoch: Epoch = field(default_factory=Epoch)
    share: str | None = None
    seated_at: float = 0.0
    left_at: float = 0.0
    heard_at: float = 0.0
    used_at: float = 0.0
    frames_told: int = 0
    settings_told: bool = True
    controls: deque[dict[str, Any]] = field(default_factory=deque)
    decoded: deque[tuple[int, FloatArray]] = field(default_factory=deque)
    snapshots: deque[str] = field(default_factory=deque)
    kept: KeptFrames | None = None
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    on_audio: Callable[[FloatArray], None] | None = None
    on_end: Callable[[], None] | None = None
    _history: deque[tuple[int, FloatArray]] = field(default_factory=deque)

    @property
    def credit(self) -> int:
        """Number of samples that may still be decoded before the client has heard more."""
        return self.heard + self.ahead - self.made

    @property
    def active(self) -> bool:
        """Whether the session needs the decoder."""
        return self.slot is not None and self.connected and not self.paused and not self.complete

    @property
    def complete(self) -> bool:
        """Whether nothing more will be decoded until the client sends a message."""
        return self.flushed or self.overflowed

    @property
    def ready(self) -> bool:
        """Whether the session is active, has credit, and has frames to push or an end to flush."""
        return self.active and self.credit > 0 and (self.source.available > 0 or self.source.ended)

    def buffered(self) -> float:
        """Estimate the seconds of sound that the client has not played yet."""
        passed = 0.0 if self.paused else self.clock() - self.heard_at
        return max(0.0, (self.made - self.heard) / self.samplerate - passed)

    def tell(self, message: dict[str, Any]) -> None:
        """Queue a text message for the client. If too many are queued, close the connection."""
        if len(self.controls) < MAX_CONTROLS:
            self.controls.append(message)
        else:
            self.close(ProtocolError("too-fast", "the answers are not read", REFUSED))
        self.awake.set()

    def close(self, error: ProtocolError) -> None:
        """Make the connection report an error to the client and close."""
        if self.closing is None:
            self.closing = error
            self.awake.set()

    def append(self, audio: FloatArray) -> None:
        """Add decoded samples, (n, channels) float32."""
        if not len(audio):
            return
        self._history.append((self.made, audio))
        self.made += len(audio)
        if self.on_audio is not None:
            self.on_audio(audio)
        self.awake.set()

    def take_unsent(self) -> tuple[int, FloatArray] | None:
        """Return the first index and the samples of the next chunk, and mark them as sent.

        Return None if all decoded samples were sent.
        """
        if self.sent >= self.made:
            return None
        for first, audio in self._history:
            if first + len(audio) > self.sent:
                start, part = self.sent, audio[self.sent - first :]
                self.sent = first + len(audio)
                return start, part
        raise AssertionError("unsent samples are kept")

    def hear(self, sample: int) -> None:
        """Note that the client has heard all samples before index `sample`.

        More samples may then be decoded, and the heard samples are no longer kept.

        Raises
        ------
        ProtocolError
            If some of these samples were not sent.
        """
        if sample > self.sent:
            raise ProtocolError(
                "bad-message", f"heard: sample {sample}, but {self.sent} samples were sent"
            )
        self.heard_at = self.clock()
        if sample <= self.heard:
            return
        self.heard = sample
        while self._history and self._history[0][0] + len(self._history[0][1]) <= sample:
            self._history.popleft()

    def resume_from(self, have: int) -> int:
        """Continue on a new connection. The client has all samples before index `have`.

        Returns
        -------
        int
            Index of the first sample that will be sent.

        Raises
        ------
        ProtocolError
            If some of these samples were not sent.
        """
        if have > self.sent:
            raise ProtocolError(
                "bad-message", f"resume: have {have}, but {self.sent} samples were sent"
            )
        start = max(have, self.heard)
        self.sent = start
        self.controls.clear()
        return start

    def discard_unsent(self) -> None:
        """Drop the samples that were not sent, and treat all sent samples as heard."""
        self.made = self.heard = self.sent
        self.heard_at = self.clock()
        self._history.clear()
        self.decoded.clear()

    def begin(self, epoch: Epoch, lead_samples: int, hop: int) -> None:
        """Start an epoch.

        `lead_samples` is the number of samples that the stream withholds or skips at its start.
        """
        self.epoch = epoch
        self.lead = math.ceil(lead_samples / hop)
        self.flushed = self.overflowed = False
        if self.kept is not None:
            self.kept.clear()

    def next_count(self, block: int, hurried: bool) -> int:
        """Return the number of frames to push next. It is 0 if the stream has to be flushed.

        Parameters
        ----------
        block : int
            Number of frames of a steady push.
        hurried : bool
            Whether a push at the start may also contain the frames that are needed before the first
            sample is final.
        """
        wanted = block + self.lead if self.lead > 0 and hurried else block
        return min(wanted, self.source.available)

    def take(self, count: int) -> FloatArray:
        """Take `count` frames from the source, count them as decoded, and return them."""
        frames = self.source.take(count)
        if self.wants_frames:
            self.decoded.append((self.fed, frames))
        if self.kept is not None:
            self.kept.add(frames)
        self.fed += count
        self.lead -= count
        self.room.set()
        return frames

    def pop_decoded(self) -> tuple[int, FloatArray] | None:
        """Remove and return the decoded frames that were not reported to the client yet.

        The result is the first frame's index and the frames, or None if there are no frames.
        """
        if not self.decoded:
            return None
        first = self.decoded[0][0]
        frames = np.concatenate([frames for _, frames in self.decoded])
        self.decoded.clear()
        return first, frames
