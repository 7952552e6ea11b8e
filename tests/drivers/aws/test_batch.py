"""
Tests of :mod:`fxprofile.drivers.aws.client.batch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.batch import LINGER, MAX_BYTES, MAX_ENTRIES, Batcher, EntryRefused
from fxprofile.drivers.aws.client.errors import AwsError


class BatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.batches: list[list[Any]] = []
        self.answers: list[Deferred[Any]] = []
        self.batcher = Batcher(self.clock, self.send)

    async def send(self, entries: Sequence[Any]) -> Any:
        self.assertEqual(len({entry["Id"] for entry in entries}), len(entries))
        self.batches.append([entry["n"] for entry in entries])
        self.answers.append(Deferred())
        return await self.answers[-1]

    def add(self, *numbers: Any) -> list[Deferred[None]]:
        waiters = [self.batcher.add({"n": number}) for number in numbers]
        self.clock.advance(0)
        return waiters

    def succeed(self, batch: int) -> None:
        number = len(self.batches[batch])
        self.answers[batch].callback({"Successful": [{"Id": str(i)} for i in range(number)]})

    def fail(self, batch: int, *results: dict[str, Any]) -> None:
        failed = [{"Id": str(i), **result} for i, result in enumerate(results)]
        self.answers[batch].callback({"Successful": [], "Failed": failed})

    def test_at_once(self) -> None:
        """An entry goes at once if nothing is under way, with those of the same turn."""
        waiters = self.add(1, 2)
        self.assertEqual(self.batches, [[1, 2]])
        self.succeed(0)
        for waiter in waiters:
            self.successResultOf(waiter)

    def test_lingers(self) -> None:
        """While a batch is under way others wait for it."""
        self.add(1)
        self.add(2)
        self.add(3)
        self.assertEqual(self.batches, [[1]])
        self.succeed(0)
        self.assertEqual(self.batches, [[1], [2, 3]])

    def test_lingers_not_for_ever(self) -> None:
        """But not for long."""
        self.add(1)
        self.add(2)
        self.clock.advance(LINGER / 2)
        self.add(3)
        self.assertEqual(self.batches, [[1]])
        self.clock.advance(LINGER / 2)
        self.assertEqual(self.batches, [[1], [2, 3]])

    def test_full(self) -> None:
        """A full batch does not wait."""
        self.add(0)
        self.add(*range(1, 12))
        self.assertEqual([len(batch) for batch in self.batches], [1, MAX_ENTRIES])

    @given(st.lists(st.integers(0, MAX_BYTES // 2 + 10), max_size=30))
    def test_limits(self, sizes: list[int]) -> None:
        """No batch has too many entries or bytes, and each entry is sent once, in order."""
        self.setUp()
        self.add(*["x" * size for size in sizes])
        while any(not answer.called for answer in self.answers):
            for number, answer in enumerate(self.answers):
                if not answer.called:
                    self.succeed(number)
            self.clock.advance(1)
        for batch in self.batches:
            self.assertLessEqual(len(batch), MAX_ENTRIES)
            self.assertLessEqual(sum(len(entry) + 10 for entry in batch), MAX_BYTES + 300)
        self.assertEqual([len(entry) for batch in self.batches for entry in batch], sizes)

    def test_each_entry_has_its_own_outcome(self) -> None:
        """What AWS refuses fails; what was good in the same batch does not."""
        good, bad = self.add(1, 2)
        self.answers[0].callback(
            {
                "Successful": [{"Id": "0"}],
                "Failed": [{"Id": "1", "SenderFault": True, "Code": "X", "Message": "no"}],
            }
        )
        self.successResultOf(good)
        error = self.failureResultOf(bad, EntryRefused).value
        self.assertEqual((error.code, str(error)), ("X", "X: no"))
        self.assertEqual(len(self.batches), 1)

    def test_retried(self) -> None:
        """What AWS could not serve is tried again, a few times."""
        (waiter,) = self.add(1)
        for _ in range(2):
            self.fail(-1, {"SenderFault": False, "Code": "InternalError"})
            self.assertNoResult(waiter)
            self.clock.pump([LINGER] * 10)
        self.fail(-1, {"SenderFault": False, "Code": "InternalError"})
        self.failureResultOf(waiter, EntryRefused)
        self.assertEqual(self.batches, [[1]] * 3)

    def test_retried_with_success(self) -> None:
        """And succeeds if it can be served then."""
        (waiter,) = self.add(1)
        self.fail(0, {"SenderFault": False, "Code": "InternalError"})
        self.clock.pump([LINGER] * 10)
        self.succeed(1)
        self.successResultOf(waiter)

    def test_no_result(self) -> None:
        """An entry that AWS says nothing of is not taken for done."""
        (waiter,) = self.add(1)
        for _ in range(3):
            self.assertNoResult(waiter)
            self.answers[-1].callback({})
            self.clock.pump([LINGER] * 10)
        self.assertEqual(self.failureResultOf(waiter, EntryRefused).value.code, "NoResult")

    def test_call_fails(self) -> None:
        """If the whole call fails, so does each entry, and the next batch goes."""
        waiters = self.add(1, 2)
        (later,) = self.add(3)
        self.answers[0].errback(AwsError("down", code="X"))
        for waiter in waiters:
            self.failureResultOf(waiter, AwsError)
        self.succeed(1)
        self.successResultOf(later)

    def test_call_breaks(self) -> None:
        """An error that nobody foresaw is logged, and leaves nobody waiting."""
        waiters = self.add(1, 2)
        self.answers[0].errback(ZeroDivisionError())
        for waiter in waiters:
            self.failureResultOf(waiter, AwsError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cancelled(self) -> None:
        """Who stops waiting does not keep the entry from being sent."""
        waiters = self.add(1, 2)
        waiters[0].cancel()
        self.failureResultOf(waiters[0], CancelledError)
        self.succeed(0)
        self.successResultOf(waiters[1])

    def test_drained(self) -> None:
        """To drain it is to wait until everything is sent, retries included."""
        self.add(1)
        self.add(2)
        draining = Deferred.fromCoroutine(self.batcher.drain())
        self.assertEqual(self.batches, [[1], [2]])
        self.fail(0, {"SenderFault": False, "Code": "InternalError"})
        self.succeed(1)
        self.assertNoResult(draining)
        self.clock.pump([LINGER] * 10)
        self.succeed(2)
        self.successResultOf(draining)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_drained_when_empty(self) -> None:
        """That takes no time if there is nothing."""
        self.successResultOf(Deferred.fromCoroutine(self.batcher.drain()))
