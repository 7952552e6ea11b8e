"""
Tests of :mod:`fxprofile.telemetry.logs`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import Logger, LogLevel, LogPublisher, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher as OldPublisher
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.telemetry.logs import StandardLibraryHandler, make_observer

LEVELS = ("debug", "info", "warn", "error", "critical")


class _Case(SynchronousTestCase):
    """A logger and the text that it has written."""

    format_name = "mozlog"

    def setUp(self) -> None:
        self.output = io.StringIO()
        self.log = self.logger("info")

    def logger(self, level: str, namespace: str = "fxprofile.thing") -> Logger:
        observer = make_observer(self.format_name, level, self.output)
        return Logger(namespace=namespace, observer=LogPublisher(observer))

    def emit(self, **event: Any) -> None:
        """Pass an event to the observer unchanged."""
        make_observer(self.format_name, "info", self.output)(event)


class MozlogTests(_Case):
    """The mozlog format: one JSON object per line."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line

    def test_line_has_time_place_severity_and_text(self) -> None:
        """A line has the time, the namespace, the host, the severity and the text of its event."""
        self.emit(
            log_time=1_700_000_000.25,
            log_level=LogLevel.warn,
            log_namespace="fxprofile.thing",
            log_format="{number} of {whole}",
            number=3,
            whole="five",
        )
        self.assertEqual(
            self.line(),
            {
                "Timestamp": 1_700_000_000_250_000_000,
                "Type": "fxprofile.thing",
                "Logger": "fxprofile",
                "Hostname": socket.gethostname(),
                "EnvVersion": "2.0",
                "Severity": 4,
                "Pid": os.getpid(),
                "Fields": {"msg": "3 of five"},
            },
        )

    def test_each_level_has_its_syslog_severity(self) -> None:
        """Each level is written with its syslog severity."""
        log = self.logger("debug")
        for level in LEVELS:
            log.emit(LogLevel.levelWithName(level), "so")
        self.assertEqual([line["Severity"] for line in self.lines()], [7, 6, 4, 3, 2])

    def test_request_line_has_the_members_of_its_summary(self) -> None:
        """The line of a request has the members of its summary, and nothing else of the event."""
        summary = {
            "method": "GET",
            "route": "/v1/profile",
            "status": 200,
            "errno": 0,
            "ms": 12,
            "uid_hash": "0123456789abcdef",
            "request_id": "fedcba9876543210",
            "trace_id": "0123456789abcdef" * 2,
        }
        self.log.info("{method}", log_type="request.summary", token="secret", **summary)
        self.assertEqual(self.line()["Type"], "request.summary")
        self.assertEqual(self.line()["Fields"], summary)
        self.assertNotIn("secret", self.output.getvalue())

    def test_activity_line_has_the_members_of_the_original(self) -> None:
        """The line of an activity has the members of the original service's, and nothing else."""
        activity = {"event": "avatar.get", "uid": "0" * 32, "agent": 'x" y', "client_id": None}
        self.log.info("{event}", log_type="activityEvent", email="secret", **activity)
        self.assertEqual((self.line()["Type"], self.line()["Fields"]), ("activityEvent", activity))
        self.assertNotIn("secret", self.output.getvalue())

    def test_other_members_of_an_event_are_not_written(self) -> None:
        """Members of an event besides its text are not written."""
        self.log.info("something happened", token="secret")
        self.assertEqual(self.line()["Fields"], {"msg": "something happened"})

    def test_failure_has_a_traceback_without_variables(self) -> None:
        """A failure is written with its traceback, without the values of variables."""

        def fail() -> None:
            password = "se" + "cret"
            raise ZeroDivisionError(len(password))

        try:
            fail()
        except ZeroDivisionError:
            self.log.failure("it broke", failure=Failure(captureVars=True))
        line = self.line()
        self.assertEqual((line["Severity"], line["Fields"]["msg"]), (2, "it broke"))
        self.assertIn("in fail", line["Fields"]["traceback"])
        self.assertIn("ZeroDivisionError: 6", line["Fields"]["traceback"])
        self.assertNotIn("secret", self.output.getvalue())

    def test_line_is_one_line_of_ascii(self) -> None:
        """A text with any characters is written as one line of ASCII."""
        texts = [
            "two\nlines\r\n",
            "\u2028\x85\x00",
            'a "quote"',
            "Zoë 🦊",
            "\ud800",
            "{not a field}",
        ]
        for text in texts:
            self.log.info("{text}", text=text)
        written = self.output.getvalue()
        self.assertTrue(written.isascii())
        self.assertEqual(written.count("\n"), len(texts))
        self.assertEqual([line["Fields"]["msg"] for line in self.lines()], texts)

    def test_event_with_a_bad_format_is_written(self) -> None:
        """An event whose format does not fit its members is still written."""
        self.log.info("{missing.attribute}")
        self.assertIn("nable to format", self.line()["Fields"]["msg"])

    def test_member_that_is_not_json_is_written_as_text(self) -> None:
        """A member of a summary that JSON cannot represent is written as its text."""
        address = IPv4Address("TCP", "127.0.0.1", 80)
        self.log.info("", log_type="request.summary", method="GET", route=address)
        self.assertEqual(self.line()["Fields"]["route"], str(address))
        self.assertIsNone(self.line()["Fields"]["status"])

    def test_legacy_event_is_written(self) -> None:
        """An event of Twisted's legacy log is written as a line too."""
        observer = LogPublisher(make_observer(self.format_name, "info", self.output))
        old = OldPublisher(observerPublisher=LogPublisher(), publishPublisher=observer)
        old.msg("that is", "old")
        line = self.line()
        self.assertEqual((line["Severity"], line["Fields"]["msg"]), (6, "that is old"))

    def test_line_is_flushed_at_once(self) -> None:
        """A line is flushed at once, because the process may die at any time."""
        flushed = []

        class Output(io.StringIO):
            def flush(self) -> None:
                flushed.append(self.getvalue())

        self.output = Output()
        self.logger("info").info("a")
        self.assertEqual(flushed, [self.output.getvalue()])


class LevelTests(_Case):
    """Which events are written."""

    format_name = "text"

    def written(self, level: str, namespace: str = "fxprofile.thing") -> list[str]:
        """Return the levels of the events that are written."""
        self.output.truncate(0)
        log = self.logger(level, namespace)
        for name in LEVELS:
            log.emit(LogLevel.levelWithName(name), f"this is {name}")
        text = self.output.getvalue()
        return [name for name in LEVELS if f"this is {name}" in text]

    def test_event_below_the_level_is_dropped(self) -> None:
        """An event below the configured level is dropped."""
        for number, level in enumerate(LEVELS):
            self.assertEqual(self.written(level), list(LEVELS[number:]))

    def test_connections_of_twisted_are_not_logged(self) -> None:
        """Info events of Twisted's protocols are dropped; their warnings are written."""
        for namespace in (
            "twisted.internet.protocol.Factory",
            "twisted.web.client._HTTP11ClientFactory",
            "twisted.protocols.amp.AMP",
        ):
            self.assertEqual(self.written("info", namespace), ["warn", "error", "critical"])


class TextTests(_Case):
    """The text format."""

    format_name = "text"

    def test_line_has_namespace_level_and_text(self) -> None:
        """A line has the namespace, the level and the text."""
        self.log.warn("{what} happened", what="something")
        self.assertRegex(
            self.output.getvalue(), r"^\S+ \[fxprofile\.thing#warn\] something happened\n$"
        )

    def test_failure_has_a_traceback(self) -> None:
        """A failure is written with its traceback."""
        try:
            raise ZeroDivisionError("so")
        except ZeroDivisionError:
            self.log.failure("it broke")
        self.assertIn("it broke\n", self.output.getvalue())
        self.assertIn("ZeroDivisionError: so", self.output.getvalue())


class LibrariesTests(SynchronousTestCase):
    """Events that libraries log with the standard library."""

    def setUp(self) -> None:
        self.log = logging.Logger("some.library")
        self.log.addHandler(StandardLibraryHandler())

    def test_library_warning_becomes_one_event(self) -> None:
        """A warning or error of a library becomes one event, with the error but no traceback."""
        with capturedLogs() as logs:
            self.log.info("nothing to worry about")
            self.log.warning("%s of %s", 3, "{five}")
            try:
                raise OSError("lost")
            except OSError:
                self.log.exception("cannot reset")
        self.assertEqual(
            [(e["log_namespace"], e["log_level"].name, formatEvent(e)) for e in logs],
            [
                ("some.library", "warn", "3 of {five}"),
                ("some.library", "error", "cannot reset: OSError: lost"),
            ],
        )
        self.assertNotIn("log_failure", logs[1])
