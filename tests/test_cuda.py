"""The CUDA kernels where there is no GPU: under Numba's simulator, and what is said of one missing.

The simulator is switched on before Numba is imported, so the files in `simulated` are run by a
pytest of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oobleck_stream.kernels.cuda import NoCuda
from oobleck_stream.kernels.cuda.tiles import TILES, choose

FILES = sorted(
    path
    for path in (Path(__file__).parent / "simulated").glob("*.py")
    if path.name != "conftest.py"
)

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (extra `cuda13`)")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_simulated(file):
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_no_gpu_is_one_line():
    from numba import cuda

    if cuda.is_available():
        pytest.skip("there is a GPU")
    from oobleck_stream.kernels.cuda.library import open_device

    with pytest.raises(NoCuda, match=r"^no NVIDIA (driver|GPU) was found") as caught:
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

    from oobleck_stream.kernels.cuda import library

    monkeypatch.setattr(driver, "is_initialized", True)
    monkeypatch.setattr(driver, "initialization_error", error)
    monkeypatch.setattr(library, "has_compiler", lambda: False)
    with pytest.raises(NoCuda, match=expected) as caught:
        library.open_device()
    assert "\n" not in str(caught.value)


def test_without_the_package():
    code = (
        "import importlib.util as u; u.find_spec = lambda *_: None\n"
        "import oobleck_stream.kernels.cuda as c\n"
        "try:\n    import oobleck_stream.kernels.cuda.library\n"
        "except c.NoCuda as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("numba-cuda is not installed: pip install 'oobleck_stream[cuda")


@pytest.mark.parametrize(
    ("rows", "phases", "taps", "channels", "columns", "tile_rows", "splits"),
    [
        (1, 8, 2, 2048, 1024, 8, 1),  # one frame, widest level: many columns already
        (8, 1, 7, 1024, 1024, 8, 7),  # few columns: the taps side by side
        (262144, 1, 7, 128, 128, 128, 1),  # a long piece
        (262144, 1, 7, 128, 2, 128, 1),  # the last layer
    ],
)
def test_the_tile_follows_the_shape(rows, phases, taps, channels, columns, tile_rows, splits):
    cut = choose(TILES, rows, phases, taps, channels, columns, multiprocessors=132)
    assert (cut.tile.rows, cut.splits) == (tile_rows, splits)
    assert cut.row_tiles * cut.tile.rows >= rows
    assert cut.column_tiles * cut.tile.columns >= phases * columns
