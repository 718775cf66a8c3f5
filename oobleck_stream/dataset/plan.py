"""Finds the tasks whose results are missing, and the tasks that need another task's result."""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from oobleck_stream.dataset.job import (
    DESCRIPTION,
    Job,
    describe,
    require_same,
)
from oobleck_stream.dataset.places import WORK, Place
from oobleck_stream.dataset.records import (
    DONE,
    FILE_LIST,
    ITEMS,
    MANIFEST,
    PARTS,
    RECORDS,
    SET_ASIDE,
    Line,
    read_json,
    read_lines,
    write_text,
)
from oobleck_stream.dataset.shards import own_files, shard_name
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
    unit_spans,
)
from oobleck_stream.dataset.worker import failed_line, run_task
from oobleck_stream.errors import InputError

BYTES_PER_SECOND = {".wav": 176_000, ".flac": 100_000, ".aif": 176_000, ".aiff": 176_000}
"""Typical bytes per second of sound, by suffix, for estimating the duration of inputs."""

COMPRESSED_BYTES_PER_SECOND = 16_000

MAX_BATCH = 64
"""Maximum number of inputs of a task."""

MERGED_RECORDS = 1000
"""When a run has this number of records, they are merged into one."""


@dataclass
class _Open:
    """A long input, with all its parts and those that are still missing."""

    piece: Piece
    parts: tuple[tuple[int, int], ...]
    missing: set[tuple[int, int]]


@dataclass(frozen=True)
class Report:
    """The result of a run.

    Attributes
    ----------
    inputs : int
        Number of inputs.
    done : int
        Number of inputs that were encoded or decoded in this run.
    kept : int
        Number of inputs that were already done when the run began.
    failed : tuple of Line
        The inputs that failed, with their errors.
    gone : int
        Number of items in the output folder whose input no longer exists. They stay in the folder
        but are not in the manifest.
    seconds : float
        Seconds of sound that were encoded or decoded in this run.
    wall_seconds : float
        Duration of the run in seconds.
    """

    inputs: int
    done: int
    kept: int
    failed: tuple[Line, ...]
    gone: int
    seconds: float
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class Status:
    """The progress of a run.

    Attributes
    ----------
    inputs : int
        Number of inputs that were not done when the run began.
    done, failed : int
        Numbers of these inputs that are done and that have failed.
    total_bytes, bytes : int
        Total size of these inputs, and the part of it that has been processed.
    seconds : float
        Seconds of sound that were encoded or decoded.
    """

    inputs: int
    done: int
    failed: int
    total_bytes: int
    bytes: int
    seconds: float


class Plan:
    """The tasks of a run. Any program can run them by calling `run` with each task.

    `tasks` yields the tasks that can run immediately. `follow` takes the result of a task, and
    returns the tasks that need this result. `rounds` runs all tasks with a function like ``map``.
    `finish` writes the manifest.

    Parameters
    ----------
    job : Job
    sources : sequence of Source
        The inputs, sorted by key.
    shard_items : int
        Number of inputs per file, in layouts with several items in a file. It has an effect only
        when the data set is begun.
    share : (int, int), optional
        With ``(i, n)``, plan only the i-th of n shares of the inputs, counted from 1. Work that
        needs all shares is left to a run without `share`.

    Attributes
    ----------
    job : Job
    run : callable
        A picklable function that takes a task, runs it, and returns its `Result`.
    failures : list of Line
        The inputs that have failed so far.

    Raises
    ------
    InputError
        If the output folder was begun with other settings.
    OSError
        If the output folder can't be read or written.
    """

    def __init__(
        self,
        job: Job,
        sources: Sequence[Source],
        shard_items: int = 1000,
        share: tuple[int, int] | None = None,
    ) -> None:
        self.job = job
        self.run: Callable[[Task], Result] = functools.partial(run_task, job)
        self._share = share
        self._first_keys = self._begin(sources, shard_items)
        if share is not None:
            sources = [source for source in sources if _in_share(source.key, share)]
        self._sources = {source.key: source for source in sources}
        self._keys = [source.key for source in sources]
        self._files = job.place.files()
        self._records: list[str] = []
        self._lines: dict[str, list[Line]] = {}
        self._failed: dict[str, Line] = {}
        self._gone = 0
        self._read_lines()
        self._kept = len(self._lines)
        self._open: dict[str, _Open] = {}
        self._pending = [source for source in sources if source.key not in self._lines]
        self._total_bytes = sum(source.size for source in self._pending)
        self._waiting = self._count_by_shard()
        self._seconds, self._bytes = 0.0, 0
        self.failures: list[Line] = []

    @property
    def status(self) -> Status:
        """The progress of the run."""
        return Status(
            len(self._pending),
            len(self._lines) - self._kept,
            len(self._failed),
            self._total_bytes,
            self._bytes,
            self._seconds,
        )

    def _begin(self, sources: Sequence[Source], shard_items: int) -> list[str]:
        """Check or write the output folder's description. Return the first key of each shard."""
        place, settings = self.job.place, self.job.settings
        try:
            found = read_json(place, DESCRIPTION)
        except ValueError as error:
            raise InputError(f"{place.address}/{DESCRIPTION}: damaged: {error}") from error
        if found is not None:
            require_same(place.address, found, settings)
            return list(found["shards"])
        keys = [source.key for source in sources]
        shards = keys[::shard_items] if settings.layout != "files" else []
        write_text(place, DESCRIPTION, [json.dumps(describe(settings, shards), indent=1)])
        return shards

    def _read_lines(self) -> None:
        """Read the manifest and records. Keep lines of unchanged inputs whose outputs all exist."""
        place = self.job.place
        records = sorted(name for name in self._files if name.startswith(RECORDS))
        names = [name for name in (MANIFEST,) if name in self._files] + records
        found: dict[str, dict[int, Line]] = {}
        gone = set()
        for line in read_lines(place, names):
            source = self._sources.get(line.source)
            if source is None:
                gone.add(line.key)
                continue
            current = (line.size, line.stamp) == (source.size, source.stamp)
            if line.status != DONE or not current or self._files.get(line.output) != line.bytes:
                continue
            items = found.setdefault(line.source, {})
            older = items.get(line.item)
            # An item may have two lines: one for a file of its own, and one for a file of several
            # items, which is written later.
            if older is None or older.output.startswith(ITEMS):
                items[line.item] = line
        self._gone = len(gone) if self._share is None else 0
        for key, items in found.items():
            if len(items) == next(iter(items.values())).items:
                self._lines[key] = [items[number] for number in sorted(items)]
        # Only a run without `share` may merge all records. The run of a share merges its own,
        # because other shares may be running at the same time.
        self._records = records if self._share is None else []

    # Tasks

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks that need no result of another task. Call this only once."""
        ready = [number for number, waiting in enumerate(self._waiting) if waiting == 0]
        for number in ready:
            yield from self._pack(number)
        batch: list[Source] = []
        seconds = 0.0
        longest = self.job.unit / self.job.network.config.frame_rate
        for source in self._pending:
            length = _guessed_seconds(self.job, source)
            if batch and (seconds + length > longest or len(batch) == MAX_BATCH):
                yield Batch(tuple(batch))
                batch, seconds = [], 0.0
            batch.append(source)
            seconds += length
        if batch:
            yield Batch(tuple(batch))

    def follow(self, task: Task, result: Result) -> list[Task]:
        """Record the result of a task, and return the tasks that need this result."""
        self._seconds += result.seconds
        self._bytes += result.bytes
        if result.record:
            self._records.append(result.record)
            self._merge_records()
        if isinstance(task, Pack):
            for line in result.lines:
                items = self._lines[line.source]
                items[line.item] = line
            return [Clean(files=tuple(name for line in task.lines for name in own_files(line)))]
        if isinstance(task, Clean):
            return []
        following: list[Task] = []
        by_source: dict[str, list[Line]] = {}
        for line in result.lines:
            by_source.setdefault(line.source, []).append(line)
        for key, lines in by_source.items():
            following += self._closed(key, lines)
        for piece in result.pieces:
            following += self._opened(piece)
        if isinstance(task, Unit) and task.piece.source.key in self._open:
            following += self._part_done(task)
        if isinstance(task, Join):
            following.append(Clean(folders=(f"{PARTS}/{task.piece.source.identity}",)))
        return following

    def suspects(self, task: Task) -> list[Task]:
        """After a worker died while running a task, divide it into tasks of one input each."""
        if isinstance(task, Batch):
            return [Batch((source,)) for source in task.sources]
        return [task]

    def set_aside(self, task: Task, reason: str) -> list[Task]:
        """Record that the input of a task is set aside, and return the tasks that follow.

        This is for a task during which too many workers died, as `reason` says.

        Raises
        ------
        OSError
            If the task does not belong to exactly one input.
        """
        if isinstance(task, Clean):
            return []  # `finish` removes what is left.
        if isinstance(task, Batch) and len(task.sources) == 1:
            source = task.sources[0]
        elif isinstance(task, Prepare | Unit | Join):
            source = task.piece.source
        else:
            raise OSError(f"{self.job.out}: {type(task).__name__} could not be run: {reason}")
        line = failed_line(source, f"{source.address}: {reason}", SET_ASIDE)
        return self._closed(source.key, [line])

    def rounds(self, run_all: Callable[[list[Task]], Iterable[Result]]) -> Report:
        """Run all tasks with a function like ``map``, and write the manifest.

        Parameters
        ----------
        run_all : callable
            A function that takes a list of tasks, and returns the results of `run` in the same
            order. It is called repeatedly, each time with all tasks that can run then.

        Returns
        -------
        Report
        """
        tasks: list[Task] = list(self.tasks())
        while tasks:
            results = list(run_all(tasks))
            tasks = [
                following
                for task, result in zip(tasks, results, strict=True)
                for following in self.follow(task, result)
            ]
        return self.finish()

    def _closed(self, key: str, lines: list[Line]) -> list[Task]:
        """Record that an input is done or has failed, and return the tasks that follow."""
        self._open.pop(key, None)
        if key in self._lines or key in self._failed:
            return []
        if lines[0].status == DONE:
            self._lines[key] = lines
        else:
            self._failed[key] = lines[0]
            self.failures.append(lines[0])
        if not self._waiting:
            return []
        number = self._shard_of(key)
        self._waiting[number] -= 1
        return self._pack(number) if self._waiting[number] == 0 else []

    def _opened(self, piece: Piece) -> list[Task]:
        """Return the tasks that follow when a long input has been opened or prepared."""
        if piece.source.key in self._failed:
            return []
        if piece.frames == 0:
            return [Prepare(piece)]
        parts = unit_spans(piece.frames, self.job.unit)
        folder = f"{PARTS}/{piece.source.identity}"
        missing = {
            (first, last)
            for first, last in parts
            if self._files.get(f"{folder}/{first}-{last}.part", -1)
            != self._part_bytes(first, last, piece)
        }
        self._open[piece.source.key] = _Open(piece, parts, missing)
        if not missing:
            return [Join(piece, parts)]
        return [Unit(piece, first, last) for first, last in sorted(missing)]

    def _part_bytes(self, first: int, last: int, piece: Piece) -> int:
        model = self.job.network
        if self.job.settings.direction == "encode":
            return 4 * model.latent_dim * (last - first)
        end = model.decoded_length(piece.frames) if last == piece.frames else last * model.hop
        return 4 * model.channels * (end - first * model.hop)

    def _part_done(self, task: Unit) -> list[Task]:
        found = self._open[task.piece.source.key]
        found.missing.discard((task.first, task.last))
        return [] if found.missing else [Join(found.piece, found.parts)]

    # Files of several items

    def _shard_of(self, key: str) -> int:
        return max(0, bisect.bisect_right(self._first_keys, key) - 1)

    def _count_by_shard(self) -> list[int]:
        """Return, for each shard, the number of inputs that are neither done nor failed."""
        if self._share is not None:
            return []
        counts = [0] * len(self._first_keys)
        if counts:
            for source in self._pending:
                counts[self._shard_of(source.key)] += 1
        return counts

    def _pack(self, number: int) -> list[Task]:
        """Return the task that writes a shard, or none if the shard is already right."""
        name = shard_name(number, self.job.settings.layout)
        keys = self._keys
        first = bisect.bisect_left(keys, self._first_keys[number]) if number else 0
        following = self._first_keys[number + 1 : number + 2]
        last = bisect.bisect_left(keys, following[0]) if following else len(keys)
        lines = [line for key in keys[first:last] for line in self._lines.get(key, ())]
        if not lines:
            self.job.place.remove(name)
            return []
        if all(line.output == name and line.count == len(lines) for line in lines):
            return []
        return [Pack(name, tuple(sorted(lines, key=lambda line: line.key)))]

    # Records

    def _merge_records(self) -> None:
        """Merge the records into one file when there are many."""
        if len(self._records) < MERGED_RECORDS:
            return
        place, merged = self.job.place, self._records
        name = hashlib.sha256("\n".join(merged).encode()).hexdigest()[:24]
        record = f"{RECORDS}/merged-{name}.jsonl"
        write_text(place, record, (line.text() for line in read_lines(place, merged)))
        for name in merged:
            place.remove(name)
        self._records = [record]

    def finish(self) -> Report:
        """Write the manifest, and the list of files that stable-audio-tools reads.

        If the plan has a `share`, nothing is written, because other shares may still be running.

        Returns
        -------
        Report
        """
        report = Report(
            len(self._sources),
            len(self._lines) - self._kept,
            self._kept,
            tuple(self._failed[key] for key in sorted(self._failed)),
            self._gone,
            self._seconds,
        )
        if self._share is not None:
            return report
        place = self.job.place
        write_text(place, MANIFEST, self._manifest())
        if self.job.settings.layout == "files" and self.job.settings.direction == "encode":
            done = (lines for _, lines in sorted(self._lines.items()))
            write_text(place, FILE_LIST, (line.output for lines in done for line in lines))
        self._clean(place)
        return report

    def _manifest(self) -> Iterator[str]:
        for key in sorted(self._sources):
            if key in self._failed:
                yield self._failed[key].text()
            for line in self._lines.get(key, ()):
                yield line.text()

    def _clean(self, place: Place) -> None:
        """Remove the records, which are now in the manifest, and unfinished work after success."""
        for name in set(self._records):
            place.remove(name)
        # Parts of inputs that failed are kept for the next run.
        if len(self._lines) == len(self._sources) or not place.files(WORK):
            place.remove_folder(WORK)


def _in_share(key: str, share: tuple[int, int]) -> bool:
    number, count = share
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "little") % count == number - 1


def _guessed_seconds(job: Job, source: Source) -> float:
    """Estimate the duration of an input from its size."""
    if job.settings.direction == "decode":
        model = job.network
        return source.size / (4 * model.latent_dim) / model.config.frame_rate
    suffix = source.address[source.address.rfind(".") :].lower()
    return source.size / BYTES_PER_SECOND.get(suffix, COMPRESSED_BYTES_PER_SECOND)
