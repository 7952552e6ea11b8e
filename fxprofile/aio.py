"""
What coroutines on Twisted need and Twisted does not have.

Time comes from an ``IReactorTime``, so that tests turn the clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from fxprofile.errors import AccountUnknown, DriverError

P = ParamSpec("P")
T = TypeVar("T")

_log = Logger()


def sleep(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Wait so many seconds; cancelling it wakes with ``CancelledError``."""
    return deferLater(clock, seconds)


def detached(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """
    Run work to its end, whoever stops waiting for it.

    :returns: the outcome.  Cancelling this gives up the waiting and not the work; if
        nobody waits any longer, a failure is logged.
    """
    waiter: Deferred[T] = Deferred()

    def failed(failure: Any) -> None:
        if not waiter.called:
            waiter.errback(failure)
        elif failure.check(DriverError, AccountUnknown):
            # No fault of ours, and in an outage there are many.
            _log.warn("Work that nobody waits for any longer failed: {error}", error=failure.value)
        else:
            _log.failure("Work that nobody waits for any longer failed", failure=failure)

    def done(value: T) -> None:
        if not waiter.called:
            waiter.callback(value)

    Deferred.fromCoroutine(work).addCallbacks(done, failed).addErrback(
        lambda failure: _log.failure("A waiter failed", failure=failure)
    )
    return waiter


class Threads(Service):
    """
    A bounded pool of threads for calls that block.

    :param reactor: gets the results.
    :param name: of the threads.
    :param size: how many calls run at one time; further ones wait.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str, size: int) -> None:
        self.setName(name)
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size, name=name)

    def startService(self) -> None:
        super().startService()
        if not self._pool.started:
            self._pool.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        # Waits for the calls in hand, and must not do so on the reactor's thread.
        stopper = ThreadPool(minthreads=1, maxthreads=1, name=f"{self.name} stop")
        stopper.start()
        stopped = deferToThreadPool(self._reactor, stopper, self._pool.stop)
        return stopped.addBoth(lambda _: stopper.stop())

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call this in a thread."""
        return deferToThreadPool(self._reactor, self._pool, call, *args, **kwargs)


class BytesBody:
    """A :class:`fxprofile.interfaces.Body` of bytes that are all there."""

    def __init__(self, data: bytes, piece: int = 1 << 16) -> None:
        self._pieces = iter([data[i : i + piece] for i in range(0, len(data), piece)])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._pieces = iter(())


async def read_all(body: Any, limit: int) -> bytes:
    """
    All bytes of a body, which is then closed.

    :raises OverflowError: if there are more than ``limit``.
    """
    data = bytearray()
    try:
        async for piece in body:
            data += piece
            if len(data) > limit:
                raise OverflowError(f"more than {limit} bytes")
    finally:
        await body.aclose()
    return bytes(data)


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
