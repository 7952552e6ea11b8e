"""
The users of a simulation, who upload, replace and delete avatars.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from fxprofile.deferreds.tasks import sleep
from fxprofile.model.avatars import QUARANTINED, Status
from fxprofile.model.errors import (
    AccountUnknown,
    BodyMismatch,
    ClientGone,
    DriverError,
    ImageRefused,
    Quarantined,
)
from fxprofile.model.profiles import Credentials
from fxprofile.uploads.selection import NotTheOwner

if TYPE_CHECKING:
    from tests.simulation.processes import Head
    from tests.simulation.world import World

#: What users upload, with weights.
KINDS = {"good": 14, "corrupt": 2, "fatal": 1, "no image": 1, "gone": 2, "quarantined": 2}

#: What users do, with weights.
ACTIONS = {
    "upload": 10,
    "burst": 2,
    "delete": 2,
    "delete current": 2,
    "delete account": 1,
    "name": 2,
}

#: The uploads of a burst.
BURST = 6

#: How many uploads of a user stay in processing.
KEEP = (1, 3)

#: Reads of a user's profile after each action of the user, and the seconds in which they happen.
LOOKS = 3
LOOKING = 15

#: Seconds that a user waits for a response.
PATIENCE = 60


class UserBody:
    """The body of an upload, in two pieces; the client may disconnect after the first."""

    def __init__(self, data: bytes, gone: bool) -> None:
        self._pieces = [data[:40], data[40:]]
        self._gone = gone

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._gone and len(self._pieces) == 1:
            raise ClientGone
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        self._pieces.clear()


class User:
    """
    A user.

    :ivar ids: of the accepted uploads that the user knows.
    """

    def __init__(self, world: World, uid: str) -> None:
        self._world = world
        self.uid = uid
        self.ids: list[str] = []

    async def live(self, actions: int) -> None:
        """Do one action after the other until the faults end."""
        world = self._world
        for _ in range(actions):
            if world.rng.random() >= world.weather.haste:
                await sleep(world.clock, world.rng.expovariate(actions / world.weather.end))
            if world.weather.calm:
                return
            head = world.any_head()
            if head is None:
                continue
            action = _choose(world.rng, ACTIONS)
            for _ in range(world.rng.choice((0, LOOKS))):
                world.clock.callLater(world.rng.uniform(0, LOOKING), self._look)
            await self._patiently(self._act(action, head))

    async def _patiently(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a response.  The work continues when the user stops waiting."""
        world = self._world
        waiting: Deferred[None] = Deferred()
        late = world.clock.callLater(PATIENCE, waiting.callback, None)

        def done(outcome: Any) -> Any:
            if not waiting.called:
                waiting.callback(None)
            return outcome

        acting = Deferred.fromCoroutine(work).addBoth(done)
        acting.addErrback(world.unexpected)
        await waiting
        if late.active():
            late.cancel()

    async def _act(self, action: str, head: Head) -> None:
        world = self._world
        world.note(self.uid[:4], head.name, action, {}, None)
        try:
            if action == "upload":
                await self._upload(head)
            elif action == "burst":
                await self._burst(head)
            elif action == "delete":
                if self.ids:
                    avatar_id = world.rng.choice(self.ids)
                    await head.selection.delete(uid=self.uid, avatar_id=avatar_id)
            elif action == "delete current":
                await head.selection.delete(uid=self.uid, avatar_id=None)
            elif action == "name":
                name = f"name {world.next_number()}"
                await head.profiles.set_display_name(self.uid, name)
            else:
                await head.selection.delete_user(self.uid)
                # The accounts server never uses a uid again.
                self.uid, self.ids = world.new_uid(), []
        except (AccountUnknown, DriverError, NotTheOwner, CancelledError):
            # The client gets an error, and may try again.
            return

    def _look(self) -> None:
        """Read the profile of the user."""
        head = self._world.any_head()
        if head is not None and not self._world.over:
            credentials = Credentials(uid=self.uid, scopes=("profile",))
            looking = Deferred.fromCoroutine(
                head.profiles.view(token="token", credentials=credentials)
            )
            looking.addErrback(lambda failure: failure.trap(DriverError) and None)
            looking.addErrback(self._world.unexpected)

    async def _burst(self, head: Head) -> None:
        """Upload several images at the same time."""
        uploads = [Deferred.fromCoroutine(self._upload(head)) for _ in range(BURST)]
        for _, outcome in await DeferredList(uploads, consumeErrors=True):
            if isinstance(outcome, Failure):
                outcome.trap(DriverError, CancelledError)

    async def _upload(self, head: Head) -> None:
        world = self._world
        kind = _choose(world.rng, KINDS)
        signature = b"GIF87x" if kind == "no image" else b"GIF89a"
        word = kind if kind in ("corrupt", "fatal") else "good"
        data = signature + f" {world.next_number():06} {word} image {' ' * 40}".encode()
        if kind == "quarantined" and world.ledger.quarantined:
            data = world.rng.choice(world.ledger.quarantined)
        body = UserBody(data, gone=kind == "gone")
        try:
            keep = world.rng.choice(KEEP)
            avatar = await head.intake.accept(uid=self.uid, body=body, length=len(data), keep=keep)
        except Quarantined:
            if data in world.ledger.quarantined:
                return
            raise
        except (ImageRefused, ClientGone, BodyMismatch):
            if kind in ("no image", "gone"):
                return
            raise
        if kind in ("no image", "gone"):
            world.violations.append(f"{kind!r} was accepted as {avatar.id}")
        if avatar.id not in world.ledger.uploads:
            world.violations.append(f"{avatar.id} was accepted, and there is no row")
        self.ids.append(avatar.id)
        if world.rng.random() < 0.5:
            row = await head.selection.wait(avatar, 5)
            expected = "dead", QUARANTINED if data in world.ledger.quarantined else ""
            if row.status is Status.FAILED and word == "good" and row.error not in expected:
                world.violations.append(f"{avatar.id} is good, and was called {row.error}")


def _choose(rng: Any, weights: dict[str, int]) -> str:
    word: str = rng.choices(list(weights), list(weights.values()))[0]
    return word
