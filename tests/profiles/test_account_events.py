"""Account events invalidate profiles and tokens, and delete users."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.memory.expiring import MemoryProfileCache
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Status
from fxprofile.model.errors import CacheError, MalformedMessage, StoreError
from fxprofile.model.messages import Message
from fxprofile.profiles.account_events import AccountEvents
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.selection import Selection
from tests.contracts.cache import cached, put
from tests.support.fakes.store import MemoryProfileStore

ALICE = "a" * 32


class Identity:
    """An identity driver that records whose tokens were invalidated."""

    def __init__(self) -> None:
        self.invalidated: list[str] = []

    async def invalidate_tokens(self, *, uid: str) -> None:
        self.invalidated.append(uid)


class AccountEventTests(SynchronousTestCase):
    """The handler of the account events queue."""

    def setUp(self) -> None:
        clock = Clock()
        self.store = MemoryProfileStore()
        self.cache = MemoryProfileCache(clock, ttl=60)
        self.identity = Identity()
        self.jobs = MemoryQueue("jobs", visibility_timeout=60, max_receives=5, clock=clock)
        metrics = Metrics()
        invalidator = ProfileInvalidator(
            cache=self.cache, updates=None, metrics=metrics, clock=clock
        )
        self.handler = AccountEvents(
            selection=Selection(
                store=self.store,
                outbox=Outbox(jobs=self.jobs, store=self.store, clock=clock),
                invalidator=invalidator,
                metrics=metrics,
                clock=clock,
            ),
            invalidator=invalidator,
            identity=self.identity,
            metrics=metrics,
        )
        self.run_now(put(self.cache, ALICE, "full", "{}"))

    def run_now(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))

    def handle(self, body: str) -> Deferred:
        message = Message(message_id="1", body=body, receipt_handle="r", receive_count=1, sent=0)
        return Deferred.fromCoroutine(self.handler.handle(message))

    def event(self, name: object, uid: object = ALICE) -> Deferred:
        return self.handle(json.dumps({"Message": json.dumps({"event": name, "uid": uid})}))

    def cached(self) -> bool:
        return self.run_now(cached(self.cache, ALICE, "full")) is not None

    def test_deleted_account_loses_profile_and_avatars(self) -> None:
        """The event ``delete`` removes the profile and every avatar, also those in progress."""
        for number in range(2):
            self.run_now(self.store.accept(avatar_id=str(number) * 32, uid=ALICE, now=0))
        self.run_now(self.store.ready(avatar_id="0" * 32, variants={}, now=0))
        self.run_now(self.store.set_display_name(uid=ALICE, name="Alice", now=0))
        self.successResultOf(self.event("delete", f"{ALICE}@accounts.example.com"))
        profile = self.run_now(self.store.profile(uid=ALICE))
        self.assertEqual((profile.avatar_id, profile.display_name), (None, None))
        for number in range(2):
            row = self.run_now(self.store.avatar(avatar_id=str(number) * 32))
            self.assertEqual(row.status, Status.DELETING)
        self.assertEqual(len(self.run_now(self.jobs.receive(max_messages=10, wait=0))), 2)
        self.assertEqual(self.identity.invalidated, [ALICE])
        self.assertFalse(self.cached())

    def test_profile_change_invalidates_the_profile(self) -> None:
        """A profile change invalidates the cached profile, and no tokens."""
        for name in ("primaryEmailChanged", "profileDataChanged", "profileDataChange"):
            self.run_now(put(self.cache, ALICE, "full", "{}"))
            self.successResultOf(self.event(name))
            self.assertFalse(self.cached())
        self.assertEqual(self.identity.invalidated, [])

    def test_password_change_invalidates_profile_and_tokens(self) -> None:
        """A password change or reset invalidates the cached profile and the tokens."""
        for name in ("passwordChange", "reset"):
            self.successResultOf(self.event(name))
        self.assertFalse(self.cached())
        self.assertEqual(self.identity.invalidated, [ALICE, ALICE])

    def test_uid_in_upper_case(self) -> None:
        """An event whose uid is in upper case invalidates the cached profile of the user."""
        self.successResultOf(self.event("profileDataChanged", ALICE.upper()))
        self.assertFalse(self.cached())
        self.successResultOf(self.event("reset", f"{ALICE.upper()}@accounts.example.com"))
        self.assertEqual(self.identity.invalidated, [ALICE])

    def test_other_events_are_ignored(self) -> None:
        """An event of another kind is acknowledged and changes nothing."""
        for name in ("login", 5, None, []):
            self.successResultOf(self.event(name, uid=None))
        self.assertTrue(self.cached())

    def test_event_with_an_invalid_uid_is_acknowledged(self) -> None:
        """An event whose uid is not valid is acknowledged and changes nothing."""
        for uid in (None, 5, "", "x" * 32, "@example.com", {}, []):
            self.successResultOf(self.event("delete", uid))
        self.assertTrue(self.cached())

    def test_malformed_event_is_rejected(self) -> None:
        """A message that is not an SNS envelope with an event raises MalformedMessage."""
        for body in ("", "[]", "{}", '{"Message": "["}', '{"Message": {}}', '{"Message": "5"}'):
            self.failureResultOf(self.handle(body), MalformedMessage)

    def test_failed_event_raises_the_error(self) -> None:
        """An event that could not be applied raises the error, to be received again."""

        async def away(**_: object) -> None:
            raise StoreError("away")

        self.store.delete_user = away
        self.failureResultOf(self.event("delete"), StoreError)

    def test_rest_is_applied_if_tokens_cannot_be_invalidated(self) -> None:
        """If invalidating tokens fails, the rest of the event is applied and the error raised."""

        async def away(**_: object) -> None:
            raise CacheError("away")

        self.identity.invalidate_tokens = away
        self.failureResultOf(self.event("passwordChange"), CacheError)
        self.assertFalse(self.cached())
        self.run_now(self.store.set_display_name(uid=ALICE, name="Alice", now=0))
        self.failureResultOf(self.event("delete"), CacheError)
        self.assertIsNone(self.run_now(self.store.profile(uid=ALICE)).display_name)
