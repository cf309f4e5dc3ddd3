"""Prometheus metrics of the server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What is counted, in a registry of its own, so that two servers can live in one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "tfrec_requests", "Requests answered.", ["api", "model", "signature", "code"], registry=registry
        )
        self.refused = Counter(
            "tfrec_refused_requests",
            "Predictions refused unread, and connections turned away, as too many were under way.",
            registry=registry,
        )
        self.seconds = Histogram(
            "tfrec_request_seconds",
            "Time from a request's head to its answer.",
            ["api", "model", "signature"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "tfrec_batch_rows", "Rows of the batches run.", ["model", "signature"], buckets=ROWS, registry=registry
        )
        self.batch_requests = Counter(
            "tfrec_batched_requests", "Requests that ran in batches.", ["model", "signature"], registry=registry
        )
        self.pending = Gauge("tfrec_pending_requests", "Requests that wait for a batch.", registry=registry)
        self.connections = Gauge("tfrec_connections", "Open HTTP connections.", registry=registry)
        self.dropped_lines = Counter(
            "tfrec_dropped_log_lines", "Lines of the log that nobody read in time.", registry=registry
        )
        self.loaded = Gauge(
            "tfrec_version_loaded", "1 for versions in service.", ["model", "version"], registry=registry
        )
        self.changes = Counter(
            "tfrec_version_changes", "Versions loaded, unloaded or failed.", ["model", "outcome"], registry=registry
        )

    def batch_ran(self, model: str, signature: str, rows: int, requests: int) -> None:
        """Count a batch."""
        self.batch_rows.labels(model, signature).observe(rows)
        self.batch_requests.labels(model, signature).inc(requests)

    def version_changed(self, model: str, version: int, outcome: str) -> None:
        """Count a version that was loaded, unloaded or failed."""
        self.changes.labels(model, outcome).inc()
        if outcome == "loaded":
            self.loaded.labels(model, str(version)).set(1)
        elif outcome == "unloaded":
            self.loaded.remove(model, str(version))

    def answered(self, api: str, model: str, signature: str, code: str, seconds: float) -> None:
        """Count a request. Names come from the server, never from the client: a label each would fill memory."""
        self.requests.labels(api, model, signature, code).inc()
        self.seconds.labels(api, model, signature).observe(seconds)

    def page(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
