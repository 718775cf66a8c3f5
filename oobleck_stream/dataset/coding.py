"""Exact parts of a piece: frames of its latents, or samples of its sound, from the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.dataset.job import Job
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.encoder import StreamingEncoder
from oobleck_stream.model import Model
from oobleck_stream.network import rows_needed

Read = Callable[[int, int], Iterator[FloatArray]]
"""Reads the rows from the first index up to the second, in blocks."""


def encoder_latency(model: Model) -> int:
    """The number of samples after a frame's own that the frame depends on."""
    return rows_needed(model.encoder.layers, 0) - model.hop


def encode_part(
    encoder: StreamingEncoder, read: Read, samples: int, first: int, last: int
) -> FloatArray:
    """Encode some frames of a piece; the samples around them that they depend on are read too.

    Parameters
    ----------
    encoder : StreamingEncoder
    read : callable
        Reads the samples of the piece.
    samples : int
        Length of the piece.
    first, last : int
        The frames from `first` up to `last`.

    Returns
    -------
    (last - first, latent_dim) float32
        Bit-identical to these frames of the whole.

    Raises
    ------
    NonFiniteError
        If float32 overflows in the network.
    """
    start, needed = encoder.seek(first), last * encoder.hop + encoder.latency
    chunks = [encoder.push(block) for block in read(start, min(samples, needed))]
    if needed > samples:
        chunks.append(encoder.flush())
    return np.concatenate(chunks)[: last - first]


def decode_part(
    decoder: StreamingDecoder, read: Read, frames: int, first: int, last: int
) -> Iterator[FloatArray]:
    """Decode the samples of some frames of a piece, with the frames around them.

    Parameters
    ----------
    decoder : StreamingDecoder
    read : callable
        Reads the latents of the piece.
    frames : int
        Length of the piece.
    first, last : int
        The frames from `first` up to `last`. The last frames of a piece include the samples after
        them, if the network makes some.

    Yields
    ------
    (k, channels) float32
        The chunks, put together, are bit-identical to these samples of the whole.

    Raises
    ------
    NonFiniteError
        If float32 overflows in the network.
    """
    hop = decoder.hop
    start, end = decoder.seek(first), part_end(decoder.model, frames, last)
    needed = last - (-decoder.latency // hop)
    left = end - first * hop
    for block in read(start, min(frames, needed)):
        chunk = decoder.push(block)[:left]
        left -= len(chunk)
        yield chunk
    if left:
        yield decoder.flush()[:left]


def part_end(model: Model, frames: int, last: int) -> int:
    """The index of the sample after those of the frames up to `last` of a piece of `frames`."""
    whole = model.decoded_length(frames)
    return whole if last == frames else min(whole, last * model.hop)


class _Kept(threading.local):
    """The stream of a thread, which is kept because its plans and its memory can be used again."""

    job: Job | None = None
    stream: StreamingDecoder | StreamingEncoder | None = None


_kept = _Kept()


def open_decoder(job: Job) -> StreamingDecoder:
    """This thread's decoder; it has to be positioned with `seek`."""
    if _kept.job != job or not isinstance(_kept.stream, StreamingDecoder):
        _kept.stream, _kept.job = StreamingDecoder(job.network, job.threads), job
    return _kept.stream


def open_encoder(job: Job, key: str) -> StreamingEncoder:
    """This thread's encoder for an input of this key; it has to be positioned with `seek`."""
    seed = job.settings.seed_of(key)
    if seed is not None:
        return StreamingEncoder(job.network, job.threads, sample=True, seed=seed)
    if _kept.job != job or not isinstance(_kept.stream, StreamingEncoder):
        _kept.stream, _kept.job = StreamingEncoder(job.network, job.threads), job
    return _kept.stream
