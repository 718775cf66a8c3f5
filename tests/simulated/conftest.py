"""Makes Numba's simulator faster, and fixes a race in it that shows when it is faster.

Also gives it a fused multiply-add that rounds once, so that it computes the CPU's bits.
"""

import ctypes
import ctypes.util
import sys
import threading

import numpy as np
from numba.cuda.simulator.kernelapi import FakeCUDAShared

from oobleck_stream.engine.cuda import library

# Its threads wait for each other by polling, so they should switch more often.
sys.setswitchinterval(5e-5)


class Allocations(dict):
    """Shared arrays by source line. A thread that finds none holds the lock until it stores one."""

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()

    def get(self, line, default=None):
        self._lock.acquire()
        found = super().get(line, default)
        if found is not None:
            self._lock.release()
        return found

    def __setitem__(self, line, array):
        super().__setitem__(line, array)
        self._lock.release()


def _with_lock(self, size, start=FakeCUDAShared.__init__):
    start(self, size)
    self._allocations = Allocations()


FakeCUDAShared.__init__ = _with_lock

# With PyDLL, a call doesn't let other threads run.
_fma = ctypes.PyDLL(ctypes.util.find_library("m")).fmaf
_fma.argtypes, _fma.restype = [ctypes.c_float] * 3, ctypes.c_float

if library.SIMULATED:
    library.fma = lambda a, b, c: np.float32(_fma(a, b, c))
