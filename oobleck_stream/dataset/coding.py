"""Encodes and decodes parts of a piece, bit-identically to these parts of the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.dataset.job import Job
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.encoder import StreamingEncoder
from oobleck_stream.model import Model
from oobleck_stream.network import rows_needed

Read = Callable[[int, int], Iterator[FloatArray]]
"""A function that takes a start and an end index, and yields the rows from start up to end in
blocks."""


def encoder_latency(model: Model) -> int:
    """The number of samples that a frame depends on beyond the end of its own samples."""
    return rows_needed(model.encoder.layers, 0) - model.hop


def encode_part(
    encoder: StreamingEncoder, read: Read, samples: int, first: int, last: int
) -> FloatArray:
    """Encode the frames from `first` up to `last` of a piece, from all samples they depend on.

    Parameters
    ----------
    encoder : StreamingEncoder
    read : callable
        Reads the samples of the piece.
    samples : int
        Length of the piece in samples.
    first, last : int
        Index of the first frame, and one past the index of the last frame.

    Returns
    -------
    (last - first, latent_dim) float32
        The frames, bit-identical to those of the whole piece.

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
) -> Generator[FloatArray, None, None]:
    """Decode the frames from `first` up to `last` of a piece, from all frames they depend on.

    Parameters
    ----------
    decoder : StreamingDecoder
    read : callable
        Reads the latents of the piece.
    frames : int
        Length of the piece in frames.
    first, last : int
        Index of the first frame, and one past the index of the last frame. If `last` is `frames`,
        any samples that the network returns after the last frame are included.

    Yields
    ------
    (k, channels) float32
        Chunks of samples. Concatenated, they are bit-identical to those of the whole piece.

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
    """The index at which the samples of the frames before `last` end, in a piece of `frames`."""
    whole = model.decoded_length(frames)
    return whole if last == frames else min(whole, last * model.hop)


class _Kept(threading.local):
    """Keeps a stream for each thread, so that its plans and memory are reused."""

    job: Job | None = None
    stream: StreamingDecoder | StreamingEncoder | None = None


_kept = _Kept()


def open_decoder(job: Job) -> StreamingDecoder:
    """This thread's decoder. The caller must position it with `seek`."""
    if _kept.job != job or not isinstance(_kept.stream, StreamingDecoder):
        _kept.stream, _kept.job = StreamingDecoder(job.network, job.threads), job
    return _kept.stream


def open_encoder(job: Job, key: str) -> StreamingEncoder:
    """This thread's encoder for the input `key`. The caller must position it with `seek`."""
    seed = job.settings.seed_of(key)
    if seed is not None:
        return StreamingEncoder(job.network, job.threads, sample=True, seed=seed)
    if _kept.job != job or not isinstance(_kept.stream, StreamingEncoder):
        _kept.stream, _kept.job = StreamingEncoder(job.network, job.threads), job
    return _kept.stream
