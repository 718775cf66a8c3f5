"""The CUDA engine: the arenas of audio streams on a GPU, and the execution of programs on them."""

from __future__ import annotations

import threading
import weakref
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.cuda.graphs import CapturedGraph, capture
from oobleck_stream.engine.cuda.launches import (
    Buffers,
    Launch,
    cuts,
    launches,
    max_sums,
    move_launch,
)
from oobleck_stream.engine.cuda.library import (
    SIMULATED,
    cuda,
    multiprocessor_count,
    open_cuda_stream,
    open_device,
    pinned,
    translated_errors,
    upload,
    zeros,
)
from oobleck_stream.engine.cuda.tiles import TILES, TINY_TILES, Tile
from oobleck_stream.engine.program import Program
from oobleck_stream.errors import CudaUnavailable
from oobleck_stream.fast_convolution import SCHEMES

_uploaded: dict[int, Any] = {}
"""Maps the `id` of a parameter array on the host to the copy of this array on the device. An entry
is removed when the array on the host is freed.
"""

_uploading = threading.Lock()


@dataclass
class _Prepared:
    """A program's launches for a group of streams, and the CUDA graph captured from them."""

    launches: list[Launch]
    captured: CapturedGraph | None = None
    runs: int = 0


class CudaEngine:
    """The CUDA engine; its methods are described in `oobleck_stream.engine.backends.Engine`.

    Parameters
    ----------
    parameters : (n,) float32
        The network's packed parameters. Engines with the same array share one copy on the device.
    streams : int
        Number of audio streams.
    arena_floats : int
        Length of each stream's arena.
    tiles : tuple of Tile, optional
        Tiles into which a product may be cut. The results do not depend on the tiles.

    Raises
    ------
    CudaUnavailable
        If there is no GPU, if the driver or the compiler is missing, or if the GPU has too little
        memory.
    """

    def __init__(
        self,
        parameters: FloatArray,
        streams: int,
        arena_floats: int,
        tiles: tuple[Tile, ...] | None = None,
    ) -> None:
        self.streams, self.arena_floats = streams, arena_floats
        self._tiles = tiles or (TINY_TILES if SIMULATED else TILES)
        self._threads = 4 if SIMULATED else 256
        # The keys are the program and the number of streams. An entry lives as long as its program.
        self._prepared: WeakKeyDictionary[Program, dict[int, _Prepared]] = WeakKeyDictionary()
        self._closed = False
        with translated_errors():
            self._open(parameters)
            self._smoke_test()

    def _open(self, parameters: FloatArray) -> None:
        """Create the CUDA stream and allocate memory on the device."""
        open_device()
        self._multiprocessors = multiprocessor_count()
        self._cuda_stream = open_cuda_stream()
        empty = zeros(np.float32, 0, self._cuda_stream)
        self._buffers = Buffers(
            steps=None,
            moves=None,
            streams=zeros(np.int64, self.streams, self._cuda_stream),
            source=empty,
            source_floats=0,
            target=empty,
            target_floats=0,
            arenas=zeros(np.float32, self.streams * self.arena_floats, self._cuda_stream),
            arena_floats=self.arena_floats,
            parameters=_parameters_on_device(parameters, self._cuda_stream),
            sums=empty,
        )
        self._host_source = self._host_target = pinned(np.float32, 1)
        self._host_streams = pinned(np.int64, self.streams)

    def run(self, program: Program, streams: IntArray, rows: FloatArray, out: FloatArray) -> None:
        """Run a program on some audio streams; return when `out` is filled.

        Parameters
        ----------
        program : Program
        streams : (group,) int64
            Indices of the streams, all different.
        rows : (group, n, inputs) float32
        out : (group, program.rows_out, outputs) float32
            The output rows are written here.

        Raises
        ------
        CudaUnavailable
            If the driver or the compiler fails. The contents of the arenas are then undefined.
        """
        self._check_open()
        group = len(streams)
        if group == 0:
            return
        with translated_errors():
            cuda.current_context()  # create one if this thread has none yet
            prepared = self._prepare(program, group, rows.size, out.size)
            source, target = self._host_source[: rows.size], self._host_target[: out.size]
            source.reshape(rows.shape)[:] = rows
            self._host_streams[:group] = streams
            self._enqueue(prepared, group, rows.size, out.size)
            self._cuda_stream.synchronize()
        out[:] = target.reshape(out.shape)

    def _enqueue(self, prepared: _Prepared, group: int, size_in: int, size_out: int) -> None:
        """Enqueue the kernels of a program, and the copies of its input and output rows.

        The first run launches the kernels one by one. The second run captures all this as a CUDA
        graph. This run and all later ones replay the graph.
        """

        def launch() -> None:
            some = self._buffers.streams[:group]
            some.copy_to_device(self._host_streams[:group], stream=self._cuda_stream)
            if size_in > 0:
                source = self._buffers.source[:size_in]
                source.copy_to_device(self._host_source[:size_in], stream=self._cuda_stream)
            for one in prepared.launches:
                one.enqueue(self._cuda_stream)
            if size_out > 0:
                target = self._buffers.target[:size_out]
                target.copy_to_host(self._host_target[:size_out], stream=self._cuda_stream)

        prepared.runs += 1
        if prepared.runs == 2:
            prepared.captured = capture(self._cuda_stream, launch)
        if prepared.captured is None:
            launch()
        else:
            prepared.captured.replay(self._cuda_stream)

    def _prepare(self, program: Program, group: int, size_in: int, size_out: int) -> _Prepared:
        """Return a program's launches for `group` streams, from the cache if possible."""
        prepared = self._prepared.get(program, {}).get(group)
        if prepared is not None:
            return prepared
        steps, moves = program.steps, program.moves
        cut = cuts(steps, group, self._tiles, self._multiprocessors)
        self._grow(size_in, size_out, max_sums(steps, cut, group))
        buffers = replace(
            self._buffers,
            steps=upload(steps.reshape(-1, table.FIELDS), self._cuda_stream),
            moves=upload(moves.reshape(-1, table.MOVE_FIELDS), self._cuda_stream),
            streams=self._buffers.streams[:group],
            source_floats=size_in // group,
            target_floats=size_out // group,
        )
        prepared = _Prepared(list(launches(steps, moves, cut, group, buffers, self._threads)))
        self._prepared.setdefault(program, {})[group] = prepared
        return prepared

    def _grow(self, size_in: int, size_out: int, sums: int) -> None:
        """Enlarge the buffers for rows and sums if a program needs more.

        All prepared launches are then dropped, because they contain the addresses of the old
        buffers.
        """
        b = self._buffers
        sizes = {"source": size_in, "target": size_out, "sums": sums}
        short = {name: size for name, size in sizes.items() if size > len(getattr(b, name))}
        if not short:
            return
        self._prepared.clear()
        self._buffers = replace(
            b, **{name: zeros(np.float32, n, self._cuda_stream) for name, n in short.items()}
        )
        if "source" in short:
            self._host_source = pinned(np.float32, size_in)
        if "target" in short:
            self._host_target = pinned(np.float32, size_out)

    def step_times(self) -> list[tuple[int, float]]:
        """Return an empty list, because the times of steps are not measured on a GPU."""
        return []

    def read(self, stream: int, start: int, size: int) -> FloatArray:
        """Return a copy of `size` floats of a stream's arena, from `start` on."""
        values = np.empty(size, np.float32)
        if size > 0:
            with translated_errors():
                floats = self._floats(stream, start, size)
                floats.copy_to_host(values, stream=self._cuda_stream)
                self._cuda_stream.synchronize()
        return values

    def write(self, stream: int, start: int, values: FloatArray) -> None:
        """Overwrite the floats of a stream's arena from `start` on."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if flat.size > 0:
            with translated_errors():
                floats = self._floats(stream, start, flat.size)
                floats.copy_to_device(flat, stream=self._cuda_stream)
                self._cuda_stream.synchronize()

    def close(self) -> None:
        """Free all device memory except the parameters, which other engines may share.

        The engine can't be used afterwards.
        """
        if not self._closed:
            self._prepared.clear()
            self._closed = True
            del self._buffers, self._host_source, self._host_target, self._host_streams

    def _smoke_test(self) -> None:
        """Compile a kernel and run it without effect: it writes one zero into the zeroed arena."""
        moves = np.array([[0, table.NONE, min(1, self.arena_floats)]], np.int64)
        buffers = replace(
            self._buffers,
            moves=upload(moves, self._cuda_stream),
            streams=self._buffers.streams[:1],
        )
        move_launch(moves, 0, 1, 1, buffers, self._threads).enqueue(self._cuda_stream)
        self._cuda_stream.synchronize()

    def _floats(self, stream: int, start: int, size: int) -> Any:
        """Return a view of `size` floats of a stream's arena on the device, from `start` on."""
        self._check_open()
        if not (0 <= stream < self.streams and 0 <= start <= start + size <= self.arena_floats):
            raise ValueError(
                f"floats {start} to {start + size} of stream {stream} are out of range: there are "
                f"{self.streams} streams of {self.arena_floats} floats"
            )
        begin = stream * self.arena_floats + start
        return self._buffers.arenas[begin : begin + size]

    def _check_open(self) -> None:
        if self._closed:
            raise CudaUnavailable("this engine was closed")


def _parameters_on_device(parameters: FloatArray, cuda_stream: Any) -> Any:
    """Return the device's copy of the parameters, which all engines of a network share."""
    key = id(parameters)
    with _uploading:
        if key not in _uploaded:
            _uploaded[key] = upload(parameters, cuda_stream)
            weakref.finalize(parameters, _uploaded.pop, key, None).atexit = False
        return _uploaded[key]


def warm_kernels() -> None:
    """Compile every kernel or load it from disk, so that no push has to do so.

    Raises
    ------
    CudaUnavailable
        If CUDA can't be used here.
    """
    # This program copies one number into the arena, multiplies it, and computes fast convolutions
    # of it. The program runs once for each tile.
    steps = [
        _minimal_step(LAYER=-1, INPUT_STRIDE=1, RAW=0),
        _minimal_step(CHANNELS=1, WEIGHTS=0, RAW=1),
    ]
    for rows, scheme in SCHEMES.items():
        points = {"CHANNELS": 1, "TILE": rows, "PHASES": rows}
        steps += [
            _minimal_step(**points, POINTS=2),
            _minimal_step(**points, TAPS=scheme.points, INPUT=2, WEIGHTS=0, RAW=1),
        ]
    moves = np.zeros((0, table.MOVE_FIELDS), np.int64)
    program = Program(np.stack(steps), moves, np.zeros((3, 1), np.int64))
    stream, row = np.zeros(1, np.int64), np.zeros((1, 1, 1), np.float32)
    weights = np.zeros(table.LANES * max(scheme.points for scheme in SCHEMES.values()), np.float32)
    for tile in TINY_TILES if SIMULATED else TILES:
        # Opening an engine also runs the kernel that executes moves.
        with closing(CudaEngine(weights, 1, 3, (tile,))) as engine:
            engine.run(program, stream, row, row[:, :0].copy())


def _minimal_step(**fields: int) -> IntArray:
    """A step of one row and one column, in which only the given fields are set."""
    step = np.zeros(table.FIELDS, np.int64)
    step[[table.ROWS, table.PHASES, table.LAST_ROW, table.TAPS, table.COLUMNS, table.TILE]] = 1
    step[[table.WEIGHTS, table.BIAS, table.RESIDUAL, table.RAW, table.SNAKED, table.POINTS]] = (
        table.NONE
    )
    for name, value in fields.items():
        step[getattr(table, name)] = value
    return step
