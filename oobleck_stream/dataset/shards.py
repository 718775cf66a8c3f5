"""Writes and reads files that hold several items: WebDataset's tar files, and Parquet files.

The first key of each file is fixed when the data set is begun. A file holds the items of the inputs
from its first key up to, but not including, the first key of the next file. The first file also
holds the items of new inputs with smaller keys. A file is always written as a whole. Each new item
is first written to a file of its own. The other items are copied from the older version of the
file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from oobleck_stream.dataset.job import Job, Layout
from oobleck_stream.dataset.places import Place
from oobleck_stream.dataset.records import ITEMS, RECORDS, Line, write_text
from oobleck_stream.dataset.tasks import Pack, Result
from oobleck_stream.errors import InputError

SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}

ROW_GROUP_BYTES = 2**25
"""Number of bytes of items after which a Parquet file begins a new row group."""


class Entry(NamedTuple):
    """An item of a file: its name in the file, its latents or audio, and its JSON."""

    member: str
    data: bytes
    info: bytes


def require_packages(layout: Layout) -> None:
    """Raise an `InputError` if the package that writes a layout is not installed."""
    if layout == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("the layout parquet needs pyarrow: pip install 'oobleck_stream[parquet]'")


def shard_name(number: int, layout: Layout) -> str:
    """Return the name of the shard with index `number`. A shard is a file of several items."""
    return f"shard-{number:06d}{SUFFIXES[layout]}"


def run_pack(job: Job, task: Pack) -> Result:
    """Write a file of several items, and its record."""
    place, layout = job.place, job.settings.layout
    members = [member_name(line.key) for line in task.lines]
    write: Callable[[Path, Iterable[Entry], Job], None] = (
        _write_tar if layout == "webdataset" else _write_parquet
    )
    # The older version is closed before it is replaced, because Windows can't replace an open file.
    with place.new(task.output) as path, _older(place, task.output, layout) as older:
        write(path, (_entry(place, line, older) for line in task.lines), job)
        size = path.stat().st_size
    lines = tuple(
        dataclasses.replace(
            line, output=task.output, member=member, count=len(task.lines), bytes=size
        )
        for line, member in zip(task.lines, members, strict=True)
    )
    text = [line.text() for line in lines]
    digest = hashlib.sha256("\n".join(text).encode()).hexdigest()[:24]
    record = f"{RECORDS}/pack-{digest}.jsonl"
    write_text(place, record, text)
    return Result(lines, record=record)


def member_name(key: str) -> str:
    """Return an item's name in a file. It has no dots, because WebDataset ends names at a dot."""
    return f"{key.replace('.', '_')}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def own_files(line: Line) -> list[str]:
    """Return an item's own files, or an empty list if the item is already in a shard.

    These files are removed when the item is in a shard.
    """
    return [line.output, _beside(line.output)] if line.output.startswith(ITEMS) else []


def _beside(name: str) -> str:
    return name.rpartition(".")[0] + ".json"


def _entry(place: Place, line: Line, older: Callable[[str], Entry]) -> Entry:
    if not line.output.startswith(ITEMS):
        return older(line.member)
    with place.open(line.output) as file:
        data = file.read()
    with place.open(_beside(line.output)) as file:
        return Entry(member_name(line.key), data, file.read())


@contextmanager
def _older(place: Place, name: str, layout: Layout) -> Iterator[Callable[[str], Entry]]:
    """Yield a function that reads an item of the file `name`. The first call opens the file."""
    opened: list[tuple[BinaryIO, Callable[[str], Entry]]] = []

    def read(member: str) -> Entry:
        if not opened:
            file = place.open(name)
            make = _tar_reader if layout == "webdataset" else _parquet_reader
            opened.append((file, make(file)))
        return opened[0][1](member)

    try:
        yield read
    finally:
        for file, _ in opened:
            file.close()


# WebDataset


def _write_tar(path: Path, entries: Iterable[Entry], job: Job) -> None:
    """Write a tar file that does not depend on the time, the user or the machine.

    The `webdataset` package writes the same files. It is not used, because importing it also
    imports torch if torch is installed, which would take 200 MB in every worker.
    """
    suffix = "npy" if job.settings.direction == "encode" else job.settings.audio
    # The PAX format allows names of any length and with any characters.
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            for name, content in (("json", entry.info), (suffix, entry.data)):
                info = tarfile.TarInfo(f"{entry.member}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def _tar_reader(file: BinaryIO) -> Callable[[str], Entry]:
    archive = tarfile.open(fileobj=file)  # noqa: SIM115
    places: dict[str, dict[str, tarfile.TarInfo]] = {}
    for info in archive:
        member, _, suffix = info.name.rpartition(".")
        places.setdefault(member, {})["info" if suffix == "json" else "data"] = info

    def content(info: tarfile.TarInfo) -> bytes:
        part = archive.extractfile(info)
        assert part is not None
        return part.read()

    def read(member: str) -> Entry:
        found = places[member]
        return Entry(member, content(found["data"]), content(found["info"]))

    return read


# Parquet


def _write_parquet(path: Path, entries: Iterable[Entry], job: Job) -> None:
    from pyarrow import parquet

    schema, row = _schema(job), _latent_row if job.settings.direction == "encode" else _audio_row
    # The writer does not close a file that it opened itself, if writing its last bytes fails.
    with path.open("wb") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        size = 0
        for entry in entries:
            rows.append(row(entry, job))
            size += len(entry.data)
            if size >= ROW_GROUP_BYTES:
                writer.write_table(_table(rows, schema))
                rows, size = [], 0
        if rows:
            writer.write_table(_table(rows, schema))


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if field.name == "latents":
            # This avoids a Python object for every number.
            width = field.type.value_type.list_size
            offsets = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
            flat = pa.array(np.concatenate(values).ravel(), field.type.value_type.value_type)
            frames = pa.FixedSizeListArray.from_arrays(flat, width)
            columns.append(pa.ListArray.from_arrays(offsets, frames))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _schema(job: Job) -> Any:
    """Return the schema. For audio, it has the metadata that the library `datasets` expects."""
    import pyarrow as pa

    if job.settings.direction == "encode":
        number = pa.float16() if job.settings.dtype == "float16" else pa.float32()
        frames = pa.list_(pa.list_(number, job.network.latent_dim))
        data = pa.field("latents", frames)
    else:
        data = pa.field("audio", pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    fields = [
        pa.field("key", pa.string()),
        data,
        pa.field("sample_rate", pa.int32()),
        pa.field("seconds_start", pa.float64()),
        pa.field("seconds_total", pa.float64()),
        pa.field("filled", pa.int64()),
        pa.field("info", pa.string()),
    ]
    metadata = None
    if job.settings.direction == "decode":
        kinds = {"sample_rate": "int32", "filled": "int64", "key": "string", "info": "string"}
        kinds |= {"seconds_start": "float64", "seconds_total": "float64"}
        features: dict[str, Any] = {
            field.name: {"dtype": kinds[field.name], "_type": "Value"}
            for field in fields
            if field.name in kinds
        }
        features["audio"] = {"_type": "Audio"}
        ordered = {field.name: features[field.name] for field in fields}
        metadata = {"huggingface": json.dumps({"info": {"features": ordered}})}
    return pa.schema(fields, metadata)


def _latent_row(entry: Entry, job: Job) -> dict[str, Any]:
    latents = np.load(io.BytesIO(entry.data)).T
    return _facts(entry) | {"latents": np.ascontiguousarray(latents)}


def _audio_row(entry: Entry, job: Job) -> dict[str, Any]:
    audio = {"bytes": entry.data, "path": f"{entry.member}.{job.settings.audio}"}
    return _facts(entry) | {"audio": audio}


def _facts(entry: Entry) -> dict[str, Any]:
    """Return the values of all columns except the latents or audio, from an item's JSON."""
    info = json.loads(entry.info)
    mask = info.pop("padding_mask", None)
    return {
        "key": info["key"],
        "sample_rate": info["sample_rate"],
        "seconds_start": float(info.get("seconds_start", 0)),
        "seconds_total": float(info["seconds_total"]),
        # The number of frames with sound. The other frames are added silence.
        "filled": info["frames"] if mask is None else sum(mask),
        "info": json.dumps(info, ensure_ascii=False, sort_keys=True),
    }


def _parquet_reader(file: BinaryIO) -> Callable[[str], Entry]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    places: dict[str, tuple[int, int]] = {}
    for group in range(table.num_row_groups):
        keys = table.read_row_group(group, columns=["key"]).column("key").to_pylist()
        places |= {member_name(key): (group, row) for row, key in enumerate(keys)}
    kept: dict[int, Any] = {}

    def read(member: str) -> Entry:
        group, row = places[member]
        if group not in kept:
            kept.clear()
            kept[group] = table.read_row_group(group)
        values = kept[group].slice(row, 1)
        info = json.loads(values.column("info")[0].as_py())
        if "audio" in values.column_names:
            data = values.column("audio")[0].as_py()["bytes"]
            return Entry(member, data, json.dumps(info, ensure_ascii=False).encode())
        frames = values.column("latents").combine_chunks().flatten()
        latents = frames.flatten().to_numpy(zero_copy_only=False).reshape(len(frames), -1)
        filled = values.column("filled")[0].as_py()
        info["padding_mask"] = [1] * filled + [0] * (len(frames) - filled)
        buffer = io.BytesIO()
        np.save(buffer, latents.T)
        return Entry(member, buffer.getvalue(), json.dumps(info).encode())

    return read
