"""
Tests of :mod:`fxprofile.uploads.overload`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from twisted.internet.defer import Deferred

from fxprofile.model.avatars import Status
from fxprofile.model.errors import ApiError, BackendUnavailable, StoreError, TooManyRequests
from fxprofile.uploads.overload import (
    BRIEF,
    FRESH,
    MAX_RETRY_AFTER,
    MAX_SUPERSEDED,
    RETRY_AFTER,
    SHORT,
    STRAGGLERS,
    LoadShedder,
)
from tests.support.core import ALICE, CoreTestCase, make_id

#: The settings of these tests.
MAX_PENDING, PER_USER, MAX_AGE = 1000, 3, 20


class ShedderCase(CoreTestCase):
    """A shedder of one web process, and rows of many users."""

    def setUp(self) -> None:
        super().setUp()
        self.free = 1e9
        self.shedder = self.make()
        self._number = 0

    def make(self, max_pending: int = MAX_PENDING) -> LoadShedder:
        return LoadShedder(
            store=self.store,
            metrics=self.metrics,
            clock=self.clock,
            max_pending=max_pending,
            max_pending_per_user=PER_USER,
            max_age=MAX_AGE,
            room=self.room,
        )

    async def room(self) -> float:
        return self.free

    def accept(self, count: int, uid: str | None = None) -> None:
        """Have another process accept uploads, each of another user unless there is a uid."""
        for _ in range(count):
            self._number += 1
            avatar_id, user = make_id(self._number), uid or make_id(self._number)
            now = self.clock.seconds()
            self.run_now(self.rows.accept(avatar_id=avatar_id, uid=user, now=now, keep=PER_USER))

    def finish(self, count: int) -> None:
        """Let the oldest rows leave the backlog."""
        for row in [r for r in self.rows.rows.values() if r.status is Status.PROCESSING][:count]:
            row.status, row.owed_since = Status.READY, None

    def place(self, uid: str = ALICE, length: int = 1) -> AbstractAsyncContextManager[int]:
        return self.shedder.admitted(uid=uid, length=length)

    def admit(self, uid: str = ALICE, length: int = 1) -> int:
        """Admit an upload that ends at once; return how many uploads of its user may stay."""

        async def upload() -> int:
            async with self.place(uid, length) as keep:
                return keep

        return self.run_now(upload())

    def refused(
        self, reason: str, uid: str = ALICE, length: int = 1, kind: type[ApiError] | None = None
    ) -> int:
        """Return the Retry-After of an upload, which must be refused for this reason."""
        before = self.shed(reason)
        error = self.fails_now(self.place(uid, length).__aenter__(), kind or BackendUnavailable)
        assert isinstance(error, ApiError)
        self.assertEqual(self.shed(reason), before + 1)
        return int(error.headers["Retry-After"])

    def shed(self, reason: str) -> float:
        labels = {"reason": reason}
        return self.metrics.registry.get_sample_value("fxprofile_uploads_shed_total", labels) or 0

    def next_look(self) -> None:
        self.clock.advance(FRESH)


class BacklogTests(ShedderCase):
    """The backlog of all users."""

    def test_long_backlog_is_refused(self) -> None:
        """Uploads are refused while as many rows as max_pending are pending."""
        self.shedder = self.make(max_pending=5)
        self.accept(4)
        self.admit()
        self.accept(1)
        self.next_look()
        self.assertEqual(self.refused("pending"), RETRY_AFTER)
        self.finish(1)
        self.next_look()
        self.admit()

    def test_uploads_since_the_last_look_count(self) -> None:
        """Uploads in progress, and those that have ended since the last look, count as pending."""
        self.shedder = self.make(max_pending=3)
        places = [self.place(make_id(number)) for number in range(3)]
        for place in places:
            self.run_now(place.__aenter__())
        self.refused("pending")
        for place in places:
            self.run_now(place.__aexit__(None, None, None))
        self.refused("pending")
        # None of them has left a row.
        self.next_look()
        self.admit()

    def test_failed_upload_does_not_count(self) -> None:
        """An upload that is refused after its admission no longer counts as pending."""
        self.shedder = self.make(max_pending=1)

        async def over_the_limit() -> None:
            async with self.place():
                raise TooManyRequests(retry_after=60)

        for _ in range(3):
            self.fails_now(over_the_limit(), TooManyRequests)
        self.admit()
        self.refused("pending")

    def test_slow_body_does_not_count(self) -> None:
        """An upload whose body takes long does not count as pending until it has ended."""
        self.shedder = self.make(max_pending=1)
        slow = self.place()
        self.run_now(slow.__aenter__())
        self.clock.advance(BRIEF - 0.1)
        self.refused("pending")
        self.clock.advance(0.1)
        other = self.place()
        self.run_now(other.__aenter__())
        self.clock.advance(BRIEF)
        self.run_now(self.shedder.look())
        self.run_now(slow.__aexit__(None, None, None))
        self.refused("pending")

    def test_one_look_a_second(self) -> None:
        """The backlog is read once for all uploads of a second, however many there are."""
        held = self.store.hold("backlog")
        waiting = [Deferred.fromCoroutine(self.place().__aenter__()) for _ in range(5)]
        held.callback(None)
        for each in waiting:
            self.successResultOf(each)
        self.admit()
        self.assertEqual(len(self.store.called("backlog")), 1)
        self.next_look()
        self.admit()
        self.assertEqual(len(self.store.called("backlog")), 2)

    def test_old_backlog_is_refused(self) -> None:
        """Uploads are refused while rows wait for longer than max_age, apart from stragglers."""
        self.accept(STRAGGLERS)
        self.clock.advance(1000)
        self.admit()
        self.accept(1)
        self.clock.advance(MAX_AGE)
        self.admit()
        self.clock.advance(0.1)
        self.refused("age")

    def drain(self, rate: int, seconds: int = 30) -> None:
        """Let time pass in which as many rows leave the backlog as come."""
        for _ in range(seconds):
            self.finish(rate)
            self.accept(rate)
            self.next_look()
            self.run_now(self.shedder.look())

    def test_slow_backlog_is_refused(self) -> None:
        """Uploads are refused while the backlog would take longer than max_age at its rate."""
        self.accept(2 * SHORT)
        self.assertEqual(self.refused("rate"), RETRY_AFTER)
        self.drain(rate=9, seconds=10)
        # It has measured 8 a second so far.
        self.assertEqual(self.refused("rate"), 25)
        self.drain(rate=11)
        self.admit()
        self.drain(rate=1)
        self.assertEqual(self.refused("age"), MAX_RETRY_AFTER)

    def test_rate_of_a_quiet_time_is_not_the_capacity(self) -> None:
        """A drain rate that only the arrivals limited does not lower a measured one."""
        self.accept(2 * SHORT)
        self.run_now(self.shedder.look())
        self.drain(rate=50)
        self.finish(2 * SHORT)
        self.drain(rate=1)
        self.accept(4 * SHORT)
        self.next_look()
        self.admit()

    def test_newest_upload_alone_stays_in_an_old_backlog(self) -> None:
        """While the backlog is old, only the newest upload of each user stays in processing."""
        self.accept(STRAGGLERS + 1)
        self.clock.advance(MAX_AGE / 4)
        self.assertEqual(self.admit(), PER_USER)
        self.clock.advance(0.1)
        self.assertEqual(self.admit(), 1)

    def test_unknown_backlog(self) -> None:
        """An upload fails if the backlog cannot be read, and the next one reads it again."""
        self.store.fail("backlog", StoreError("down"))
        self.fails_now(self.place().__aenter__(), StoreError)
        self.admit()


class UserTests(ShedderCase):
    """The backlog of one user."""

    def test_flood_of_one_user_is_refused(self) -> None:
        """
        A user whose superseded uploads pile up is refused with 429, and other users are admitted.
        """
        self.accept(PER_USER + MAX_SUPERSEDED - 1, ALICE)
        self.admit(ALICE)
        place = self.place(ALICE)
        self.run_now(place.__aenter__())
        self.assertEqual(self.refused("user", ALICE, kind=TooManyRequests), RETRY_AFTER)
        self.admit("bob")
        self.run_now(place.__aexit__(None, None, None))
        self.admit(ALICE)
        self.accept(1, ALICE)
        self.refused("user", ALICE, kind=TooManyRequests)


class RoomTests(ShedderCase):
    """Room on the disk."""

    def test_upload_without_room_is_refused(self) -> None:
        """
        An upload is refused if it does not fit besides those in progress, until there is room.
        """
        self.free = 100
        place = self.place(length=60)
        self.run_now(place.__aenter__())
        self.refused("storage", length=41)
        self.admit(length=40)
        self.refused("storage", length=1)
        self.run_now(place.__aexit__(None, None, None))
        self.refused("storage", length=1)
        self.next_look()
        self.admit(length=100)
        self.free = -1
        self.next_look()
        self.refused("storage", length=1)
