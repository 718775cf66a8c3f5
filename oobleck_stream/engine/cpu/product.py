"""The kernels of a step: `tile` computes sums of products, and `finish` applies the epilogue.

A step is a convolution in gather form: output row t is ``bias + sum over taps k of
X[t + k * dilation] @ W[k]``, with time-major rows. `tile` computes what one tap contributes to
a tile of sums. While the sums are still in the cache, `finish` adds the bias and the residual, and
applies tanh or the next layer's Snake. "The order of arithmetic" in oobleck_stream/README.md
applies.
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

from oobleck_stream.engine.cpu.machine import FLOAT, WORD, call_noinline, pointer
from oobleck_stream.engine.cpu.simd import TILE_ROWS, TILE_VECTORS, VECTOR, Vectors
from oobleck_stream.engine.program import LANES, WEIGHT_DTYPES


@intrinsic
def tile(
    typing_context: Any,
    dtype: Any,
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
    """Compute one chain for each cell of a tile; store the chains or add them to the sums.

    A chain consists of fused multiply-adds over the channels of a tap, or over a part of them. The
    chains of a tile are in registers. A separate function is compiled for every dtype of the
    weights and every size of tile, and a switch selects the function.

    Parameters
    ----------
    dtype : int
        Index of the dtype of the weights in `WEIGHT_DTYPES`.
    rows, vectors : int
        Size of the tile, at most TILE_ROWS by TILE_VECTORS.
    row_addresses : int
        Address of the indirection buffer: for each row, the address of the input row of tap 0.
    tap_offset : int
        Distance in bytes from that input row to the input row of this tap.
    channels : int
        Number of input channels, at least 1.
    weights : int
        Address of the tap's weights in the panel: one row for each channel.
    totals : int
        Address of the tile's sums.
    stride : int
        Distance in bytes between rows of the sums. A row of sums and a row of weights have the same
        number of elements: the width of the panel.
    add : int
        If 0, the chains overwrite the sums; otherwise they are added to the sums.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        dtype, rows, vectors, *operands = args
        end = builder.append_basic_block("tile.end")
        case = builder.add(builder.mul(dtype, ir.Constant(WORD, TILE_VECTORS + 1)), vectors)
        case = builder.add(builder.mul(case, ir.Constant(WORD, TILE_ROWS + 1)), rows)
        jump = builder.switch(case, end)
        cases = itertools.product(
            range(len(WEIGHT_DTYPES)), range(1, TILE_VECTORS + 1), range(1, TILE_ROWS + 1)
        )
        for kind, vector_count, row_count in cases:
            if kind > 0 and vector_count < TILE_VECTORS:
                continue  # Panels of 16-bit weights have full width.
            block = builder.append_basic_block("tile")
            number = (kind * (TILE_VECTORS + 1) + vector_count) * (TILE_ROWS + 1) + row_count
            jump.add_case(ir.Constant(WORD, number), block)
            builder.position_at_end(block)
            write = functools.partial(_write_tile, WEIGHT_DTYPES[kind], row_count, vector_count)
            name = f"tile_{WEIGHT_DTYPES[kind]}_{row_count}x{vector_count}"
            call_noinline(builder, name, operands, write)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), emit


def _write_tile(
    dtype: str,
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
    """Emit the loop over the channels for one dtype and one size of tile."""
    vector = Vectors(builder)
    table = pointer(builder, row_addresses, WORD)
    row_pointers = []
    for row in range(rows):
        address = builder.load(builder.gep(table, [ir.Constant(WORD, row)]))
        row_pointers.append(pointer(builder, builder.add(address, tap_offset), FLOAT))

    # The weights of the next chain follow those of this chain. They are still in a slower cache or
    # in memory, so they are prefetched while this chain is computed.
    shift = ir.Constant(WORD, 0 if dtype == "F32" else 1)
    weight_stride = builder.ashr(stride, shift)
    ahead = builder.mul(channels, weight_stride)

    entry = builder.block
    loop = builder.append_basic_block("channels")
    done = builder.append_basic_block("channels.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    channel = builder.phi(WORD)
    panel = builder.phi(WORD)
    channel.add_incoming(ir.Constant(WORD, 0), entry)
    panel.add_incoming(weights, entry)
    # Each sum is a phi node, which LLVM keeps in registers for the whole loop.
    sums = [builder.phi(VECTOR) for _ in range(rows * vectors)]
    for value in sums:
        value.add_incoming(vector.constant(0.0), entry)
    # For each channel, load its row of weights once, and broadcast the input of each row.
    columns = [vector.load_as_float32(panel, v, dtype) for v in range(vectors)]
    for v in range(vectors):
        vector.prefetch(vector.vector_address(builder.add(panel, ahead), v, dtype))
    grown = []
    for row in range(rows):
        x = vector.splat(builder.load(builder.gep(row_pointers[row], [channel])))
        for v in range(vectors):
            grown.append(vector.fma(x, columns[v], sums[row * vectors + v]))
    following = builder.add(channel, ir.Constant(WORD, 1))
    channel.add_incoming(following, loop)
    panel.add_incoming(builder.add(panel, weight_stride), loop)
    for value, new in zip(sums, grown, strict=True):
        value.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, channels), loop, done)

    # The chain of this tap is complete. Only now is it added to the sum of the earlier taps.
    builder.position_at_end(done)
    targets = []
    for row in range(rows):
        start = builder.add(totals, builder.mul(ir.Constant(WORD, row), stride))
        targets += [vector.vector_address(start, v) for v in range(vectors)]
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
    raw: Any,
    snaked: Any,
    row_stride: Any,
    alpha: Any,
    inverse_beta: Any,
    tanh: Any,
) -> Any:
    """Apply the epilogue (bias, residual, tanh, Snake) to one vector of columns; store the rows.

    The memory after the last column belongs to other rows. So if fewer columns are left than a
    vector has lanes, the kernel masks its stores and its loads of sums and residuals. A separate
    function handles this case, because masked access is slow on some processors.

    Parameters
    ----------
    rows : int
    columns : int
        Number of columns from this vector on, at least 1.
    totals, totals_stride : int
        Address of the sums, and the distance in bytes between their rows.
    bias : int
        Address of the bias. Bias, alpha and inverse beta are padded to whole vectors.
    residual : int
        Address of the rows to add; 0 if there are none.
    raw, snaked : int
        Addresses for the rows before and after the next layer's Snake. Rows whose address is 0 are
        not stored.
    row_stride : int
        Distance in bytes between rows of `residual`, of `raw` and of `snaked`.
    alpha, inverse_beta : int
        Addresses of the parameters of that Snake. They are not read if `snaked` is 0.
    tanh : int
        Whether to apply tanh; 0 means no.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        full = builder.icmp_signed(">=", args[1], ir.Constant(WORD, LANES))
        with builder.if_else(full) as (whole, partial):
            with whole:
                call_noinline(builder, "finish", args, functools.partial(_write_finish, False))
            with partial:
                write = functools.partial(_write_finish, True)
                call_noinline(builder, "finish_masked", args, write)
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
    raw: Any,
    snaked: Any,
    row_stride: Any,
    alpha: Any,
    inverse_beta: Any,
    tanh: Any,
) -> None:
    """Emit the loop over the rows, for whole vectors or for the lanes of a mask."""
    vector = Vectors(builder)
    mask = vector.first_lanes(columns) if masked else None
    bias = vector.load(bias)
    with cgutils.for_range(builder, rows) as row:
        offset = builder.mul(row.index, row_stride)
        source = builder.add(totals, builder.mul(row.index, totals_stride))
        value = builder.fadd(vector.load(source, mask), bias)

        def add_residual(value: Any, offset: Any = offset) -> Any:
            return builder.fadd(value, vector.load(builder.add(residual, offset), mask))

        value = _change_if(builder, residual, value, add_residual)
        value = _change_if(builder, tanh, value, vector.tanh)
        with builder.if_then(cgutils.is_not_null(builder, raw)):
            vector.store(value, builder.add(raw, offset), mask)
        with builder.if_then(cgutils.is_not_null(builder, snaked)):
            result = vector.snake(value, vector.load(alpha), vector.load(inverse_beta))
            vector.store(result, builder.add(snaked, offset), mask)


def _change_if(builder: ir.IRBuilder, flag: Any, value: Any, change: Callable[[Any], Any]) -> Any:
    """Emit ``change(value) if flag != 0 else value``."""
    before = builder.block
    with builder.if_then(cgutils.is_not_null(builder, flag)):
        changed = change(value)
        inside = builder.block
    result = builder.phi(value.type)
    result.add_incoming(value, before)
    result.add_incoming(changed, inside)
    return result
