"""Writes items, which are audio files or latents in the form that stable-audio-tools reads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.dataset.job import Job
from oobleck_stream.dataset.records import DONE, ITEMS, Line
from oobleck_stream.dataset.sources import Source
from oobleck_stream.dataset.tasks import Span
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.quantization import Bits

MAX_ITEM_BYTES = 100_000_000
"""Maximum size in bytes of an item in a file that holds several items. The size is limited because
writers and readers of such files keep whole items in memory."""

MASK_PIECE = 2**16
"""Number of values of the padding mask that are written at a time."""


def item_key(job: Job, source: Source, span: Span) -> str:
    """Return the key of an item. It ends in the item's number if inputs are split."""
    return f"{source.key}.{span.number:05d}" if job.settings.split else source.key


def item_name(job: Job, source: Source, key: str) -> str:
    """Return the name of an item's file without its suffix.

    In layouts with several items in a file, each item is first written to a file of its own in the
    folder of unfinished work.
    """
    if job.settings.layout == "files":
        return key
    text = json.dumps([source.identity, key])
    return f"{ITEMS}/{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def data_suffix(job: Job) -> str:
    """Return the suffix of the file with an item's latents or audio."""
    return ".npy" if job.settings.direction == "encode" else f".{job.settings.audio}"


def write_latent_item(
    job: Job,
    source: Source,
    span: Span,
    rows: Iterable[FloatArray],
    samples: int,
    changes: Iterable[str],
) -> Line:
    """Write the JSON of an item and its latents, and return the manifest's line of the item.

    Parameters
    ----------
    job, source, span
        The job, the input, and the item of the input.
    rows : iterable of (n, latent_dim) float32
        The frames of the item.
    samples : int
        Length of the input in samples, at the network's sample rate.
    changes : iterable of str
        Phrases that say how the input was converted.
    """
    model, key = job.network, item_key(job, source, span)
    place, name = job.place, item_name(job, source, key)
    # Number of the item's samples that come from the input. The rest of its frames is silence.
    own = min(samples, span.last * model.hop) - span.first * model.hop
    info = {
        "key": key,
        "relpath": source.key,
        "sample_rate": model.samplerate,
        "seconds_start": span.first * model.hop // model.samplerate,
        "seconds_total": math.ceil(samples / model.samplerate),
        "timestamps": [span.first * model.hop / samples, min(1.0, span.last * model.hop / samples)],
        "frames": span.last - span.first,
        "samples": max(0, own),
        "changes": list(changes),
    }
    seed = job.settings.seed_of(source.key)
    if seed is not None:
        info["seed"] = seed
    filled = min(span.last - span.first, math.ceil(max(0, own) / model.hop))
    with place.new(name + ".json") as path, path.open("w", encoding="utf-8") as text:
        _write_sidecar(text, info, filled)
    with place.new(name + ".npy") as path:
        with path.open("wb") as file:
            _write_latents(file, rows, span.last - span.first, job, source)
        return _line(job, source, span, key, name + ".npy", path, max(0, own), changes)


def _write_sidecar(text: Any, info: dict[str, Any], filled: int) -> None:
    """Write the JSON with the padding mask, piece by piece because the mask can be very long."""
    head = json.dumps(info, ensure_ascii=False, sort_keys=True)
    text.write(head[:-1] + ', "padding_mask": [')
    counts = ((1, filled), (0, info["frames"] - filled))
    comma = ""
    for value, count in counts:
        while count:
            piece = min(MASK_PIECE, count)
            text.write(comma + ", ".join([str(value)] * piece))
            comma, count = ", ", count - piece
    text.write("]}")


def _write_latents(
    file: BinaryIO, rows: Iterable[FloatArray], frames: int, job: Job, source: Source
) -> None:
    """Write an array (latent_dim, frames) in Fortran order, one frame after another."""
    dtype, done = np.dtype(job.settings.dtype).newbyteorder("<"), 0
    header = {
        "descr": npy_format.dtype_to_descr(dtype),
        "fortran_order": True,
        "shape": (job.network.latent_dim, frames),
    }
    npy_format.write_array_header_1_0(file, cast(Any, header))
    for block in rows:
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(block, dtype)
        row = first_not_finite(stored)
        if row is not None:
            raise InputError(f"{source.address}: frame {done + row} is not finite as {dtype.name}")
        file.write(stored.data)
        done += len(block)
    if done != frames:
        raise InputError(f"{source.address}: gave {done} frames; {frames} were expected")


def write_audio_item(
    job: Job, source: Source, chunks: Iterator[FloatArray], frames: int, samples: int
) -> Line:
    """Write the audio of an item, and return the manifest's line of the item.

    Unless the layout is ``files``, also write a JSON file beside the audio.
    """
    model, span = job.network, Span(0, 0, frames)
    name, suffix = item_name(job, source, source.key), data_suffix(job)
    changes: list[str] = []
    with job.place.new(name + suffix) as path:
        # The suffix of the name selects the writer's format.
        local = path.with_name("audio" + suffix)
        try:
            with AudioWriter(
                local, model.samplerate, model.channels, cast(Bits, job.settings.bits), samples
            ) as writer:
                for chunk in chunks:
                    writer.write(chunk)
        except InputError as error:
            # The latents are not to blame if the disk is full.
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise
        local.rename(path)
        if writer.clipped:
            changes.append(f"{writer.clipped} samples clipped, peak {writer.peak:.3f}")
        if job.settings.layout != "files":
            info = {
                "key": source.key,
                "sample_rate": model.samplerate,
                "frames": frames,
                "samples": samples,
                "seconds_total": samples / model.samplerate,
                "changes": changes,
            }
            with job.place.new(name + ".json") as beside:
                beside.write_text(json.dumps(info, ensure_ascii=False), encoding="utf-8")
        return _line(job, source, span, source.key, name + suffix, path, samples, changes)


def _line(
    job: Job,
    source: Source,
    span: Span,
    key: str,
    output: str,
    path: Path,
    samples: int,
    changes: Iterable[str],
) -> Line:
    """Return the manifest's line of an item in the file `path`, without the input's hash."""
    with path.open("rb") as file:
        digest = hashed(file)
    size = path.stat().st_size
    if job.settings.layout != "files" and size > MAX_ITEM_BYTES:
        raise InputError(
            f"{source.address}: an item of {size / 1e6:.0f} MB; in the layout "
            f"{job.settings.layout} items have at most {MAX_ITEM_BYTES / 1e6:.0f} MB"
        )
    return Line(
        key=key,
        source=source.key,
        size=source.size,
        stamp=source.stamp,
        status=DONE,
        item=span.number,
        items=span.count,
        output=output,
        bytes=size,
        output_sha256=digest,
        frames=span.last - span.first,
        samples=samples,
        changes=list(changes),
    )


def hashed(file: BinaryIO) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    while data := file.read(2**20):
        digest.update(data)
    return digest.hexdigest()
