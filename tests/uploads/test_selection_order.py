"""
Tests of :mod:`fxprofile.uploads.selection`: events in any order.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.avatars import Status
from fxprofile.model.messages import ResultStatus
from tests.support.core import ALICE, CoreTestCase, make_id

Event = tuple[str, int]


@st.composite
def stories(draw: Any, *, deletes: bool) -> list[Event]:
    """
    What happens to one user, in any order: uploads; results, one or more for each, that
    come after their upload; deletions; and delete jobs that are done.
    """
    number = draw(st.integers(1, 4))
    events: list[Event] = []
    for upload in range(1, number + 1):
        results = draw(st.lists(st.sampled_from(["ready", "failed"]), min_size=1, max_size=3))
        events += [("upload", 0), *((name, upload) for name in results)]
        if deletes and draw(st.booleans()):
            events.append(("delete", upload))
    if deletes and draw(st.booleans()):
        events.append(("delete current", 0))
    events += [("work", 0)] * draw(st.integers(0, 3))
    return list(draw(st.permutations(events)))


class _User(CoreTestCase):
    """A user, a web process, and a worker that runs the delete jobs."""

    def runTest(self) -> None:
        """Not a test by itself."""

    def begin(self) -> None:
        self.setUp()
        self.uploads = 0
        self.objects: set[str] = set()
        self.deleted: set[int] = set()
        self.good: set[int] = set()
        self.mark = 0
        self.expected = 0
        self.jobs_to_do: list[tuple[str, str]] = []

    def play(self, story: list[Event]) -> None:
        """Play all events; results that precede their upload wait for it."""
        early: list[Event] = []
        for event in story:
            if event[0] == "upload":
                self.uploads += 1
                self.upload()
                ripe = [other for other in early if other[1] == self.uploads]
                early = [other for other in early if other[1] != self.uploads]
                for other in ripe:
                    self.happen(*other)
            elif event[1] > self.uploads:
                early.append(event)
            else:
                self.happen(*event)
        while self.work():
            pass

    def happen(self, name: str, number: int) -> None:
        avatar_id = make_id(number)
        if name in ("ready", "failed"):
            # The worker has put something, perhaps not all of it.
            self.objects.add(avatar_id)
            self.apply(avatar_id, ResultStatus(name), "lost" if name == "failed" else None)
            if name == "ready" and number not in self.deleted:
                self.good.add(number)
                if number > self.mark:
                    self.mark = self.expected = number
        elif name == "delete":
            self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar_id))
            self.forget(number)
        elif name == "delete current":
            self.mark = max(self.mark, self.uploads)
            for avatar in list(self.rows.rows.values()):
                if avatar.status is Status.PROCESSING:
                    self.forget(avatar.seq)
            self.forget(self.expected)
            self.run_now(self.selection.delete(uid=ALICE, avatar_id=None))
        else:
            self.work()

    def forget(self, number: int) -> None:
        self.deleted.add(number)
        if number == self.expected:
            self.expected = 0

    def work(self) -> bool:
        """Run the oldest delete job."""
        self.jobs_to_do += [job for job in self.sent() if job[0] == "delete"]
        if not self.jobs_to_do:
            return False
        _, avatar_id = self.jobs_to_do.pop(0)
        self.objects.discard(avatar_id)
        self.apply(avatar_id, ResultStatus.DELETED)
        return True

    def check(self) -> None:
        """Check the selected avatar, the statuses and the objects."""
        selected = self.selected()
        self.assertEqual(selected, make_id(self.expected) if self.expected else None)
        for number in range(1, self.uploads + 1):
            avatar_id = make_id(number)
            status = self.status(avatar_id)
            if number in self.deleted:
                self.assertIsNone(status)
                self.assertNotIn(avatar_id, self.objects)
            elif number == self.expected:
                self.assertEqual(status, Status.READY)
                self.assertIn(avatar_id, self.objects)
            elif number in self.good:
                self.assertEqual(status, Status.REPLACED)
                self.assertNotIn(avatar_id, self.objects)
                self.assertIsNone(self.rows.rows[avatar_id].owed_since)
            else:
                self.assertEqual(status, Status.FAILED)


class AnyOrderTests(SynchronousTestCase):
    """The final state does not depend on the order of the results."""

    def play(self, story: list[Event]) -> _User:
        user = _User()
        user.begin()
        try:
            user.play(story)
            user.check()
        finally:
            user.doCleanups()
        return user

    @settings(max_examples=100)
    @given(stories(deletes=False))
    def test_newest_ready_upload_is_selected(self, story: list[Event]) -> None:
        """The newest ready upload is selected in the end, and only it has objects."""
        user = self.play(story)
        good = [number for name, number in story if name == "ready"]
        self.assertEqual(user.selected(), make_id(max(good)) if good else None)

    @settings(max_examples=200)
    @given(stories(deletes=True))
    def test_deleted_upload_never_returns(self, story: list[Event]) -> None:
        """A deleted upload is never selected again, and leaves no objects."""
        self.play(story)
