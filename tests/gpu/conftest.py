"""Marks the tests of this folder: they need an NVIDIA GPU, and are skipped with the reason if none.

Run them with `pytest -m gpu`. Add `-s` to see the measured times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from oobleck_stream.engine.backends import what_cuda_lacks

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    mine = [item for item in items if HERE in Path(item.path).parents]
    lacking = what_cuda_lacks() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if lacking:
            item.add_marker(pytest.mark.skip(reason=lacking))
