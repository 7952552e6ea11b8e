"""Tests of :mod:`tests.support.crashing`."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from tests.support.crashing import CrashPoint

PROGRAM = """
import sys
from twisted.internet.defer import Deferred
from tests.support.crashing import CrashPoint

class Store:
    async def accept(self, *, number):
        print(number, flush=True)

    async def put_all(self, *, objects):
        print(*objects, flush=True)

    put = put_all

async def run():
    if ".put" in sys.argv[1]:
        store = CrashPoint(sys.argv[1]).guard(Store())
        await store.put_all(objects="ab")
        await store.put_all(objects="cd")
    store = CrashPoint(sys.argv[1]).guard(Store())
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
    """Where a process is killed."""

    def calls_before_the_crash(self, at: str) -> list[str]:
        """Run a program that is killed at a point; return the calls that had an effect."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, at],
            cwd=Path(fxprofile.__file__).parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, -signal.SIGKILL, done)
        self.assertEqual(done.stderr, CrashPoint(at).report)
        return done.stdout.split()

    def test_the_process_is_killed_before_or_after_the_effect_of_the_call(self) -> None:
        """The process is killed before the call has its effect, or after."""
        self.assertEqual(self.calls_before_the_crash("store.accept:before"), [])
        self.assertEqual(self.calls_before_the_crash("store.accept:after"), ["0"])

    def test_a_number_chooses_a_later_call(self) -> None:
        """With a number, the process is killed at that call of the method."""
        self.assertEqual(self.calls_before_the_crash("store.accept:before:3"), ["0", "1"])
        self.assertEqual(self.calls_before_the_crash("store.accept:after:3"), ["0", "1", "2"])

    def test_objects_that_are_put_together_count_one_by_one(self) -> None:
        """The process is killed when so many of the objects that are put together are there."""
        for number, before, after in ((1, "", "a"), (2, "a", "ab"), (3, "ab", "abc")):
            for moment, put in (("before", before), ("after", after)):
                at = f"bucket.put:{moment}:{number}"
                self.assertEqual("".join(self.calls_before_the_crash(at)), put)

    def test_other_attributes_are_those_of_the_driver(self) -> None:
        """Every other method and attribute is that of the wrapped driver."""
        point = CrashPoint("public_bucket.one:after:2")
        self.assertEqual(
            (point.driver, point.method, point.moment), ("public_bucket", "one", "after")
        )
        driver = point.guard(Driver())
        for _ in range(3):
            result = self.successResultOf(Deferred.fromCoroutine(driver.two(number=1)))
            self.assertEqual(result, -1)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(driver.one(number=1))), 1)
        self.assertEqual(driver.name, "driver")

    def test_a_malformed_point_is_an_error(self) -> None:
        """A text that names no point is rejected."""
        for text in ("", "store", "store.accept", "store.accept:now", "store.accept:after:0"):
            self.assertRaises(ValueError, CrashPoint, text)
