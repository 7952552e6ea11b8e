"""Reading the result file of a child, and deciding the outcome of its image."""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec.job import encode_result, encode_sizes
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.protocol import ChildExit
from fxprofile.crunch.result import CrunchOutcome, InvalidResult, decode, judge
from fxprofile.model.avatars import REASONS, Pictures
from tests.corpus.drawing import photo

DIGEST = "0123456789abcdef" * 4
SIDES = {"large": 60, "default": 20, "small": 10}


@cache
def pictures(form: str = "png") -> Pictures:
    """Return small pictures in one format."""
    return encode_sizes({name: photo(side, side) for name, side in SIDES.items()}, form)


def encoded(formats: Mapping[str, Pictures]) -> bytes:
    """Return a result file with these pictures."""
    outcome = CrunchOutcome(
        kind="png", sides=(80, 80), peak=1 << 27, pixels=DIGEST, pictures=formats
    )
    return encode_result(outcome)


GOOD = encoded({"png": pictures()})


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from(">I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def with_header(**changes: object) -> bytes:
    """Return a valid result file with another header."""
    found, bodies = header_of(GOOD)
    text = json.dumps({k: v for k, v in (found | changes).items() if v is not None}).encode()
    return struct.pack(">I", len(text)) + text + bodies


class DecodeTests(SynchronousTestCase):
    """Which bytes are accepted as a result file."""

    def refuse(self, data: bytes) -> None:
        with self.assertRaises(InvalidResult):
            decode(data)

    def test_pictures_must_be_square_if_they_cover_their_box(self) -> None:
        """With ``cover``, a picture that is not square is refused."""
        self.assertEqual(decode(GOOD, "cover"), decode(GOOD))
        for name, side in SIDES.items():
            images = {n: photo(s, s) for n, s in SIDES.items()} | {name: photo(side, side - 1)}
            data = encoded({"png": encode_sizes(images, "png")})
            self.assertEqual(len(decode(data).pictures["png"]), 3)
            with self.assertRaisesRegex(InvalidResult, "not square"):
                decode(data, "cover")

    def test_a_result_is_decoded_as_it_was_encoded(self) -> None:
        """A result file decodes to the outcome that the child has encoded."""
        outcome = decode(GOOD)
        self.assertEqual(outcome.pictures, {"png": pictures()})
        self.assertEqual((outcome.kind, outcome.sides, outcome.reason), ("png", (80, 80), None))
        self.assertEqual(outcome.pixels, DIGEST)

    def test_a_detail_cannot_break_a_log(self) -> None:
        """The detail of a refusal is shortened, and control characters in it are escaped."""
        wanted = CrunchOutcome(reason="corrupt", detail="bad \n\x1b[31m ü" + "x" * 500, peak=3)
        outcome = decode(encode_result(wanted))
        self.assertEqual(outcome.reason, "corrupt")
        self.assertTrue(outcome.detail.isascii() and outcome.detail.isprintable())
        self.assertLess(len(outcome.detail), 400)

    def test_a_truncated_result_is_invalid(self) -> None:
        """A result file is invalid wherever it is cut off."""
        for length in (*range(40), *range(40, len(GOOD), 97), len(GOOD) - 1):
            self.refuse(GOOD[:length])

    def test_trailing_bytes_are_invalid(self) -> None:
        """A result file with a byte after its last picture is invalid."""
        self.refuse(GOOD + b"\0")

    def test_each_member_of_the_header_is_checked(self) -> None:
        """A header with a missing, mistyped or impossible member is invalid."""
        sides = {"default": [20, 20, 1], "small": [10, 10, 1], "large": [60, 60, 1]}
        for changes in (
            {"v": 2},
            {"v": None},
            {"pictures": None},
            {"pictures": []},
            {"pictures": {}},
            {"pictures": {"png": None}},
            {"pictures": {"png": []}},
            {"pictures": {"png": {**sides, "huge": [1, 1, 1]}}},
            {"pictures": {"png": {**sides, "small": [10, 10]}}},
            {"pictures": {"png": {**sides, "small": [10, 10, 1.0]}}},
            {"pictures": {"png": {**sides, "small": [True, 10, 1]}}},
            {"pictures": {"png": {**sides, "small": [10, 0, 1]}}},
            {"pictures": {"png": {**sides, "small": [101, 10, 1]}}},
            {"pictures": {"png": {**sides, "small": [10, 10, (64 << 10) + 1]}}},
            {"pictures": {"png": {**sides, "small": [10, 10, -1]}}},
            {"sides": [1]},
            {"sides": ["1", 1]},
            {"placeholder": "<script>"},
            {"placeholder": "L" * 27},
            {"placeholder": None},
            {"pixels": None},
            {"pixels": ""},
            {"pixels": DIGEST.upper()},
            {"pixels": DIGEST + "\n"},
            {"pixels": int(DIGEST, 16)},
            {"peak": -1},
            {"peak": 10**30},
            {"reason": "corrupt"},
            {"reason": 7},
            {"reason": ["corrupt"]},
            {"reason": "crashed"},
            {"reason": "no such reason"},
        ):
            self.refuse(with_header(**changes))

    def test_an_unknown_kind_is_dropped(self) -> None:
        """An image type that is not supported is dropped from the result."""
        for kind in ("<script>", "", None, 7, ["png"], {"png": 1}):
            self.assertEqual(decode(with_header(kind=kind)).kind, "")
        self.assertEqual(decode(with_header(kind="png")).kind, "png")

    def test_a_header_must_be_a_short_json_object(self) -> None:
        """A header that is not a JSON object, too long or too deep is invalid."""
        for text in (b"", b"[]", b"nul", b"\xff", b"[" * 4000, b'{"v": 1}' + b" " * 5000):
            self.refuse(struct.pack(">I", len(text)) + text)
        self.refuse(b"\xff\xff\xff\xff" + GOOD[4:])

    def test_swapped_pictures_are_invalid(self) -> None:
        """A header that describes the pictures in another order is invalid."""
        found, _ = header_of(GOOD)
        members = found["pictures"]["png"]
        members["small"], members["default"] = members["default"], members["small"]
        self.refuse(with_header(pictures={"png": members}))

    def test_pictures_in_other_formats_are_decoded(self) -> None:
        """A result file may have the same pictures in further formats, after the PNGs."""
        formats = {form: pictures(form) for form in ("png", "avif", "webp")}
        self.assertEqual(decode(encoded(formats)).pictures, formats)

    def test_other_formats_must_match_the_png(self) -> None:
        """Pictures of other sides than the PNGs, of another format or of none are invalid."""
        wide = {name: photo(side, side - 1) for name, side in SIDES.items()}
        for formats in (
            {"png": pictures(), "webp": encode_sizes(wide, "webp")},
            {"png": pictures(), "avif": pictures("webp")},
            {"png": pictures(), "gif": pictures("webp")},
            {"webp": pictures("webp"), "png": pictures()},
            {"webp": pictures("webp")},
        ):
            self.refuse(encoded(formats))

    @given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
    def test_a_changed_byte_never_changes_a_picture(self, at: int, bits: int) -> None:
        """A changed byte makes a result file invalid, or changes nothing that is published."""
        data = bytearray(GOOD)
        data[at] ^= bits
        try:
            outcome = decode(bytes(data))
        except InvalidResult:
            return
        self.assertEqual(outcome.pictures, {"png": pictures()})

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes_raise_no_other_error(self, data: bytes) -> None:
        """Arbitrary bytes are a result file, or raise InvalidResult."""
        try:
            decode(data)
        except InvalidResult:
            return
        self.assertTrue(data)


LIMITS = Limits(cpu=10, memory=1000 << 20)
EXITED: ChildExit = {
    "ended": "",
    "status": 0,
    "cpu": 0.1,
    "wall": 0.1,
    "resident": 50 << 20,
    "base": 100 << 20,
    "stderr": b"",
}
READY = CrunchOutcome(kind="png")


class JudgeTests(SynchronousTestCase):
    """The reason of a failure, and whether it is permanent."""

    def judge(
        self, written: CrunchOutcome | str = READY, **changes: object
    ) -> tuple[str | None, bool]:
        end: Any = {**EXITED, **changes}
        report = judge(end, written, LIMITS)
        if report.outcome.reason is not None:
            self.assertIn(report.outcome.reason, REASONS)
            self.assertTrue(report.outcome.detail.isascii())
        return report.outcome.reason, report.permanent

    def test_a_result_counts_after_exit_status_0(self) -> None:
        """The outcome of a child that exited with 0 is that of its result file."""
        self.assertEqual(self.judge(), (None, False))

    def test_refusals_are_permanent(self) -> None:
        """A refusal by the child is permanent: the image is not tried again."""
        for reason in ("unsupported", "corrupt", "too_many_pixels", "too_large"):
            self.assertEqual(self.judge(CrunchOutcome(reason=reason)), (reason, True))

    def test_results_of_killed_children_are_ignored(self) -> None:
        """The result file of a child that its helper killed is ignored."""
        for written in (READY, CrunchOutcome(reason="corrupt"), "nothing"):
            self.assertEqual(self.judge(written, ended="timeout", status=-9), ("timeout", False))
            self.assertEqual(self.judge(written, ended="cancelled", status=-9), ("crashed", False))
            self.assertEqual(self.judge(written, ended="unlocked", status=-9), ("crashed", False))

    def test_results_of_crashed_children_are_ignored(self) -> None:
        """The result file of a child that ended by a signal or a non-zero status is ignored."""
        for status, reason in (
            (-signal.SIGSEGV, "crashed"),
            (-signal.SIGSYS, "crashed"),
            (-signal.SIGXFSZ, "crashed"),
            (-signal.SIGXCPU, "timeout"),
            (-signal.SIGALRM, "timeout"),
            (-signal.SIGKILL, "memory"),
            (70, "crashed"),
            (-64, "crashed"),
        ):
            for written in (READY, CrunchOutcome(reason="corrupt"), "half of it"):
                self.assertEqual(self.judge(written, status=status), (reason, False))

    def test_sigkill_at_the_cpu_limit_is_a_timeout(self) -> None:
        """SIGKILL at the hard limit of processor time is a timeout, not a lack of memory."""
        self.assertEqual(self.judge(status=-signal.SIGKILL, cpu=10.9), ("timeout", False))

    def test_an_abort_near_the_memory_limit_is_a_lack_of_memory(self) -> None:
        """A child that aborts with nearly all of its memory in use has run out of memory."""
        self.assertEqual(self.judge(status=-signal.SIGABRT, resident=900 << 20), ("memory", False))

    def test_exit_status_0_without_a_result_is_a_crash(self) -> None:
        """A child that exited with 0 without a valid result file has crashed."""
        self.assertEqual(self.judge("nothing"), ("crashed", False))

    def test_a_lack_of_memory_is_not_permanent(self) -> None:
        """An image for which a child had too little memory may be tried again."""
        self.assertEqual(self.judge(CrunchOutcome(reason="memory")), ("memory", False))

    def test_corrupt_near_the_memory_limit_is_a_lack_of_memory(self) -> None:
        """An image that is refused as corrupt with nearly all memory in use may be tried again."""
        for peak, resident, expected in (
            (850 << 20, 50 << 20, ("corrupt", True)),
            (950 << 20, 50 << 20, ("memory", False)),
            (0, 900 << 20, ("memory", False)),
        ):
            outcome = CrunchOutcome(reason="corrupt", peak=peak)
            self.assertEqual(self.judge(outcome, resident=resident), expected)

    def test_standard_error_is_escaped(self) -> None:
        """The standard error of a child is escaped, so that it cannot break a log line."""
        end: ChildExit = {**EXITED, "status": 70, "stderr": b"\x1b[2J\n\xff oops"}
        detail = judge(end, READY, LIMITS).outcome.detail
        self.assertTrue(detail.isprintable())
        self.assertIn("oops", detail)
