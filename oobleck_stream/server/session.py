"""One client's stream: what was decoded, what was sent, and how much more may be decoded.

Frames and samples are counted from the beginning of the session and never backwards. After a seek
the numbers go on, and an `Epoch` says which moment of which piece they now belong to.
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
"""Text messages that may wait for a client; one that reads so slowly is closed."""


@dataclass(frozen=True)
class Epoch:
    """Where the numbers of a session's samples and frames lead.

    Attributes
    ----------
    sample : int
        Number of its first sample.
    frame : int
        Number of its first decoded frame.
    source : str
        Name of the source.
    seconds : float
        The moment of the piece that its first sample belongs to.
    decoded : int
        The frame of the piece that is decoded first: `Model.context` frames before, after a seek.
    jump : bool
        Whether samples before it that were not heard yet are to be dropped.
    """

    sample: int = 0
    frame: int = 0
    source: str = ""
    seconds: float = 0.0
    decoded: int = 0
    jump: bool = False

    def as_message(self) -> dict[str, Any]:
        """Return it as a message to the client."""
        return {"type": "epoch", **self.__dict__}


@dataclass(eq=False)
class Session:
    """The state of one stream; it has no I/O, and belongs to the event loop.

    Attributes
    ----------
    id : str
        128 random bits: whoever knows it may resume the session.
    source : Source
        Where the frames come from now.
    pushed : Pushed
        The frames that the client sends.
    ahead : int
        How many samples may be decoded beyond `heard`.
    slot : int or None
        The stream of the decoder that belongs to the session; None while it is parked.
    state : DecoderState or None
        While it is parked, the state of its stream; None for one at its beginning.
    fed, made, sent, heard : int
        Frames that were decoded; samples that were decoded, sent, and heard by the client.
    lead : int
        Frames that still have to be pushed before the first sample is final.
    flushed, overflowed : bool
        Whether the stream was ended, or refuses frames until it begins again.
    active : bool
        Whether it has a claim on the decoder; false if it is parked, paused or complete.
    connected : bool
        Whether a client is there.
    connection : int
        Number of the client's present connection; an older one must not touch the session.
    closing : ProtocolError or None
        Why the connection is to be closed.
    awake, room : asyncio.Event
        Set when there may be something to send; when frames were taken from the source.
    on_audio, on_end : callable, optional
        Receives the samples too, as they are decoded; called when the session is forgotten.
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
        """Number of samples that the client may still be sent."""
        return self.heard + self.ahead - self.made

    @property
    def active(self) -> bool:
        """Whether it has a claim on the decoder."""
        return self.slot is not None and self.connected and not self.paused and not self.complete

    @property
    def complete(self) -> bool:
        """Whether everything was decoded, and nothing more will be without a message."""
        return self.flushed or self.overflowed

    @property
    def ready(self) -> bool:
        """Whether something can be decoded now, and the client wants more."""
        return self.active and self.credit > 0 and (self.source.available > 0 or self.source.ended)

    def buffered(self) -> float:
        """Estimate the seconds of sound that the client has not played yet."""
        passed = 0.0 if self.paused else self.clock() - self.heard_at
        return max(0.0, (self.made - self.heard) / self.samplerate - passed)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a text message; close the connection of a client that does not read them."""
        if len(self.controls) < MAX_CONTROLS:
            self.controls.append(message)
        else:
            self.close(ProtocolError("too-fast", "the answers are not read", REFUSED))
        self.awake.set()

    def close(self, error: ProtocolError) -> None:
        """Let the connection say why and close; the client may resume later."""
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
        """Return the number of the next chunk to send and its samples, which then count as sent."""
        if self.sent >= self.made:
            return None
        for first, audio in self._history:
            if first + len(audio) > self.sent:
                start, part = self.sent, audio[self.sent - first :]
                self.sent = first + len(audio)
                return start, part
        raise AssertionError("unsent samples are kept")

    def hear(self, sample: int) -> None:
        """Samples below a number were heard: more may be decoded, and they need not be kept.

        Raises
        ------
        ProtocolError
            If they were not sent.
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
        """Continue after a lost connection; the client has all samples below `have`.

        Returns
        -------
        int
            Number of the first sample that will be sent.

        Raises
        ------
        ProtocolError
            If they were not sent.
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
        """Drop what was decoded but not sent, and let the client drop what it has not heard."""
        self.made = self.heard = self.sent
        self.heard_at = self.clock()
        self._history.clear()
        self.decoded.clear()

    def begin(self, epoch: Epoch, lead_samples: int, hop: int) -> None:
        """The stream begins again, with samples after `lead_samples` that are still withheld."""
        self.epoch = epoch
        self.lead = math.ceil(lead_samples / hop)
        self.flushed = self.overflowed = False
        if self.kept is not None:
            self.kept.clear()

    def next_count(self, block: int, hurried: bool) -> int:
        """Number of frames to decode next; 0 to end the stream.

        Parameters
        ----------
        block : int
            Frames of a steady push.
        hurried : bool
            Whether the first push may be as long as it takes to get samples.
        """
        wanted = block + self.lead if self.lead > 0 and hurried else block
        return min(wanted, self.source.available)

    def take(self, count: int) -> FloatArray:
        """Take frames from the source, and note that they will be decoded."""
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
        """Frames that were decoded and not shown to the client yet, with the first's number."""
        if not self.decoded:
            return None
        first = self.decoded[0][0]
        frames = np.concatenate([frames for _, frames in self.decoded])
        self.decoded.clear()
        return first, frames
