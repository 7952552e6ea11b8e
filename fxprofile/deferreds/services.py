"""A stack of services that stop one after the other, and a call that repeats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.errors import ExpectedError
from fxprofile.deferreds.notifier import Subscription


class Stack(MultiService):
    """
    Services that depend on each other.

    They start in the order in which they were added, and stop in reverse: each has stopped
    before the next one does, so it can finish its work with the services that it uses.
    Twisted's ``MultiService`` stops all of them at the same time.
    """

    _log = Logger()

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in list(reversed(self.services)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                self._log.failure("Cannot stop {name}", name=service.name or service)


@attrs.define(eq=False, repr=False, slots=False)
class Repeating(Service):
    """
    Calls a function repeatedly while the service runs.

    An error is logged, and does not end the repetition, as it would end a ``LoopingCall``.

    :param seconds: from the end of a call to the start of the next.
    :param name: what the call does, for the log: "Cannot ...".
    """

    _log = Logger()

    _clock: IReactorTime
    _seconds: float
    _call: Callable[[], Awaitable[object]]
    name: str
    _loop: Deferred[None] | None = attrs.field(default=None, init=False)
    _generation: int = attrs.field(default=0, init=False)
    _pause: Subscription = attrs.field(factory=Subscription, init=False)

    def wake(self) -> None:
        """End the pause before the next call, now or when the running call has ended."""
        self._pause.notify()

    def startService(self) -> None:
        super().startService()
        self._generation += 1
        self._loop = Deferred.fromCoroutine(self._run(self._generation))

    async def _run(self, generation: int) -> None:
        while self._is_current(generation):
            self._pause = Subscription()
            try:
                await self._call()
            except ExpectedError as error:
                self._log.warn("Cannot {what}: {error}", what=self.name, error=error)
            except Exception as error:
                # stopService cancels the call, but drivers may raise CancelledError as well.
                if self._is_current(generation) or not isinstance(error, CancelledError):
                    self._log.failure("Cannot {what}", what=self.name)
            if self._is_current(generation):
                with suppress(CancelledError):
                    await self._pause.wait(self._clock, self._seconds)

    def _is_current(self, generation: int) -> bool:
        # If the service was stopped and started again, it has another loop.
        return bool(self.running) and self._generation == generation

    def stopService(self) -> Deferred[None]:
        """Cancel the running call, and wait until it has ended."""
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is None:
            return succeed(None)
        loop.cancel()
        return loop
