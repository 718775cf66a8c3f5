"""Streams that give out samples early, while the exact stream goes on underneath."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.decoder_streams import DecoderState, DecoderStreams, Position
from oobleck_stream.early.look_ahead import LookAhead, Missing
from oobleck_stream.engine.provisional_stack import ProvisionalStack
from oobleck_stream.engine.status import status_of
from oobleck_stream.model import Model


class EarlyStreams(DecoderStreams):
    """`DecoderStreams` whose chunks are early, as `oobleck_stream.early.look_ahead` defines them.

    The early samples follow from the exact stream's state, so that is all that a `DecoderState`
    holds. What the next fade begins with is kept beside it, and computed again after a `restore`.

    Parameters
    ----------
    model, count, threads, backend
        As for `DecoderStreams`.
    look_ahead : LookAhead
    """

    stack: ProvisionalStack

    def __init__(
        self,
        model: Model,
        count: int,
        threads: int | None,
        backend: str | None,
        look_ahead: LookAhead,
    ) -> None:
        place = backend or model.backend
        stack = ProvisionalStack(model.decoder, threads, count, place, look_ahead.held)
        super().__init__(model, count, stack=stack)
        self._look_ahead = look_ahead
        self._nothing = np.empty((0, model.channels), np.float32)
        self._guesses: list[FloatArray | None] = [None] * count

    def samples_out(self, number: int) -> int:
        """Index of the first sample of a stream's next chunk, in the whole piece."""
        given = self._given(number)
        return self._positions[number].start * self.model.hop + given + self._drop(number, given)

    def begin(self, numbers: Sequence[int], frame: int = 0) -> int:
        """As `DecoderStreams.begin`."""
        self._forget(numbers)
        return super().begin(numbers, frame)

    def restore(self, state: DecoderState, number: int) -> None:
        """As `DecoderStreams.restore`; the state of a stream without look-ahead will do as well."""
        self._forget([number])
        super().restore(state, number)

    def advance(
        self, rows: FloatArray, numbers: Sequence[int], last: bool
    ) -> tuple[list[FloatArray], dict[int, int]]:
        """Push the same number of frames into some streams, frame by frame.

        As `DecoderStreams.advance`, but the chunks are early. The exact ones are then in `finals`.
        """
        self._interrupt(numbers)
        drops = [self._drop(number, self._given(number)) for number in numbers]
        early: list[list[FloatArray]] = [[self._nothing] for _ in numbers]
        exact: list[list[FloatArray]] = [[self._nothing] for _ in numbers]
        for index in range(rows.shape[1] + last):
            frame = np.ascontiguousarray(rows[:, index : index + 1])
            ends = index == rows.shape[1]
            guesses = self._known_guesses(numbers)
            pushed = self.stack.push_streams(frame, numbers, ends)
            samples = self._rest(numbers, pushed) if ends else self._newest(numbers, pushed)
            for position, guess in enumerate(guesses):
                early[position].append(self._look_ahead.faded(guess, samples[position]))
                exact[position].append(pushed[position])
        return self._results(numbers, drops, early, exact, last)

    def _given(self, number: int) -> int:
        """Number of samples given out since a stream's first frame, those dropped included."""
        if self.stack.ended(number):
            return self.stack.rows_out(number)
        return self._look_ahead.given(self.stack.rows_in(number), self.model.hop)

    def _drop(self, number: int, given: int) -> int:
        """Number of early samples that are still to be dropped after a seek."""
        skip = self._positions[number].skip
        return max(0, self.stack.rows_out(number) + skip - given) if skip else 0

    def _forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._guesses[number] = None

    def _known_guesses(self, numbers: Sequence[int]) -> list[FloatArray]:
        """What the next samples of some streams fade from: nothing if there were none before."""
        ahead = self._look_ahead
        unknown = [n for n in numbers if self._guesses[n] is None and self._given(n) > 0]
        if unknown and ahead.fade:
            ends = self.stack.provisional(unknown, -ahead.samples, ahead.fade - ahead.samples)
            for number, end in zip(unknown, ends, strict=True):
                self._guesses[number] = end
        guesses = [self._guesses[number] for number in numbers]
        return [self._nothing if guess is None else guess for guess in guesses]

    def _newest(self, numbers: Sequence[int], pushed: Sequence[FloatArray]) -> list[FloatArray]:
        """The samples to give out after a frame, not yet faded; keeps the guesses behind them."""
        ahead, hop = self._look_ahead, self.model.hop
        begun = [number for number in numbers if self._given(number) > 0]
        ends = self.stack.provisional(begun, -ahead.samples - hop, ahead.fade - ahead.samples)
        behind = dict(zip(begun, ends, strict=True))
        chunks = []
        for number, final in zip(numbers, pushed, strict=True):
            if number not in behind:
                chunks.append(self._nothing)
                continue
            # Where the look-ahead is nearly the network's, the first of them are final.
            count = min(hop, self._given(number))
            known = self.stack.rows_out(number) - (self._given(number) - count)
            rows = behind[number]
            if known > 0:
                rows = np.concatenate([final[len(final) - known :], rows])
            chunks.append(rows[:count])
            self._guesses[number] = rows[count:]
        return chunks

    def _rest(self, numbers: Sequence[int], pushed: Sequence[FloatArray]) -> list[FloatArray]:
        """The samples to give out at the end, not yet faded, from those that became final."""
        chunks = []
        for number, final in zip(numbers, pushed, strict=True):
            given = self._look_ahead.given(self.stack.rows_in(number), self.model.hop)
            before = self.stack.rows_out(number) - len(final)
            chunks.append(final[given - before :])
        return chunks

    def _results(
        self,
        numbers: Sequence[int],
        drops: Sequence[int],
        early: Sequence[list[FloatArray]],
        exact: Sequence[list[FloatArray]],
        last: bool,
    ) -> tuple[list[FloatArray], dict[int, int]]:
        """What `advance` returns; keeps the exact samples and replaces the positions."""
        chunks, finals = [], []
        positions, overflowed = [], {}
        for number, drop, parts, final_parts in zip(numbers, drops, early, exact, strict=True):
            start, skip, _ = self._positions[number]
            samples, final = np.concatenate(parts)[drop:], np.concatenate(final_parts)
            dropped = min(skip, len(final))
            chunk, row = _finite(samples, self._given(number))
            final, final_row = _finite(final[dropped:], self.stack.rows_out(number))
            row = final_row if row is None else row
            if row is not None:
                overflowed[number] = start + row // self.model.hop
            chunks.append(chunk)
            finals.append(final)
            status = status_of(last) if row is None else "overflowed"
            positions.append(Position(start, skip - dropped, status))
        self._keep_finals(numbers, finals)
        self._replace(numbers, positions)
        return chunks, overflowed


def _finite(samples: FloatArray, end: int) -> tuple[FloatArray, int | None]:
    """The samples before the first that is not finite, and its number; `end` follows the last."""
    row = first_not_finite(samples)
    if row is None:
        return samples, None
    return samples[:row], end - len(samples) + row


def open_streams(
    model: Model,
    count: int,
    threads: int | None,
    backend: str | None,
    look_ahead: float | None,
    fade: float | None,
    missing: Missing,
) -> tuple[int, DecoderStreams]:
    """The samples that a decoder withholds, and its streams, which are early if it looks less far.

    The parameters are those of `oobleck_stream.StreamingDecoder`, and `count` streams.
    """
    ahead = LookAhead.of(model, look_ahead, fade, missing)
    if ahead is None:
        return model.latency, DecoderStreams(model, count, threads, backend)
    return ahead.samples, EarlyStreams(model, count, threads, backend, ahead)
