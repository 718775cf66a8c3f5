"""The one kernel that carries the network: a tap-by-channel product with its epilogue.

``Y[t] = bias + sum over taps k of X[t + k * dilation] @ W[k]``, rows time-major, followed by the
residual add, the next layer's Snake, or the final tanh, while the rows are still in the cache.

The order of arithmetic is fixed, whatever the tile: for each tap, oldest row first, a chain of
fused multiply-adds over the channels from +0; the sums of the taps added in their order; then the
bias; then the residual. Nothing else may be reordered, so every cut of the work gives equal bits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from oobleck_stream.engine.cpu.machine import FLOAT, WORD, call_own_function, pointer
from oobleck_stream.engine.cpu.simd import TILE_ROWS, TILE_VECTORS, VECTOR, Vectors
from oobleck_stream.engine.program import LANES


@intrinsic
def tile(
    typing_context: Any,
    rows: Any,
    vectors: Any,
    row_addresses: Any,
    tap_offset: Any,
    channels: Any,
    weights: Any,
    totals: Any,
    stride: Any,
    add: Any,
) -> Any:
    """One tap of at most TILE_ROWS rows by TILE_VECTORS vectors, every sum in a register.

    `row_addresses` is the address of a table of row addresses, to each of which `tap_offset` bytes
    are added. The sums are stored to `totals`, or added to what stands there; its rows, like those
    of the `weights` (a row a channel), are `stride` bytes apart. One function is written for each
    of the sizes, and a jump chooses among them.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        rows, vectors, *operands = args
        end = builder.append_basic_block("tile.end")
        size = builder.add(builder.mul(vectors, ir.Constant(WORD, TILE_ROWS)), rows)
        jump = builder.switch(size, end)
        sizes = itertools.product(range(1, TILE_ROWS + 1), range(1, TILE_VECTORS + 1))
        for row_count, vector_count in sizes:
            block = builder.append_basic_block("tile")
            jump.add_case(ir.Constant(WORD, TILE_ROWS * vector_count + row_count), block)
            builder.position_at_end(block)
            write = functools.partial(_write_tile, row_count, vector_count)
            call_own_function(builder, f"tile_{row_count}x{vector_count}", operands, write)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), emit


def _write_tile(
    rows: int,
    vectors: int,
    builder: ir.IRBuilder,
    row_addresses: Any,
    tap_offset: Any,
    channels: Any,
    weights: Any,
    totals: Any,
    stride: Any,
    add: Any,
) -> None:
    """Write the loop over the channels for one size of tile."""
    vector = Vectors(builder)
    table = pointer(builder, row_addresses, WORD)
    row_pointers = []
    for row in range(rows):
        address = builder.load(builder.gep(table, [ir.Constant(WORD, row)]))
        row_pointers.append(pointer(builder, builder.add(address, tap_offset), FLOAT))

    entry = builder.block
    loop = builder.append_basic_block("channels")
    done = builder.append_basic_block("channels.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    channel = builder.phi(WORD)
    panel = builder.phi(WORD)
    channel.add_incoming(ir.Constant(WORD, 0), entry)
    panel.add_incoming(weights, entry)
    sums = [builder.phi(VECTOR) for _ in range(rows * vectors)]
    for value in sums:
        value.add_incoming(vector.constant(0.0), entry)
    columns = [vector.load(vector.behind(panel, v)) for v in range(vectors)]
    grown = []
    for row in range(rows):
        x = vector.splat(builder.load(builder.gep(row_pointers[row], [channel])))
        for v in range(vectors):
            grown.append(vector.fma(x, columns[v], sums[row * vectors + v]))
    following = builder.add(channel, ir.Constant(WORD, 1))
    channel.add_incoming(following, loop)
    panel.add_incoming(builder.add(panel, stride), loop)
    for value, new in zip(sums, grown, strict=True):
        value.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, channels), loop, done)

    builder.position_at_end(done)
    targets = []
    for row in range(rows):
        start = builder.add(totals, builder.mul(ir.Constant(WORD, row), stride))
        targets += [vector.behind(start, v) for v in range(vectors)]
    with builder.if_else(cgutils.is_not_null(builder, add)) as (adding, storing):
        with adding:
            for target, value in zip(targets, grown, strict=True):
                vector.store(builder.fadd(vector.load(target), value), target)
        with storing:
            for target, value in zip(targets, grown, strict=True):
                vector.store(value, target)


@intrinsic
def finish(
    typing_context: Any,
    rows: Any,
    columns: Any,
    totals: Any,
    totals_stride: Any,
    bias: Any,
    residual: Any,
    plain: Any,
    active: Any,
    row_stride: Any,
    alpha: Any,
    inverse_beta: Any,
    tanh: Any,
) -> Any:
    """Epilogue of one vector of columns: bias, residual, tanh, plain rows out, Snake rows out.

    All are addresses, strides in bytes; `residual`, `plain` and `active` (the Snake of the rows)
    may be 0 for none and share `row_stride`. Where fewer than sixteen `columns` are left, only
    those are touched; `bias`, `alpha` and `inverse_beta` are padded to a whole vector.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        full = builder.icmp_signed(">=", args[1], ir.Constant(WORD, LANES))
        with builder.if_else(full) as (whole, partial):
            with whole:
                call_own_function(builder, "finish", args, functools.partial(_write_finish, False))
            with partial:
                write = functools.partial(_write_finish, True)
                call_own_function(builder, "finish_masked", args, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), emit


def _write_finish(
    masked: bool,
    builder: ir.IRBuilder,
    rows: Any,
    columns: Any,
    totals: Any,
    totals_stride: Any,
    bias: Any,
    residual: Any,
    plain: Any,
    active: Any,
    row_stride: Any,
    alpha: Any,
    inverse_beta: Any,
    tanh: Any,
) -> None:
    """Write the loop over the rows, for whole vectors or for the lanes of a mask."""
    vector = Vectors(builder)
    mask = vector.first_lanes(columns) if masked else None
    bias = vector.load(bias)
    with cgutils.for_range(builder, rows) as row:
        offset = builder.mul(row.index, row_stride)
        source = builder.add(totals, builder.mul(row.index, totals_stride))
        value = builder.fadd(vector.load(source, mask), bias)

        def add_residual(value: Any, offset: Any = offset) -> Any:
            return builder.fadd(value, vector.load(builder.add(residual, offset), mask))

        value = _if_given(builder, residual, value, add_residual)
        value = _if_given(builder, tanh, value, vector.tanh)
        with builder.if_then(cgutils.is_not_null(builder, plain)):
            vector.store(value, builder.add(plain, offset), mask)
        with builder.if_then(cgutils.is_not_null(builder, active)):
            bent = vector.snake(value, vector.load(alpha), vector.load(inverse_beta))
            vector.store(bent, builder.add(active, offset), mask)


def _if_given(builder: ir.IRBuilder, flag: Any, value: Any, change: Callable[[Any], Any]) -> Any:
    """`change(value)` where a flag is not 0, else `value`."""
    before = builder.block
    with builder.if_then(cgutils.is_not_null(builder, flag)):
        changed = change(value)
        inside = builder.block
    result = builder.phi(value.type)
    result.add_incoming(value, before)
    result.add_incoming(changed, inside)
    return result
