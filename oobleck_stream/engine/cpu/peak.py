"""Kernels to measure how fast a core can multiply and add, and how fast it can read memory."""

# mypy: disable-error-code="no-untyped-def, call-arg"
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from oobleck_stream.engine.cpu.machine import WORD
from oobleck_stream.engine.cpu.simd import TILE_ROWS, TILE_VECTORS, VECTOR, Vectors
from oobleck_stream.engine.kernel_cache import keep
from oobleck_stream.engine.program import LANES

STREAMS = 8
"""Number of vectors that one iteration of the reading loop loads. Each is added to a separate
sum."""

READ_STEP = 4 * LANES * STREAMS
"""Number of bytes that one iteration of the reading loop loads."""


def _emit_loop(builder: ir.IRBuilder, turns: Any, values: list[Any], grow: Any) -> list[Any]:
    """Emit a loop that keeps values in registers, and return the final values.

    Each iteration computes ``values = grow(turn, values)``; `turn` counts the iterations from 0.
    """
    entry = builder.block
    loop = builder.append_basic_block("loop")
    done = builder.append_basic_block("loop.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    turn = builder.phi(WORD)
    turn.add_incoming(ir.Constant(WORD, 0), entry)
    carried = [builder.phi(VECTOR) for _ in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, entry)
    grown: list[Any] = grow(turn, carried)
    following = builder.add(turn, ir.Constant(WORD, 1))
    turn.add_incoming(following, loop)
    for phi, value in zip(carried, grown, strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, turns), loop, done)
    builder.position_at_end(done)
    return grown


def _emit_sum(builder: ir.IRBuilder, values: list[Any], target: Any) -> None:
    """Emit code that stores the sum of all values, so that LLVM can't remove their computation."""
    total = values[0]
    for value in values[1:]:
        total = builder.fadd(total, value)
    Vectors(builder).store(total, target)


@intrinsic
def _multiply_add(typing_context: Any, turns: Any, factor: Any, target: Any) -> Any:
    """Emit the body of `multiply_add`."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        turns, factor, target = args
        vector = Vectors(builder)
        half = vector.load(factor)

        def grow(turn: Any, chains: list[Any]) -> list[Any]:
            return [vector.fma(value, half, half) for value in chains]

        # The number of chains equals the number of sums in the largest tile of a product. Each
        # chain starts from a different number, because LLVM would merge equal chains.
        chains = [vector.constant(float(number)) for number in range(TILE_ROWS * TILE_VECTORS)]
        _emit_sum(builder, _emit_loop(builder, turns, chains, grow), target)
        operations = ir.Constant(WORD, 2 * LANES * len(chains))
        return builder.mul(turns, operations)

    return types.int64(types.int64, types.int64, types.int64), emit


@intrinsic
def _read(typing_context: Any, address: Any, turns: Any, target: Any) -> Any:
    """Emit the body of `read`."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address, turns, target = args
        vector = Vectors(builder)

        def grow(turn: Any, sums: list[Any]) -> list[Any]:
            start = builder.add(address, builder.mul(turn, ir.Constant(WORD, READ_STEP)))
            loaded = [
                vector.load(vector.vector_address(start, number)) for number in range(STREAMS)
            ]
            return [builder.fadd(a, b) for a, b in zip(sums, loaded, strict=True)]

        sums = [vector.constant(0.0)] * STREAMS
        _emit_sum(builder, _emit_loop(builder, turns, sums, grow), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@keep
@njit(nogil=True)
def multiply_add(turns, factor, target):
    """Compute chains of ``x = x * factor + factor`` in registers.

    Parameters
    ----------
    turns : int
        Number of iterations of the loop, at least 1.
    factor : int
        Address of sixteen floats, all of them one half.
    target : int
        Address of sixteen floats, where the lane-by-lane sum of all chains is written.

    Returns
    -------
    int
        Number of floating-point operations; a fused multiply-add counts as two.
    """
    return _multiply_add(turns, factor, target)


@keep
@njit(nogil=True)
def read(address, turns, target):
    """Read ``turns * READ_STEP`` bytes of floats from an address, and store sixteen sums of them.

    Parameters
    ----------
    address : int
    turns : int
        Number of iterations of the loop, at least 1.
    target : int
        Address of sixteen floats, where the sums are written.
    """
    _read(address, turns, target)
