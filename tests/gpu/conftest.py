"""All tests here need an NVIDIA GPU: `pytest -m gpu` runs them, and says why not where it can't.

Figures are printed: `pytest -m gpu -s`.
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
