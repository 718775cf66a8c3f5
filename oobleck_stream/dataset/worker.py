"""Runs the tasks of a job in a worker.

`run_task` may run in any process, and more than once for the same task. If there is an error in an
input, the result has a `Line` that reports it, and the run goes on. An ``OSError`` is an error of
the output, for example a full disk, and ends the run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeAlias

from oobleck_stream.arrays import FloatArray
from oobleck_stream.dataset.coding import (
    decode_part,
    encode_part,
    encoder_latency,
    open_decoder,
    open_encoder,
    part_end,
)
from oobleck_stream.dataset.items import hashed, write_audio_item, write_latent_item
from oobleck_stream.dataset.job import Job
from oobleck_stream.dataset.records import FAILED, PARTS, RECORDS, Line, read_json, write_text
from oobleck_stream.dataset.shards import run_pack
from oobleck_stream.dataset.sounds import LatentRows, open_sound, padded_blocks, read_rows
from oobleck_stream.dataset.sources import Source
from oobleck_stream.dataset.tasks import (
    Batch,
    Clean,
    Join,
    Pack,
    Piece,
    Prepare,
    Result,
    Task,
    Unit,
    item_spans,
)
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_reader import AudioFile

Rows: TypeAlias = Generator[FloatArray, None, None]
"""A generator of blocks of rows. Closing it also closes the files that it reads."""


def run_task(job: Job, task: Task) -> Result:
    """Run a task.

    Raises
    ------
    OSError
        If an output can't be written.
    InputError
        If the model is not the one that the data set was begun with.
    """
    if isinstance(task, Clean):
        for name in task.files:
            job.place.remove(name)
        for name in task.folders:
            job.place.remove_folder(name)
        return Result()
    _ = job.network  # Load the model here, so that its errors are not blamed on an input.
    if isinstance(task, Batch):
        return _run_batch(job, task)
    if isinstance(task, Pack):
        return run_pack(job, task)
    run: Callable[[Job, Any], Result] = _RUNNERS[type(task)]
    return _attempt(job, task.piece.source, functools.partial(run, job, task))


def failed_line(source: Source, error: str, status: str = FAILED) -> Line:
    """Return the manifest's line of an input that failed. `error` is the reason."""
    return Line(
        key=source.key,
        source=source.key,
        size=source.size,
        stamp=source.stamp,
        status=status,
        error=" ".join(error.split()),
    )


def _attempt(job: Job, source: Source, action: Callable[[], Result]) -> Result:
    """Call `action` and return its result.

    If `action` raises an error of the input, return a result with the line of the failed input.
    """
    try:
        return action()
    except OSError:
        raise
    except MemoryError:
        reason = f"{source.address}: out of memory"
    except (ValueError, FloatingPointError) as error:  # InputError, NonFiniteError
        reason = str(error)
    except Exception as error:
        reason = f"{source.address}: {type(error).__name__}: {error}"
    return Result(lines=(failed_line(source, reason),), bytes=source.size)


def _run_batch(job: Job, task: Batch) -> Result:
    results = [
        _attempt(job, source, functools.partial(_short, job, source)) for source in task.sources
    ]
    lines = tuple(line for result in results for line in result.lines)
    record = _record(job, task.name, lines) if lines else ""
    return Result(
        lines,
        tuple(piece for result in results for piece in result.pieces),
        record,
        sum(result.seconds for result in results),
        sum(result.bytes for result in results),
    )


def _record(job: Job, name: str, lines: tuple[Line, ...]) -> str:
    record = f"{RECORDS}/{name}.jsonl"
    write_text(job.place, record, (line.text() for line in lines))
    return record


def _short(job: Job, source: Source) -> Result:
    """Encode or decode an input if it is short. If it is long, only return its `Piece`."""
    if job.settings.direction == "decode":
        rows = LatentRows(source, job.network.latent_dim, job.settings.order)
        piece = Piece(source, len(rows))
        if piece.frames > job.unit:
            return Result(pieces=(piece,))
        chunks = decode_part(open_decoder(job), rows.blocks, piece.frames, 0, piece.frames)
        return _audio_result(job, piece, chunks)
    with open_sound(source) as sound:
        long = _opened(job, source, sound)
        if long is not None:
            return Result(pieces=(long,))
        return _encode_short(job, source, sound)


def _opened(job: Job, source: Source, sound: AudioFile) -> Piece | None:
    """Return the `Piece` of a long input, or None if the input is short."""
    model = job.network
    length = sound.length(model.samplerate)
    if length is not None and -(-_used(job, length) // model.hop) <= job.unit:
        return None
    changes = tuple(sound.changes(model.samplerate, model.channels))
    sound.blocks(model.samplerate, model.channels)  # Raises if it can't be converted.
    if length is None or not sound.is_cuttable or sound.samplerate != model.samplerate:
        return Piece(source, scratch=True, changes=changes)
    return Piece(source, _frames(job, length), length, changes=changes)


def _used(job: Job, samples: int) -> int:
    """Return the number of samples that the items depend on, including added silence."""
    return min(_padded(job, samples), _reach(job))


def _reach(job: Job) -> int:
    """Return how many samples the items of a cropped piece depend on, or 2**62 without a crop."""
    crop = job.settings.crop
    if crop is None:
        return 2**62
    return crop * job.network.hop + encoder_latency(job.network)


def _padded(job: Job, samples: int) -> int:
    """Return the length of a piece in samples, including added silence."""
    settings, hop = job.settings, job.network.hop
    if settings.pad and settings.crop:
        return max(samples, settings.crop * hop)
    if settings.pad and settings.split:
        size = settings.split * hop
        return -(-samples // size) * size
    return samples


def _frames(job: Job, samples: int) -> int:
    """Return the number of frames in all items of a piece together."""
    frames = job.network.encoded_length(_padded(job, samples))
    return min(frames, job.settings.crop) if job.settings.crop else frames


def _encode_short(job: Job, source: Source, sound: AudioFile) -> Result:
    model, encoder = job.network, open_encoder(job, source.key)
    changes = sound.changes(model.samplerate, model.channels)
    blocks = sound.blocks(model.samplerate, model.channels)
    reach, samples = _reach(job), 0

    def read(start: int, stop: int) -> Iterator[FloatArray]:
        nonlocal samples
        for block in blocks:
            yield block[: reach - samples]
            samples += min(len(block), reach - samples)
            if samples == reach:
                samples = max(samples, sound.length(model.samplerate) or 0)
                return
        silence = min(_padded(job, samples), reach) - samples
        yield from padded_blocks(iter(()), 0, silence, model.channels)

    # The exact length is known only after resampling.
    latents = encode_part(encoder, read, 0, 0, reach // model.hop)
    frames = _frames(job, samples)
    return _latent_result(
        job,
        Piece(source, frames, samples, changes=tuple(changes)),
        lambda a, b: (rows for rows in [latents[a:b]]),
    )


def _latent_result(job: Job, piece: Piece, rows: Callable[[int, int], Rows]) -> Result:
    """Write the items of a piece. ``rows(first, last)`` yields the frames ``[first, last)``."""
    source, rate = piece.source, job.network.samplerate
    if piece.samples == 0:
        raise InputError(f"{source.address}: holds no samples; at least one was expected")
    changes, used = list(piece.changes), piece.frames * job.network.hop
    silence = _padded(job, piece.samples) - piece.samples
    if silence > 0:
        changes.append(f"{silence / rate:.3f} s of silence added at the end")
    if job.settings.crop and piece.samples > used:
        changes.append(f"the first {used / rate:.3f} s of {piece.samples / rate:.3f} s")
    lines = []
    for span in item_spans(piece.frames, job.settings.split):
        with closing(rows(span.first, span.last)) as blocks:
            line = write_latent_item(job, source, span, blocks, piece.samples, changes)
            lines.append(line)
    return _finished(job, source, lines, min(piece.samples, used))


def _audio_result(job: Job, piece: Piece, chunks: Rows) -> Result:
    samples = job.network.decoded_length(piece.frames)
    with closing(chunks):
        line = write_audio_item(job, piece.source, chunks, piece.frames, samples)
    return _finished(job, piece.source, [line], samples)


def _finished(job: Job, source: Source, lines: list[Line], samples: int) -> Result:
    """Return a result with the lines, after adding the input's hash to them.

    Raise an `InputError` if the input was changed while it was read.
    """
    try:
        with source.open() as file:
            digest = hashed(file)
    except OSError as error:
        raise InputError(f"{source.address}: can't be read: {error}") from error
    if not source.is_unchanged():
        raise InputError(f"{source.address}: was changed while it was read")
    found = tuple(dataclasses.replace(line, sha256=digest) for line in lines)
    return Result(found, seconds=samples / job.network.samplerate, bytes=source.size)


def _prepare(job: Job, task: Prepare) -> Result:
    """Write the converted samples of an input to a scratch file, unless it already exists."""
    source, place, model = task.piece.source, job.place, job.network
    folder = f"{PARTS}/{source.identity}"
    samples = read_json(place, f"{folder}/scratch.json")
    if samples is None:
        reach, written = _reach(job), 0
        with (
            open_sound(source) as sound,
            place.new(f"{folder}/scratch") as path,
            path.open("wb") as file,
        ):
            for block in sound.blocks(model.samplerate, model.channels):
                kept = block[: reach - written]
                file.write(kept.astype("<f4", copy=False).data)
                written += len(kept)
                if written == reach:
                    break
            samples = written
            if written == reach:
                samples = max(written, sound.length(model.samplerate) or 0)
        write_text(place, f"{folder}/scratch.json", [str(samples)])
    if samples == 0:
        raise InputError(f"{source.address}: holds no samples; at least one was expected")
    piece = dataclasses.replace(task.piece, samples=samples, frames=_frames(job, samples))
    return Result(pieces=(piece,))


def _run_unit(job: Job, task: Unit) -> Result:
    """Encode or decode a part of a piece, and write its frames or samples."""
    piece, model = task.piece, job.network
    source, name = piece.source, f"{PARTS}/{piece.source.identity}/{task.first}-{task.last}.part"
    share = round(source.size * (task.last - task.first) / piece.frames)
    with job.place.new(name) as path, path.open("wb") as file:
        if job.settings.direction == "decode":
            rows = LatentRows(source, model.latent_dim, job.settings.order)
            decoder = open_decoder(job)
            for chunk in decode_part(decoder, rows.blocks, piece.frames, task.first, task.last):
                file.write(chunk.astype("<f4", copy=False).data)
        else:
            frames = _encode_unit(job, task)
            file.write(frames.astype("<f4", copy=False).data)
        if not source.is_unchanged():
            raise InputError(f"{source.address}: was changed while it was read")
    seconds = (task.last - task.first) * model.hop / model.samplerate
    return Result(seconds=seconds, bytes=share)


def _encode_unit(job: Job, task: Unit) -> FloatArray:
    piece, model = task.piece, job.network
    encoder = open_encoder(job, piece.source.key)
    samples = _padded(job, piece.samples)

    def padded(start: int, stop: int, blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
        own = max(0, min(stop, piece.samples) - start)
        return padded_blocks(blocks, own, stop - start - own, model.channels)

    def read_scratch(start: int, stop: int) -> Iterator[FloatArray]:
        last = max(start, min(stop, piece.samples))
        with job.place.open(f"{PARTS}/{piece.source.identity}/scratch") as file:
            yield from padded(start, stop, read_rows(file, start, last, model.channels))

    def read_source(start: int, stop: int) -> Iterator[FloatArray]:
        with open_sound(piece.source) as sound:
            blocks = sound.blocks(model.samplerate, model.channels, min(start, piece.samples))
            yield from padded(start, stop, blocks)

    read = read_scratch if piece.scratch else read_source
    return encode_part(encoder, read, samples, task.first, task.last)


def _join(job: Job, task: Join) -> Result:
    """Write the items of a piece from its parts."""
    piece, model, settings = task.piece, job.network, job.settings
    folder = f"{PARTS}/{piece.source.identity}"
    width = model.latent_dim if settings.direction == "encode" else model.channels

    def rows(first: int, last: int) -> Rows:
        for start, end in task.parts:
            low, high = max(first, start), min(last, end)
            if low >= high:
                continue
            with job.place.open(f"{folder}/{start}-{end}.part") as file:
                if settings.direction == "encode":
                    yield from read_rows(file, low - start, high - start, width)
                else:
                    count = part_end(model, piece.frames, end) - start * model.hop
                    yield from read_rows(file, 0, count, width)

    if settings.direction == "encode":
        result = _latent_result(job, piece, rows)
    else:
        result = _audio_result(job, piece, rows(0, piece.frames))
    record = _record(job, f"join-{piece.source.identity}", result.lines)
    # The seconds and the bytes were already counted in the results of the parts.
    return Result(result.lines, record=record)


_RUNNERS: dict[type, Callable[[Job, Any], Result]] = {
    Prepare: _prepare,
    Unit: _run_unit,
    Join: _join,
}
