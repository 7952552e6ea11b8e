"""
The drivers of a simulated process, which have faults, and the queues and cruncher behind them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.deferreds.tasks import all_done, sleep
from fxprofile.model.avatars import Crunched
from fxprofile.model.errors import (
    ChildFailed,
    CruncherUnavailable,
    DriverError,
    ImageRefused,
    LeaseLost,
)
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import ICruncher, IQueue, NewObject
from tests.simulation.weather import TIMEOUT
from tests.support.fakes.bucket import put_one
from tests.support.fakes.cruncher import PLACEHOLDER, pictures_of

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

#: Calls without an effect, which therefore cannot have a late one.
READS = (
    *(
        "get",
        "head",
        "list",
        "avatar",
        "profile",
        "current_avatar",
        "unsent",
        "stuck",
        "counts",
    ),
    *("backlog", "pending_of", "pending_since"),
    "lookup",
)

#: Calls that may leave an old profile in the cache if it is unknown whether they had an effect.
TELLING = ("delete", "delete_current", "delete_user")


class SimDriver:
    """
    A driver of one process: the weather decides the fate of each call.

    :param name: of the driver, in traces and in the weather.
    :param inner: the driver that all processes share.
    :param error: the class of its errors.
    """

    def __init__(self, process: Process, name: str, inner: Any, error: type[DriverError]) -> None:
        self._process = process
        self._world = process.world
        self.name = name
        self._inner = inner
        self._error = error

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        def call(**arguments: Any) -> Coroutine[Any, Any, Any]:
            return self._call(method, arguments)

        setattr(self, method, call)
        return call

    async def put_all(self, *, objects: Sequence[NewObject]) -> None:
        """Each object has a fate of its own."""
        await all_done(put_one(self, each) for each in objects)

    async def _call(self, method: str, arguments: dict[str, Any]) -> Any:
        world, process = self._world, self._process
        await self._alive()
        fate = world.weather.fate(self.name, world.age)
        world.note(process.name, self.name, method, arguments, fate)
        if fate.error and method in TELLING and self.name == "store":
            world.kept_may_be_old = True
        if fate.kill == "before":
            process.kill()
            await self._alive()
        if fate.before:
            await self._wait(fate.before, method, arguments)
        if fate.error == "before":
            raise self._error(f"{method}: refused")
        writes = method.startswith("put") or (self.name == "store" and method not in READS)
        if writes and not world.weather.has_room(self.name, world.age):
            raise self._error(f"{method}: no room")
        if fate.error == "hangs":
            await self._hang(fate.late, method, arguments)
        result = await getattr(self._inner, method)(**arguments)
        if fate.kill == "after":
            process.kill()
        await self._alive()
        if fate.after:
            await sleep(world.clock, fate.after)
            await self._alive()
        if fate.error == "after":
            raise self._error(f"{method}: the answer was lost")
        return result

    async def _alive(self) -> None:
        """Return if the process is alive; the calls of a dead one never return."""
        if self._world.over:
            raise self._error("the world is over")
        if self._process.dead:
            await self._world.grave(self._error)

    async def _wait(self, seconds: float, method: str, arguments: dict[str, Any]) -> None:
        """Wait for the effect; whether a cancelled call has one is random."""
        try:
            await sleep(self._world.clock, seconds)
        except CancelledError:
            if not self._world.over and self._world.rng.random() < 0.5:
                self._start(method, arguments)
            raise
        if self._process.dead:
            if self._world.rng.random() < 0.5:
                self._start(method, arguments)
            await self._alive()

    async def _hang(self, late: float | None, method: str, arguments: dict[str, Any]) -> None:
        if late is not None and "body" in arguments and method == "put":
            # Bytes on their way do not depend on their sender any more.
            data = await read_all(arguments["body"], 1 << 20)
            arguments = {**arguments, "body": BytesBody(data)}
        if late == 0:
            self._start(method, arguments)
        await sleep(self._world.clock, TIMEOUT)
        if late:
            if self.name == "public" and method == "put":
                self._world.ledger.late(arguments["key"])
            self._world.clock.callLater(late, self._start, method, arguments)
        await self._alive()
        raise self._error(f"{method}: no answer")

    def _start(self, method: str, arguments: dict[str, Any]) -> None:
        """Let a call have its effect, without a waiter."""
        if self._world.over or method in READS or method == "receive":
            return
        self._world.note("late", self.name, method, arguments, None)
        effect = Deferred.fromCoroutine(getattr(self._inner, method)(**arguments))
        effect.addErrback(lambda failure: failure.trap(Exception) and None)


@dataclass
class _Entry:
    body: str
    sent: float
    visible_at: float
    message_id: str
    receive_count: int = 0
    receipts: list[str] = field(default_factory=list)


@implementer(IQueue)
class SimQueue:
    """
    A queue that behaves like SQS: it delivers messages in any order, sometimes twice, and
    sometimes accepts an outdated receipt handle.
    """

    def __init__(
        self, world: World, name: str, visibility: float, max_receives: int | None = None
    ) -> None:
        self.name = name
        self.entries: list[_Entry] = []
        self.dead: SimQueue | None = None
        self._world = world
        self._visibility = visibility
        self._max_receives = max_receives
        self._waiting: list[Deferred[None]] = []
        self._numbers = 0

    async def send(self, *, body: str) -> None:
        self.put(body)
        if self._world.weather.happens(self._world.weather.duplicates):
            self.put(body)

    def put(self, body: str) -> None:
        """Put a message on the queue."""
        now = self._world.clock.seconds()
        delay = 0.0
        if self._world.weather.happens(self._world.weather.delays):
            delay = self._world.rng.expovariate(0.2)
        self.entries.append(_Entry(body, now, now + delay, self._number()))
        self._ring()

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        clock = self._world.clock
        deadline = clock.seconds() + wait
        while True:
            messages = self._take(max_messages, visibility or self._visibility)
            left = deadline - clock.seconds()
            if messages or left <= 0:
                return messages
            soonest = min((e.visible_at for e in self.entries), default=deadline)
            woken: Deferred[None] = Deferred()
            timer = clock.callLater(
                max(0, min(left, soonest - clock.seconds())), woken.callback, None
            )
            self._waiting.append(woken)
            try:
                await woken
            finally:
                if timer.active():
                    timer.cancel()
                if woken in self._waiting:
                    self._waiting.remove(woken)

    async def extend(self, *, message: Message, visibility: float) -> None:
        entry = self._find(message)
        now = self._world.clock.seconds()
        if entry is None or entry.receipts[-1] != message.receipt_handle or entry.visible_at <= now:
            raise LeaseLost(f"{self.name}: {message.message_id}")
        entry.visible_at = now + visibility
        if visibility <= 0:
            self._ring()

    async def release(self, *, message: Message) -> None:
        await self.extend(message=message, visibility=0)
        entry = self._find(message)
        if entry is not None:
            entry.receive_count -= 1

    async def delete(self, *, message: Message) -> None:
        entry = self._find(message)
        if entry is None:
            return
        stale = entry.receipts[-1] != message.receipt_handle
        if stale and self._world.rng.random() < 0.5:
            return
        if self._world.weather.happens(self._world.weather.duplicates):
            # A message that was deleted may come back once more.
            entry.message_id = self._number()
            return
        self.entries.remove(entry)

    async def depth(self) -> QueueDepth:
        return QueueDepth(visible=len(self.entries), in_flight=0)

    async def check(self) -> None:
        pass

    def _number(self) -> str:
        self._numbers += 1
        return f"{self.name}-{self._numbers}"

    def _take(self, limit: int, hidden: float) -> list[Message]:
        now = self._world.clock.seconds()
        visible = [entry for entry in self.entries if entry.visible_at <= now]
        if len(visible) > 1:
            self._world.rng.shuffle(visible)
        messages = []
        for entry in visible[:limit]:
            if self._max_receives is not None and entry.receive_count >= self._max_receives:
                self.entries.remove(entry)
                if self.dead is not None:
                    self.dead.put(entry.body)
                continue
            entry.receive_count += 1
            entry.receipts.append(f"{entry.message_id}/{len(entry.receipts)}")
            entry.visible_at = now + hidden
            messages.append(
                Message(
                    message_id=entry.message_id,
                    body=entry.body,
                    receipt_handle=entry.receipts[-1],
                    receive_count=entry.receive_count,
                    sent=entry.sent,
                )
            )
        return messages

    def _find(self, message: Message) -> _Entry | None:
        for entry in self.entries:
            if entry.message_id == message.message_id and message.receipt_handle in entry.receipts:
                return entry
        return None

    def _ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for woken in waiting:
            if not woken.called:
                woken.callback(None)


@implementer(ICruncher)
class SimCruncher:
    """
    The crunch children of one worker.

    The outcome depends on the text of the original; see :mod:`tests.simulation.users`.  Its helper
    may die; until another is there, no image is tried.
    """

    def __init__(self, process: Process, slots: int) -> None:
        self.slots = slots
        self._process = process
        self._world = process.world
        self._ready_at = 0.0

    async def crunch(self, *, original: IO[bytes]) -> Crunched:
        world = self._world
        original.seek(0)
        data = original.read()
        if not data:
            world.violations.append("an original is crunched after it was emptied")
        if not world.weather.calm:
            await sleep(world.clock, world.rng.choice((0.1, 1, 12)))
        if self._process.dead and not world.over:
            await world.grave(DriverError)
        self._ready_at = max(self._ready_at, world.clock.seconds() + world.weather.helper_dies())
        await self.check()
        if b"corrupt" in data:
            raise ImageRefused("corrupt")
        if b"fatal" in data:
            raise ChildFailed("crashed")
        # A good image fails in at most one child.
        if data not in world.unlucky and world.weather.happens(world.weather.rates["crunch"]):
            world.unlucky.add(data)
            raise ChildFailed("timeout")
        digest = hashlib.sha256(data).hexdigest()
        return Crunched({"png": pictures_of(data)}, PLACEHOLDER, digest)

    async def when_ready(self) -> None:
        while (seconds := self._ready_at - self._world.clock.seconds()) > 0:
            await sleep(self._world.clock, seconds)

    async def check(self) -> None:
        if self._world.clock.seconds() < self._ready_at:
            raise CruncherUnavailable("its helper died")
