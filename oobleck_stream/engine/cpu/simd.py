"""Emits LLVM instructions on vectors of sixteen floats.

The vector width is the same on every machine. LLVM splits a vector into the registers of the
processor: one of AVX-512, two of AVX2 or four of NEON. A lane never interacts with another lane,
every operation is IEEE 754, and every fused multiply-add is explicit (LLVM fuses nothing by itself
without fast-math flags). So all processors compute bit-identical results.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config
from numba.core import cgutils

from oobleck_stream.engine.arithmetic import activations
from oobleck_stream.engine.cpu.machine import FLOAT, WORD
from oobleck_stream.engine.program import LANES
from oobleck_stream.operations import Operations


def _compiles_for(feature: str) -> bool:
    """Return whether Numba compiles for a processor feature, given by its name in LLVM."""
    features = config.CPU_FEATURES  # type: ignore[attr-defined]
    if features is None:
        features = get_host_cpu_features().flatten()
    return f"+{feature}" in features


# AVX-512 has 32 registers of 16 floats.
TILE_ROWS, TILE_VECTORS = (12, 2) if _compiles_for("avx512f") else (6, 1)
"""Size of the largest tile: its rows, and its columns counted in vectors.

A tile is a block of sums that one loop keeps in registers. The sums take 24 of the 32 registers of
AVX-512, 12 of the 16 of AVX2, or 24 of the 32 of NEON. The other registers hold the weights and the
broadcast input. Each fused multiply-add depends on the previous one in its chain, so a core needs
many independent chains to keep its units busy.
"""

HAS_FLOAT16 = _compiles_for("f16c")
"""Whether the processor has an instruction that converts float16 to float32."""

VECTOR = ir.VectorType(FLOAT, LANES)
SHORTS = ir.VectorType(ir.IntType(16), LANES)
WHOLES = ir.VectorType(ir.IntType(32), LANES)
ALIGNMENT = ir.Constant(ir.IntType(32), 4)
MASK = ir.VectorType(ir.IntType(1), LANES)


def whole(number: int) -> ir.Constant:
    """Return a vector with a 32-bit number in all lanes."""
    return ir.Constant(WHOLES, [number] * LANES)


class Vectors:
    """Emits vector instructions at the current position of an `ir.IRBuilder`.

    Parameters
    ----------
    builder : ir.IRBuilder

    Attributes
    ----------
    operations : Operations
    snake, tanh : callable
        See `oobleck_stream.engine.arithmetic.activations`.
    """

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        name = f"llvm.fma.v{LANES}f32"
        self._fma = cgutils.get_or_insert_function(builder.module, kind, name)
        self.operations = Operations(
            constant=self.constant,
            fma=self.fma,
            multiply=builder.fmul,
            add=builder.fadd,
            subtract=builder.fsub,
            divide=builder.fdiv,
            less=functools.partial(builder.fcmp_ordered, "<"),
            select=builder.select,
            power_of_two=self.power_of_two,
        )
        self.snake, self.tanh = activations(self.operations)

    def constant(self, value: float) -> ir.Constant:
        """Return a vector with a Python float, rounded to float32, in all lanes."""
        return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)

    def splat(self, scalar: Any) -> Any:
        """Return a vector with a scalar in all lanes."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, undefined, lanes)

    def vector_address(self, address: Any, index: int, dtype: str = "F32") -> Any:
        """Return the address of vector `index` of an array with a dtype of `WEIGHT_DTYPES`."""
        size = 4 if dtype == "F32" else 2
        return self.builder.add(address, ir.Constant(WORD, size * LANES * index))

    def load_as_float32(self, address: Any, index: int, dtype: str) -> Any:
        """Load vector `index` of an array with a dtype of `WEIGHT_DTYPES`, converted to float32.

        The numbers must be finite. Their conversion to float32 is exact.
        """
        address = self.vector_address(address, index, dtype)
        if dtype == "F32":
            return self.load(address)
        loaded = self.builder.load(self.builder.inttoptr(address, SHORTS.as_pointer()))
        loaded.align = 2
        if dtype == "F16":
            return self.from_float16(loaded)
        # The bits of bfloat16 are the upper half of the bits of a float32.
        bits = self.builder.shl(self.builder.zext(loaded, WHOLES), whole(16))
        return self.builder.bitcast(bits, VECTOR)

    def from_float16(self, bits: Any) -> Any:
        """Convert the bits of finite float16 numbers to float32."""
        builder = self.builder
        if HAS_FLOAT16:
            return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), LANES)), VECTOR)
        # The biases of the exponents, 15 and 127, differ by 112. A subnormal number has the
        # exponent of the smallest normal number but no leading one. So it is converted as if it had
        # a leading one, and then this leading one, 2**-14, is subtracted.
        bits = builder.zext(bits, WHOLES)
        sign = builder.shl(builder.and_(bits, whole(0x8000)), whole(16))
        magnitude = builder.and_(bits, whole(0x7FFF))
        moved = builder.shl(magnitude, whole(13))
        normal = builder.bitcast(builder.add(moved, whole(112 << 23)), VECTOR)
        subnormal = builder.bitcast(builder.add(moved, whole(113 << 23)), VECTOR)
        subnormal = builder.fsub(subnormal, self.constant(2.0**-14))
        small = builder.icmp_unsigned("<", magnitude, whole(0x0400))
        value = builder.bitcast(builder.select(small, subnormal, normal), WHOLES)
        return builder.bitcast(builder.or_(value, sign), VECTOR)

    def load(self, address: Any, mask: Any = None) -> Any:
        """Load a vector from an address aligned to 4 bytes.

        With a mask, only the selected lanes are loaded. The other lanes are zero, and their memory
        is not accessed.
        """
        target = self.builder.inttoptr(address, VECTOR.as_pointer())
        if mask is None:
            loaded = self.builder.load(target)
            loaded.align = 4
            return loaded
        kind = ir.FunctionType(VECTOR, [target.type, ir.IntType(32), MASK, VECTOR])
        return self._masked("load", kind, [target, ALIGNMENT, mask, self.constant(0.0)])

    def store(self, value: Any, address: Any, mask: Any = None) -> None:
        """Store a vector, or the lanes that a mask selects, to an address aligned to 4 bytes."""
        target = self.builder.inttoptr(address, VECTOR.as_pointer())
        if mask is None:
            self.builder.store(value, target).align = 4
            return
        kind = ir.FunctionType(ir.VoidType(), [VECTOR, target.type, ir.IntType(32), MASK])
        self._masked("store", kind, [value, target, ALIGNMENT, mask])

    def prefetch(self, address: Any) -> None:
        """Prefetch the cache line of an address into the second-level cache.

        The address may be invalid.
        """
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        reads, second_level, data = number(0), number(2), number(1)
        arguments = [self.builder.inttoptr(address, byte), reads, second_level, data]
        self.builder.call(function, arguments)

    def _masked(self, name: str, kind: ir.FunctionType, arguments: list[Any]) -> Any:
        """Call LLVM's masked load or store."""
        name = f"llvm.masked.{name}.v{LANES}f32.p0"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def first_lanes(self, count: Any) -> Any:
        """Return a mask that selects the first `count` lanes."""
        lane = ir.VectorType(WORD, LANES)
        undefined = ir.Constant(lane, ir.Undefined)
        one = self.builder.insert_element(undefined, count, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        limit = self.builder.shuffle_vector(one, undefined, zeros)
        return self.builder.icmp_signed("<", ir.Constant(lane, list(range(LANES))), limit)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``, rounded once."""
        return self.builder.call(self._fma, [a, b, c])

    def power_of_two(self, exponents: Any) -> Any:
        """``2 ** exponents``, for whole numbers from -126 to 127, by setting the exponent bits."""
        whole = ir.VectorType(ir.IntType(32), LANES)
        bits = self.builder.fptosi(exponents, whole)
        bits = self.builder.add(bits, ir.Constant(whole, [127] * LANES))
        bits = self.builder.shl(bits, ir.Constant(whole, [23] * LANES))
        return self.builder.bitcast(bits, VECTOR)
