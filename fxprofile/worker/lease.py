"""
How a message stays invisible for as long as somebody works on it.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.tasks import sleep
from fxprofile.model.errors import LeaseLost
from fxprofile.model.messages import Message
from fxprofile.model.ports import IQueue

#: Seconds for which a message is hidden by its receive, at the most.  The answer may not reach
#: who asked, because that process has just ended: then somebody else gets the message soon.
FIRST = 15

#: Seconds between two tries to extend a message, at the least.
SHORTEST_PAUSE = 1


class Lease:
    """
    Extends one message when half of the time has passed for which it is hidden.

    The lease is lost when the queue says so, or when it has run out because the queue
    could not be told in time.

    :param first: seconds for which the receive has hidden the message.
    :param visibility_timeout: seconds for which each extension does.
    :param lost: is called, once, when the lease is lost.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        queue: IQueue,
        message: Message,
        first: float,
        visibility_timeout: float,
        clock: IReactorTime,
        lost: Callable[[], object],
    ) -> None:
        self._queue = queue
        self._message = message
        self._first = first
        self._visibility_timeout = visibility_timeout
        self._clock = clock
        self._lost = lost
        self._beating: Deferred[None] | None = None
        self._end: IDelayedCall | None = None
        self._ends = 0.0

    def begin(self) -> None:
        """Keep the message, which has just been received."""
        self._ends = self._clock.seconds() + self._first
        self._end = self._clock.callLater(self._first, self._run_out)
        self._beating = Deferred.fromCoroutine(self._beat())
        self._beating.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def end(self) -> None:
        """Keep it no longer.  Harmless when repeated."""
        if self._end is not None and self._end.active():
            self._end.cancel()
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self) -> None:
        pause = self._first / 2
        while True:
            await sleep(self._clock, pause)
            # The queue counts from when it hears of this, which is later than now.
            asked = self._clock.seconds()
            try:
                await self._queue.extend(message=self._message, visibility=self._visibility_timeout)
            except CancelledError:
                raise
            except LeaseLost:
                self._set_end(self._clock.seconds())
                return
            except Exception as error:
                self._log.warn(
                    "Cannot extend message {id} on {queue}: {error}",
                    id=self._message.message_id,
                    queue=self._queue.name,
                    error=error,
                )
                pause = max(SHORTEST_PAUSE, (self._ends - self._clock.seconds()) / 3)
            else:
                pause = self._visibility_timeout / 2
                self._set_end(asked + self._visibility_timeout)

    def _set_end(self, when: float) -> None:
        self._ends = when
        if self._end is not None and self._end.active():
            self._end.reset(max(0, when - self._clock.seconds()))

    def _run_out(self) -> None:
        self.end()
        self._lost()
