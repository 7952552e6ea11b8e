"""Tests of :mod:`fxprofile.telemetry.sentry`."""

from __future__ import annotations

import json
from typing import Any

from sentry_sdk.transport import Transport
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.errors import QueueError, StoreError
from fxprofile.telemetry.sentry import BETWEEN_OUTAGES, ErrorReports


class Kept(Transport):
    """A transport that keeps the events instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.events += [item.payload.json for item in envelope.items]


class ErrorReportsTests(SynchronousTestCase):
    """The observer that reports failures."""

    def setUp(self) -> None:
        self.kept = Kept()
        self.reports = ErrorReports(
            dsn="http://key@sentry.invalid/1",
            environment="production",
            role="web",
            transport=self.kept,
        )
        self.addCleanup(self.reports.close)
        self.log = Logger(observer=self.reports)

    def test_failure_is_reported_with_type_traceback_and_role(self) -> None:
        """A logged failure is reported with its type, its traceback and the role."""
        try:
            raise ZeroDivisionError("token=s3cret")
        except ZeroDivisionError:
            self.log.failure("Request failed for alice@example.com")
        (event,) = self.kept.events
        (exception,) = event["exception"]["values"]
        self.assertEqual(exception["type"], "ZeroDivisionError")
        self.assertEqual(event["tags"], {"role": "web"})
        self.assertTrue(exception["stacktrace"]["frames"])

    def test_report_has_no_error_text_and_no_variables(self) -> None:
        """A report contains neither the text of the error nor any variable."""
        # A report quotes the lines of the source, so the secret is in none of them.
        token, who = bytes.fromhex("7333637265742d746f6b656e").decode(), "alice"[::-1]
        try:
            raise ValueError(f"bad token {token}")
        except ValueError:
            self.log.failure("{token} of {who}", token=token, who=who)
        sent = json.dumps(self.kept.events)
        self.assertEqual(len(self.kept.events), 1)
        self.assertNotIn(token, sent)
        self.assertNotIn(who, sent)

    def test_each_kind_of_outage_is_reported_once_a_minute(self) -> None:
        """Each kind of outage is reported as a warning, at most once a minute."""
        for seconds, error in (
            (0, StoreError("down: s3cret")),
            (1, StoreError("down")),
            (2, QueueError("down")),
            (BETWEEN_OUTAGES, StoreError("down")),
            (BETWEEN_OUTAGES + 1, StoreError("down")),
            # The clock was set back.
            (-100, StoreError("down")),
        ):
            self.reports({"log_time": 1e9 + seconds, "log_level": LogLevel.warn, "outage": error})
        kinds = [event["exception"]["values"][0]["type"] for event in self.kept.events]
        self.assertEqual(kinds, ["StoreError", "QueueError", "StoreError", "StoreError"])
        self.assertEqual({event["level"] for event in self.kept.events}, {"warning"})
        self.assertNotIn("s3cret", json.dumps(self.kept.events))

    def test_warnings_and_errors_without_failure_are_not_reported(self) -> None:
        """A warning or an error that is logged without a failure is not reported."""
        self.log.warn("The database is unavailable")
        self.log.error("A message is malformed")
        self.assertEqual(self.kept.events, [])
