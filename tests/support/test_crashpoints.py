"""Tests of :mod:`fxprofile.app.crashpoints`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.app.crashpoints import CrashPoint
from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import CRASH_AT

PROGRAM = """
from twisted.internet.defer import Deferred
from fxprofile.app.crashpoints import crash_point

class Store:
    async def accept(self, *, number):
        print(number, flush=True)

async def run():
    store = crash_point().guard(Store())
    for number in range(4):
        await store.accept(number=number)

Deferred.fromCoroutine(run())
print("alive", flush=True)
"""


class Driver:
    """A driver with two methods and an attribute."""

    name = "driver"

    async def one(self, *, number: int) -> int:
        return number

    async def two(self, *, number: int) -> int:
        return -number


class CrashPointTests(SynchronousTestCase):
    """Where a process dies, and where it does not."""

    def dies(self, at: str) -> list[str]:
        """Run a program that dies there, and give what it did before."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=Path(fxprofile.__file__).parent.parent,
            env={**os.environ, CRASH_AT: at},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, -signal.SIGKILL, done)
        return done.stdout.split()

    def test_moments(self) -> None:
        """It dies before the call has its effect, or after."""
        self.assertEqual(self.dies("store.accept:before"), [])
        self.assertEqual(self.dies("store.accept:after"), ["0"])

    def test_later_call(self) -> None:
        """It may be a later call of the same method."""
        self.assertEqual(self.dies("store.accept:before:3"), ["0", "1"])
        self.assertEqual(self.dies("store.accept:after:3"), ["0", "1", "2"])

    def test_everything_else(self) -> None:
        """All other methods and attributes are those of the driver."""
        point = CrashPoint("public bucket.one:after:2")
        self.assertEqual(
            (point.driver, point.method, point.moment), ("public bucket", "one", "after")
        )
        driver = point.guard(Driver())
        for _ in range(3):
            result = self.successResultOf(Deferred.fromCoroutine(driver.two(number=1)))
            self.assertEqual(result, -1)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(driver.one(number=1))), 1)
        self.assertEqual(driver.name, "driver")

    def test_nonsense(self) -> None:
        """What is no point is an error that names the variable."""
        for text in ("", "store", "store.accept", "store.accept:now", "store.accept:after:0"):
            error = self.assertRaises(ConfigError, CrashPoint, text)
            self.assertIn(CRASH_AT, str(error))
