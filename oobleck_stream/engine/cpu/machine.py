"""Operations that Numba does not provide: raw memory access, atomics and floating-point modes.

They are intrinsics: functions that emit LLVM instructions into the kernel that calls them. All of
them are at module level, because Numba can't cache kernels that call local ones.
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


def call_noinline(
    builder: ir.IRBuilder, name: str, arguments: Sequence[Any], write: Callable[..., None]
) -> None:
    """Call an LLVM function that is never inlined, so that its loops can use all registers.

    Parameters
    ----------
    builder : ir.IRBuilder
    name : str
        The function's name in the LLVM module. The first call with a name emits the function.
    arguments : sequence of int64 values
    write : callable
        ``write(builder, *parameters)`` emits the body of the function.
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
    """Turn an address into a pointer to int64.

    An array that views this memory (`numba.carray`) has no owner, and so no reference count.
    Counting the references to an array that threads share would cost a microsecond per job.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return pointer(builder, args[0], WORD)

    return types.CPointer(types.int64)(types.int64), emit


@intrinsic
def store_word(typing_context: Any, address: Any, value: Any) -> Any:
    """Write an int64 to an address. The write is not atomic."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[1], pointer(builder, args[0], WORD))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def move_bytes(typing_context: Any, destination: Any, source: Any, count: Any) -> Any:
    """Copy bytes; source and destination may overlap (C's memmove)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        bytes_at = byte.as_pointer()
        memmove = builder.module.declare_intrinsic("llvm.memmove", [bytes_at, bytes_at, WORD])
        destination, source, count = args
        no = ir.Constant(ir.IntType(1), 0)
        to, origin = pointer(builder, destination, byte), pointer(builder, source, byte)
        builder.call(memmove, [to, origin, count, no])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@intrinsic
def clear_bytes(typing_context: Any, destination: Any, count: Any) -> Any:
    """Set `count` bytes to zero."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        memset = builder.module.declare_intrinsic("llvm.memset", [byte.as_pointer(), WORD])
        zero, no = ir.Constant(byte, 0), ir.Constant(ir.IntType(1), 0)
        builder.call(memset, [pointer(builder, args[0], byte), zero, args[1], no])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def atomic_add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an address atomically (sequentially consistent); return the old value."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", pointer(builder, args[0], WORD), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def atomic_load(typing_context: Any, address: Any) -> Any:
    """Load the int64 at an address atomically (sequentially consistent)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(pointer(builder, args[0], WORD), "seq_cst", 8)

    return types.int64(types.int64), emit


@intrinsic
def pause(typing_context: Any) -> Any:
    """Hint to the core that this is a spin loop."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        machine = builder.module.triple
        if machine.startswith(("x86", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        elif machine.startswith(("aarch64", "arm64")):
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(ir.IntType(32), 1)])  # YIELD
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def use_ieee_mode(typing_context: Any) -> Any:
    """Make this thread round to nearest and keep subnormals, and return its previous mode.

    Hosts of audio plug-ins often make their threads flush subnormals to zero, but the threads of
    this package don't. The results must not depend on the thread that computes them.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        before = _float_mode(builder)
        machine = builder.module.triple
        # x86: all exceptions masked, round to nearest, no flush to zero. AArch64: all bits zero.
        default = 0x1F80 if machine.startswith(("x86", "i686")) else 0
        _set_float_mode(builder, ir.Constant(WORD, default))
        return before

    return types.int64(), emit


@intrinsic
def set_float_mode(typing_context: Any, mode: Any) -> Any:
    """Restore a mode that `use_ieee_mode` returned."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _set_float_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


def _float_mode(builder: ir.IRBuilder) -> Any:
    """Read the floating-point control register: MXCSR or FPCR; 0 on other processors."""
    machine = builder.module.triple
    if machine.startswith(("x86", "i686")):
        memory = cgutils.alloca_once(builder, ir.IntType(32))
        _call_with_pointer(builder, "llvm.x86.sse.stmxcsr", memory)
        return builder.zext(builder.load(memory), WORD)
    if machine.startswith(("aarch64", "arm64")):
        kind = ir.FunctionType(WORD, [])
        name = "llvm.aarch64.get.fpcr"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
    return ir.Constant(WORD, 0)


def _set_float_mode(builder: ir.IRBuilder, mode: Any) -> None:
    """Write the floating-point control register."""
    machine = builder.module.triple
    if machine.startswith(("x86", "i686")):
        memory = cgutils.alloca_once(builder, ir.IntType(32))
        builder.store(builder.trunc(mode, ir.IntType(32)), memory)
        _call_with_pointer(builder, "llvm.x86.sse.ldmxcsr", memory)
    elif machine.startswith(("aarch64", "arm64")):
        kind = ir.FunctionType(ir.VoidType(), [WORD])
        name = "llvm.aarch64.set.fpcr"
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [mode])


def _call_with_pointer(builder: ir.IRBuilder, name: str, memory: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(memory, byte)])


@intrinsic
def clock(typing_context: Any) -> Any:
    """Read a counter that runs at a constant rate; return 0 if this processor has none."""

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
def yield_core(typing_context: Any) -> Any:
    """Yield the core to another thread (``sched_yield`` of POSIX; does nothing elsewhere)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), emit
