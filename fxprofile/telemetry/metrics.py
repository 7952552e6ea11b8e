"""
What is counted, in the names that Prometheus sees.

One :class:`Metrics` a process is made by :mod:`fxprofile.app.roles` and handed to whoever
counts; each has a registry of its own, so that tests see only their own figures.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

#: The content type of :meth:`Metrics.render`.
CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters, gauges and histograms of a process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "fxprofile_http_requests",
            "HTTP requests answered.",
            ("listener", "method", "route", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "fxprofile_http_request_seconds",
            "Seconds from the headers of a request to the end of its answer.",
            ("listener", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.uploads = Counter(
            "fxprofile_uploads",
            "Uploads by how their intake ended: accepted, refused, aborted, failed.",
            ("outcome",),
            registry=registry,
        )
        self.upload_bytes = Counter(
            "fxprofile_upload_bytes", "Bytes of accepted uploads.", registry=registry
        )
        self.received = Counter(
            "fxprofile_queue_received", "Messages received.", ("queue",), registry=registry
        )
        self.handled = Counter(
            "fxprofile_queue_handled",
            "Messages handled: done, retry, malformed, lease_lost, released.",
            ("queue", "outcome"),
            registry=registry,
        )
        self.receive_errors = Counter(
            "fxprofile_queue_receive_errors", "Receives that failed.", ("queue",), registry=registry
        )
        self.conclude_errors = Counter(
            "fxprofile_queue_conclude_errors",
            "Messages handled of which the queue could not be told: they come back.",
            ("queue",),
            registry=registry,
        )
        self.receive_count = Histogram(
            "fxprofile_queue_receive_count",
            "How often a message had been received when it was handled.",
            ("queue",),
            buckets=(1, 2, 3, 5, 10),
            registry=registry,
        )
        self.in_hand = Gauge(
            "fxprofile_queue_in_hand",
            "Messages being handled by this process.",
            ("queue",),
            registry=registry,
        )
        self.handle_seconds = Histogram(
            "fxprofile_queue_handle_seconds",
            "Seconds that the handling of a message took.",
            ("queue",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.message_age = Histogram(
            "fxprofile_queue_message_age_seconds",
            "Seconds from the sending of a message to its receipt.",
            ("queue",),
            buckets=(*_SECONDS, 300, 3600),
            registry=registry,
        )
        self.crunched = Counter(
            "fxprofile_crunched",
            "Images crunched, by outcome: ready or the reason why not.",
            ("outcome",),
            registry=registry,
        )
        self.crunch_seconds = Histogram(
            "fxprofile_crunch_seconds",
            "Seconds in a child process.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.results = Counter(
            "fxprofile_results", "Results applied, by status.", ("status",), registry=registry
        )
        self.account_events = Counter(
            "fxprofile_account_events", "Account events applied.", ("event",), registry=registry
        )
        self.repairs = Counter(
            "fxprofile_repairs",
            "Rows that a repair loop touched, by loop.",
            ("loop",),
            registry=registry,
        )
        self.dead_letters = Gauge(
            "fxprofile_dead_letters",
            "Messages that nobody could handle, by the queue that they died on.",
            ("queue",),
            registry=registry,
        )
        self.rows = Gauge(
            "fxprofile_avatars", "Avatars in work, by status.", ("status",), registry=registry
        )
        self.leader = Gauge(
            "fxprofile_repair_leader",
            "1 if this process runs the repair loops.",
            registry=registry,
        )
        self.image_cache = Counter(
            "fxprofile_image_cache",
            "Image requests by cache outcome.",
            ("outcome",),
            registry=registry,
        )
        self.upstream_errors = Counter(
            "fxprofile_upstream_errors",
            "Failures of something outside that were survived, by what it was.",
            ("upstream",),
            registry=registry,
        )
        self.sandbox_layer = Gauge(
            "fxprofile_sandbox_layer",
            "1 if this layer of the sandbox is in force.",
            ("layer",),
            registry=registry,
        )

    def render(self) -> bytes:
        """All figures in the text format of Prometheus."""
        return generate_latest(self.registry)
