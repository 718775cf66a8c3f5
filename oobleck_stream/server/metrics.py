"""The server's metrics, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
TICK_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_PREFIX = "oobleck_stream_"


class Metrics:
    """The metrics of one server. Each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ticks = Histogram(
            f"{_PREFIX}tick_seconds",
            "Time of a tick: the pushes for all sessions that are due, and the work around them",
            buckets=TICK_BUCKETS,
            registry=self.registry,
        )
        self._pushes = Summary(
            f"{_PREFIX}push_seconds",
            "Time of a push. Steady pushes into equally many streams take equally long",
            ["streams", "sound", "steady"],
            registry=self.registry,
        )
        self.frames = self._counter("decoded_frames", "Latent frames decoded")
        self.samples = self._counter("decoded_samples", "Samples decoded")
        self.sent = self._counter("sent_bytes", "Bytes of samples sent")
        self.opened = self._counter("opened_sessions", "Sessions opened")
        self.refused = self._counter("refused_sessions", "Sessions refused because of the load")
        self.parked = self._counter("parked_sessions", "Sessions whose client was lost")
        self.resumed = self._counter("resumed_sessions", "Sessions that a client resumed")
        self.shed = self._counter("shed_sessions", "Sessions parked because of overload")
        self.underruns = self._counter("underruns", "Gaps in the sound that clients reported")
        self.overflows = self._counter("overflows", "Streams whose samples were not finite")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(_PREFIX + name, text, registry=self.registry)

    def pushed(self, streams: int, early: bool, steady: bool, seconds: float) -> None:
        """Record the time of a push or a flush."""
        sound, steadily = "early" if early else "exact", "yes" if steady else "no"
        self._pushes.labels(streams, sound, steadily).observe(seconds)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge. `value` is called without arguments whenever the metrics are requested."""
        Gauge(_PREFIX + name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
