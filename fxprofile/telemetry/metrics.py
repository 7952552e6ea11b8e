"""
The metrics of a process, as Prometheus scrapes them.

The body of :class:`Metrics` is the table: attribute, type, exposed name, help text and
labels.  Counters with known label values exist from the start, at 0: otherwise Prometheus would
not see their first increase.
Each :class:`Metrics` has a registry of its own, so that a test sees only its own figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from fxprofile.model.avatars import REASONS, ResultStatus

#: Upper bounds of the buckets of durations, in seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

M = TypeVar("M")


class _Row(Generic[M]):
    """
    A row of the table: a class attribute that declares a metric of each instance.

    :param name: without the prefix ``fxprofile_``.
    :ivar known: the values of its only label, if they are known.
    """

    def __init__(
        self,
        kind: Callable[..., M],
        name: str,
        help_text: str,
        *labels: str,
        known: Iterable[str] = (),
        **options: object,
    ) -> None:
        #: Makes the metric in a registry.
        self.make = partial(kind, f"fxprofile_{name}", help_text, labels, **options)
        self.known = tuple(known)

    def __get__(self, metrics: object, owner: type) -> M:
        # For the type checker.  The attribute that an instance sets takes precedence.
        raise AttributeError


_counter = partial(_Row, Counter)
_gauge = partial(_Row, Gauge)
_histogram = partial(_Row, Histogram, buckets=SECONDS)


class Metrics:
    """The counters, gauges and histograms of a process."""

    build = _Row(Info, "build", "What runs here: version, commit and role.")
    requests = _counter("http_requests", "HTTP requests.", "listener", "method", "route", "status")
    request_seconds = _histogram(
        "http_request_seconds",
        "Seconds from the headers of a request to the end of its response.",
        *("listener", "route"),
    )
    connections = _gauge("connections", "Open connections.", "listener")
    refused_connections = _counter(
        "connections_refused",
        "Connections refused, by reason: descriptors, total or address.",
        *("listener", "reason"),
    )
    uploads = _counter(
        "uploads",
        "Uploads by outcome: accepted, refused, aborted or failed.",
        "outcome",
        known=("accepted", "refused", "aborted", "failed"),
    )
    upload_bytes = _counter("upload_bytes", "Bytes of accepted uploads.")
    shed = _counter(
        "uploads_shed",
        "Uploads refused because of what is pending, by what there is too much of: pending, age, "
        "rate, user or storage.",
        "reason",
        known=("pending", "age", "rate", "user", "storage"),
    )
    received = _counter("queue_received", "Messages received.", "queue")
    handled = _counter(
        "queue_handled",
        "Messages handled, by outcome: done, retry, malformed, lease_lost or released.",
        *("queue", "outcome"),
    )
    receive_errors = _counter("queue_receive_errors", "Failed receives.", "queue")
    conclude_errors = _counter(
        "queue_conclude_errors",
        "Handled messages that could not be deleted or released; they are received again.",
        "queue",
    )
    receive_count = _histogram(
        "queue_receive_count",
        "Receives of a message up to the one that was handled.",
        "queue",
        buckets=(1, 2, 3, 5, 10),
    )
    in_hand = _gauge("queue_in_hand", "Messages in flight in this process.", "queue")
    handle_seconds = _histogram("queue_handle_seconds", "Seconds to handle a message.", "queue")
    message_age = _histogram(
        "queue_message_age_seconds",
        "Seconds from the sending of a message to its receipt.",
        "queue",
        buckets=(*SECONDS, 300, 3600),
    )
    crunched = _counter(
        "crunched",
        "Crunch jobs, by outcome: ready, superseded, or the reason of the failure.",
        "outcome",
        known=("ready", "superseded", *REASONS),
    )
    crunch_seconds = _histogram("crunch_seconds", "Seconds in a child process.")
    results = _counter("results", "Results applied, by status.", "status", known=ResultStatus)
    account_events = _counter(
        "account_events",
        "Account events applied, by event.",
        "event",
        known=(
            *("delete", "primaryEmailChanged", "profileDataChange", "profileDataChanged"),
            *("passwordChange", "reset"),
        ),
    )
    repairs = _counter(
        "repairs",
        "Rows repaired, by repair loop.",
        "loop",
        known=(
            *("start", "outbox", "stuck", "expire", "purge", "dead", "clean up", "dead results"),
            "quarantine",
        ),
    )
    leader = _gauge("repair_leader", "1 if this process runs the repair loops.")
    # These are of all processes together; only the process that runs the repair loops has them.
    dead_letters = _gauge("dead_letters", "Dead letters, by the queue they come from.", "queue")
    depth = _gauge(
        "queue_depth", "Messages on a queue, by state: visible or in_flight.", "queue", "state"
    )
    oldest = _gauge("queue_oldest_seconds", "Age of the oldest visible message.", "queue")
    rows = _gauge("avatars", "Avatars that wait for a job or its result, by status.", "status")
    ages = _gauge(
        "pending_avatars",
        "Avatars that have waited for a job or its result for at least so many seconds.",
        "older_than",
    )
    autoscaling = _gauge(
        "autoscaling_signal",
        "Age of the oldest upload or deletion that is pending, in multiples of the time of a job; "
        "0 except in the process that runs the repair loops.",
    )
    image_cache = _counter(
        "image_cache",
        "Requests for images, by where they came from: default, memory, stale or bucket.",
        "outcome",
        known=("default", "memory", "stale", "bucket"),
    )
    upstream_errors = _counter(
        "upstream_errors",
        "Failures of another server that did not fail the request, by server.",
        "upstream",
        known=("cache", "cdn", "customs", "database", "jwks", "limits", "revocations", "updates"),
    )
    unknown_fields = _counter(
        "unknown_account_fields",
        "Fields of the auth server's responses that are not known here, and were dropped.",
    )
    sandbox_layer = _gauge("sandbox_layer", "1 if this layer of the sandbox is in force.", "layer")

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._request_rows: dict[tuple[str, str, str, int], tuple[Counter, Histogram]] = {}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        # The library has one switch for all registries.
        disable_created_metrics()
        for attribute, row in vars(Metrics).items():
            if isinstance(row, _Row):
                vars(self)[attribute] = row.make(registry=self.registry)
                for value in row.known:
                    vars(self)[attribute].labels(value)

    def expect_requests(
        self, listener: str, method: str, route: str, statuses: Iterable[int]
    ) -> None:
        """Have the counters of requests to a route exist, at 0."""
        self.request_seconds.labels(listener, route)
        for status in statuses:
            self.requests.labels(listener, method, route, status)

    def count_request(
        self, listener: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        """Count a request that took so many seconds."""
        key = (listener, method, route, status)
        rows = self._request_rows.get(key)
        if rows is None:
            # Looking up the rows takes longer than counting.
            rows = (self.requests.labels(*key), self.request_seconds.labels(listener, route))
            self._request_rows[key] = rows
        rows[0].inc()
        rows[1].observe(seconds)

    def expect_messages(self, queue: str, outcomes: Iterable[str]) -> None:
        """Have the counters of messages that are received from a queue exist, at 0."""
        for metric in (self.received, self.receive_errors, self.conclude_errors, self.in_hand):
            metric.labels(queue)
        for outcome in outcomes:
            self.handled.labels(queue, outcome)

    def clear_totals(self) -> None:
        """Remove the gauges that count rows and messages of all processes together."""
        for gauge in (self.dead_letters, self.depth, self.oldest, self.rows, self.ages):
            gauge.clear()
        self.autoscaling.set(0)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """
        Return all figures, and their content type: OpenMetrics or the text of Prometheus.

        :param accept: the header ``Accept`` of the request.
        """
        return _expose(self.registry, accept)


class _Families(Collector):
    """Metrics that were collected elsewhere."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def merge(texts: Mapping[str, str], accept: str = "") -> tuple[bytes, str]:
    """
    Return the figures of several processes, each with the label ``process``.

    :param texts: what :meth:`Metrics.render` returns for each process, by the value of the label.
    :returns: as :meth:`Metrics.render`.
    """
    families: dict[str, Metric] = {}
    for process, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {"process": process, **sample.labels}
                merged.samples.append(sample._replace(labels=labels))
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return _expose(registry, accept)


def process_metrics() -> str:
    """Return the metrics of this process alone: memory, processor time and descriptors."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return generate_latest(registry).decode()


def _expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    if openmetrics.CONTENT_TYPE_LATEST.partition(";")[0] in accept.lower():
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST
