"""Wraps ``numba.cuda``. No other module imports it, so replacing it would change only this file.

Under Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``) the kernels run as plain Python. There, a fused
multiply-add rounds twice.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import importlib.util
import pickle
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import config

from oobleck_stream.engine.kernel_cache import KernelCache, keep
from oobleck_stream.errors import CudaUnavailable

if importlib.util.find_spec("numba_cuda") is None:
    raise CudaUnavailable(
        "numba-cuda is not installed: pip install 'oobleck_stream[cuda13]' "
        "(or cuda12 for an older driver)"
    )

from numba import cuda as _cuda
from numba.cuda.core import config as _settings

# Numba warns if a launch has few blocks. But a single frame has too little work for more blocks.
_settings.CUDA_LOW_OCCUPANCY_WARNINGS = 0

__all__ = [
    "ALIGNMENT",
    "SIMULATED",
    "add",
    "checked",
    "cuda",
    "device",
    "divide",
    "fma",
    "has_compiler",
    "kernel",
    "less",
    "multiply",
    "multiprocessor_count",
    "on_compilation",
    "open_cuda_stream",
    "open_device",
    "pinned",
    "power_of_two",
    "select",
    "subtract",
    "translated_errors",
    "unsigned",
    "unsigned_index",
    "upload",
    "zeros",
]

cuda: Any = _cuda

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]

ALIGNMENT = None if SIMULATED else 16
"""Alignment of shared memory in bytes. It lets one instruction load four floats."""


class CudaKernelCache(KernelCache):
    """The cache of one CUDA kernel."""

    versions = (*KernelCache.versions, f"numba-cuda {version('numba-cuda')}")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the compiled kernel for these argument types; return None if it isn't stored."""
        from numba.cuda.utils import numba_target_override

        with numba_target_override():
            return super().load_overload(sig, target_context)

    def dump(self, compiled: Any) -> bytes:
        """Serialize a compiled kernel."""
        from numba.cuda.serialize import dumps

        content: bytes = dumps(compiled._reduce_states())
        return content

    def build(self, target_context: Any, content: bytes) -> Any:
        """Deserialize a compiled kernel."""
        from numba.cuda.dispatcher import _Kernel

        return _Kernel._rebuild(**pickle.loads(content))


def kernel(function: Callable[..., None]) -> Any:
    """Return a function as a kernel, which is compiled at its first launch and kept on disk."""
    dispatcher = cuda.jit(function)
    return dispatcher if SIMULATED else keep(dispatcher, CudaKernelCache)


# The operations that kernels use. Numba's CUDA target contracts ``a * b + c`` to a fused
# multiply-add even with fastmath off. It never contracts the functions of libdevice whose names end
# in ``_rn`` (round to nearest).
if SIMULATED:

    def device(function):
        """Return a function that kernels can call."""
        return function

    def fma(a, b, c):
        """``a * b + c``, rounded twice."""
        return a * b + c

    def multiply(a, b):
        """``a * b``."""
        return a * b

    def add(a, b):
        """``a + b``."""
        return a + b

    def subtract(a, b):
        """``a - b``."""
        return a - b

    def divide(a, b):
        """``a / b``."""
        return a / b

    def less(a, b):
        """``a < b``."""
        return a < b

    def select(condition, a, b):
        """``a`` where the condition holds, else ``b``."""
        return a if condition else b

    def power_of_two(exponent):
        """2 to the power of a whole number."""
        return np.int32((int(exponent) + 127) << 23).view(np.float32)

    def unsigned(count):
        """Return a nonnegative number unchanged."""
        return count

    def unsigned_index(index):
        """Return a nonnegative index unchanged."""
        return index

else:
    from numba.cuda import libdevice

    def device(function):
        """Compile a function that is inlined into the kernels that call it."""
        return cuda.jit(function, device=True, forceinline=True)

    @device
    def fma(a, b, c):
        """``a * b + c``, rounded once."""
        return cuda.fma(a, b, c)

    @device
    def multiply(a, b):
        """``a * b``, never fused with an addition."""
        return libdevice.fmul_rn(a, b)

    @device
    def add(a, b):
        """``a + b``, never fused with a product."""
        return libdevice.fadd_rn(a, b)

    @device
    def subtract(a, b):
        """``a - b``, never fused with a product."""
        return libdevice.fsub_rn(a, b)

    @device
    def divide(a, b):
        """``a / b``, correctly rounded."""
        return libdevice.fdiv_rn(a, b)

    @device
    def less(a, b):
        """``a < b``; false if a or b is NaN."""
        return a < b

    @device
    def select(condition, a, b):
        """``a`` where the condition holds, else ``b``."""
        return a if condition else b

    @device
    def power_of_two(exponent):
        """2 to the power of a whole number, by setting the exponent bits."""
        return libdevice.int_as_float(np.int32((int(exponent) + 127) << 23))

    @device
    def unsigned(count):
        """Cast a nonnegative number to an unsigned 32-bit integer, for faster arithmetic."""
        return np.uint32(count)

    @device
    def unsigned_index(index):
        """Cast a nonnegative index, so that Numba omits code for negative indices."""
        return np.uint64(index)


# The functions that the engine uses.
def has_compiler() -> bool:
    """Return whether the libraries that compile kernels (NVVM and NVRTC) can be loaded."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        for library in ("nvvm", "nvrtc"):
            load_nvidia_dynamic_lib(library)
    except DynamicLibNotFoundError:
        return False
    return True


def open_device() -> None:
    """Check that there are a GPU and a compiler for its kernels.

    Raises
    ------
    CudaUnavailable
        If something is missing. The message names what is missing.
    """
    if SIMULATED:
        return
    from numba.cuda.cudadrv.driver import driver
    from numba.cuda.cudadrv.error import CudaSupportError

    try:
        found = driver.is_available
    except CudaSupportError:
        found = False
    if not found:
        reason = " ".join((driver.initialization_error or "no reason given").split())
        if "NO_DEVICE" in reason:
            raise CudaUnavailable("no NVIDIA GPU was found: the driver lists none")
        if "cannot be found" in reason:
            raise CudaUnavailable("no NVIDIA driver was found (libcuda)")
        raise CudaUnavailable(f"the NVIDIA driver does not start: {reason}")
    if not has_compiler():
        raise CudaUnavailable(
            "CUDA's compiler (NVVM, NVRTC) is missing: pip install 'oobleck_stream[cuda13]' "
            "(or cuda12 for an older driver)"
        )
    with translated_errors():
        cuda.current_context()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Convert errors of the driver, the compiler and Numba's CUDA target to ``CudaUnavailable``."""
    try:
        yield
    except Exception as error:
        if SIMULATED or not _is_from_cuda(error):
            raise
        raise _unavailable(str(error) or type(error).__name__) from error


def _is_from_cuda(error: Exception) -> bool:
    """Return whether a CUDA package defines the exception's class, or raised the exception."""
    raised_in = ""
    if isinstance(error, RuntimeError | ImportError | OSError):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            raised_in = str(frame.f_globals.get("__name__"))
    names = type(error).__module__, raised_in
    return any(f"{name}.".startswith(("numba.cuda.", "cuda.")) for name in names)


def _unavailable(message: str) -> CudaUnavailable:
    """Return the exception for an error message from CUDA, shortened to one line."""
    if "OUT_OF_MEMORY" in message:
        return CudaUnavailable("the GPU has too little memory")
    return CudaUnavailable(f"CUDA failed: {' '.join(message.split())[:300]}")


@contextmanager
def on_compilation(callback: Callable[[], None]) -> Iterator[None]:
    """Within this context, call `callback` whenever a part of a kernel is compiled.

    Loading a kernel from disk doesn't count. The callback may be called several times per kernel.
    """
    from numba.cuda.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, _: Any) -> None:
            callback()

        def on_end(self, _: Any) -> None:
            pass

    # Numba has no event for compiling a whole kernel. Its event for the compiler's lock would not
    # do, because the lock is also taken when a kernel is loaded.
    with event.install_listener("numba-cuda:run_pass", Listener()):
        yield


def open_cuda_stream() -> Any:
    """A non-blocking CUDA stream: one that doesn't synchronize with the default CUDA stream.

    Such a stream can be captured at any time. Callers must `synchronize` it before they use
    results.
    """
    if SIMULATED:
        return cuda.stream()
    from cuda.bindings import driver

    with translated_errors():
        cuda.current_context()
        _, handle = checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        cuda_stream = cuda.external_stream(int(handle))
    weakref.finalize(cuda_stream, driver.cuStreamDestroy, handle)
    return cuda_stream


def zeros(kind: type, count: int, cuda_stream: Any) -> Any:
    """Return an array of `count` zeros on the device. If `count` is 0, the array has one zero.

    Raises
    ------
    CudaUnavailable
        If the GPU has too little free memory.
    """
    size = max(1, count)
    _check_free_memory(size * np.dtype(kind).itemsize)
    with translated_errors():
        array = cuda.device_array(size, kind)
    if SIMULATED:
        array[:] = 0
        return array
    from numba.cuda.cudadrv.driver import device_memset

    with translated_errors():
        device_memset(array, 0, array.nbytes, stream=cuda_stream)
        cuda_stream.synchronize()
    return array


def upload(array: npt.NDArray[Any], cuda_stream: Any) -> Any:
    """Copy an array to the device, and return the copy.

    If the array has no rows, the copy has one row of zeros.

    Raises
    ------
    CudaUnavailable
        If the GPU has too little free memory.
    """
    rows = array if len(array) > 0 else np.zeros((1, *array.shape[1:]), array.dtype)
    _check_free_memory(rows.nbytes)
    with translated_errors():
        copy = cuda.to_device(np.ascontiguousarray(rows), stream=cuda_stream)
        cuda_stream.synchronize()
    return copy


def pinned(kind: type, count: int) -> Any:
    """Return a page-locked host array of at least one element, for asynchronous copies."""
    with translated_errors():
        return cuda.pinned_array(max(1, count), kind)


def _check_free_memory(need: int) -> None:
    """Raise ``CudaUnavailable`` unless `need` bytes are free on the device."""
    with translated_errors():
        context = cuda.current_context()
        free = context.get_memory_info().free
        if need > free and not SIMULATED:
            # Numba does not free an unused array at once, but collects several. Free these now.
            context.memory_manager.deallocations.clear()
            free = context.get_memory_info().free
    if need > free:
        raise CudaUnavailable(
            f"the GPU has too little memory: {need >> 20} MiB of {int(free) >> 20} free"
        )


def multiprocessor_count() -> int:
    """Number of multiprocessors of the GPU."""
    with translated_errors():
        return 4 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the result of a driver call; raise ``CudaUnavailable`` if its status is an error."""
    if int(result[0]) != 0:
        raise _unavailable(str(getattr(result[0], "name", result[0])))
    return result
