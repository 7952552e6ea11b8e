"""
Tests that dashboard, alerts and ``docs/operations.md`` agree with the metrics of the service.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml
from prometheus_client import Counter, Histogram, Info
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from fxprofile.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[1]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
RULES = yaml.safe_load((ROOT / "etc/prometheus/fxprofile.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "etc/grafana/fxprofile.json").read_text())

CASES = yaml.safe_load((ROOT / "tests/alerts.yml").read_text())

#: Labels that Prometheus itself adds.
OWN_LABELS = {"le", "job", "instance", "role"}


def known() -> dict[str, set[str]]:
    """Return the name of each time series, and its labels."""
    found = {}
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "_labelnames"):
            continue
        names = [metric._name]
        if isinstance(metric, Counter):
            names = [f"{metric._name}_total"]
        elif isinstance(metric, Info):
            found[f"{metric._name}_info"] = {"version", "commit", "role"}
            continue
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
            self.assertLessEqual(set(names), set(known()), where)

    def test_expressions_name_existing_labels(self) -> None:
        """Every label in an expression is a label of its metric."""
        for where, expression in expressions():
            names = set(re.findall(r"fxprofile_\w+", expression))
            asked = set(re.findall(r"(\w+)(?==~|!=\"|=\")", expression))
            for several in re.findall(r"\b(?:by|on) \(([^)]+)\)", expression):
                asked |= set(re.split(r",\s*", several))
            labels = set().union(*(known()[name] for name in names))
            self.assertLessEqual(asked - OWN_LABELS, labels, where)

    def test_every_metric_has_a_panel_or_an_alert(self) -> None:
        """Every metric is in a panel or an alert, except three totals that others break down."""
        shown = " ".join(expression for _, expression in expressions())
        missing = {name for name in known() if name.rpartition("_")[0] not in shown}
        self.assertEqual(
            {name.removesuffix("_total") for name in missing if name.endswith("_total")},
            {"fxprofile_queue_received", "fxprofile_results", "fxprofile_account_events"},
        )

    def test_documented_signals_have_panels(self) -> None:
        """Every metric that ``docs/operations.md`` names is in a panel of the dashboard."""
        shown = {
            name
            for panel in DASHBOARD["panels"]
            for target in panel["targets"]
            for name in re.findall(r"fxprofile_\w+", target["expr"])
        }
        self.assertLessEqual(set(re.findall(r"fxprofile_\w+", OPERATIONS)), shown)

    def test_panels_do_not_overlap(self) -> None:
        """Every panel of the dashboard has an id and a place of its own."""
        panels = DASHBOARD["panels"]
        for key in ("id", "title", "gridPos"):
            self.assertEqual(len({str(panel[key]) for panel in panels}), len(panels), key)

    def test_documented_metrics_exist(self) -> None:
        """Every metric that ``docs/operations.md`` names exists."""
        names = set(re.findall(r"fxprofile_\w+", OPERATIONS))
        self.assertTrue(names)
        self.assertLessEqual(names, set(known()))


class AlertTests(SynchronousTestCase):
    """The alerts in ``etc/prometheus/fxprofile.yml``, and their cases in ``tests/alerts.yml``."""

    def promtool(self, *arguments: str) -> None:
        """Run promtool, which must succeed."""
        if shutil.which("promtool") is None:
            raise SkipTest("promtool is not installed")
        command = ["promtool", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_cases(self) -> None:
        """Each alert fires and is silent as its cases in ``tests/alerts.yml`` say."""
        self.promtool("test", "rules", "tests/alerts.yml")

    def test_scrape_configuration(self) -> None:
        """Prometheus accepts the configuration, with the alerts."""
        self.promtool("check", "config", "etc/prometheus/prometheus.yml")

    def test_every_alert_has_cases(self) -> None:
        """For each alert there is a case in which it fires, and one in which it is silent."""
        cases = [case for test in CASES["tests"] for case in test["alert_rule_test"]]
        alerts = {rule["alert"] for rule in ALERTS}
        for fires in (True, False):
            found = {case["alertname"] for case in cases if bool(case["exp_alerts"]) is fires}
            self.assertEqual(found, alerts)

    def test_runbook(self) -> None:
        """Each alert links to the heading of its name in ``docs/operations.md``."""
        headings = set(re.findall(r"^### (\w+)$", OPERATIONS, re.MULTILINE))
        for rule in ALERTS:
            page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            self.assertEqual((page, anchor), ("docs/operations.md", rule["alert"].lower()))
            self.assertIn(rule["alert"], headings)

    def test_table_of_alerts(self) -> None:
        """The table of alerts in ``docs/operations.md`` has each alert with its severity."""
        rows = re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", OPERATIONS, re.MULTILINE)
        severities = {rule["alert"]: rule["labels"]["severity"] for rule in ALERTS}
        self.assertEqual(dict(rows), severities)
