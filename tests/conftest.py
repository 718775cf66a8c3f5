"""Settings that all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "product",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("product")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Where the whole run is in the background, Ctrl-C is ignored, and would be by what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Nothing of the tests stays in the user's cache folder; compiled kernels stay in the repository.
os.environ["OOBLECK_STREAM_CACHE"] = "off"
KERNELS = Path(__file__).parent.parent / ".pytest_cache" / "kernels"
os.environ.setdefault("NUMBA_CACHE_DIR", str(KERNELS))


def pytest_collection_modifyitems(config, items):
    """Leave out what takes long, unless the markers that are asked for speak of it."""
    if "nightly" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="long: pytest -m nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)
