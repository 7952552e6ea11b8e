"""
Tests that dashboard, alerts and ``docs/operations.md`` agree with the metrics of the service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from prometheus_client import Counter, Histogram
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[1]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
RULES = yaml.safe_load((ROOT / "etc/prometheus/fxprofile.yml").read_text())
DASHBOARD = json.loads((ROOT / "etc/grafana/fxprofile.json").read_text())

#: Labels that Prometheus itself adds.
OWN_LABELS = {"le", "job", "instance"}


def known() -> dict[str, set[str]]:
    """Return the name of each time series, and its labels."""
    found = {}
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "_labelnames"):
            continue
        names = [metric._name]
        if isinstance(metric, Counter):
            names = [f"{metric._name}_total"]
        elif isinstance(metric, Histogram):
            names = [f"{metric._name}_{part}" for part in ("bucket", "sum", "count")]
        found.update({key: set(metric._labelnames) for key in names})
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression with the title of its alert or panel."""
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


class MonitoringTests(SynchronousTestCase):
    """``etc/grafana/``, ``etc/prometheus/`` and ``docs/operations.md`` against the metrics."""

    def test_expressions_name_existing_metrics(self) -> None:
        """Every metric in an expression of the dashboard or the alerts exists."""
        for where, expression in expressions():
            names = re.findall(r"fxprofile_\w+", expression)
            self.assertTrue(names, where)
            self.assertLessEqual(set(names), set(known()), where)

    def test_expressions_name_existing_labels(self) -> None:
        """Every label in an expression is a label of its metric."""
        for where, expression in expressions():
            (name,) = set(re.findall(r"fxprofile_\w+", expression))
            asked = set(re.findall(r"(\w+)(?==~|!=\"|=\")", expression))
            for several in re.findall(r"\bby \(([^)]*)\)", expression):
                asked |= set(re.split(r",\s*", several))
            self.assertLessEqual(asked - OWN_LABELS, known()[name], where)

    def test_every_metric_has_a_panel_or_an_alert(self) -> None:
        """Every metric is in a panel or an alert, except three totals that others break down."""
        shown = " ".join(expression for _, expression in expressions())
        missing = {name for name in known() if name.rpartition("_")[0] not in shown}
        self.assertEqual(
            {name.removesuffix("_total") for name in missing if name.endswith("_total")},
            {"fxprofile_queue_received", "fxprofile_results", "fxprofile_account_events"},
        )

    def test_documented_metrics_exist(self) -> None:
        """Every metric that ``docs/operations.md`` names exists."""
        names = set(re.findall(r"fxprofile_\w+", OPERATIONS))
        self.assertTrue(names)
        self.assertLessEqual(names, set(known()))
