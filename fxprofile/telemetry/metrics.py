"""
The metrics of a process, as Prometheus scrapes them.

The body of :class:`Metrics` is the table: attribute, type, exposed name, help text, labels.
Each :class:`Metrics` has a registry of its own, so that a test sees only its own figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

#: The content type of :meth:`Metrics.render`.
CONTENT_TYPE = CONTENT_TYPE_LATEST

#: Upper bounds of the buckets of durations, in seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

M = TypeVar("M")


class _Row(Generic[M]):
    """A row of the table: a class attribute that declares a metric of the instance."""

    def __init__(
        self,
        kind: Callable[..., M],
        name: str,
        documentation: str,
        *labels: str,
        buckets: Sequence[float] | None = None,
    ) -> None:
        self._kind = kind
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._options = {} if buckets is None else {"buckets": buckets}

    def make(self, registry: CollectorRegistry) -> M:
        """Make the metric and register it."""
        return self._kind(
            self._name, self._documentation, self._labels, registry=registry, **self._options
        )

    def __get__(self, metrics: object, owner: type) -> M:
        # For the type checker.  The attribute that an instance sets takes precedence.
        raise AttributeError(self._name)


class Metrics:
    """The counters, gauges and histograms of a process."""

    requests = _Row(
        Counter,
        "fxprofile_http_requests",
        "HTTP requests.",
        *("listener", "method", "route", "status"),
    )
    request_seconds = _Row(
        Histogram,
        "fxprofile_http_request_seconds",
        "Seconds from the headers of a request to the end of its response.",
        *("listener", "route"),
        buckets=SECONDS,
    )
    uploads = _Row(
        Counter,
        "fxprofile_uploads",
        "Uploads by outcome: accepted, refused, aborted or failed.",
        "outcome",
    )
    upload_bytes = _Row(Counter, "fxprofile_upload_bytes", "Bytes of accepted uploads.")
    received = _Row(Counter, "fxprofile_queue_received", "Messages received.", "queue")
    handled = _Row(
        Counter,
        "fxprofile_queue_handled",
        "Messages handled, by outcome: done, retry, malformed, lease_lost or released.",
        *("queue", "outcome"),
    )
    receive_errors = _Row(Counter, "fxprofile_queue_receive_errors", "Failed receives.", "queue")
    conclude_errors = _Row(
        Counter,
        "fxprofile_queue_conclude_errors",
        "Handled messages that could not be deleted or released; they are received again.",
        "queue",
    )
    receive_count = _Row(
        Histogram,
        "fxprofile_queue_receive_count",
        "Receives of a message up to the one that was handled.",
        "queue",
        buckets=(1, 2, 3, 5, 10),
    )
    in_hand = _Row(Gauge, "fxprofile_queue_in_hand", "Messages in flight in this process.", "queue")
    handle_seconds = _Row(
        Histogram,
        "fxprofile_queue_handle_seconds",
        "Seconds to handle a message.",
        "queue",
        buckets=SECONDS,
    )
    message_age = _Row(
        Histogram,
        "fxprofile_queue_message_age_seconds",
        "Seconds from the sending of a message to its receipt.",
        "queue",
        buckets=(*SECONDS, 300, 3600),
    )
    crunched = _Row(
        Counter,
        "fxprofile_crunched",
        "Images crunched, by outcome: ready, or the reason of the failure.",
        "outcome",
    )
    crunch_seconds = _Row(
        Histogram, "fxprofile_crunch_seconds", "Seconds in a child process.", buckets=SECONDS
    )
    results = _Row(Counter, "fxprofile_results", "Results applied, by status.", "status")
    account_events = _Row(
        Counter, "fxprofile_account_events", "Account events applied, by event.", "event"
    )
    repairs = _Row(Counter, "fxprofile_repairs", "Rows repaired, by repair loop.", "loop")
    dead_letters = _Row(
        Gauge, "fxprofile_dead_letters", "Dead letters, by the queue they come from.", "queue"
    )
    rows = _Row(Gauge, "fxprofile_avatars", "Avatars in work, by status.", "status")
    leader = _Row(Gauge, "fxprofile_repair_leader", "1 if this process runs the repair loops.")
    image_cache = _Row(
        Counter, "fxprofile_image_cache", "Requests for images, by cache outcome.", "outcome"
    )
    upstream_errors = _Row(
        Counter,
        "fxprofile_upstream_errors",
        "Failures of another server that did not fail the request, by server.",
        "upstream",
    )
    sandbox_layer = _Row(
        Gauge, "fxprofile_sandbox_layer", "1 if this layer of the sandbox is in force.", "layer"
    )

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for attribute, row in vars(Metrics).items():
            if isinstance(row, _Row):
                vars(self)[attribute] = row.make(self.registry)

    def render(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        return generate_latest(self.registry)
