"""
Tests of :mod:`fxprofile.drivers.aws.retries`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.errors import AwsMalformed, AwsRefused, AwsUnreachable
from fxprofile.drivers.aws.retries import Backoff, Budget, is_retryable, is_throttling

FAULT = AwsRefused("", code="InternalError", status=500)
GONE = AwsUnreachable("", code="Unreachable")
SLOW = AwsRefused("", code="SlowDown", status=503)


class RetryableTests(SynchronousTestCase):
    def test_table(self) -> None:
        """The errors that AWS documents as retryable are, and no others."""
        for code, status, retryable, throttling in [
            ("SlowDown", 503, True, True),
            ("ThrottlingException", 400, True, True),
            ("429", 429, True, True),
            ("InternalError", 500, True, False),
            ("502", 502, True, False),
            ("ServiceUnavailable", 503, True, False),
            ("504", 504, True, False),
            ("RequestTimeout", 400, True, False),
            ("501", 501, False, False),
            ("AccessDenied", 403, False, False),
            ("NoSuchKey", 404, False, False),
            ("BadDigest", 400, False, False),
            ("SignatureDoesNotMatch", 403, False, False),
        ]:
            error = AwsRefused("", code=code, status=status)
            self.assertEqual(is_retryable(error), retryable, code)
            self.assertEqual(is_throttling(error), throttling, code)
        self.assertTrue(is_retryable(GONE))
        self.assertFalse(is_retryable(AwsMalformed("", code="Malformed")))


class BudgetTests(SynchronousTestCase):
    def test_runs_out(self) -> None:
        """Retries without successes end, those without an answer sooner."""
        for error, number in ((FAULT, 100), (GONE, 50)):
            budget = Budget()
            taken = 0
            while budget.take(error) is not None:
                taken += 1
            self.assertEqual(taken, number)

    def test_earned(self) -> None:
        """A retry that succeeds gives back its cost, and a first try one token."""
        budget = Budget(capacity=5)
        paid = budget.take(FAULT)
        self.assertIsNone(budget.take(FAULT))
        budget.succeeded(paid)
        self.assertEqual(budget.take(FAULT), 5)
        for _ in range(4):
            budget.succeeded(None)
        self.assertIsNone(budget.take(FAULT))
        budget.succeeded(None)
        self.assertEqual(budget.take(FAULT), 5)

    @given(st.lists(st.sampled_from([FAULT, GONE, None])))
    def test_bounds(self, outcomes: list[AwsRefused | AwsUnreachable | None]) -> None:
        """It is never overdrawn and never overflows."""
        budget = Budget(capacity=20)
        for outcome in outcomes:
            if outcome is None:
                budget.succeeded(None)
            else:
                budget.take(outcome)
            self.assertTrue(0 <= budget._tokens <= 20)


class BackoffTests(SynchronousTestCase):
    def test_grows(self) -> None:
        """Waits double up to a limit, and are longer when AWS is asked too much."""
        backoff = Backoff(first=0.1, first_if_throttled=1, most=20, chance=lambda: 1)
        delays = [backoff.delay(attempt, FAULT) for attempt in range(1, 10)]
        self.assertEqual(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20])
        self.assertEqual(backoff.delay(1, SLOW), 1)

    def test_full_jitter(self) -> None:
        """Any wait from none to the longest is as likely."""
        delays = [Backoff().delay(3, FAULT) for _ in range(2000)]
        self.assertLess(min(delays), 0.04)
        self.assertGreater(max(delays), 0.36)
        self.assertTrue(0.17 < sum(delays) / len(delays) < 0.23)
