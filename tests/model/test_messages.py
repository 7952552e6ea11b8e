"""
Tests of :mod:`fxprofile.model.messages`: encoding and decoding.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.avatars import REASONS, Variant
from fxprofile.model.errors import MalformedMessage
from fxprofile.model.keys import VARIANTS
from fxprofile.model.messages import (
    MAX_MESSAGE_CHARACTERS,
    Job,
    Op,
    Result,
    ResultStatus,
    traceparent_of,
)

ID = "0123456789abcdef0123456789abcdef"
VARIANT = {"width": 1, "height": 2, "bytes": 3}

ids = st.text("0123456789abcdef", min_size=32, max_size=32)
traceparents = st.none() | st.text(max_size=60)
positive = st.integers(1, 1 << 40)
variants = st.fixed_dictionaries({n: st.builds(Variant, *[positive] * 3) for n in VARIANTS})
timings = st.dictionaries(st.sampled_from(["get", "crunch", "put"]), st.floats(0, 1000))
results = st.one_of(
    st.builds(
        Result,
        ids,
        st.just(ResultStatus.READY),
        variants=variants,
        placeholder=st.none() | st.just("LEHV6nWB2yk8pyo0adR*.7kCMdnj"),
        pixels=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
        timing=timings,
        traceparent=traceparents,
    ),
    st.builds(Result, ids, st.just(ResultStatus.FAILED), st.sampled_from(list(REASONS))),
    st.builds(Result, ids, st.just(ResultStatus.DELETED)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)

#: Messages that are no messages, whatever queue they are on.
JUNK = (
    "",
    " ",
    "null",
    "1",
    '"x"',
    "[]",
    "{}",
    "{",
    "\x00",
    "\ud800",
    "[" * 4000,
    "9" * 4090,
    '{"v":' * 700,
    "NaN",
)


def changed(message: str, **members: Any) -> str:
    """A message with other members; None takes one away."""
    whole = {**json.loads(message), **members}
    return json.dumps({name: value for name, value in whole.items() if value is not None})


class JobTests(SynchronousTestCase):
    """Messages of the jobs queue."""

    message = Job(Op.CRUNCH, ID).encode(0)

    @given(st.builds(Job, st.sampled_from(Op), ids, traceparents), st.floats(0, 4e9))
    def test_job_round_trip(self, job: Job, sent: float) -> None:
        """A job is decoded as it was encoded."""
        self.assertEqual(Job.decode(job.encode(sent)), job)

    @given(st.floats(0, 4e9))
    def test_sent_is_rfc_3339_in_utc(self, sent: float) -> None:
        """The time of sending is encoded as RFC 3339 in UTC."""
        text = json.loads(Job(Op.DELETE, ID).encode(sent))["sent"]
        self.assertTrue(text.endswith("Z"))
        read = datetime.fromisoformat(text.replace("Z", "+00:00"))
        self.assertEqual(read.tzinfo, UTC)
        self.assertTrue(math.isclose(read.timestamp(), sent, abs_tol=1e-6))

    def test_job_has_the_documented_form(self) -> None:
        """An encoded job has the documented form."""
        self.assertEqual(
            json.loads(self.message),
            {"v": 1, "op": "crunch", "id": ID, "sent": "1970-01-01T00:00:00Z"},
        )

    def test_malformed_job(self) -> None:
        """Any other form raises MalformedMessage."""
        bad = [
            *JUNK,
            self.message[:-1],
            self.message + " " * MAX_MESSAGE_CHARACTERS,
            *(changed(self.message, v=v) for v in (None, 0, 2, "1", 1.0, True, [1])),
            *(changed(self.message, id=i) for i in (None, 1, ID[:-1], ID + "0", ID.upper(), [ID])),
            *(changed(self.message, op=op) for op in (None, "", "CRUNCH", "drop", 1, [], {})),
        ]
        for text in bad:
            with self.assertRaises(MalformedMessage, msg=text[:80]):
                Job.decode(text)

    def test_unknown_members_are_ignored(self) -> None:
        """Members that a later version may add are ignored."""
        self.assertEqual(Job.decode(changed(self.message, trace="x")), Job(Op.CRUNCH, ID))

    def test_traceparent_that_is_no_text_is_ignored(self) -> None:
        """A message whose traceparent is not a text is as valid as one without it."""
        for value in (None, 1, [], {}):
            text = changed(self.message, traceparent=value)
            self.assertEqual(Job.decode(text), Job(Op.CRUNCH, ID))
            self.assertIsNone(traceparent_of(text))
        self.assertIsNone(traceparent_of("{"))
        self.assertEqual(traceparent_of(changed(self.message, traceparent="00")), "00")

    @given(json_values)
    def test_any_json_is_decoded_or_malformed(self, value: Any) -> None:
        """Any JSON value is decoded or raises MalformedMessage."""
        for text in (json.dumps(value), changed(self.message, op=value, id=value, v=value)):
            with self.assertRaises(MalformedMessage):
                Job.decode(text)

    @given(st.text())
    def test_any_text_is_decoded_or_malformed(self, text: str) -> None:
        """Any text is decoded or raises MalformedMessage."""
        for decode in (Job.decode, Result.decode):
            with self.assertRaises(MalformedMessage):
                decode(text)


class ResultTests(SynchronousTestCase):
    """Messages of the results queue."""

    ready = Result(
        ID, ResultStatus.READY, variants={n: Variant(1, 2, 3) for n in VARIANTS}
    ).encode()
    failed = Result(ID, ResultStatus.FAILED, "corrupt").encode()

    @given(results)
    def test_result_round_trip(self, result: Result) -> None:
        """A result is decoded as it was encoded, with times to a tenth of a millisecond."""
        read = Result.decode(result.encode())
        self.assertEqual(read.timing, {n: round(s, 4) for n, s in result.timing.items()})
        self.assertEqual(
            (read.id, read.status, read.reason, read.variants, read.placeholder),
            (result.id, result.status, result.reason, result.variants, result.placeholder),
        )

    def test_placeholder_is_a_blurhash(self) -> None:
        """A placeholder is a BlurHash of 28 characters or absent."""
        self.assertIsNone(Result.decode(self.ready).placeholder)
        good = Result.decode(changed(self.ready, placeholder="LEHV6nWB2yk8pyo0adR*.7kCMdnj"))
        self.assertEqual(good.placeholder, "LEHV6nWB2yk8pyo0adR*.7kCMdnj")
        for text in ("", "LEHV6n", "L" * 29, '"' * 28, "L" * 27 + "\n", 28, ["L" * 28]):
            with self.assertRaises(MalformedMessage):
                Result.decode(changed(self.ready, placeholder=text))

    def test_result_has_the_documented_form(self) -> None:
        """Encoded results have the documented forms."""
        self.assertEqual(
            json.loads(self.ready),
            {
                "v": 1,
                "id": ID,
                "status": "ready",
                "variants": {"default": VARIANT, "small": VARIANT, "large": VARIANT},
                "timing": {},
            },
        )
        self.assertEqual(
            json.loads(self.failed),
            {"v": 1, "id": ID, "status": "failed", "error": {"reason": "corrupt"}, "timing": {}},
        )

    def test_malformed_result(self) -> None:
        """Any other form raises MalformedMessage."""
        bad = [
            *JUNK,
            *(changed(self.ready, status=s) for s in (None, "READY", "processing", 1, [], {})),
            *(changed(self.ready, variants=v) for v in (None, [], {}, "x", {"default": VARIANT})),
            *(
                changed(self.ready, variants={**dict.fromkeys(VARIANTS, VARIANT), "small": small})
                for small in (
                    1,
                    [],
                    {},
                    {**VARIANT, "width": 0},
                    {**VARIANT, "width": -1},
                    {**VARIANT, "height": 1.5},
                    {**VARIANT, "bytes": True},
                    {**VARIANT, "bytes": "3"},
                )
            ),
            changed(self.ready, variants={**dict.fromkeys(VARIANTS, VARIANT), "huge": VARIANT}),
            *(changed(self.failed, error=e) for e in (None, "corrupt", [], {}, {"reason": "?"})),
            *(changed(self.failed, error={"reason": r}) for r in (1, [], {}, ["corrupt"])),
        ]
        for text in bad:
            with self.assertRaises(MalformedMessage, msg=text[:80]):
                Result.decode(text)

    def test_invalid_timing_is_ignored(self) -> None:
        """Invalid values in the timing, which is for operators only, are ignored."""
        for timing, expected in (
            (None, {}),
            ([], {}),
            ({"get": "x", "put": 1, "crunch": True}, {"put": 1}),
            ({"get": float("nan"), "put": float("inf"), "crunch": -1, "x": 10**400}, {}),
        ):
            self.assertEqual(Result.decode(changed(self.ready, timing=timing)).timing, expected)

    def test_longest_result_is_short_enough(self) -> None:
        """The longest result is far shorter than the maximum length."""
        huge = 1 << 50
        result = Result(
            ID,
            ResultStatus.READY,
            variants={name: Variant(huge, huge, huge) for name in VARIANTS},
            timing=dict.fromkeys(("get", "crunch", "put"), 1e9),
        )
        self.assertLess(len(result.encode()), MAX_MESSAGE_CHARACTERS / 4)

    @given(json_values)
    def test_any_member_is_decoded_or_malformed(self, value: Any) -> None:
        """Any JSON value of a member is decoded or raises MalformedMessage."""
        for text in (
            changed(self.ready, status=value),
            changed(self.failed, error=value),
            changed(self.failed, error={"reason": value}),
            changed(self.ready, variants=value if value is not None else 1),
        ):
            with self.assertRaises(MalformedMessage):
                Result.decode(text)
