"""Streams that return early samples, and usually compute the exact samples as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite, is_whole
from oobleck_stream.decoder_streams import DecoderState, DecoderStreams, Position
from oobleck_stream.early.look_ahead import LookAhead, Missing
from oobleck_stream.engine.provisional_stack import ProvisionalStack
from oobleck_stream.engine.status import status_of
from oobleck_stream.model import Model

PAIRINGS = (1, 2)
"""The possible values of the option `pairing`."""


class EarlyStreams(DecoderStreams):
    """`DecoderStreams` whose chunks are early, as `oobleck_stream.early.look_ahead` defines them.

    The early samples can be computed from the state of the exact stream, so a `DecoderState` holds
    only that state. The samples from which the next fade starts are stored separately, and are
    computed again after a `restore`.

    Parameters
    ----------
    model, count, threads, backend
        As for `DecoderStreams`.
    look_ahead : LookAhead
    exact : bool
        Whether to compute the exact samples as well. If false, final rows are computed only in the
        layers where early samples depend on them, and there are no `finals`.
    """

    stack: ProvisionalStack

    def __init__(
        self,
        model: Model,
        count: int,
        threads: int | None,
        backend: str | None,
        look_ahead: LookAhead,
        exact: bool = True,
    ) -> None:
        depth = None if exact else look_ahead.layers_read(model)
        place = backend or model.backend
        stack = ProvisionalStack(model.decoder, threads, count, place, depth)
        super().__init__(model, count, stack=stack, depth=depth)
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
        """As `DecoderStreams.restore`; `state` may also come from a stream that is not early."""
        self._forget([number])
        super().restore(state, number)

    def advance(
        self, rows: FloatArray, numbers: Sequence[int], last: bool
    ) -> tuple[list[FloatArray], dict[int, int]]:
        """Push the same number of frames into each of some streams, frame by frame.

        As `DecoderStreams.advance`, but the chunks are early samples. The exact samples are in
        `finals` afterwards.
        """
        self._interrupt(numbers)
        drops = [self._drop(number, self._given(number)) for number in numbers]
        before = [self.stack.rows_out(number) for number in numbers]
        early: list[list[FloatArray]] = [[self._nothing] for _ in numbers]
        exact: list[list[FloatArray]] = [[self._nothing] for _ in numbers]
        for index in range(rows.shape[1] + last):
            guesses = self._known_guesses(numbers)
            if index < rows.shape[1]:
                samples, finals = self._push(np.ascontiguousarray(rows[:, [index]]), numbers)
            else:
                samples, finals = self._end(numbers)
            for position, guess in enumerate(guesses):
                early[position].append(self._look_ahead.faded(guess, samples[position]))
                exact[position].append(finals[position])
        return self._results(numbers, drops, before, early, exact, last)

    def _given(self, number: int) -> int:
        """Number of samples returned or dropped since a stream's first frame."""
        if self.stack.ended(number):
            return self.stack.rows_out(number)
        return self._look_ahead.given(self.stack.rows_in(number), self.model.hop)

    def _drop(self, number: int, given: int) -> int:
        """Number of early samples still to be dropped after a seek."""
        skip = self._positions[number].skip
        return max(0, self.stack.rows_out(number) + skip - given) if skip else 0

    def _forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._guesses[number] = None

    def _known_guesses(self, numbers: Sequence[int]) -> list[FloatArray]:
        """The samples from which each stream's next fade starts; empty before the first sample."""
        ahead = self._look_ahead
        unknown = [n for n in numbers if self._guesses[n] is None and self._given(n) > 0]
        if unknown and ahead.fade:
            first, stop = -ahead.samples, ahead.fade - ahead.samples
            ends = self.stack.provisional(unknown, first, stop, ahead.held)
            for number, end in zip(unknown, ends, strict=True):
                self._guesses[number] = end
        guesses = [self._guesses[number] for number in numbers]
        return [self._nothing if guess is None else guess for guess in guesses]

    def _push(
        self, frame: FloatArray, numbers: Sequence[int]
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """Push a frame; return the early samples, not yet crossfaded, and the exact samples.

        The predicted samples that follow the early samples are stored for the next fade.
        """
        ahead, hop = self._look_ahead, self.model.hop
        first, end = -ahead.samples - hop, ahead.fade - ahead.samples
        pushed, ends = self.stack.push_provisional(frame, numbers, first, end, ahead.held)
        chunks = []
        for number, final, rows in zip(numbers, pushed, ends, strict=True):
            given = self._given(number)
            count = min(hop, given)
            # If nearly the whole look-ahead is withheld, the first early samples are already final.
            known = self.stack.rows_out(number) - (given - count)
            if known > 0:
                rows = np.concatenate([final[len(final) - known :], rows])
            chunks.append(rows[:count])
            if given:
                self._guesses[number] = rows[count:]
        return chunks, pushed if self.exact else [self._nothing] * len(pushed)

    def _end(self, numbers: Sequence[int]) -> tuple[list[FloatArray], list[FloatArray]]:
        """End the streams; return the last samples, not yet crossfaded, and the exact ones."""
        frame = np.empty((len(numbers), 0, self.model.latent_dim), np.float32)
        if not self.exact:
            begun = [number for number in numbers if self.stack.rows_in(number) > 0]
            ends = self.stack.provisional(begun, -self._look_ahead.samples, None)
            rest = dict(zip(begun, ends, strict=True))
            self.stack.push_streams(frame, numbers, last=True)
            none = [self._nothing] * len(numbers)
            return [rest.get(number, self._nothing) for number in numbers], none
        given = [self._given(number) for number in numbers]
        pushed = self.stack.push_streams(frame, numbers, last=True)
        chunks = []
        for number, count, final in zip(numbers, given, pushed, strict=True):
            chunks.append(final[count - (self.stack.rows_out(number) - len(final)) :])
        return chunks, pushed

    def _results(
        self,
        numbers: Sequence[int],
        drops: Sequence[int],
        before: Sequence[int],
        early: Sequence[list[FloatArray]],
        exact: Sequence[list[FloatArray]],
        last: bool,
    ) -> tuple[list[FloatArray], dict[int, int]]:
        """Store the exact samples and the new positions; return what `advance` returns."""
        chunks: list[FloatArray] = []
        finals: list[FloatArray] = []
        positions, overflowed = [], {}
        for index, number in enumerate(numbers):
            start, skip, _ = self._positions[number]
            skipped = min(skip, self.stack.rows_out(number) - before[index])
            chunk, row = _finite(np.concatenate(early[index])[drops[index] :], self._given(number))
            final, final_row = _finite(
                np.concatenate(exact[index])[skipped:], self.stack.rows_out(number)
            )
            row = final_row if row is None else row
            if row is not None:
                overflowed[number] = start + row // self.model.hop
            chunks.append(chunk)
            finals.append(final)
            status = status_of(last) if row is None else "overflowed"
            positions.append(Position(start, skip - skipped, status))
        self._keep_finals(numbers, finals)
        self._replace(numbers, positions)
        return chunks, overflowed


def _finite(samples: FloatArray, end: int) -> tuple[FloatArray, int | None]:
    """Return the samples before the first that is not finite, and the index of that sample.

    `end` is one past the index, in the stream, of the last of `samples`. The returned index
    is None if all samples are finite.
    """
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
    exact: bool,
    pairing: int,
) -> tuple[int, DecoderStreams]:
    """Return the number of samples that a decoder withholds, and the decoder's streams.

    The streams are `EarlyStreams` if the decoder withholds fewer samples than the network's
    look-ahead. `count` is the number of streams. All other parameters are those of
    `oobleck_stream.StreamingDecoder`.

    Raises
    ------
    ValueError
        If `look_ahead`, `fade`, `missing` or `pairing` is invalid, or if `look_ahead` and `pairing`
        are combined.
    """
    if not (is_whole(pairing) and pairing in PAIRINGS):
        raise ValueError(f"pairing must be 1 or 2, not {pairing!r}")
    if pairing > 1 and look_ahead is not None:
        raise ValueError(
            "pairing can't be combined with look_ahead: it makes the look-ahead longer"
        )
    ahead = LookAhead.of(model, look_ahead, fade, missing)
    if ahead is None:
        latency = model.latency + (pairing - 1) * model.hop
        return latency, DecoderStreams(model, count, threads, backend, pairing=int(pairing))
    return ahead.samples, EarlyStreams(model, count, threads, backend, ahead, exact)
