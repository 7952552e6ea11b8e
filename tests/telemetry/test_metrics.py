"""
Tests of :mod:`fxprofile.telemetry.metrics`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.profiles.account_events import EVENTS
from fxprofile.telemetry.metrics import Metrics
from fxprofile.worker.poller import Outcome


def literal_labels() -> Iterator[tuple[str, str]]:
    """Yield the attribute of each metric in the source, with a literal value of its label."""
    for path in Path(fxprofile.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="labels", value=ast.Attribute(attr=name)),
                    args=[ast.Constant(value=str(value))],
                ):
                    yield name, value


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def samples(self) -> dict[tuple[str, ...], float]:
        """Return the value of each time series, by its name and the values of its sorted labels."""
        text = self.metrics.render()[0].decode()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def test_known_series_exist_from_the_start(self) -> None:
        """A counter whose label has known values has each of them from the start, at 0."""
        samples = self.samples()
        literals = list(literal_labels())
        self.assertGreater(len(literals), 15)
        for attribute, value in literals:
            name = getattr(self.metrics, attribute)._name
            self.assertEqual(samples.get((f"{name}_total", value)), 0, (attribute, value))
        for event in EVENTS:
            self.assertEqual(samples["fxprofile_account_events_total", event], 0)

    def test_series_of_a_queue(self) -> None:
        """The series of a queue exist as soon as something is to receive from it."""
        self.metrics.expect_messages("jobs", Outcome)
        samples = self.samples()
        for outcome in Outcome:
            self.assertEqual(samples["fxprofile_queue_handled_total", outcome.value, "jobs"], 0)
        self.assertEqual(samples["fxprofile_queue_receive_errors_total", "jobs"], 0)

    def test_no_times_of_creation(self) -> None:
        """There are no series that say when another one was created."""
        self.assertEqual([name for name, *_ in self.samples() if name.endswith("_created")], [])
        text, _ = self.metrics.render("application/openmetrics-text;version=1.0.0")
        self.assertNotIn(b"_created", text)

    def test_process_and_platform(self) -> None:
        """Memory, processor time, garbage collection and the Python version are included."""
        self.metrics.build.info({"version": "1", "commit": "c", "role": "web"})
        names = {name for name, *_ in self.samples()}
        self.assertLessEqual(
            {
                *("process_resident_memory_bytes", "process_cpu_seconds_total"),
                *("process_open_fds", "python_gc_collections_total", "python_info"),
                "fxprofile_build_info",
            },
            names,
        )
