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
    """A log with what was written to it."""

    format_name = "mozlog"

    def setUp(self) -> None:
        self.output = io.StringIO()
        self.log = self.logger("info")

    def logger(self, level: str, namespace: str = "fxprofile.thing") -> Logger:
        observer = make_observer(self.format_name, level, self.output)
        return Logger(namespace=namespace, observer=LogPublisher(observer))

    def emit(self, **event: Any) -> None:
        """Give an event to the observer as it is."""
        make_observer(self.format_name, "info", self.output)(event)


class MozlogTests(_Case):
    """One JSON object a line."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line

    def test_members(self) -> None:
        """A line says when, where, how bad and what."""
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

    def test_severities(self) -> None:
        """Each level has the severity of syslog."""
        log = self.logger("debug")
        for level in LEVELS:
            log.emit(LogLevel.levelWithName(level), "so")
        self.assertEqual([line["Severity"] for line in self.lines()], [7, 6, 4, 3, 2])

    def test_summary(self) -> None:
        """The line of a request has the members of one, and nothing else of the event."""
        summary = {
            "method": "GET",
            "route": "/v1/profile",
            "status": 200,
            "errno": 0,
            "ms": 12,
            "uid_hash": "0123456789abcdef",
            "request_id": "fedcba9876543210",
        }
        self.log.info("{method}", log_type="request.summary", token="secret", **summary)
        self.assertEqual(self.line()["Type"], "request.summary")
        self.assertEqual(self.line()["Fields"], summary)
        self.assertNotIn("secret", self.output.getvalue())

    def test_only_the_text(self) -> None:
        """What an event has besides its text is not written."""
        self.log.info("something happened", token="secret")
        self.assertEqual(self.line()["Fields"], {"msg": "something happened"})

    def test_failure(self) -> None:
        """A failure has its traceback, without the values of variables."""

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

    def test_odd_texts(self) -> None:
        """Whatever is in a text, the line is one line of ASCII."""
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

    def test_bad_format(self) -> None:
        """An event that cannot be put in words is logged all the same."""
        self.log.info("{missing.attribute}")
        self.assertIn("nable to format", self.line()["Fields"]["msg"])

    def test_odd_members(self) -> None:
        """A member of a summary that JSON does not know is written as its text."""
        address = IPv4Address("TCP", "127.0.0.1", 80)
        self.log.info("", log_type="request.summary", method="GET", route=address)
        self.assertEqual(self.line()["Fields"]["route"], str(address))
        self.assertIsNone(self.line()["Fields"]["status"])

    def test_legacy_events(self) -> None:
        """What is logged in the old way of Twisted is a line as well."""
        observer = LogPublisher(make_observer(self.format_name, "info", self.output))
        old = OldPublisher(observerPublisher=LogPublisher(), publishPublisher=observer)
        old.msg("that is", "old")
        line = self.line()
        self.assertEqual((line["Severity"], line["Fields"]["msg"]), (6, "that is old"))

    def test_flushed(self) -> None:
        """A line is out at once, for a process may die at any time."""
        flushed = []

        class Output(io.StringIO):
            def flush(self) -> None:
                flushed.append(self.getvalue())

        self.output = Output()
        self.logger("info").info("a")
        self.assertEqual(flushed, [self.output.getvalue()])


class LevelTests(_Case):
    """What is written at all."""

    format_name = "text"

    def written(self, level: str, namespace: str = "fxprofile.thing") -> list[str]:
        """The levels of the events that are written."""
        self.output.truncate(0)
        log = self.logger(level, namespace)
        for name in LEVELS:
            log.emit(LogLevel.levelWithName(name), f"this is {name}")
        text = self.output.getvalue()
        return [name for name in LEVELS if f"this is {name}" in text]

    def test_threshold(self) -> None:
        """What is below the level is dropped."""
        for number, level in enumerate(LEVELS):
            self.assertEqual(self.written(level), list(LEVELS[number:]))

    def test_chatter(self) -> None:
        """The connections of Twisted do not announce themselves."""
        for namespace in (
            "twisted.internet.protocol.Factory",
            "twisted.web.client._HTTP11ClientFactory",
            "twisted.protocols.amp.AMP",
        ):
            self.assertEqual(self.written("info", namespace), ["warn", "error", "critical"])


class TextTests(_Case):
    """Lines for people."""

    format_name = "text"

    def test_line(self) -> None:
        """A line has the namespace, the level and the text."""
        self.log.warn("{what} happened", what="something")
        self.assertRegex(
            self.output.getvalue(), r"^\S+ \[fxprofile\.thing#warn\] something happened\n$"
        )

    def test_failure(self) -> None:
        """A failure has its traceback."""
        try:
            raise ZeroDivisionError("so")
        except ZeroDivisionError:
            self.log.failure("it broke")
        self.assertIn("it broke\n", self.output.getvalue())
        self.assertIn("ZeroDivisionError: so", self.output.getvalue())


class LibrariesTests(SynchronousTestCase):
    """What libraries log with the standard library."""

    def setUp(self) -> None:
        self.log = logging.Logger("some.library")
        self.log.addHandler(StandardLibraryHandler())

    def test_passed_on(self) -> None:
        """A warning or an error is one event of the library, with the error but no traceback."""
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
