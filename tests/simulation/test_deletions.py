"""The deletion of an account at every call that a write awaits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.errors import AccountUnknown
from tests.simulation.processes import Head, Worker
from tests.simulation.state import MemoryState, SqlState, State
from tests.simulation.weather import Fate
from tests.simulation.world import SETTLE, World

UID = "a" * 32
IMAGE = b"GIF89a good image" + b" " * 40

Write = Callable[[Head], Coroutine[Any, Any, Any]]


class DeletionWorld(World):
    """
    A world without faults, in which the account is deleted before one call of a driver.

    :param when: the number of the call.
    :ivar calls: how many calls there were until the write ended.
    """

    def __init__(self, when: int, state: State) -> None:
        super().__init__(0, state=state)
        self.weather.calm = True
        self.calls = 0
        self._when = when
        self._outcomes: list[object] = []
        self.writer, self._other = Head(self, "writer"), Head(self, "other")
        self.processes += [self.writer, self._other, Worker(self, "worker")]

    def note(
        self, who: str, driver: str, what: str, arguments: dict[str, Any], fate: Fate | None
    ) -> None:
        if who == "other" or self._outcomes:
            return
        self.calls += 1
        if self.calls == self._when:
            self.delete()

    def delete(self) -> None:
        """Delete the account, as another process does when it receives the event."""
        deleting = Deferred.fromCoroutine(self._other.selection.delete_user(UID))
        deleting.addErrback(self.unexpected)

    def end(self, write: Write) -> None:
        """Write, delete the account unless that has happened, and wait until nothing is pending."""
        for process in self.processes:
            process.start()
        Deferred.fromCoroutine(write(self.writer)).addBoth(self._outcomes.append)
        self._until(self.clock.seconds() + SETTLE)
        for outcome in self._outcomes:
            if isinstance(outcome, Failure):
                outcome.trap(AccountUnknown)
        if UID not in self.ledger.gone:
            self.delete()
        self._until_quiet()
        self.ledger.check_quiet()
        self._end()


async def upload(head: Head) -> None:
    avatar = await head.intake.accept(uid=UID, body=BytesBody(IMAGE), length=len(IMAGE))
    await head.selection.wait(avatar, 5)


async def replace(head: Head) -> None:
    await upload(head)
    await upload(head)


async def name(head: Head) -> None:
    await head.profiles.set_display_name(UID, "Alice")


async def rename(head: Head) -> None:
    await name(head)
    await head.profiles.set_display_name(UID, "Bob")


class DeletionTests(SynchronousTestCase):
    """A deleted account stays deleted, whatever was in flight."""

    def check(self, write: Write) -> int:
        """Delete the account before each call, and return how many calls there are."""
        when = calls = 1
        while when <= calls:
            for state in (None, SqlState()):
                world = DeletionWorld(when, state or MemoryState())
                world.end(write)
                self.assertIsNone(dict(world.state.selections())[UID], when)
                self.assertIsNone(world.state.names()[UID], when)
                self.assertEqual(world.state.rows(), [], when)
                self.assertEqual(world.private.objects, {}, when)
                self.assertEqual(world.public.objects, {}, when)
                calls = world.calls
            when += 1
        return when

    def test_uploads(self) -> None:
        """
        An upload that is in flight when the account is deleted leaves no row and no object,
        at whatever call the deletion happens.
        """
        self.assertGreater(self.check(replace), 10)

    def test_names(self) -> None:
        """
        A display name that is being set when the account is deleted is not stored, at whatever
        call the deletion happens.
        """
        self.assertGreater(self.check(rename), 3)
