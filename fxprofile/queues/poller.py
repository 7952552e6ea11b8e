"""
The loop that takes messages from a queue and has them handled.

It receives only as many as it can start at once, keeps each one invisible while it is
handled, deletes it last, and survives every error.  A message whose handling failed
comes back after a delay that grows with its receive count, until the queue declares it
dead.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.aio import sleep
from fxprofile.errors import DriverError, LeaseLost, MalformedMessage
from fxprofile.interfaces import IQueue
from fxprofile.metrics import Metrics
from fxprofile.model import Message

#: Seconds of a long poll; Amazon SQS allows no more.
WAIT = 20

#: Messages of one receive; Amazon SQS allows no more.
BATCH = 10

#: Seconds until a message whose handling failed comes back, by its receive count.
RETRY_DELAYS = (10, 30, 120, 600)

#: A loop whose last good receive is older than so many seconds is not healthy.
STALE_AFTER = 90

Handler = Callable[[Message], Awaitable[None]]


class Poller(Service):
    """
    Receives from one queue, and handles in so many slots.

    :param handler: does the work of one message.  When it returns, the work is done.
        It raises :class:`MalformedMessage` if the message can never be understood, and
        anything else if it is to be tried again.
    :param slots: how many messages are handled at one time.
    :param visibility_timeout: of the queue, in seconds.
    :param grace: seconds that messages in hand may take when the service stops.
    :param retry_delays: see :data:`RETRY_DELAYS`.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        queue: IQueue,
        handler: Handler,
        slots: int,
        visibility_timeout: float,
        metrics: Metrics,
        clock: IReactorTime,
        grace: float = 25,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
    ) -> None:
        self.setName(f"poller of {queue.name}")
        self._queue = queue
        self._handler = handler
        self._slots = slots
        self._visibility_timeout = visibility_timeout
        self._metrics = metrics
        self._clock = clock
        self._grace = grace
        self._retry_delays = retry_delays
        self._loop: Deferred[None] | None = None
        self._in_hand: set[Deferred[None]] = set()
        self._slot_freed: Deferred[None] | None = None
        self._last_receive: float | None = None

    def startService(self) -> None:
        super().startService()
        self._last_receive = self._clock.seconds()
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(self._stopped_by_error)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is None:
            return succeed(None)
        return Deferred.fromCoroutine(self._stop(loop))

    @property
    def healthy(self) -> bool:
        """Whether the loop runs and the queue has answered lately."""
        return (
            self._loop is not None
            and self._last_receive is not None
            and self._clock.seconds() - self._last_receive < STALE_AFTER
        )

    async def _run(self) -> None:
        failures = 0
        while self.running:
            free = self._slots - len(self._in_hand)
            if free <= 0:
                self._slot_freed = Deferred()
                await self._slot_freed
                # Time spent with full hands is not the queue's fault.
                self._last_receive = self._clock.seconds()
                continue
            try:
                messages = await self._queue.receive(max_messages=min(free, BATCH), wait=WAIT)
            except CancelledError:
                raise
            except Exception as error:
                failures += 1
                self._metrics.receive_errors.labels(self._queue.name).inc()
                delay = backoff(failures)
                self._log.warn(
                    "Cannot receive from {queue}, next try in {delay:.1f} s: {error}",
                    queue=self._queue.name,
                    delay=delay,
                    error=error,
                )
                await sleep(self._clock, delay)
                continue
            failures = 0
            self._last_receive = self._clock.seconds()
            for message in messages:
                self._start(message)

    def _start(self, message: Message) -> None:
        name = self._queue.name
        self._metrics.received.labels(name).inc()
        self._metrics.message_age.labels(name).observe(max(0, self._clock.seconds() - message.sent))
        self._metrics.in_hand.labels(name).inc()
        handling = Deferred.fromCoroutine(self._handle(message))
        self._in_hand.add(handling)

        def done(outcome: object) -> None:
            self._in_hand.discard(handling)
            self._metrics.in_hand.labels(name).dec()
            if self._slot_freed is not None and not self._slot_freed.called:
                self._slot_freed.callback(None)

        handling.addErrback(
            lambda failure: self._log.failure("Handling a message failed", failure=failure)
        )
        handling.addBoth(done)

    async def _handle(self, message: Message) -> None:
        started = self._clock.seconds()
        work = Deferred.fromCoroutine(_call(self._handler, message))
        lease = _Lease(self._queue, message, self._visibility_timeout, self._clock, work)
        try:
            await work
            outcome = "done"
        except MalformedMessage as error:
            outcome = "malformed"
            if message.receive_count == 1:
                self._log.error(
                    "Message {id} on {queue} is not understood: {error}",
                    id=message.message_id,
                    queue=self._queue.name,
                    error=error,
                )
        except CancelledError:
            outcome = "lease_lost" if lease.lost else "released"
        except Exception as error:
            outcome = "retry"
            if isinstance(error, DriverError):
                self._log.warn(
                    "Message {id} on {queue} is tried again later: {error}",
                    id=message.message_id,
                    queue=self._queue.name,
                    error=error,
                )
            else:
                self._log.failure(
                    "Message {id} on {queue} is tried again later",
                    id=message.message_id,
                    queue=self._queue.name,
                )
        finally:
            lease.end()
        self._metrics.handled.labels(self._queue.name, outcome).inc()
        self._metrics.handle_seconds.labels(self._queue.name).observe(
            self._clock.seconds() - started
        )
        await self._conclude(message, outcome)

    async def _conclude(self, message: Message, outcome: str) -> None:
        try:
            if outcome == "done":
                await self._queue.delete(message=message)
            elif outcome == "retry":
                await self._queue.extend(message=message, visibility=self._retry_delay(message))
            elif outcome in ("malformed", "released"):
                await self._queue.extend(message=message, visibility=0)
        except LeaseLost:
            self._log.info(
                "The lease of message {id} on {queue} had run out",
                id=message.message_id,
                queue=self._queue.name,
            )
        except DriverError as error:
            # The message comes back by itself, and is then handled once more.
            self._log.warn(
                "Cannot conclude message {id} on {queue}: {error}",
                id=message.message_id,
                queue=self._queue.name,
                error=error,
            )

    def _retry_delay(self, message: Message) -> float:
        step = min(message.receive_count, len(self._retry_delays)) - 1
        return self._retry_delays[max(0, step)] * random.uniform(0.8, 1.2)  # noqa: S311

    async def _stop(self, loop: Deferred[None]) -> None:
        loop.cancel()
        await loop
        if not self._in_hand:
            return
        overdue: IDelayedCall = self._clock.callLater(self._grace, self._hand_back)
        try:
            await DeferredList(list(self._in_hand))
        finally:
            if overdue.active():
                overdue.cancel()

    def _hand_back(self) -> None:
        self._log.warn(
            "{count} messages of {queue} are handed back unfinished",
            count=len(self._in_hand),
            queue=self._queue.name,
        )
        for handling in list(self._in_hand):
            handling.cancel()

    def _stopped_by_error(self, failure: Failure) -> None:
        # Everything that the loop does is guarded, so only its cancellation comes here.
        if not failure.check(CancelledError):
            self._log.failure("The poller has stopped", failure=failure)


class _Lease:
    """Keeps one message invisible, at half its visibility timeout, as long as work goes on."""

    _log = Logger()

    def __init__(
        self,
        queue: IQueue,
        message: Message,
        visibility_timeout: float,
        clock: IReactorTime,
        work: Deferred[None],
    ) -> None:
        self.lost = False
        self._queue = queue
        self._message = message
        self._visibility_timeout = visibility_timeout
        self._clock = clock
        self._work = work
        self._beating = Deferred.fromCoroutine(self._beat())
        self._beating.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def end(self) -> None:
        """Beat no longer."""
        self._beating.cancel()

    async def _beat(self) -> None:
        expires = self._clock.seconds() + self._visibility_timeout
        while True:
            await sleep(self._clock, self._visibility_timeout / 2)
            try:
                await self._queue.extend(message=self._message, visibility=self._visibility_timeout)
                expires = self._clock.seconds() + self._visibility_timeout
                continue
            except LeaseLost:
                pass
            except DriverError as error:
                self._log.warn(
                    "Cannot extend message {id} on {queue}: {error}",
                    id=self._message.message_id,
                    queue=self._queue.name,
                    error=error,
                )
                if self._clock.seconds() < expires:
                    continue
            self.lost = True
            self._work.cancel()
            return


async def _call(handler: Handler, message: Message) -> None:
    await handler(message)


def backoff(failures: int, *, first: float = 1, most: float = 60) -> float:
    """
    How many seconds to wait before the next try, with full jitter.

    :param failures: in a row, so far; at least 1.
    :param first: the longest wait after the first one.
    :param most: the longest wait of all.
    """
    return random.uniform(0.1, 1) * min(most, first * 2 ** min(failures - 1, 30))  # noqa: S311
