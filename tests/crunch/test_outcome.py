"""Tests of what is made of the way in which a child ended."""

from __future__ import annotations

import signal
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.outcome import Ended, judged
from fxprofile.crunch.result import Outcome
from fxprofile.model.avatars import REASONS

LIMITS = Limits(cpu=10, memory=1000 << 20)
WELL = Ended("", 0, cpu=0.1, wall=0.1, resident=50 << 20, base=100 << 20, stderr=b"")
READY = Outcome(kind="png")


class JudgedTests(SynchronousTestCase):
    """Reasons, and who is at fault."""

    def judge(self, written: Outcome | str = READY, **changes: object) -> tuple[str | None, bool]:
        outcome, permanent = judged(replace(WELL, **changes), written, LIMITS)
        if outcome.reason is not None:
            self.assertIn(outcome.reason, REASONS)
            self.assertTrue(outcome.detail.isascii())
        return outcome.reason, permanent

    def test_well(self) -> None:
        """A child that ended well is believed."""
        self.assertEqual(self.judge(), (None, False))

    def test_refused(self) -> None:
        """A refusal is the image's fault."""
        for reason in ("unsupported", "corrupt", "too_many_pixels", "too_large"):
            self.assertEqual(self.judge(Outcome(reason=reason)), (reason, True))

    def test_ended_by_us(self) -> None:
        """Whatever a child wrote before it was ended counts for nothing."""
        for written in (READY, Outcome(reason="corrupt"), "nothing"):
            self.assertEqual(self.judge(written, ended="timeout", status=-9), ("timeout", False))
            self.assertEqual(self.judge(written, ended="cancelled", status=-9), ("crashed", False))
            self.assertEqual(self.judge(written, ended="unlocked", status=-9), ("crashed", False))

    def test_died(self) -> None:
        """A child that died is not believed either."""
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
            for written in (READY, Outcome(reason="corrupt"), "half of it"):
                self.assertEqual(self.judge(written, status=status), (reason, False))

    def test_hard_limit(self) -> None:
        """A child that ignored the soft limit of its time ran out of time, not of memory."""
        self.assertEqual(self.judge(status=-signal.SIGKILL, cpu=10.9), ("timeout", False))

    def test_aborted(self) -> None:
        """A child that died with nearly all memory in use died for want of it."""
        self.assertEqual(self.judge(status=-signal.SIGABRT, resident=900 << 20), ("memory", False))

    def test_no_result(self) -> None:
        """A child that ended well without a result has failed."""
        self.assertEqual(self.judge("nothing"), ("crashed", False))

    def test_memory(self) -> None:
        """Want of memory may pass."""
        self.assertEqual(self.judge(Outcome(reason="memory")), ("memory", False))

    def test_corrupt_or_memory(self) -> None:
        """A damaged image that took nearly all memory may be a good one."""
        for peak, resident, verdict in (
            (850 << 20, 50 << 20, ("corrupt", True)),
            (950 << 20, 50 << 20, ("memory", False)),
            (0, 900 << 20, ("memory", False)),
        ):
            outcome = Outcome(reason="corrupt", peak=peak)
            self.assertEqual(self.judge(outcome, resident=resident), verdict)

    def test_what_it_said(self) -> None:
        """What a child said on standard error is quoted so that it cannot break a log."""
        outcome, _ = judged(replace(WELL, status=70, stderr=b"\x1b[2J\n\xff oops"), READY, LIMITS)
        self.assertTrue(outcome.detail.isprintable())
        self.assertIn("oops", outcome.detail)
