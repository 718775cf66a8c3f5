"""Encodes and decodes parts of pieces, with the same bits as when whole pieces are processed."""

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
"""A function that takes two indices `start` and `end`, and yields the rows ``[start, end)`` in
blocks."""


def encoder_latency(model: Model) -> int:
    """Return the number of samples after a frame's own samples that the frame depends on."""
    return rows_needed(model.encoder.layers, 0) - model.hop


def encode_part(
    encoder: StreamingEncoder, read: Read, samples: int, first: int, last: int
) -> FloatArray:
    """Encode the frames ``[first, last)`` of a piece, from all samples that they depend on.

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
        The frames, bit-identical to the same frames of the whole piece.

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
    """Decode the frames ``[first, last)`` of a piece, from all frames that their sound depends on.

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
        Chunks of samples. Concatenated, they are bit-identical to the same samples of the whole
        piece.

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
    """Return the number of samples of the frames before `last`, in a piece with `frames` frames.

    If `last` is `frames`, this is the number of all samples of the piece.
    """
    whole = model.decoded_length(frames)
    return whole if last == frames else min(whole, last * model.hop)


class _Kept(threading.local):
    """Keeps one decoder or encoder for each thread, so that its plans and memory are reused."""

    job: Job | None = None
    stream: StreamingDecoder | StreamingEncoder | None = None


_kept = _Kept()


def open_decoder(job: Job) -> StreamingDecoder:
    """Return this thread's decoder for a job. The caller must position it with `seek`."""
    if _kept.job != job or not isinstance(_kept.stream, StreamingDecoder):
        _kept.stream, _kept.job = StreamingDecoder(job.network, job.threads), job
    return _kept.stream


def open_encoder(job: Job, key: str) -> StreamingEncoder:
    """Return an encoder for the input `key`. The caller must position it with `seek`.

    If latents are sampled, this is a new encoder. Otherwise, it is this thread's encoder.
    """
    seed = job.settings.seed_of(key)
    if seed is not None:
        return StreamingEncoder(job.network, job.threads, sample=True, seed=seed)
    if _kept.job != job or not isinstance(_kept.stream, StreamingEncoder):
        _kept.stream, _kept.job = StreamingEncoder(job.network, job.threads), job
    return _kept.stream
