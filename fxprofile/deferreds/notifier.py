"""Wake-up events within one process: waiters subscribe to a name and are notified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")


class Subscription:
    """One waiter's subscription.  A notification is kept until the waiter waits."""

    def __init__(self) -> None:
        self._notified: Deferred[None] = Deferred()

    def notify(self) -> None:
        """Wake the waiter."""
        if not self._notified.called:
            self._notified.callback(None)

    async def wait(self, clock: IReactorTime, seconds: float) -> None:
        """Wait for a notification, for at most this many seconds."""
        timer = clock.callLater(seconds, self.notify)
        try:
            await self._notified
        finally:
            if timer.active():
                timer.cancel()


class Notifier:
    """The subscriptions of one process, by name."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = {}

    @contextmanager
    def subscribe(self, name: str) -> Iterator[Subscription]:
        """
        Receive every notification of a name from now on.

        To look something up and then wait for a change, subscribe before the look-up.
        """
        subscription = Subscription()
        subscriptions = self._subscriptions.setdefault(name, set())
        subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            subscriptions.discard(subscription)
            if not subscriptions:
                self._subscriptions.pop(name, None)

    async def poll(
        self,
        name: str,
        look: Callable[[], Awaitable[T]],
        *,
        clock: IReactorTime,
        seconds: float,
        period: float,
    ) -> T:
        """
        Look for something until it is there: now, after each notification, and at the end.

        :param look: returns what it found, which is true in a boolean context.
        :param seconds: how long to wait.
        :param period: seconds between two looks without a notification.
        :returns: what the last look has found.
        """
        deadline = clock.seconds() + seconds
        while True:
            with self.subscribe(name) as subscription:
                found = await look()
                left = deadline - clock.seconds()
                if found or left <= 0:
                    return found
                await subscription.wait(clock, min(left, period))

    def notify(self, name: str) -> None:
        """Wake every subscriber of a name."""
        for subscription in tuple(self._subscriptions.get(name, ())):
            subscription.notify()
