"""All that is used of Numba's CUDA target, and what can be missing of it.

No other module imports it: the target is in maintenance and has a successor. Under its simulator
(``NUMBA_ENABLE_CUDASIM=1``) the kernels run as plain Python: fused multiply-adds round twice there.
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

# Numba warns of every launch of fewer than 128 blocks; a single frame has no work for more.
_settings.CUDA_LOW_OCCUPANCY_WARNINGS = 0

__all__ = [
    "ALIGNMENT",
    "SIMULATED",
    "add",
    "checked",
    "cuda",
    "device",
    "divide",
    "faults",
    "fma",
    "has_compiler",
    "kernel",
    "less",
    "make_zero",
    "multiply",
    "multiprocessors",
    "open_device",
    "open_stream",
    "pinned",
    "place",
    "power_of_two",
    "select",
    "subtract",
    "telling_of_compiling",
    "unsigned",
    "upload",
    "zeros",
]

cuda: Any = _cuda

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]

ALIGNMENT = None if SIMULATED else 16
"""Bytes at which shared memory begins, so that four floats are read at once."""


class CudaKernelCache(KernelCache):
    """The cache of one CUDA kernel."""

    versions = (*KernelCache.versions, f"numba-cuda {version('numba-cuda')}")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the compiled kernel for these argument types; None if it isn't stored."""
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
    """Compile a kernel on its first launch, and keep it on disk."""
    dispatcher = cuda.jit(function)
    return dispatcher if SIMULATED else keep(dispatcher, CudaKernelCache)


# What kernels are written with. Numba's CUDA target contracts a product and a sum to a fused
# multiply-add, also with fastmath off; operations with a rounding of their own stay as they are.
if SIMULATED:

    def device(function):
        """A function for kernels to call."""
        return function

    def fma(a, b, c):
        """``a * b + c``, here rounded twice."""
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
        """A number known not to be negative, for sums and products."""
        return count

    def place(index):
        """An index known not to be negative."""
        return index

else:
    from numba.cuda import libdevice

    def device(function):
        """A function for kernels to call; it becomes part of them."""
        return cuda.jit(function, device=True, forceinline=True)

    @device
    def fma(a, b, c):
        """``a * b + c``, rounded once."""
        return cuda.fma(a, b, c)

    @device
    def multiply(a, b):
        """``a * b``, never fused with what follows."""
        return libdevice.fmul_rn(a, b)

    @device
    def add(a, b):
        """``a + b``, never fused with what goes before."""
        return libdevice.fadd_rn(a, b)

    @device
    def subtract(a, b):
        """``a - b``, never fused with what goes before."""
        return libdevice.fsub_rn(a, b)

    @device
    def divide(a, b):
        """``a / b`` as IEEE has it."""
        return libdevice.fdiv_rn(a, b)

    @device
    def less(a, b):
        """``a < b``; false if one of them is NaN."""
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
        """A number known not to be negative, for sums and products."""
        return np.uint32(count)

    @device
    def place(index):
        """An index known not to be negative: no turn to count from the end is compiled."""
        return np.uint64(index)


# What the engine is written with.
def has_compiler() -> bool:
    """Whether the libraries that compile kernels (NVVM and NVRTC) can be loaded."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        for library in ("nvvm", "nvrtc"):
            load_nvidia_dynamic_lib(library)
    except DynamicLibNotFoundError:
        return False
    return True


def open_device() -> None:
    """Check that there is a GPU, and a compiler for it.

    Raises
    ------
    CudaUnavailable
        When something is missing; the message says what.
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
        said = " ".join((driver.initialization_error or "no reason given").split())
        if "NO_DEVICE" in said:
            raise CudaUnavailable("no NVIDIA GPU was found: the driver lists none")
        if "cannot be found" in said:
            raise CudaUnavailable("no NVIDIA driver was found (libcuda)")
        raise CudaUnavailable(f"the NVIDIA driver does not start: {said}")
    if not has_compiler():
        raise CudaUnavailable(
            "CUDA's compiler (NVVM, NVRTC) is missing: pip install 'oobleck_stream[cuda13]' "
            "(or cuda12 for an older driver)"
        )
    with faults():
        cuda.current_context()


@contextmanager
def faults() -> Iterator[None]:
    """Turn errors of the driver, the compiler and Numba's target into ``CudaUnavailable``."""
    try:
        yield
    except Exception as error:
        if SIMULATED or not _of_cuda(error):
            raise
        raise _no_cuda(str(error) or type(error).__name__) from error


def _of_cuda(error: Exception) -> bool:
    """Whether it is one of CUDA's exceptions, or one of Python's for a lack that CUDA found."""
    raised_in = ""
    if isinstance(error, RuntimeError | ImportError | OSError):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            raised_in = str(frame.f_globals.get("__name__"))
    names = type(error).__module__, raised_in
    return any(f"{name}.".startswith(("numba.cuda.", "cuda.")) for name in names)


def _no_cuda(said: str) -> CudaUnavailable:
    """What CUDA said, in one line."""
    if "OUT_OF_MEMORY" in said:
        return CudaUnavailable("the GPU has too little memory")
    return CudaUnavailable(f"CUDA failed: {' '.join(said.split())[:300]}")


@contextmanager
def telling_of_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` whenever something of a kernel is compiled within, and not found on disk."""
    from numba.cuda.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, _: Any) -> None:
            tell()

        def on_end(self, _: Any) -> None:
            """Nothing: the work goes on."""

    # There is no event of a kernel as a whole; the compiler's lock is taken for loading, too.
    with event.install_listener("numba-cuda:run_pass", Listener()):
        yield


def open_stream() -> Any:
    """A stream of the device's that waits for nobody else's, so that it can be recorded any time.

    Nor does anybody wait for it: whatever is put on it is followed by its `synchronize`.
    """
    if SIMULATED:
        return cuda.stream()
    from cuda.bindings import driver

    with faults():
        cuda.current_context()
        _, handle = checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        stream = cuda.external_stream(int(handle))
    weakref.finalize(stream, driver.cuStreamDestroy, handle)
    return stream


def zeros(kind: type, count: int, stream: Any) -> Any:
    """An array on the device, at least one long; ``CudaUnavailable`` when there is no room."""
    size = max(1, count)
    _check_room(size * np.dtype(kind).itemsize)
    with faults():
        array = cuda.device_array(size, kind)
    make_zero(array, stream)
    return array


def make_zero(array: Any, stream: Any) -> None:
    """Overwrite an array on the device with zeros."""
    if SIMULATED:
        array[:] = 0
        return
    from numba.cuda.cudadrv.driver import device_memset

    with faults():
        device_memset(array, 0, array.nbytes, stream=stream)
        stream.synchronize()


def upload(array: npt.NDArray[Any], stream: Any) -> Any:
    """A copy of an array on the device, at least one row long."""
    rows = array if len(array) > 0 else np.zeros((1, *array.shape[1:]), array.dtype)
    _check_room(rows.nbytes)
    with faults():
        copy = cuda.to_device(np.ascontiguousarray(rows), stream=stream)
        stream.synchronize()
    return copy


def pinned(kind: type, count: int) -> Any:
    """An array here that the device reads and writes by itself, at least one long."""
    with faults():
        return cuda.pinned_array(max(1, count), kind)


def _check_room(need: int) -> None:
    """``CudaUnavailable`` unless so many bytes are free on the device."""
    with faults():
        context = cuda.current_context()
        free = context.get_memory_info().free
        if need > free and not SIMULATED:
            # Numba frees arrays that are no longer used a few at a time.
            context.memory_manager.deallocations.clear()
            free = context.get_memory_info().free
    if need > free:
        raise CudaUnavailable(
            f"the GPU has too little memory: {need >> 20} MiB of {int(free) >> 20} free"
        )


def multiprocessors() -> int:
    """How many blocks of threads can run side by side."""
    with faults():
        return 4 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def checked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """The driver's answer; ``CudaUnavailable`` unless it says success."""
    if int(answer[0]) != 0:
        raise _no_cuda(str(getattr(answer[0], "name", answer[0])))
    return answer
