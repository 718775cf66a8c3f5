"""Users of decoders and encoders who do random things and check everything that they are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import oobleck_stream as ob


class Piece(NamedTuple):
    """A whole input and the whole output that it must give: (rows, channels) float32 each."""

    given: np.ndarray
    made: np.ndarray


def same_bits(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """``AssertionError`` unless two float32 arrays have the same shape and the same bits."""
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape, f"{what}: {found.shape}, expected {expected.shape}"
    different = np.flatnonzero(found.view(np.uint32) != expected.view(np.uint32))
    assert not len(different), f"{what}: {len(different)} of {found.size} differ: {different[:9]}"


class User:
    """Does random things with a stream of a model.

    Parameters
    ----------
    name : str
        Shown when something differs.
    model : Model
    pieces : list of Piece
    random : numpy Generator
    max_threads : int
        Threads of a push.
    """

    actions: dict[str, float]
    """Names of methods, and how likely each is to be next."""

    def __init__(
        self, name: str, model: ob.Model, pieces: list[Piece], random: Any, max_threads: int
    ) -> None:
        self.name, self.model, self.pieces = name, model, pieces
        self.random, self.max_threads = random, max_threads
        self.counts: Counter[str] = Counter()

    def act(self) -> None:
        """Do one thing."""
        action = str(self.random.choice(list(self.actions), p=list(self.actions.values())))
        getattr(self, action)()
        self.counts[action] += 1

    def any_threads(self) -> int:
        """A random number of threads for a push."""
        return int(self.random.integers(1, self.max_threads + 1))

    def any_piece(self) -> Piece:
        """One of the pieces."""
        return self.pieces[int(self.random.integers(len(self.pieces)))]


class DecoderUser(User):
    """Uses a decoder, of several streams if `streams` is given; all samples are compared."""

    actions = {  # noqa: RUF012
        "push": 0.8, "flush": 0.06, "reset": 0.04, "seek": 0.04, "restore": 0.05, "decode": 0.01,
    }  # fmt: skip

    def __init__(self, *arguments: Any, streams: int | None = None) -> None:
        super().__init__(*arguments)
        self.streams, self.number = streams, streams or 1
        self.name += f", {streams or 'no'} streams"
        self.decoder = self._new_decoder()
        self.chosen = [self.any_piece() for _ in range(self.number)]
        self.first_sample = [0] * self.number
        self.ended = np.zeros(self.number, bool)

    def push(self) -> None:
        """Give some frames to some of the streams."""
        length = int(self.random.choice([0, 1, 1, 1, 2, 5, 11]))
        active = ~self.ended & (np.array(self._frames_in()) + length <= self._lengths())
        if self.streams is not None:
            active &= self.random.random(self.number) < self.random.random() ** 0.5
        self._push(length, active)

    def flush(self) -> None:
        """Give the rest of a stream's piece, and end all streams whose pieces are complete."""
        stream = self._any_stream()
        if not self.ended[stream]:
            rest = self._lengths()[stream] - self._frames_in()[stream]
            self._push(int(rest), np.arange(self.number) == stream)
        active = ~self.ended & (np.array(self._frames_in()) == self._lengths())
        if self.streams is not None:
            self._check(lambda: self.decoder.flush(active), 0, active, last=True)
        elif active[0]:
            self._check(lambda: [self.decoder.flush()], 0, active, last=True)
        self.ended |= active
        for number in np.flatnonzero(self.ended):
            if self.random.integers(2):
                self._begin(int(number))

    def reset(self) -> None:
        """Begin another piece."""
        self._begin(self._any_stream())

    def seek(self) -> None:
        """Go on from some frame of another piece."""
        stream = self._any_stream()
        self._begin(stream)
        frame = int(self.random.integers(self._lengths()[stream]))
        self.decoder.seek(frame, *self._named(stream))
        self.first_sample[stream] = frame * self.model.hop

    def restore(self) -> None:
        """Copy a stream: to another one, or to a decoder with other threads."""
        source, target = self._any_stream(), self._any_stream()
        state = self.decoder.snapshot(*self._named(source))
        if self.streams is None:
            self.decoder = self._new_decoder()
        self.decoder.restore(state, *self._named(target))
        for values in (self.chosen, self.first_sample, self.ended):
            values[target] = values[source]

    def decode(self) -> None:
        """Decode a whole piece at once."""
        piece = self.any_piece()
        made = self.model.decode(piece.given, threads=self.any_threads())
        same_bits(made, piece.made, f"{self.name}, decode")
        self.counts["samples"] += made.size

    def _new_decoder(self) -> Any:
        if self.streams is None:
            return ob.StreamingDecoder(self.model, self.any_threads())
        return ob.MultiStreamDecoder(self.model, self.streams, self.any_threads())

    def _named(self, stream: int) -> tuple[int, ...]:
        """The argument that names a stream, where there are several."""
        return () if self.streams is None else (stream,)

    def _any_stream(self) -> int:
        return int(self.random.integers(self.number))

    def _lengths(self) -> np.ndarray:
        return np.array([len(piece.given) for piece in self.chosen])

    def _frames_in(self) -> list[int]:
        return [self.decoder.frames_in] if self.streams is None else self.decoder.frames_in

    def _samples_out(self) -> list[int]:
        return [self.decoder.samples_out] if self.streams is None else self.decoder.samples_out

    def _begin(self, stream: int) -> None:
        self.decoder.reset(*self._named(stream))
        self.chosen[stream] = self.any_piece()
        self.first_sample[stream], self.ended[stream] = 0, False

    def _push(self, length: int, active: np.ndarray) -> None:
        frames = np.full((self.number, length, self.model.latent_dim), np.nan, np.float32)
        for stream in np.flatnonzero(active):
            start = self._frames_in()[stream]
            frames[stream] = self.chosen[stream].given[start : start + length]
        if self.streams is not None:
            self._check(lambda: self.decoder.push(frames, active), length, active)
        elif active[0]:
            self._check(lambda: [self.decoder.push(frames[0])], length, active)

    def _check(
        self, call: Callable[[], Any], length: int, active: np.ndarray, last: bool = False
    ) -> None:
        """Compare what a call gives, and how much it gives, with the whole pieces."""
        before = self._samples_out()
        frames = (np.array(self._frames_in()) + length * active).tolist()
        chunks = call()
        assert self._frames_in() == frames, f"{self.name}: {self._frames_in()}, not {frames}"
        for stream, chunk in enumerate(chunks):
            made, begin = self.chosen[stream].made, before[stream]
            due = len(made) if last else frames[stream] * self.model.hop - self.model.latency
            end = max(self.first_sample[stream], due) if active[stream] else begin
            same_bits(chunk, made[begin:end], f"{self.name}, stream {stream}, sample {begin}")
            self.counts["samples"] += chunk.size


class EncoderUser(User):
    """Uses an encoder with some `options`; all frames are compared."""

    actions = {"push": 0.8, "flush": 0.08, "reset": 0.05, "restore": 0.07}  # noqa: RUF012

    def __init__(self, *arguments: Any, options: dict[str, Any]) -> None:
        super().__init__(*arguments)
        self.options = options
        self.name += f", encoder with {options}"
        self.encoder = self._new_encoder()
        self.piece = self.any_piece()

    def push(self) -> None:
        """Give some samples."""
        self._push(int(self.random.choice([0, 1, 77, 512, self.model.hop, 5000])))

    def flush(self) -> None:
        """Give the rest of the piece, end it, and begin another one."""
        self._push(len(self.piece.given))
        self._check(self.encoder.flush, len(self.piece.made))
        self.reset()

    def reset(self) -> None:
        """Begin another piece."""
        self.encoder.reset()
        self.piece = self.any_piece()

    def restore(self) -> None:
        """Go on in an encoder with other threads."""
        state = self.encoder.snapshot()
        self.encoder = self._new_encoder()
        self.encoder.restore(state)

    def _new_encoder(self) -> ob.StreamingEncoder:
        return ob.StreamingEncoder(self.model, self.any_threads(), **self.options)

    def _push(self, length: int) -> None:
        start = self.encoder.samples_in
        audio = self.piece.given[start : start + length]
        due = max(0, (start + len(audio) - self.encoder.latency) // self.model.hop)
        self._check(lambda: self.encoder.push(audio), due)

    def _check(self, call: Callable[[], np.ndarray], end: int) -> None:
        begin = self.encoder.frames_out
        chunk = call()
        same_bits(chunk, self.piece.made[begin:end], f"{self.name}, frame {begin}")
        self.counts["frames encoded"] += len(chunk)
