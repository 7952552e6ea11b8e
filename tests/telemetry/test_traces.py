"""
Tests of :mod:`fxprofile.telemetry.traces`.
"""

from __future__ import annotations

import io
import json

from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.telemetry.logs import make_observer
from fxprofile.telemetry.traces import (
    Trace,
    active,
    continued,
    headers,
    trace_id,
    traceparent,
)

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACE = Trace(ID, "1" * 16)


class TraceparentTests(SynchronousTestCase):
    """Headers, as W3C Trace Context defines them."""

    def test_valid_header_is_continued(self) -> None:
        """A valid header gives its trace id and its flag, with the span id of what is handled."""
        for flags, sampled in (("00", False), ("01", True), ("03", True), ("02", False)):
            trace = continued(f"00-{ID}-{PARENT}-{flags}", "1" * 16)
            self.assertEqual(trace, Trace(ID, "1" * 16, sampled))
            self.assertEqual(trace.traceparent, f"00-{ID}-{'1' * 16}-0{int(sampled)}")
        self.assertNotEqual(continued(f"00-{ID}-{PARENT}-00").span_id, PARENT)

    def test_later_version_is_continued(self) -> None:
        """A later version is read as far as it is known, and continued as version 00."""
        for header in (f"01-{ID}-{PARENT}-01", f"cc-{ID}-{PARENT}-01-what the future-brings"):
            self.assertEqual(continued(header, "1" * 16).traceparent, f"00-{ID}-{'1' * 16}-01")

    def test_invalid_header_is_ignored(self) -> None:
        """An invalid header has no effect: the trace is new, as without a header."""
        valid = f"00-{ID}-{PARENT}-01"
        self.assertEqual(continued(valid).trace_id, ID)
        for header in (
            *(None, "", "-", valid[:-1], valid + "-", valid + "-00", f" {valid}", valid[1:]),
            *(valid.upper(), valid.replace("-", "_"), valid.replace("4bf", "4bg")),
            *(f"ff-{ID}-{PARENT}-01", f"0-{ID}-{PARENT}-001", f"01-{ID}-{PARENT}-01.x"),
            *(f"00-{'0' * 32}-{PARENT}-01", f"00-{ID}-{'0' * 16}-01", f"00-{ID}-{PARENT}-0x"),
            *(valid.replace("4", "\u0664"), f"{valid},{valid}"),
        ):
            trace = continued(header)
            self.assertNotEqual(trace.trace_id, ID, header)
            self.assertEqual(continued(trace.traceparent).trace_id, trace.trace_id)
        self.assertNotEqual(continued(None).trace_id, continued(None).trace_id)


class ActiveTests(SynchronousTestCase):
    """The trace of what is being handled."""

    def test_coroutine_keeps_the_trace_that_it_was_started_under(self) -> None:
        """A coroutine keeps its trace while it waits, and nothing else has it."""
        waits: Deferred[None] = Deferred()
        seen = []

        async def work() -> None:
            await waits
            seen.append((trace_id(), traceparent(), dict(headers())))

        with active(TRACE):
            working = Deferred.fromCoroutine(work())
        self.assertEqual((trace_id(), traceparent(), headers()), (None, None, {}))
        with active(continued(None)):
            waits.callback(None)
        self.successResultOf(working)
        self.assertEqual(seen, [(ID, TRACE.traceparent, {"traceparent": TRACE.traceparent})])

    def test_log_lines_have_the_trace_id(self) -> None:
        """A line that is logged under a trace has its id, in either format."""
        for name in ("mozlog", "text"):
            output = io.StringIO()
            log = Logger("a", observer=LogPublisher(make_observer(name, "info", output)))
            with active(TRACE):
                log.info("one\ntwo")
            log.info("three")
            first, *_, last = output.getvalue().splitlines()
            if name == "mozlog":
                self.assertEqual(json.loads(first)["Fields"], {"msg": "one\ntwo", "trace_id": ID})
            else:
                self.assertTrue(first.endswith(f"one trace={ID}"), first)
            self.assertNotIn("trace", last)
