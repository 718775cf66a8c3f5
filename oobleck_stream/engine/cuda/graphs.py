"""A sequence of launches, recorded once as a graph of the driver's and replayed as one."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from oobleck_stream.engine.cuda.library import SIMULATED, checked, cuda


class Captured:
    """A sequence of launches and copies that the driver replays as one.

    Parameters
    ----------
    graph
        The driver's, instantiated.
    """

    def __init__(self, graph: Any) -> None:
        from cuda.bindings import driver

        self._graph = graph
        weakref.finalize(self, driver.cuGraphExecDestroy, graph)

    def replay(self, stream: Any) -> None:
        """Have it run again on a stream."""
        from cuda.bindings import driver

        checked(driver.cuGraphLaunch(self._graph, int(stream.handle)))


def capture(stream: Any, launch: Callable[[], None]) -> Captured | None:
    """What `launch` puts on a stream, recorded instead of run; None where that can't be done.

    All kernels in it must have run before.
    """
    if SIMULATED:
        return None
    from cuda.bindings import driver

    try:
        graph = _recorded(int(stream.handle), launch)
        try:
            _, executable = checked(driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
    except Exception as error:
        # Whatever it was: launched one by one, they work, or say why not.
        _tell_once(f"CUDA launches are slower here, as they can't be recorded: {error}")
        return None
    return Captured(executable)


def _recorded(handle: int, launch: Callable[[], None]) -> Any:
    """The driver's graph of what `launch` puts on a stream."""
    from cuda.bindings import driver

    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    checked(driver.cuStreamBeginCapture(handle, mode))
    try:
        with cuda.defer_cleanup():
            launch()
    except BaseException:
        status, graph = driver.cuStreamEndCapture(handle)
        if int(status) == 0:
            driver.cuGraphDestroy(graph)
        raise
    _, graph = checked(driver.cuStreamEndCapture(handle))
    return graph


@functools.cache
def _tell_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
