"""Streams on a GPU: their arenas, and programs run over groups of them."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.cuda.graphs import Captured, capture
from oobleck_stream.engine.cuda.launches import (
    Buffers,
    Launch,
    cuts,
    launches,
    most_sums,
    move_launch,
)
from oobleck_stream.engine.cuda.library import (
    SIMULATED,
    cuda,
    faults,
    multiprocessors,
    open_device,
    open_stream,
    pinned,
    upload,
    zeros,
)
from oobleck_stream.engine.cuda.tiles import TILES, TINY_TILES, Tile
from oobleck_stream.engine.program import Program
from oobleck_stream.errors import CudaUnavailable

_uploaded: dict[int, Any] = {}
_uploading = threading.Lock()


@dataclass
class _Prepared:
    """A program for groups of one size: its launches, and the same recorded."""

    launches: list[Launch]
    captured: Captured | None = None
    runs: int = 0


class CudaEngine:
    """Arenas of several streams on the device, and all that runs programs over them.

    Parameters
    ----------
    parameters : (n,) float32
        A network's packed parameters. Engines on the same array share one copy on the device.
    streams : int
        How many arenas there are.
    arena_floats : int
        The size of each.
    tiles : tuple of Tile, optional
        Those that a product may be cut into. The result does not depend on it.

    Raises
    ------
    CudaUnavailable
        When there is no GPU, or something that it needs is missing, or it has too little memory.
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
        # By program, and by the number of streams; forgotten when the program is.
        self._prepared: WeakKeyDictionary[Program, dict[int, _Prepared]] = WeakKeyDictionary()
        self._closed = False
        with faults():
            self._open(parameters)
            self._try()

    def _open(self, parameters: FloatArray) -> None:
        """Take a stream and memory of the device's."""
        open_device()
        self._multiprocessors = multiprocessors()
        self._cuda_stream = open_stream()
        nothing = zeros(np.float32, 0, self._cuda_stream)
        self._buffers = Buffers(
            steps=None,
            moves=None,
            streams=zeros(np.int64, self.streams, self._cuda_stream),
            source=nothing,
            source_floats=0,
            target=nothing,
            target_floats=0,
            arenas=zeros(np.float32, self.streams * self.arena_floats, self._cuda_stream),
            arena_floats=self.arena_floats,
            parameters=_parameters_on_device(parameters, self._cuda_stream),
            sums=nothing,
        )
        self._host_source = self._host_target = pinned(np.float32, 1)
        self._host_streams = pinned(np.int64, self.streams)

    def run(self, program: Program, streams: IntArray, rows: FloatArray, out: FloatArray) -> None:
        """Run a program on some streams; return when `out` is filled.

        Parameters
        ----------
        program : Program
        streams : (group,) int64
            Indices of the streams, all different.
        rows : (group, n, inputs) float32
        out : (group, program.rows_out, outputs) float32
            Where the output rows are written.

        Raises
        ------
        CudaUnavailable
            When the driver or the compiler fails; the contents of the arenas are then undefined.
        """
        self._check_open()
        group = len(streams)
        if group == 0:
            return
        with faults():
            cuda.current_context()  # a thread that is new to CUDA has none
            prepared = self._prepare(program, group, rows.size, out.size)
            source, target = self._host_source[: rows.size], self._host_target[: out.size]
            source.reshape(rows.shape)[:] = rows
            self._host_streams[:group] = streams
            self._go(prepared, group, rows.size, out.size)
            self._cuda_stream.synchronize()
        out[:] = target.reshape(out.shape)

    def _go(self, prepared: _Prepared, group: int, size_in: int, size_out: int) -> None:
        """Have a program run: as plain launches first, then recorded, then replayed."""

        def launch() -> None:
            some = self._buffers.streams[:group]
            some.copy_to_device(self._host_streams[:group], stream=self._cuda_stream)
            if size_in > 0:
                source = self._buffers.source[:size_in]
                source.copy_to_device(self._host_source[:size_in], stream=self._cuda_stream)
            for one in prepared.launches:
                one.go(self._cuda_stream)
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
        """The launches of a program for a number of streams, kept from its last run if possible."""
        prepared = self._prepared.get(program, {}).get(group)
        if prepared is not None:
            return prepared
        steps, moves = program.steps, program.moves
        cut = cuts(steps, group, self._tiles, self._multiprocessors)
        self._grow(size_in, size_out, most_sums(steps, cut, group))
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
        """Have room for a program's rows and sums; what was prepared for less room is forgotten."""
        b = self._buffers
        wanted = {"source": size_in, "target": size_out, "sums": sums}
        short = {name: size for name, size in wanted.items() if size > len(getattr(b, name))}
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
        """Where the time of the last program went: on a GPU that is not known."""
        return []

    def read(self, stream: int, start: int, size: int) -> FloatArray:
        """A copy of some floats of a stream's arena, (size,) float32."""
        values = np.empty(size, np.float32)
        if size > 0:
            with faults():
                floats = self._floats(stream, start, size)
                floats.copy_to_host(values, stream=self._cuda_stream)
                self._cuda_stream.synchronize()
        return values

    def write(self, stream: int, start: int, values: FloatArray) -> None:
        """Set floats of a stream's arena from `start` on."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if flat.size > 0:
            with faults():
                floats = self._floats(stream, start, flat.size)
                floats.copy_to_device(flat, stream=self._cuda_stream)
                self._cuda_stream.synchronize()

    def close(self) -> None:
        """Let go of all memory but the parameters, which other engines may share.

        Nothing can be run afterwards.
        """
        if not self._closed:
            self._prepared.clear()
            self._closed = True
            del self._buffers, self._host_source, self._host_target, self._host_streams

    def _try(self) -> None:
        """See that a kernel can be compiled and run: one that zeroes a float, which is zero."""
        nothing = np.array([[0, table.NONE, min(1, self.arena_floats)]], np.int64)
        some = replace(
            self._buffers,
            moves=upload(nothing, self._cuda_stream),
            streams=self._buffers.streams[:1],
        )
        move_launch(nothing, 0, 1, 1, some, self._threads).go(self._cuda_stream)
        self._cuda_stream.synchronize()

    def _floats(self, stream: int, start: int, size: int) -> Any:
        """Some floats of an arena, on the device."""
        self._check_open()
        if not (0 <= stream < self.streams and 0 <= start <= start + size <= self.arena_floats):
            raise ValueError(f"no {size} floats from {start} on in stream {stream}")
        begin = stream * self.arena_floats + start
        return self._buffers.arenas[begin : begin + size]

    def _check_open(self) -> None:
        if self._closed:
            raise CudaUnavailable("this engine was closed")


def _parameters_on_device(parameters: FloatArray, stream: Any) -> Any:
    """A network's parameters on the device: one copy for all, for as long as they are here too."""
    key = id(parameters)
    with _uploading:
        if key not in _uploaded:
            _uploaded[key] = upload(parameters, stream)
            weakref.finalize(parameters, _uploaded.pop, key, None).atexit = False
        return _uploaded[key]
