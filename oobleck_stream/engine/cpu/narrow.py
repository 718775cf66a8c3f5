"""The kernels of a convolution with few output columns, such as the last layer of a decoder.

A vector holds the products of one input row with all taps and columns, so no lane is wasted. The
vector of input row t contains, in lane ``tap * columns + column``, what this tap contributes to
this column of output row ``t - tap``. (Output row t is the row whose oldest input row is input row
t.) The chains are the same as in a product that is computed tap by tap, and they are added in the
same order. `side_by_side` arranges the weights, and `add_taps` adds the chains.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from oobleck_stream.engine.cpu.machine import FLOAT, WORD, call_noinline, pointer
from oobleck_stream.engine.program import LANES


@intrinsic
def side_by_side(
    typing_context: Any, taps: Any, channels: Any, columns: Any, weights: Any, target: Any
) -> Any:
    """Copy the weights of each channel, for all taps and columns, into the lanes of one vector.

    Parameters
    ----------
    taps, channels, columns : int
        Shape of the weights. ``taps * columns`` is at most LANES.
    weights : int
        Address of the weights: a panel of the width of one vector, in the order tap, channel,
        column.
    target : int
        Address of the results: one vector for each channel. Lanes without a weight are not written,
        so they must already be zero.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        call_noinline(builder, "side_by_side", args, _write_side_by_side)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), emit


@intrinsic
def add_taps(typing_context: Any, rows: Any, taps: Any, columns: Any, totals: Any) -> Any:
    """For each output row, add up the products of its taps, and store the sums in place.

    Parameters
    ----------
    rows : int
        Number of output rows.
    taps, columns : int
    totals : int
        Address of the products: a vector for each of the ``rows + taps - 1`` input rows. The sums
        of an output row replace the first lanes of the vector of its oldest input row.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        call_noinline(builder, "add_taps", args, _write_add_taps)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


def _write_side_by_side(
    builder: ir.IRBuilder, taps: Any, channels: Any, columns: Any, weights: Any, target: Any
) -> None:
    source, to = pointer(builder, weights, FLOAT), pointer(builder, target, FLOAT)
    lanes = ir.Constant(WORD, LANES)
    with cgutils.for_range(builder, taps) as tap:
        first = builder.mul(tap.index, columns)
        with cgutils.for_range(builder, channels) as channel:
            row = builder.add(builder.mul(tap.index, channels), channel.index)
            origin = builder.mul(row, lanes)
            place = builder.add(builder.mul(channel.index, lanes), first)
            with cgutils.for_range(builder, columns) as column:
                weight = builder.load(builder.gep(source, [builder.add(origin, column.index)]))
                builder.store(weight, builder.gep(to, [builder.add(place, column.index)]))


def _write_add_taps(builder: ir.IRBuilder, rows: Any, taps: Any, columns: Any, totals: Any) -> None:
    products, lanes = pointer(builder, totals, FLOAT), ir.Constant(WORD, LANES)
    total = builder.alloca(FLOAT)
    with cgutils.for_range(builder, rows) as row:
        start = builder.mul(row.index, lanes)
        with cgutils.for_range(builder, columns) as column:
            place = builder.gep(products, [builder.add(start, column.index)])
            builder.store(builder.load(place), total)
            one = ir.Constant(WORD, 1)
            # The product of the next tap is one row later and `columns` lanes further.
            stride = builder.add(lanes, columns)
            with cgutils.for_range_slice(builder, one, taps, one) as (tap, _):
                product = builder.load(builder.gep(place, [builder.mul(tap, stride)]))
                builder.store(builder.fadd(builder.load(total), product), total)
            builder.store(builder.load(total), place)
