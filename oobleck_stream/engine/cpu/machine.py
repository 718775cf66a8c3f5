"""What Numba can't say in Python: addresses, atomics, fused multiply-add, sleeping a little.

Every function here is a module-level intrinsic, because only those are found again in Numba's
cache on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WORD = ir.IntType(64)
FLOAT = ir.FloatType()


def pointer(builder: ir.IRBuilder, address: Any, to: ir.Type) -> Any:
    """Turn an integer address into a typed pointer."""
    return builder.inttoptr(address, to.as_pointer())


def call_own_function(
    builder: ir.IRBuilder, name: str, arguments: Sequence[Any], write: Callable[..., None]
) -> None:
    """Call a function of the module that is written, by `write(builder, *words)`, at its first use.

    It is never inlined: its loops have all registers to themselves.
    """
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [WORD] * len(arguments))
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        body = ir.IRBuilder(function.append_basic_block("entry"))
        write(body, *function.args)
        body.ret_void()
    builder.call(function, arguments)


@intrinsic
def words_at(typing_context: Any, address: Any) -> Any:
    """A pointer to the int64 at an address.

    Arrays over it (`numba.carray`) have no owner: nobody counts references to them, which costs two
    threads that share one a microsecond a job.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return pointer(builder, args[0], WORD)

    return types.CPointer(types.int64)(types.int64), emit


@intrinsic
def store_word(typing_context: Any, address: Any, value: Any) -> Any:
    """Write an int64 to an address, not atomically."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[1], pointer(builder, args[0], WORD))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def move_bytes(typing_context: Any, destination: Any, source: Any, count: Any) -> Any:
    """Copy bytes as C's memmove does; the two places may overlap."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        bytes_at = byte.as_pointer()
        memmove = builder.module.declare_intrinsic("llvm.memmove", [bytes_at, bytes_at, WORD])
        destination, source, count = args
        no = ir.Constant(ir.IntType(1), 0)
        at, origin = pointer(builder, destination, byte), pointer(builder, source, byte)
        builder.call(memmove, [at, origin, count, no])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@intrinsic
def clear_bytes(typing_context: Any, destination: Any, count: Any) -> Any:
    """Fill with zeros."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        memset = builder.module.declare_intrinsic("llvm.memset", [byte.as_pointer(), WORD])
        zero, no = ir.Constant(byte, 0), ir.Constant(ir.IntType(1), 0)
        builder.call(memset, [pointer(builder, args[0], byte), zero, args[1], no])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def atomic_add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an address atomically, sequentially consistent; gives the old value."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", pointer(builder, args[0], WORD), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def atomic_load(typing_context: Any, address: Any) -> Any:
    """Read the int64 at an address atomically, sequentially consistent."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(pointer(builder, args[0], WORD), "seq_cst", 8)

    return types.int64(types.int64), emit


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the core that this is a waiting loop."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        machine = builder.module.triple
        if machine.startswith(("x86", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        elif machine.startswith(("aarch64", "arm64")):
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(ir.IntType(32), 1)])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def plain_floats(typing_context: Any) -> Any:
    """Have this thread round to nearest and keep subnormals, as IEEE has it; gives the mode it had.

    Hosts of audio plug-ins flush subnormals to zero in their threads, but not in ours.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        before = _float_mode(builder)
        machine = builder.module.triple
        usual = 0x1F80 if machine.startswith(("x86", "i686")) else 0
        _set_float_mode(builder, ir.Constant(WORD, usual))
        return before

    return types.int64(), emit


@intrinsic
def set_float_mode(typing_context: Any, mode: Any) -> Any:
    """Go back to a mode that `plain_floats` gave."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _set_float_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


def _float_mode(builder: ir.IRBuilder) -> Any:
    """The register that says how floats are rounded (0 where it is not known)."""
    machine = builder.module.triple
    if machine.startswith(("x86", "i686")):
        place = cgutils.alloca_once(builder, ir.IntType(32))
        _call_with_pointer(builder, "llvm.x86.sse.stmxcsr", place)
        return builder.zext(builder.load(place), WORD)
    if machine.startswith(("aarch64", "arm64")):
        kind = ir.FunctionType(WORD, [])
        name = "llvm.aarch64.get.fpcr"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
    return ir.Constant(WORD, 0)


def _set_float_mode(builder: ir.IRBuilder, mode: Any) -> None:
    machine = builder.module.triple
    if machine.startswith(("x86", "i686")):
        place = cgutils.alloca_once(builder, ir.IntType(32))
        builder.store(builder.trunc(mode, ir.IntType(32)), place)
        _call_with_pointer(builder, "llvm.x86.sse.ldmxcsr", place)
    elif machine.startswith(("aarch64", "arm64")):
        kind = ir.FunctionType(ir.VoidType(), [WORD])
        name = "llvm.aarch64.set.fpcr"
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [mode])


def _call_with_pointer(builder: ir.IRBuilder, name: str, place: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(place, byte)])


@intrinsic
def clock(typing_context: Any) -> Any:
    """A counter that runs evenly (0 where the processor has none that a program may read)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        machine = builder.module.triple
        kind = ir.FunctionType(WORD, [])
        if machine.startswith(("x86", "i686")):
            name = "llvm.readcyclecounter"
        elif machine.startswith(("aarch64", "arm64")):
            name = "llvm.readsteadycounter"
        else:
            return ir.Constant(WORD, 0)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])

    return types.int64(), emit


@intrinsic
def give_way(typing_context: Any) -> Any:
    """Let another thread have this core (POSIX ``sched_yield``; elsewhere nothing)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), emit
