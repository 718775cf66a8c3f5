"""The kernels before and after the products of a fast convolution (see `fast_convolution`)."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from oobleck_stream.engine.cpu.machine import WORD, call_noinline, pointer
from oobleck_stream.engine.cpu.simd import Vectors
from oobleck_stream.engine.program import LANES
from oobleck_stream.fast_convolution import SCHEMES, Scheme


@intrinsic
def transform(
    typing_context: Any,
    rows: Any,
    tiles: Any,
    row_addresses: Any,
    tap_stride: Any,
    width: Any,
    target: Any,
    point_stride: Any,
    tile_stride: Any,
) -> Any:
    """Compute the rows of a scheme's points for `tiles` tiles.

    Parameters
    ----------
    rows : int
        Number of output rows of a tile.
    tiles : int
        Number of tiles.
    row_addresses : int
        Address of the indirection buffer: for each tile, the address of its first input row.
    tap_stride : int
        Distance in bytes between input rows of a tile.
    width : int
        Size of a row in bytes, a multiple of the size of a vector.
    target : int
        Address of the results, which begin with the first tile's row of the first point.
    point_stride, tile_stride : int
        Distances in bytes between rows: from point to point, and from tile to tile.
    """
    return types.void(*[types.int64] * 8), _for_scheme("transform", _write_transform)


@intrinsic
def combine(
    typing_context: Any, rows: Any, tiles: Any, totals: Any, width: Any, point_stride: Any
) -> Any:
    """Replace the products of `tiles` tiles with the output rows of these tiles.

    Parameters
    ----------
    rows : int
        Number of output rows of a tile.
    tiles : int
        Number of tiles.
    totals : int
        Address of the products, one for each point of each tile. The output rows overwrite the
        products of the first points.
    width : int
        Size of a product in bytes, a multiple of the size of a vector. This is also the distance
        between tiles.
    point_stride : int
        Distance in bytes between points, and between the output rows of a tile.
    """
    return types.void(*[types.int64] * 5), _for_scheme("combine", _write_combine)


def _for_scheme(name: str, write: Any) -> Any:
    """Return a function that emits a switch, which calls the function for the given tile size."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        rows, *operands = args
        end = builder.append_basic_block("scheme.end")
        jump = builder.switch(rows, end)
        for count, scheme in SCHEMES.items():
            block = builder.append_basic_block("scheme")
            jump.add_case(ir.Constant(WORD, count), block)
            builder.position_at_end(block)
            call_noinline(builder, f"{name}_{count}", operands, functools.partial(write, scheme))
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return emit


def _write_transform(
    scheme: Scheme,
    builder: ir.IRBuilder,
    tiles: Any,
    row_addresses: Any,
    tap_stride: Any,
    width: Any,
    target: Any,
    point_stride: Any,
    tile_stride: Any,
) -> None:
    vector = Vectors(builder)
    table = pointer(builder, row_addresses, WORD)
    step = ir.Constant(WORD, 4 * LANES)
    with cgutils.for_range(builder, tiles) as tile:
        source = builder.load(builder.gep(table, [tile.index]))
        to = builder.add(target, builder.mul(tile.index, tile_stride))
        with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), width, step) as (offset, _):
            inputs = _load_all(vector, scheme.inputs, builder.add(source, offset), tap_stride)
            values = scheme.transform(inputs, vector.operations)
            _store_all(vector, values, builder.add(to, offset), point_stride)


def _write_combine(
    scheme: Scheme, builder: ir.IRBuilder, tiles: Any, totals: Any, width: Any, point_stride: Any
) -> None:
    vector = Vectors(builder)
    step = ir.Constant(WORD, 4 * LANES)
    size = builder.mul(tiles, width)
    with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), size, step) as (offset, _):
        place = builder.add(totals, offset)
        products = _load_all(vector, scheme.points, place, point_stride)
        _store_all(vector, scheme.combine(products, vector.operations), place, point_stride)


def _load_all(vector: Vectors, count: int, address: Any, stride: Any) -> list[Any]:
    builder = vector.builder
    places = [builder.mul(ir.Constant(WORD, index), stride) for index in range(count)]
    return [vector.load(builder.add(address, place)) for place in places]


def _store_all(vector: Vectors, values: list[Any], address: Any, stride: Any) -> None:
    builder = vector.builder
    for index, value in enumerate(values):
        place = builder.mul(ir.Constant(WORD, index), stride)
        vector.store(value, builder.add(address, place))
