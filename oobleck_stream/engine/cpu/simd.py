"""Vectors of sixteen floats and the arithmetic of Snake and tanh on them, as LLVM instructions.

One vector width serves every machine: LLVM splits it into what the CPU has (one AVX-512 register,
two AVX2 ones, four NEON ones). Each lane is one IEEE operation at a time and every fused
multiply-add is written out, so the same bits come out everywhere.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config
from numba.core import cgutils

from oobleck_stream.engine.arithmetic import Operations, activations
from oobleck_stream.engine.cpu.machine import FLOAT, WORD
from oobleck_stream.engine.program import LANES


def _has_wide_registers() -> bool:
    """Whether Numba compiles for AVX-512: thirty-two registers of sixteen floats."""
    features = config.CPU_FEATURES  # type: ignore[attr-defined]
    if features is None:
        features = get_host_cpu_features().flatten()
    return "+avx512f" in features


TILE_ROWS, TILE_VECTORS = (12, 2) if _has_wide_registers() else (6, 1)
"""Largest tile: its sums, and a row of weights, fit the registers (24 of 32 of AVX-512, 12 of 16
of AVX2, 24 of 32 of NEON)."""

VECTOR = ir.VectorType(FLOAT, LANES)
ALIGNMENT = ir.Constant(ir.IntType(32), 4)
MASK = ir.VectorType(ir.IntType(1), LANES)


class Vectors:
    """Writes vector instructions at the place where a builder stands."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        name = f"llvm.fma.v{LANES}f32"
        self._fma = cgutils.get_or_insert_function(builder.module, kind, name)
        self.snake, self.tanh = activations(
            Operations(
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
        )

    def constant(self, value: float) -> ir.Constant:
        """All lanes the same number, rounded to float32."""
        return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)

    def splat(self, scalar: Any) -> Any:
        """All lanes the same run-time number."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, undefined, lanes)

    def behind(self, address: Any, index: int) -> Any:
        """Address of the vector number `index` from an address on."""
        return self.builder.add(address, ir.Constant(WORD, 4 * LANES * index))

    def load(self, address: Any, mask: Any = None) -> Any:
        """Read a vector at any multiple of four bytes; with a mask, zeros outside it."""
        place = self.builder.inttoptr(address, VECTOR.as_pointer())
        if mask is None:
            loaded = self.builder.load(place)
            loaded.align = 4
            return loaded
        kind = ir.FunctionType(VECTOR, [place.type, ir.IntType(32), MASK, VECTOR])
        return self._masked("load", kind, [place, ALIGNMENT, mask, self.constant(0.0)])

    def store(self, value: Any, address: Any, mask: Any = None) -> None:
        """Write a vector at any multiple of four bytes; with a mask, nothing outside it."""
        place = self.builder.inttoptr(address, VECTOR.as_pointer())
        if mask is None:
            self.builder.store(value, place).align = 4
            return
        kind = ir.FunctionType(ir.VoidType(), [VECTOR, place.type, ir.IntType(32), MASK])
        self._masked("store", kind, [value, place, ALIGNMENT, mask])

    def _masked(self, name: str, kind: ir.FunctionType, arguments: list[Any]) -> Any:
        """Call LLVM's masked load or store."""
        name = f"llvm.masked.{name}.v{LANES}f32.p0"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def first_lanes(self, count: Any) -> Any:
        """Mask of the lanes below a run-time count."""
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
        """2 to the power of whole numbers, by setting the exponent bits."""
        whole = ir.VectorType(ir.IntType(32), LANES)
        bits = self.builder.fptosi(exponents, whole)
        bits = self.builder.add(bits, ir.Constant(whole, [127] * LANES))
        bits = self.builder.shl(bits, ir.Constant(whole, [23] * LANES))
        return self.builder.bitcast(bits, VECTOR)
