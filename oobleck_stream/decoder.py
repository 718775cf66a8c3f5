"""The streaming decoder, which takes latent frames and returns each sample once it is final.

`oobleck_stream/README.md` ("The life of a push") describes what happens below this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_frames, checked_index, checked_latents, decoder_overflow
from oobleck_stream.decoder_streams import DecoderState, continued
from oobleck_stream.early.look_ahead import Missing
from oobleck_stream.early.streams import open_streams
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model


class StreamingDecoder:
    """Decode a stream of latent frames, bit-identical to `Model.decode` of the whole piece.

    The chunks of all pushes and of the flush, concatenated, are bit-identical to the full decode,
    however the frames are divided into pushes and however many threads are used. The network looks
    ahead, so the last `latency` samples are withheld until later frames arrive or the stream is
    flushed. Many decoders may share one model. Each decoder may be used by only one thread at a
    time, but different threads may use different decoders at the same time.

    With `look_ahead`, the decoder withholds fewer samples, and returns early samples that are
    computed from the frames known so far. They are close to the exact samples, and the shorter the
    look-ahead, the larger the difference. The command `oobleck_stream look-ahead` measures this
    difference. The attribute `exact` contains the exact samples once they are final. If the latents
    are known in advance, `look_ahead` is not needed: push them sooner instead.

    `MultiStreamDecoder` decodes several streams together.

    Parameters
    ----------
    model : Model
    threads : int, optional
        Maximum number of threads of a push on the CPU; by default ``$OOBLECK_STREAM_THREADS``, or
        the number of available cores. The result does not depend on the number of threads.
    backend : str, optional
        Where to decode: ``"cpu"`` is the CPU and ``"cuda"`` a GPU. ``"auto"`` is a GPU if one can
        be used; otherwise it is the CPU, and a warning is given. By default the model's backend is
        used.
    look_ahead : float or int, optional
        How much to withhold: a number of samples as an int, or seconds as a float. The maximum,
        which is the default, is the network's look-ahead. With less, pushes take longer, as
        `oobleck_stream bench look-ahead` shows.
    fade : float or int, optional
        Length of the crossfade from the early samples of one frame to those of the next, as a
        number of samples (int) or in seconds (float). The default is an eighth of the hop. The
        maximum is the number of samples by which `latency` is shorter than ``model.latency``.
    missing : {"zeros", "held"}
        What stands in for frames that are not known yet. ``"zeros"`` are zeros in the activations
        of every layer, as at the end of a piece. ``"held"`` is the last frame, repeated, which
        usually sounds worse.
    exact : bool
        Whether to compute the exact samples in addition to early samples. Without them, pushes with
        a small look-ahead are about a third cheaper, and the attribute `exact` is not available.
    pairing : {1, 2}
        Number of frames that the network's deepest levels compute at once. These levels hold most
        of the weights. If `pairing` is 2 and frames are pushed one by one, the levels run only in
        every second push, and read their weights half as often. Such pushes take less time on
        average, but each sample is returned one frame later: `latency` is longer by one hop. The
        samples are bit-identical. A `pairing` of 2 can't be combined with `look_ahead`.

    Attributes
    ----------
    model : Model
    backend : str
        The backend in use, ``"cpu"`` or ``"cuda"``.
    latency : int
        Number of samples withheld until later frames are known.

    Raises
    ------
    ValueError
        If `threads`, `backend`, `look_ahead`, `fade`, `missing` or `pairing` is invalid, or if
        `look_ahead` and `pairing` are combined.
    CudaUnavailable
        If the backend is ``"cuda"`` and CUDA can't be used. The message names what is missing. This
        error is a ``RuntimeError``.

    Examples
    --------
    >>> import numpy as np
    >>> import oobleck_stream as ob
    >>> model, latents = ob.load("tiny"), ob.piece("keys")[:300]
    >>> decoder = ob.StreamingDecoder(model)
    >>> decoder.latency, decoder.hop
    (1056, 64)
    >>> chunks = [decoder.push(frame) for frame in latents]
    >>> sum(map(len, chunks)) == 300 * decoder.hop - decoder.latency
    True
    >>> audio = np.concatenate([*chunks, decoder.flush()])
    >>> np.array_equal(audio, model.decode(latents))
    True

    Early samples, with a quarter of the look-ahead:

    >>> early = ob.StreamingDecoder(model, look_ahead=0.006)
    >>> early.latency, len(early.push(latents[:100])), len(early.exact)
    (265, 6135, 5344)

    The exact samples again, with paired frames: one frame later, and in less time:

    >>> paired = ob.StreamingDecoder(model, pairing=2)
    >>> paired.latency, np.array_equal(audio, np.concatenate(list(paired.stream(latents))))
    (1120, True)
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        backend: str | None = None,
        *,
        look_ahead: float | None = None,
        fade: float | None = None,
        missing: Missing = "zeros",
        exact: bool = True,
        pairing: int = 1,
    ) -> None:
        self.model = model
        self._make = functools.partial(
            type(self),
            model,
            threads,
            backend,
            look_ahead=look_ahead,
            fade=fade,
            missing=missing,
            exact=exact,
            pairing=pairing,
        )
        self.latency, self._streams = open_streams(
            model, 1, threads, backend, look_ahead, fade, missing, exact, pairing
        )
        self.backend = self._streams.stack.backend

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.model.name!r} on {self.backend}: {self.frames_in} frames "
            f"in, {self.samples_out} samples out, {self._streams.status(0)})"
        )

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return self.model.hop

    @property
    def samplerate(self) -> int:
        """Samples per second."""
        return self.model.samplerate

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return self.model.channels

    @property
    def frames_in(self) -> int:
        """Index of the next frame to push, in the whole piece.

        Without a `seek`, this is the number of frames pushed since the beginning. After a `seek`,
        the count starts at the index that `seek` returned.
        """
        return self._streams.frames_in(0)

    @property
    def samples_out(self) -> int:
        """Index of the first sample of the next chunk, in the whole piece."""
        return self._streams.samples_out(0)

    @property
    def exact(self) -> FloatArray:
        """The samples that became final in the last push or flush, (k, channels) float32.

        Concatenated, these samples are bit-identical to the result of `Model.decode`, whatever the
        look-ahead. If `look_ahead` is not given, they are the samples that the push returned.

        Raises
        ------
        RuntimeError
            If the decoder does not compute exact samples (``exact=False``).
        """
        return self._streams.finals[0]

    def reset(self) -> None:
        """Return to the beginning, ready for another piece."""
        self._streams.begin([0])

    def push(self, frames: Any) -> FloatArray:
        """Push frames; return the samples that no later frame can change.

        Parameters
        ----------
        frames : (latent_dim,) or (n, latent_dim) array_like of real numbers
            One frame or several frames; n may be 0.

        Returns
        -------
        (k, channels) float32, C-contiguous
            Once t frames have been pushed, ``max(0, t * hop - latency)`` samples have been returned
            in total; k may be 0. If the decoder withholds fewer samples than the network's
            look-ahead, these are early samples, the same as if the frames were pushed one by one.

        Raises
        ------
        ValueError
            If the shape is wrong, the dtype is not real, or a value is not finite as float32. In
            the last case, the message names the frame. The stream has not changed.
        NonFiniteError
            If the latents are so large that float32 overflows inside the network and samples would
            not be finite. The error names the first frame with such samples, and its `output`
            contains all samples before the first that is not finite. The decoder refuses further
            pushes until `reset`, `restore` or `seek`.
        RuntimeError
            If the stream was flushed, or if an earlier operation was interrupted by an exception or
            raised `NonFiniteError`. After `reset`, `restore` or `seek`, frames can be pushed again.
            This error is also raised if another thread is using this decoder.
        """
        with self._streams.stack.exclusive():
            self._streams.require_open(0, "push")
            array = checked_latents(frames, self.model.latent_dim)
            return self._advance(checked_frames(array, self.frames_in), last=False)

    def flush(self) -> FloatArray:
        """End the stream; return the samples that were withheld.

        Returns
        -------
        (k, channels) float32, C-contiguous

        Raises
        ------
        NonFiniteError
            As for `push`.
        RuntimeError
            If the stream was already flushed, or for one of the other reasons given for `push`.
        """
        with self._streams.stack.exclusive():
            self._streams.require_open(0, "flush")
            return self._advance(np.empty((0, self.model.latent_dim), np.float32), last=True)

    def stream(self, frames: Iterable[Any]) -> Iterator[FloatArray]:
        """Decode an iterable of frames, or of arrays of frames, to its end.

        Parameters
        ----------
        frames : iterable
            Each item is pushed as it arrives.

        Yields
        ------
        (k, channels) float32
            The chunks that `push` and `flush` return, except empty ones.

        Raises
        ------
        NonFiniteError
            As for `push`, after the finite samples have been yielded.
        """
        for piece in frames:
            yield from self._nonempty(self.push, piece)
        yield from self._nonempty(self.flush)

    def seek(self, frame: int) -> int:
        """Move to the first sample of a frame, and discard the frames pushed so far.

        The decoder keeps no latents, so the caller has to push again from the returned frame, which
        is at most ``model.context`` frames before `frame`. Samples before ``frame * hop`` are
        dropped; all others are bit-identical to those of the whole piece.

        Parameters
        ----------
        frame : int
            Index of the frame, at least 0.

        Returns
        -------
        int
            Index of the frame to push next: ``max(0, frame - model.context)``.

        Raises
        ------
        ValueError
            If `frame` is not an integer of at least 0. The stream has not changed.
        """
        return self._streams.begin([0], checked_index(frame))

    def snapshot(self) -> DecoderState:
        """Return a deep copy of the state, for `restore`.

        Raises
        ------
        RuntimeError
            If an earlier operation was interrupted by an exception or raised `NonFiniteError`.
            After `reset`, `restore` or `seek`, a snapshot is possible again.
        """
        return self._streams.snapshot(0)

    def restore(self, state: DecoderState) -> None:
        """Continue from a state. The same state may be restored any number of times.

        Parameters
        ----------
        state : DecoderState
            A snapshot of any stream of any decoder with the same model and the same pairing. A
            snapshot of a decoder with ``exact=False`` may lack rows that a decoder with other
            options needs.

        Raises
        ------
        ValueError
            If `state` is not a state of a decoder with this model and this pairing, or lacks rows
            that this decoder needs. The stream has not changed.
        """
        self._streams.restore(state, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy or pickle the decoder, with its options and the state of its stream."""
        return continued, (self._make, self._streams.copied())

    def _nonempty(self, step: Callable[..., FloatArray], *frames: Any) -> Iterator[FloatArray]:
        """Yield what a push or flush returns, unless it is empty.

        After an overflow, yield the samples before the overflow, and raise the error again.
        """
        try:
            chunk = step(*frames)
        except NonFiniteError as error:
            if len(error.output):
                yield error.output
            raise
        if len(chunk):
            yield chunk

    def _advance(self, rows: FloatArray, last: bool) -> FloatArray:
        chunks, overflowed = self._streams.advance(rows[np.newaxis], [0], last)
        if overflowed:
            problem = decoder_overflow(overflowed[0], self.model.context, self.frames_in)
            raise NonFiniteError(problem, overflowed, chunks[0])
        return chunks[0]
