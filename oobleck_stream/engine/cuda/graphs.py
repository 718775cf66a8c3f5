"""CUDA graphs: a sequence of launches that the driver replays with a single call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from oobleck_stream.engine.cuda.library import SIMULATED, checked, cuda
from oobleck_stream.warning import warn_once


class CapturedGraph:
    """A sequence of launches and copies that the driver replays with a single call.

    Parameters
    ----------
    graph
        The driver's executable graph. It is destroyed when this object is freed.
    """

    def __init__(self, graph: Any) -> None:
        from cuda.bindings import driver

        self._graph = graph
        weakref.finalize(self, driver.cuGraphExecDestroy, graph)

    def replay(self, cuda_stream: Any) -> None:
        """Enqueue the sequence on a CUDA stream."""
        from cuda.bindings import driver

        checked(driver.cuGraphLaunch(self._graph, int(cuda_stream.handle)))


def capture(cuda_stream: Any, launch: Callable[[], None]) -> CapturedGraph | None:
    """Record what `launch` enqueues on a CUDA stream, instead of running it.

    All kernels that `launch` launches must have run before, because loading a kernel can't be
    captured.

    Returns
    -------
    CapturedGraph or None
        The recorded sequence; None under the simulator, or if an error occurs. In case of an error,
        a ``RuntimeWarning`` is given.
    """
    if SIMULATED:
        return None
    from cuda.bindings import driver

    try:
        graph = _recorded(int(cuda_stream.handle), launch)
        try:
            _, executable = checked(driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
    except Exception as error:
        # Launching the kernels one by one either works or raises an error of its own.
        warn_once(f"CUDA launches are slower here, as they can't be recorded: {error}")
        return None
    return CapturedGraph(executable)


def _recorded(handle: int, launch: Callable[[], None]) -> Any:
    """Return the driver's graph of what `launch` enqueues on the CUDA stream with this handle."""
    from cuda.bindings import driver

    # Relaxed: other threads may allocate and free device memory during the capture.
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    checked(driver.cuStreamBeginCapture(handle, mode))
    try:
        with cuda.defer_cleanup():
            launch()
    except BaseException:
        # A capture must be ended even after an error. Otherwise the CUDA stream stays unusable.
        status, graph = driver.cuStreamEndCapture(handle)
        if int(status) == 0:
            driver.cuGraphDestroy(graph)
        raise
    _, graph = checked(driver.cuStreamEndCapture(handle))
    return graph
