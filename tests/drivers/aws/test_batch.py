"""
Tests of :mod:`fxprofile.drivers.aws.client.batch`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.batch import LINGER, MAX_ENTRIES, Batcher, EntryRefused
from fxprofile.drivers.aws.client.client import AwsResponse
from fxprofile.drivers.aws.client.errors import AwsError


class BatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.batches: list[list[Any]] = []
        self.answers: list[Deferred[Any]] = []
        service: Any = SimpleNamespace(client=SimpleNamespace(clock=self.clock), call=self.call)
        self.batcher = Batcher(service, "Batch", "http://q", 10)

    async def call(self, operation: str, parameters: dict[str, Any], timeout: float) -> AwsResponse:
        self.assertEqual((operation, parameters["QueueUrl"], timeout), ("Batch", "http://q", 10))
        entries = parameters["Entries"]
        self.assertEqual(len({entry["Id"] for entry in entries}), len(entries))
        self.batches.append([entry["n"] for entry in entries])
        self.answers.append(Deferred())
        return AwsResponse(await self.answers[-1], {})

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

    def test_an_idle_batcher_sends_at_once(self) -> None:
        """
        Without a batch in flight, entries of one reactor iteration are sent at once, together.
        """
        waiters = self.add(1, 2)
        self.assertEqual(self.batches, [[1, 2]])
        self.succeed(0)
        for waiter in waiters:
            self.successResultOf(waiter)

    def test_entries_wait_for_the_batch_in_flight(self) -> None:
        """While a batch is in flight, further entries wait and are sent together after it."""
        self.add(1)
        self.add(2)
        self.add(3)
        self.assertEqual(self.batches, [[1]])
        self.succeed(0)
        self.assertEqual(self.batches, [[1], [2, 3]])

    def test_entries_wait_no_longer_than_the_linger_time(self) -> None:
        """Waiting entries are sent after the linger time, even if a batch is still in flight."""
        self.add(1)
        self.add(2)
        self.clock.advance(LINGER / 2)
        self.add(3)
        self.assertEqual(self.batches, [[1]])
        self.clock.advance(LINGER / 2)
        self.assertEqual(self.batches, [[1], [2, 3]])

    def test_a_full_batch_does_not_wait(self) -> None:
        """A full batch is sent at once, even if another is in flight."""
        self.add(0)
        self.add(*range(1, 12))
        self.assertEqual([len(batch) for batch in self.batches], [1, MAX_ENTRIES])

    @given(st.integers(0, 35))
    def test_no_batch_exceeds_the_limit(self, count: int) -> None:
        """No batch has too many entries, and each entry is sent once, in order."""
        self.setUp()
        self.add(*range(count))
        while any(not answer.called for answer in self.answers):
            for number, answer in enumerate(self.answers):
                if not answer.called:
                    self.succeed(number)
            self.clock.advance(1)
        for batch in self.batches:
            self.assertLessEqual(len(batch), MAX_ENTRIES)
        self.assertEqual([entry for batch in self.batches for entry in batch], list(range(count)))

    def test_each_entry_has_its_own_outcome(self) -> None:
        """A refused entry fails, and the others of its batch succeed."""
        good, bad = self.add(1, 2)
        self.answers[0].callback(
            {
                "Successful": [{"Id": "0"}],
                "Failed": [{"Id": "1", "SenderFault": True, "Code": "X", "Message": "no"}],
            }
        )
        self.successResultOf(good)
        error = self.failureResultOf(bad, EntryRefused).value
        self.assertEqual((error.code, str(error)), ("X", "sqs:Batch http://q: X: no"))
        self.assertEqual(len(self.batches), 1)

    def test_a_failed_entry_is_retried_three_times(self) -> None:
        """An entry that AWS fails to process is sent three times, and then fails."""
        (waiter,) = self.add(1)
        for _ in range(2):
            self.fail(-1, {"SenderFault": False, "Code": "InternalError"})
            self.assertNoResult(waiter)
            self.clock.pump([LINGER] * 10)
        self.fail(-1, {"SenderFault": False, "Code": "InternalError"})
        self.failureResultOf(waiter, EntryRefused)
        self.assertEqual(self.batches, [[1]] * 3)

    def test_a_retried_entry_can_succeed(self) -> None:
        """An entry that succeeds on its second attempt succeeds."""
        (waiter,) = self.add(1)
        self.fail(0, {"SenderFault": False, "Code": "InternalError"})
        self.clock.pump([LINGER] * 10)
        self.succeed(1)
        self.successResultOf(waiter)

    def test_an_entry_without_result_fails(self) -> None:
        """An entry that the response does not mention is retried, and then fails."""
        (waiter,) = self.add(1)
        for _ in range(3):
            self.assertNoResult(waiter)
            self.answers[-1].callback({})
            self.clock.pump([LINGER] * 10)
        self.assertEqual(self.failureResultOf(waiter, EntryRefused).value.code, "NoResult")

    def test_a_failed_call_fails_its_entries(self) -> None:
        """If the call of a batch fails, its entries fail, and the next batch is sent."""
        waiters = self.add(1, 2)
        (later,) = self.add(3)
        self.answers[0].errback(AwsError("down", code="X"))
        for waiter in waiters:
            self.failureResultOf(waiter, AwsError)
        self.succeed(1)
        self.successResultOf(later)

    def test_an_unexpected_error_is_logged(self) -> None:
        """An unexpected error fails the entries of its batch and is logged."""
        waiters = self.add(1, 2)
        self.answers[0].errback(ZeroDivisionError())
        for waiter in waiters:
            self.failureResultOf(waiter, AwsError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_cancelled_entry_is_sent(self) -> None:
        """Cancelling an entry does not stop it from being sent."""
        waiters = self.add(1, 2)
        waiters[0].cancel()
        self.failureResultOf(waiters[0], CancelledError)
        self.succeed(0)
        self.successResultOf(waiters[1])

    def test_draining_waits_for_retries(self) -> None:
        """Draining sends every waiting entry, and waits for retries."""
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

    def test_draining_an_empty_batcher_takes_no_time(self) -> None:
        """Draining returns at once if there are no entries."""
        self.successResultOf(Deferred.fromCoroutine(self.batcher.drain()))
