"""Invalidations that could not reach the cache are retried, and changes are published."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred

from fxprofile.model.errors import CacheError, QueueError, StoreError
from fxprofile.model.profiles import Account, Credentials
from fxprofile.profiles.invalidation import RETRIES, ProfileInvalidator
from tests.profiles.test_read import BASIC, ProfilesTestCase
from tests.support.core import ALICE, BOB


class PendingInvalidationTests(ProfilesTestCase):
    """Until a failed invalidation succeeds, the user is not served from the cache."""

    def setUp(self) -> None:
        super().setUp()
        self.invalidator.startService()
        self.addCleanup(lambda: self.successResultOf(self.invalidator.stopService()))

    def test_write_succeeds_while_the_cache_is_down(self) -> None:
        """A write succeeds although the invalidation fails, and the failure is counted."""
        self.cache.fail("invalidate", CacheError("down"))
        self.name("Alicia")
        self.assertEqual(self.run_now(self.profiles.display_name(ALICE)), "Alicia")
        self.assertEqual(self.upstream_errors("cache"), 1)

    def test_user_is_not_served_from_the_cache(self) -> None:
        """Views of all variants bypass the cache, and store nothing, until it is invalidated."""
        self.view("profile")
        self.view(*BASIC)
        self.cache.fail("invalidate", CacheError("down"))
        self.name("Alicia")
        self.cache.calls.clear()
        for _ in range(3):
            self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
            self.assertEqual(self.view(*BASIC).fields["displayName"], "Alicia")
        self.assertEqual(self.cache.calls, [])

    def test_other_users_are_served_from_the_cache(self) -> None:
        """A pending invalidation of one user does not affect another user."""
        self.servers.accounts[BOB] = Account()
        bob = Credentials(uid=BOB, scopes=("profile",))
        self.cache.fail("invalidate", CacheError("down"))
        self.name("Alicia")
        for _ in range(3):
            self.run_now(self.profiles.view(token="bob", credentials=bob))
        self.assertEqual(self.reads(), 1)

    def test_invalidation_is_retried(self) -> None:
        """A failed invalidation is retried until it succeeds; then the cache is used again."""
        self.view("profile")
        self.cache.fail("invalidate", CacheError("down"), times=3)
        self.name("Alicia")
        self.assertFalse(self.invalidator.is_current(ALICE))
        while not self.invalidator.is_current(ALICE):
            (retry,) = self.clock.getDelayedCalls()
            self.clock.advance(retry.getTime() - self.clock.seconds())
        self.assertEqual(len(self.cache.called("invalidate")), 5)
        self.assertEqual(self.upstream_errors("cache"), 3)
        before = self.reads()
        for _ in range(2):
            self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
        self.assertEqual(self.reads(), before + 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_retries_back_off(self) -> None:
        """The pauses between retries grow up to the limit."""
        self.cache.fail("invalidate", CacheError("down"), times=20)
        self.name("Alicia")
        pauses = []
        for _ in range(10):
            (retry,) = self.clock.getDelayedCalls()
            pauses.append(retry.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])
        self.assertLessEqual(pauses[0], RETRIES.first)
        self.assertTrue(all(RETRIES.cap / 2 <= pause <= RETRIES.cap for pause in pauses[-3:]))

    def test_all_pending_users_are_retried_together(self) -> None:
        """One retry covers all pending users, and new failures start no second retry."""
        self.cache.fail("invalidate", CacheError("down"), times=3)
        for uid in (ALICE, BOB, "c"):
            self.run_now(self.invalidator.invalidate(uid))
        (retry,) = self.clock.getDelayedCalls()
        self.clock.advance(retry.getTime() - self.clock.seconds())
        for uid in (ALICE, BOB, "c"):
            self.assertTrue(self.invalidator.is_current(uid))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_later_outage_is_retried_again(self) -> None:
        """An invalidation that fails after an earlier outage ended is retried as well."""
        for _ in range(2):
            self.cache.fail("invalidate", CacheError("down"))
            self.name("Alicia")
            (retry,) = self.clock.getDelayedCalls()
            self.clock.advance(retry.getTime() - self.clock.seconds())
            self.assertTrue(self.invalidator.is_current(ALICE))

    def test_change_during_a_retry(self) -> None:
        """A change whose invalidation fails while an earlier one is retried stays pending."""
        self.view("profile")
        self.cache.fail("invalidate", CacheError("down"))
        self.name("Alicia")
        held = self.cache.hold("invalidate", after=True)
        (retry,) = self.clock.getDelayedCalls()
        self.clock.advance(retry.getTime() - self.clock.seconds())
        self.cache.fail("invalidate", CacheError("down"))
        self.name("Alix")
        held.callback(None)
        self.assertFalse(self.invalidator.is_current(ALICE))
        self.assertEqual(self.view("profile").fields["displayName"], "Alix")

    def test_cancelled_invalidation_is_retried(self) -> None:
        """An invalidation that is cancelled stays pending and is retried."""
        self.cache.hold("invalidate")
        changing = Deferred.fromCoroutine(self.invalidator.invalidate(ALICE))
        changing.addErrback(lambda failure: None)
        changing.cancel()
        self.assertFalse(self.invalidator.is_current(ALICE))
        (retry,) = self.clock.getDelayedCalls()
        self.clock.advance(retry.getTime() - self.clock.seconds())
        self.assertTrue(self.invalidator.is_current(ALICE))

    def test_pending_invalidations_are_bounded(self) -> None:
        """If too many invalidations are pending, the oldest ones are given up."""
        invalidator = ProfileInvalidator(
            cache=self.cache,
            updates=None,
            metrics=self.metrics,
            clock=self.clock,
            max_pending=3,
        )
        self.cache.fail("invalidate", CacheError("down"), times=6)
        for uid in ("0", "1", "2", "3", "1", "4"):
            self.run_now(invalidator.invalidate(uid))
        current = [uid for uid in "01234" if invalidator.is_current(uid)]
        self.assertEqual(current, ["0", "2"])

    def test_stop_flushes_pending_invalidations(self) -> None:
        """Stopping the service retries once, and leaves no timer behind."""
        for failures, current in ((1, True), (2, False)):
            self.invalidator.startService()
            self.cache.fail("invalidate", CacheError("down"), times=failures)
            self.run_now(self.invalidator.invalidate(ALICE))
            self.successResultOf(self.invalidator.stopService())
            self.assertEqual(self.invalidator.is_current(ALICE), current)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.upstream_errors("cache"), 3)

    def test_stopped_service_does_not_retry(self) -> None:
        """An invalidation that fails after the service has stopped starts no timer."""
        self.successResultOf(self.invalidator.stopService())
        self.cache.fail("invalidate", CacheError("down"))
        self.run_now(self.invalidator.invalidate(ALICE))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_remembered_after_success(self) -> None:
        """Successful invalidations and finished reads leave nothing behind."""
        self.view("profile")
        self.name("Alicia")
        self.assertEqual(self.invalidator._pending, {})
        self.assertEqual(self.invalidator._sending, set())
        self.assertEqual(len(self.profiles._reads), 0)


class UpdateNotificationTests(ProfilesTestCase):
    """Changes are published on the updates queue."""

    def test_each_write_is_published(self) -> None:
        """A write sends a message to the updates queue without waiting for it."""
        self.received(self.updates_queue)
        held = self.updates.hold("send")
        self.name("Alicia")
        self.assertEqual(self.received(self.updates_queue), [])
        flushing = Deferred.fromCoroutine(self.invalidator.flush_updates())
        self.assertNoResult(flushing)
        held.callback(None)
        self.successResultOf(flushing)
        (body,) = self.received(self.updates_queue)
        self.assertEqual(json.loads(json.loads(body)["Message"]), {"uid": ALICE})

    def test_write_succeeds_while_the_queue_is_down(self) -> None:
        """A write succeeds although its notification fails, and the failure is counted."""
        self.updates.fail("send", QueueError("down"))
        self.name("Alicia")
        self.assertEqual(self.run_now(self.profiles.display_name(ALICE)), "Alicia")
        self.assertEqual(self.upstream_errors("updates"), 1)

    def test_failed_write_is_not_published(self) -> None:
        """A write that failed sends no message."""
        self.received(self.updates_queue)
        self.store.fail("set_display_name", StoreError("down"))
        self.fails_now(self.profiles.set_display_name(ALICE, "Alicia"), StoreError)
        self.assertEqual(self.received(self.updates_queue), [])
