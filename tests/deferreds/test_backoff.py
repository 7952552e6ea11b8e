"""Tests of :mod:`fxprofile.deferreds.backoff`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.backoff import Backoff


class BackoffTests(SynchronousTestCase):
    def test_the_limit_doubles_up_to_the_cap(self) -> None:
        """The longest possible delay doubles with every failure until it reaches the cap."""
        backoff = Backoff(first=0.1, cap=20, chance=lambda: 1)
        delays = [backoff.delay(failures) for failures in range(1, 10)]
        self.assertEqual(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20])

    def test_the_delay_is_spread_over_the_whole_interval(self) -> None:
        """With full jitter, delays are spread evenly from zero to the limit."""
        backoff = Backoff(first=0.1, cap=20)
        delays = [backoff.delay(3) for _ in range(2000)]
        self.assertLess(min(delays), 0.04)
        self.assertGreater(max(delays), 0.36)
        self.assertTrue(0.17 < sum(delays) / len(delays) < 0.23)

    def test_the_shortest_delay_is_a_fraction_of_the_limit(self) -> None:
        """A backoff with a shortest fraction never returns less than that part of the limit."""
        backoff = Backoff(first=1, cap=60, shortest=0.25, chance=lambda: 0)
        self.assertEqual([backoff.delay(failures) for failures in (1, 2)], [0.25, 0.5])

    def test_many_failures_stay_at_the_cap(self) -> None:
        """The delay after thousands of failures is the cap, without an overflow."""
        backoff = Backoff(first=1, cap=60, chance=lambda: 1)
        self.assertEqual(backoff.delay(10_000), 60)
