"""Services that start and stop in order, and a call that repeats until it is stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.tasks import sleep
from fxprofile.model.errors import DriverError


class Stack(MultiService):
    """
    Services that stand on each other: started in the order in which they were added,
    and stopped one after the other in the reverse order, so that each can finish its
    work with the help of those below.
    """

    _log = Logger()

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop(list(reversed(self.services))))

    async def _stop(self, services: list[Service]) -> None:
        for service in services:
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                self._log.failure("Cannot stop {name}", name=service.name or service)


class Repeating(Service):
    """
    Calls something again and again, whatever it raises, from its start until it is stopped.

    :param seconds: from the end of a call to the next.
    :param what: it does, for the log.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        call: Callable[[], Awaitable[object]],
        what: str,
    ) -> None:
        self.setName(what)
        self._clock = clock
        self._seconds = seconds
        self._call = call
        self._loop: Deferred[None] | None = None
        self._turn = 0

    def startService(self) -> None:
        super().startService()
        self._turn += 1
        self._loop = Deferred.fromCoroutine(self._run(self._turn))

    async def _run(self, turn: int) -> None:
        while self._goes_on(turn):
            try:
                await self._call()
            except DriverError as error:
                self._log.warn("Cannot {what}: {error}", what=self.name, error=error)
            except Exception as error:
                # A CancelledError need not be that of the stop: drivers cancel, too.
                if self._goes_on(turn) or not isinstance(error, CancelledError):
                    self._log.failure("Cannot {what}", what=self.name)
            if self._goes_on(turn):
                with suppress(CancelledError):
                    await sleep(self._clock, self._seconds)

    def _goes_on(self, turn: int) -> bool:
        # Who was stopped and started again in the meantime has another loop.
        return bool(self.running) and self._turn == turn

    def stopService(self) -> Deferred[None]:
        """Cancel the call in hand, and wait until it has ended."""
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is None:
            return succeed(None)
        loop.cancel()
        return loop
