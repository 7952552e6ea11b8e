"""What happens when something happened to an account."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.memory.cache import MemoryCache
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Status
from fxprofile.model.errors import CacheError, MalformedMessage, StoreError
from fxprofile.model.messages import Message
from fxprofile.profiles.account_events import accounts_handler
from fxprofile.profiles.invalidation import Changes
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.selection import Selection
from tests.support.fakes.store import MemoryProfileStore

ALICE = "a" * 32


class Identity:
    """Notes whose tokens were forgotten."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget(self, *, uid: str) -> None:
        self.forgotten.append(uid)


class AccountEventTests(SynchronousTestCase):
    """The handler of the account events queue."""

    def setUp(self) -> None:
        clock = Clock()
        self.store = MemoryProfileStore()
        self.cache = MemoryCache(clock, ttl=60)
        self.identity = Identity()
        self.jobs = MemoryQueue("jobs", visibility_timeout=60, max_receives=5, clock=clock)
        metrics = Metrics()
        changes = Changes(cache=self.cache, updates=None, metrics=metrics)
        self.handler = accounts_handler(
            selection=Selection(
                store=self.store,
                outbox=Outbox(jobs=self.jobs, store=self.store, clock=clock),
                changes=changes,
                metrics=metrics,
                clock=clock,
            ),
            changes=changes,
            identity=self.identity,
            metrics=metrics,
        )
        self.run_now(self.cache.set(uid=ALICE, variant="profile", value="{}"))

    def run_now(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))

    def handle(self, body: str) -> Deferred:
        message = Message(message_id="1", body=body, receipt_handle="r", receive_count=1, sent=0)
        return Deferred.fromCoroutine(self.handler(message))

    def event(self, name: str, uid: object = ALICE) -> Deferred:
        return self.handle(json.dumps({"Message": json.dumps({"event": name, "uid": uid})}))

    def kept(self) -> bool:
        return self.run_now(self.cache.get(uid=ALICE, variant="profile")) is not None

    def test_delete(self) -> None:
        """A deleted account loses its profile and every avatar, also those in work."""
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
        self.assertEqual(self.identity.forgotten, [ALICE])
        self.assertFalse(self.kept())

    def test_changes(self) -> None:
        """A change of the account makes the kept profile old."""
        for name in ("primaryEmailChanged", "profileDataChanged", "profileDataChange"):
            self.run_now(self.cache.set(uid=ALICE, variant="profile", value="{}"))
            self.successResultOf(self.event(name))
            self.assertFalse(self.kept())
        self.assertEqual(self.identity.forgotten, [])

    def test_revocations(self) -> None:
        """A new password ends the trust in kept tokens too."""
        for name in ("passwordChange", "reset"):
            self.successResultOf(self.event(name))
        self.assertFalse(self.kept())
        self.assertEqual(self.identity.forgotten, [ALICE, ALICE])

    def test_other_events(self) -> None:
        """Other events are none of ours."""
        self.successResultOf(self.event("login", uid=None))
        self.assertTrue(self.kept())

    def test_bad_uid(self) -> None:
        """An event of a user that there cannot be is done with."""
        for uid in (None, 5, "", "x" * 32, "@example.com", {}):
            self.successResultOf(self.event("delete", uid))
        self.assertTrue(self.kept())

    def test_malformed(self) -> None:
        """What is no envelope is never understood."""
        for body in ("", "[]", "{}", '{"Message": "["}', '{"Message": {}}', '{"Message": "5"}'):
            self.failureResultOf(self.handle(body), MalformedMessage)

    def test_failure(self) -> None:
        """An event that could not be applied comes back."""

        async def away(**_: object) -> None:
            raise StoreError("away")

        self.store.delete_user = away
        self.failureResultOf(self.event("delete"), StoreError)

    def test_no_word_of_tokens(self) -> None:
        """If others cannot be told of the tokens the event comes back, and all else is done."""

        async def away(**_: object) -> None:
            raise CacheError("away")

        self.identity.forget = away
        self.failureResultOf(self.event("passwordChange"), CacheError)
        self.assertFalse(self.kept())
        self.run_now(self.store.set_display_name(uid=ALICE, name="Alice", now=0))
        self.failureResultOf(self.event("delete"), CacheError)
        self.assertIsNone(self.run_now(self.store.profile(uid=ALICE)).display_name)
