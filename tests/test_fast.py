"""Tests of the choice of tests that ``make test-fast`` makes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fast import fast_modules, modules, slow_first


class FastModulesTests(SynchronousTestCase):
    """The test modules that start no other program."""

    def test_modules_that_start_programs_are_left_out(self) -> None:
        """A module is left out if it starts programs itself or through a helper module."""
        chosen = set(fast_modules())
        self.assertIn("tests.settings.test_settings", chosen)
        for name in (
            "tests.test_layers",
            "tests.crunch.test_pool",
            "tests.browser.test_playground",
            "tests.drivers.sql.test_store",
            "tests.simulation.test_world",
        ):
            self.assertNotIn(name, chosen)

    def test_slow_modules_are_first(self) -> None:
        """All modules are named once, and those that start no program are named last."""
        fast, names = set(fast_modules()), slow_first()
        self.assertEqual(sorted(names), modules())
        self.assertEqual(set(names[-len(fast) :]), fast)
