"""The CUDA kernels without a GPU: under Numba's simulator, and the errors if something is missing.

The simulator must be switched on before Numba is imported, so a pytest in a new process runs the
files in `simulated`. To run one of them alone:

    NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/simulated/programs.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from oobleck_stream.engine.cuda.tiles import TILES, choose
from oobleck_stream.errors import CudaUnavailable

SIMULATED = Path(__file__).parent / "simulated"
FILES = [SIMULATED / f"{name}.py" for name in ("decoder", "programs", "arithmetic")]
"""The slowest first."""

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (extra `cuda13`)")


@pytest.fixture(scope="module")
def simulated():
    """The results of all files; two processes run at a time."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]

    def run(file):
        options = {"capture_output": True, "text": True, "env": environment}
        return subprocess.run([*command, str(file)], **options)

    with ThreadPoolExecutor(2) as pool:
        yield {file: pool.submit(run, file) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_simulated(simulated, file):
    done = simulated[file].result()
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_no_gpu_is_one_line():
    from numba import cuda

    if cuda.is_available():
        pytest.skip("there is a GPU")
    from oobleck_stream.engine.cuda.library import open_device

    with pytest.raises(CudaUnavailable, match=r"^no NVIDIA (driver|GPU) was found") as caught:
        open_device()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("CUDA_ERROR_NO_DEVICE (100)", "no NVIDIA GPU was found"),
        ("\nCUDA driver library cannot be found.\n", "no NVIDIA driver was found"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\n (803)", "does not start: CUDA_ERROR_SYSTEM_DRIVER"),
        (None, "compiler"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, error, expected):
    from numba.cuda.cudadrv.driver import driver

    from oobleck_stream.engine.cuda import library

    monkeypatch.setattr(driver, "is_initialized", True)
    monkeypatch.setattr(driver, "initialization_error", error)
    monkeypatch.setattr(library, "has_compiler", lambda: False)
    with pytest.raises(CudaUnavailable, match=expected) as caught:
        library.open_device()
    assert "\n" not in str(caught.value)


def cuda_core_error():
    from cuda.core._utils.cuda_utils import CUDAError

    return CUDAError("CUDA_ERROR_NO_BINARY_FOR_GPU:\nno kernel image")


def capability_error():
    from numba.cuda.cudadrv.error import CCSupportError

    return CCSupportError("GPU compute capability 5.0 is not supported")


def memory_error():
    from numba.cuda.cudadrv.driver import CudaAPIError

    return CudaAPIError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (cuda_core_error, "^CUDA failed: CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image$"),
        (capability_error, "^CUDA failed: GPU compute capability 5.0 is not supported$"),
        (memory_error, "^the GPU has too little memory$"),
    ],
)
def test_what_cuda_raises_is_one_line(make, expected):
    from oobleck_stream.engine.cuda.library import translated_errors

    with pytest.raises(CudaUnavailable, match=expected), translated_errors():
        raise make()


def test_what_python_raises_within_cuda_is_one_line_and_elsewhere_is_left():
    from numba import cuda

    from oobleck_stream.engine.cuda.library import translated_errors

    if cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CudaUnavailable, match=r"^CUDA failed: "), translated_errors():
        exec("raise RuntimeError('a driver too old')", {"__name__": "cuda.core._device"})
    for error in (RuntimeError("ours"), ValueError("ours"), OSError("ours")):
        with pytest.raises(type(error), match=r"^ours$"), translated_errors():
            raise error


def test_an_engine_without_a_gpu_is_one_line():
    from numba import cuda

    if cuda.is_available():
        pytest.skip("there is a GPU")
    from oobleck_stream.engine.cuda.engine import CudaEngine
    from oobleck_stream.engine.cuda.library import multiprocessor_count, pinned

    for call in (multiprocessor_count, lambda: pinned(np.float32, 1)):
        with pytest.raises(CudaUnavailable) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(CudaUnavailable, match=r"^no NVIDIA"):
        CudaEngine(np.zeros(1, np.float32), 1, 1)


class Driver:
    """The driver functions that a capture calls; counts the graphs that are not destroyed."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self, instantiated):
        self.graphs, self._instantiated = 0, instantiated

    def cuStreamBeginCapture(self, handle, mode):  # noqa: N802
        return (0,)

    def cuStreamEndCapture(self, handle):  # noqa: N802
        self.graphs += 1
        return 0, "graph"

    def cuGraphInstantiate(self, graph, flags):  # noqa: N802
        return self._instantiated, "executable"

    def cuGraphDestroy(self, graph):  # noqa: N802
        self.graphs -= 1
        return (0,)


@pytest.mark.parametrize("fails", ["launch", "instantiate"])
def test_a_failed_capture_gives_one_warning_and_leaves_no_graph(fails, monkeypatch):
    import contextlib

    import cuda.bindings

    from oobleck_stream.engine.cuda import graphs

    driver = Driver(instantiated=999 if fails == "instantiate" else 0)
    monkeypatch.setattr(cuda.bindings, "driver", driver)
    monkeypatch.setattr(graphs.cuda, "defer_cleanup", contextlib.nullcontext)
    graphs.warn_once.cache_clear()

    def launch():
        if fails == "launch":
            raise RuntimeError("no")

    stream = SimpleNamespace(handle=1)
    said = "no$" if fails == "launch" else "CUDA failed: 999$"
    with pytest.warns(RuntimeWarning, match=f"can't be recorded: {said}"):
        assert graphs.capture(stream, launch) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graphs.capture(stream, launch) is None
    assert driver.graphs == 0


def test_memory_that_waits_to_be_freed_is_available(monkeypatch):
    from oobleck_stream.engine.cuda import library

    free = [1000]
    queue = SimpleNamespace(clear=lambda: free.append(5000))
    context = SimpleNamespace(
        get_memory_info=lambda: SimpleNamespace(free=free[-1]),
        memory_manager=SimpleNamespace(deallocations=queue),
    )
    monkeypatch.setattr(library.cuda, "current_context", lambda: context)
    library._check_free_memory(900)
    assert free == [1000]
    library._check_free_memory(4000)
    with pytest.raises(CudaUnavailable, match="too little memory"):
        library._check_free_memory(6000)


def test_launches_with_few_blocks_give_no_warning():
    from numba.cuda.dispatcher import _LaunchConfiguration

    from oobleck_stream.engine.cuda.moves import moves_kernel

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _LaunchConfiguration(moves_kernel(), (1, 1, 1), (32, 1, 1), 0, 0)


def test_without_the_package():
    code = (
        "import importlib.util as u; u.find_spec = lambda *_: None\n"
        "import oobleck_stream.errors as c\n"
        "try:\n    import oobleck_stream.engine.cuda.library\n"
        "except c.CudaUnavailable as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("numba-cuda is not installed: pip install 'oobleck_stream[cuda")


@pytest.mark.parametrize(
    ("rows", "phases", "taps", "channels", "columns", "tile_rows", "splits"),
    [
        (1, 8, 2, 2048, 1024, 8, 64),  # one frame, widest level: many columns already
        (8, 1, 7, 1024, 1024, 8, 112),  # few columns: the chains side by side
        (262144, 1, 7, 128, 128, 128, 1),  # a long piece
        (262144, 1, 7, 128, 2, 128, 1),  # the last layer
    ],
)
def test_the_tile_follows_the_shape(rows, phases, taps, channels, columns, tile_rows, splits):
    cut = choose(TILES, rows, phases, taps, channels, columns, multiprocessors=132)
    assert (cut.tile.rows, cut.splits) == (tile_rows, splits)
    assert cut.row_tiles * cut.tile.rows >= rows
    assert cut.column_tiles * cut.tile.columns >= phases * columns


@pytest.mark.parametrize(("rows", "channels"), [(1, 128), (8, 1024), (65536, 128), (65536, 512)])
def test_each_point_has_parts_of_its_own(rows, channels):
    cut = choose(TILES, rows, 1, 9, channels, channels, multiprocessors=132, points=True)
    assert cut.splits in (9, 9 * (channels // 128))
    assert cut.column_tiles * cut.tile.columns >= channels
