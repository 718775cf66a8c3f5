"""Decodes and encodes whole pieces in blocks, so that only the result grows with their length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream import network
from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import (
    CHECK_FRAMES,
    CHECK_SAMPLES,
    checked_samples,
    decoder_overflow,
    encoder_overflow,
    finite_rows,
    first_not_finite,
)
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.errors import NonFiniteError

DECODE_FRAMES = 256
"""Number of frames that are checked and pushed at a time, so that no memory map is copied whole."""

Pieces = npt.NDArray[Any]
"""One piece, (rows, n), or several pieces of the same length, (batch, rows, n)."""


def decode_pieces(
    decoder: PackedNetwork,
    pieces: Pieces,
    hop: int,
    out: FloatArray | None = None,
    threads: int | None = None,
    backend: str = "cpu",
) -> FloatArray:
    """Decode pieces of latents.

    Parameters
    ----------
    decoder : PackedNetwork
    pieces : array of real numbers
    hop : int
        Samples per latent frame.
    out, threads, backend : optional
        As for `oobleck_stream.Model.decode`.

    Returns
    -------
    (samples, channels) or (batch, samples, channels) float32
        This is `out` if it was passed.

    Raises
    ------
    ValueError, NonFiniteError, CudaUnavailable
        As for `oobleck_stream.Model.decode`.
    """
    batch = _batch(pieces)
    _require_finite(batch, pieces, CHECK_FRAMES, "latents", "frame")
    layers = decoder.layers
    samples = network.output_length(layers, pieces.shape[-2])
    out = _output(out, (*pieces.shape[:-2], samples, layers[-1].outputs))
    stack = Stack(decoder, threads, backend=backend)
    for number, (piece, sound) in enumerate(zip(batch, _batch(out), strict=True)):
        stack.reset()
        row = _decode(stack, piece, sound)
        if row is not None:
            message = decoder_overflow(row // hop, network.context(layers), len(piece))
            raise _overflow(message, number, row // hop, out, row)
    return out


def _decode(stack: Stack, latents: Pieces, out: FloatArray) -> int | None:
    """Decode a piece; return the index of its first sample that is not finite, or None."""
    for first in range(0, len(latents), DECODE_FRAMES):
        frames = np.ascontiguousarray(latents[first : first + DECODE_FRAMES], np.float32)
        start, last = stack.rows_out(), first + len(frames) >= len(latents)
        stack.push(frames, last, out[start:])
        row = first_not_finite(out[start : stack.rows_out()])
        if row is not None:
            return start + row
    return None


def encode_pieces(
    encoder: PackedNetwork,
    pieces: Pieces,
    hop: int,
    convert: Callable[[FloatArray], FloatArray],
    width: int,
    pad: bool = True,
    threads: int | None = None,
) -> FloatArray:
    """Encode pieces of audio.

    Parameters
    ----------
    encoder : PackedNetwork
    pieces : array of real numbers
    hop : int
        Samples per latent frame.
    convert : callable
        A function that takes rows of the encoder's output, (n, 2 * latent_dim), and returns
        (n, width) float32. It is called block by block, for one piece after another.
    width : int
        Number of columns of the result.
    pad, threads : optional
        As for `oobleck_stream.Model.encode`.

    Returns
    -------
    (frames, width) or (batch, frames, width) float32

    Raises
    ------
    ValueError, NonFiniteError
        As for `oobleck_stream.Model.encode`.
    """
    batch = _batch(pieces)
    _require_finite(batch, pieces, CHECK_SAMPLES, "audio", "sample")
    samples = pieces.shape[-2]
    frames = network.output_length(encoder.layers, samples + (-samples % hop if pad else 0))
    out = np.empty((*pieces.shape[:-2], frames, width), np.float32)
    stack = Stack(encoder, threads)
    for number, (piece, result) in enumerate(zip(batch, _batch(out), strict=True)):
        done = 0
        for rows in _encoded_rows(stack, piece, hop, pad):
            part = result[done : done + len(rows)]
            part[:] = convert(rows)
            row = first_not_finite(part)
            if row is not None:
                frame = done + row
                raise _overflow(encoder_overflow(frame, hop), number, frame, out, frame)
            done += len(rows)
    return out


def _encoded_rows(stack: Stack, audio: Pieces, hop: int, pad: bool) -> Iterator[FloatArray]:
    """Yield the encoder's output rows for a piece, block by block."""
    stack.reset()
    size = max(1, CHECK_SAMPLES // hop) * hop
    for first in range(0, len(audio), size):
        yield stack.push(checked_samples(audio[first : first + size], first))
    missing = -len(audio) % hop if pad else 0
    yield stack.push(np.zeros((missing, audio.shape[1]), np.float32), last=True)


def _batch(pieces: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View one piece, or a batch of pieces, as (batch, rows, n)."""
    return pieces if pieces.ndim == 3 else pieces[np.newaxis]


def _require_finite(batch: Pieces, pieces: Pieces, block: int, name: str, row: str) -> None:
    """Raise ``ValueError`` for the first row that is not finite as float32."""
    for number, piece in enumerate(batch):
        label = name if pieces.ndim == 2 else f"{name} of piece {number}"
        for first in range(0, len(piece), block):
            finite_rows(piece[first : first + block], first, label, row)


def _output(out: FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    """Return `out`, or a new array; raise ``ValueError`` if the result can't be written to it."""
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous float32 of shape {shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable")
    return out


def _overflow(message: str, number: int, frame: int, out: FloatArray, row: int) -> NonFiniteError:
    """The error for a piece whose output is not finite from row `row` on."""
    if out.ndim == 3:
        message = f"piece {number}: {message}"
    return NonFiniteError(message, {number: frame}, _finite_part(out, number, row))


def _finite_part(out: FloatArray, number: int, row: int) -> Any:
    """Return the results before row `row` of piece `number`, for `NonFiniteError.output`.

    For a batch, the result is a list of the earlier pieces and of the rows of this piece.
    """
    return out[:row] if out.ndim == 2 else [*out[:number], out[number, :row]]
