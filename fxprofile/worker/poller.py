"""
The loop that takes messages from a queue and has them handled.

It receives only as many as it can start at once, keeps each one invisible while it is
handled, deletes it last, and survives every error.  A message whose handling failed
comes back after a delay that grows with its receive count, until the queue declares it
dead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.tasks import sleep
from fxprofile.model.errors import DriverError, LeaseLost, MalformedMessage
from fxprofile.model.messages import Message
from fxprofile.model.ports import BATCH, Handler, IQueue
from fxprofile.telemetry.metrics import Metrics
from fxprofile.worker.lease import FIRST, Lease

#: Seconds of a long poll; Amazon SQS allows no more.
WAIT = 20

#: Seconds until a message whose handling failed comes back, by its receive count.
RETRY_DELAYS = (10, 30, 120, 600)

#: Receives after which a message that is not understood no longer comes back at once:
#: nothing declares it dead, as its queue is without a redrive policy.  That of the account
#: events is not ours.  It would go round and round until it expires.
PROMPT_RECEIVES = 10

#: A loop whose last good receive is older than so many seconds is not healthy.
STALE_AFTER = 90

#: Seconds that the handling of one message may take: a handler that hangs would keep
#: its message from everybody else for ever.
LONGEST = 600

#: Seconds from a receive that gave nothing to the next one, at the least.
EMPTY_PAUSE = 1

#: Seconds that cancelled work may take to end when the service stops.
CLEANUP = 1

#: Gives a random number between two.
Uniform = Callable[[float, float], float]


class _Why(StrEnum):
    """Why the work on a message was cancelled."""

    LEASE_LOST = "lease_lost"
    OVERDUE = "retry"
    RELEASED = "released"


class Poller(Service):
    """
    Receives from one queue, and handles in so many slots.

    :param handler: does the work of one message.  When it returns, the work is done.
        It raises :class:`MalformedMessage` if the message can never be understood, and
        anything else if it is to be tried again.
    :param slots: how many messages are handled at one time.
    :param visibility_timeout: of the queue, in seconds.
    :param first: see :data:`fxprofile.worker.lease.FIRST`.
    :param grace: seconds that messages in hand may take when the service stops.
    :param longest: see :data:`LONGEST`.
    :param retry_delays: see :data:`RETRY_DELAYS`.
    :param uniform: the source of all jitter.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        queue: IQueue,
        handler: Handler,
        slots: int,
        visibility_timeout: float,
        first: float = FIRST,
        metrics: Metrics,
        clock: IReactorTime,
        grace: float = 25,
        longest: float = LONGEST,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        uniform: Uniform = random.uniform,
    ) -> None:
        self.setName(f"poller of {queue.name}")
        self._queue = queue
        self._handler = handler
        self._slots = slots
        self._first = min(first, visibility_timeout)
        self._visibility_timeout = visibility_timeout
        self._metrics = metrics
        self._clock = clock
        self._grace = grace
        self._longest = longest
        self._retry_delays = retry_delays
        self._uniform = uniform
        self._loop: Deferred[None] | None = None
        self._turn = 0
        self._in_hand: dict[_Handling, None] = {}
        self._hand_freed: Deferred[None] | None = None
        self._last_receive = 0.0

    def startService(self) -> None:
        super().startService()
        self._last_receive = self._clock.seconds()
        self._turn += 1
        self._loop = Deferred.fromCoroutine(self._run(self._turn))
        self._loop.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is None:
            return succeed(None)
        return Deferred.fromCoroutine(self._stop(loop))

    @property
    def healthy(self) -> bool:
        """Whether the loop runs, and the queue has answered lately if it was asked."""
        if self._loop is None:
            return False
        # Whose hands are full asks for nothing.
        asks = len(self._in_hand) < self._slots
        return not asks or self._clock.seconds() - self._last_receive < STALE_AFTER

    async def _run(self, turn: int) -> None:
        failures = 0
        # Who was stopped and started again in the meantime has another loop.
        while self.running and self._turn == turn:
            try:
                pause = await self._receive()
                failures = 0
            except Exception as error:
                # This may also be a CancelledError that is the driver's own affair.
                if not self.running:
                    return
                failures += 1
                pause = backoff(failures, uniform=self._uniform)
                self._metrics.receive_errors.labels(self._queue.name).inc()
                self._log.warn(
                    "Cannot receive from {queue}, next try in {delay:.1f} s: {error!r}",
                    queue=self._queue.name,
                    delay=pause,
                    error=error,
                )
            if pause > 0:
                await sleep(self._clock, pause)

    async def _receive(self) -> float:
        """
        Receive what there are hands for, and start to handle it.

        :returns: how many seconds to wait before the next time.
        """
        free = self._slots - len(self._in_hand)
        if free <= 0:
            self._hand_freed = Deferred()
            await self._hand_freed
            # Time spent with full hands is not the queue's fault.
            self._last_receive = self._clock.seconds()
            return 0
        asked = self._clock.seconds()
        messages = await self._queue.receive(
            max_messages=min(free, BATCH), wait=WAIT, visibility=self._first
        )
        self._last_receive = self._clock.seconds()
        for message in messages:
            self._start(message)
        # A queue that does not wait must not make this a busy loop.
        return 0 if messages else asked + EMPTY_PAUSE - self._last_receive

    def _start(self, message: Message) -> None:
        name = self._queue.name
        self._metrics.received.labels(name).inc()
        self._metrics.receive_count.labels(name).observe(message.receive_count)
        self._metrics.message_age.labels(name).observe(max(0, self._clock.seconds() - message.sent))
        handling = _Handling(message)
        self._in_hand[handling] = None
        self._metrics.in_hand.labels(name).inc()
        handled = Deferred.fromCoroutine(self._handle(handling))
        handled.addErrback(
            lambda failure: self._log.failure("Handling a message failed", failure=failure)
        )
        handled.addBoth(lambda _: self._let_go(handling))

    def _let_go(self, handling: _Handling) -> None:
        if handling not in self._in_hand:
            return
        del self._in_hand[handling]
        self._metrics.in_hand.labels(self._queue.name).dec()
        if self._hand_freed is not None and not self._hand_freed.called:
            self._hand_freed.callback(None)

    async def _handle(self, handling: _Handling) -> None:
        message = handling.message
        started = self._clock.seconds()
        handling.work = Deferred.fromCoroutine(_call(self._handler, message))
        self._watch(handling)
        try:
            await handling.work
            outcome = "done"
        except MalformedMessage as error:
            outcome = "malformed"
            self._log_malformed(message, error)
        except Exception as error:
            outcome = handling.why or "retry"
            if handling.why is None:
                self._log_failed(message, error)
        finally:
            handling.work = None
            handling.watch_no_longer()
        if handling not in self._in_hand:
            # Handed back already, because it would not end.
            return
        if handling.why is _Why.LEASE_LOST:
            # Whatever this came to: the message is somebody else's now.
            outcome = _Why.LEASE_LOST
        self._metrics.handled.labels(self._queue.name, outcome).inc()
        self._metrics.handle_seconds.labels(self._queue.name).observe(
            self._clock.seconds() - started
        )
        await self._conclude(message, outcome)

    def _watch(self, handling: _Handling) -> None:
        handling.lease = Lease(
            queue=self._queue,
            message=handling.message,
            first=self._first,
            visibility_timeout=self._visibility_timeout,
            clock=self._clock,
            lost=lambda: handling.cancel(_Why.LEASE_LOST),
        )
        handling.lease.begin()
        handling.overdue = self._clock.callLater(self._longest, self._take_no_longer, handling)

    def _take_no_longer(self, handling: _Handling) -> None:
        self._log.error(
            "Message {id} on {queue} took longer than {seconds} s and is tried again later",
            id=handling.message.message_id,
            queue=self._queue.name,
            seconds=self._longest,
        )
        handling.cancel(_Why.OVERDUE)

    def _log_malformed(self, message: Message, error: MalformedMessage) -> None:
        if message.receive_count == 1:
            self._log.error(
                "Message {id} on {queue} is not understood: {error}",
                id=message.message_id,
                queue=self._queue.name,
                error=error,
            )

    def _log_failed(self, message: Message, error: Exception) -> None:
        known = isinstance(error, DriverError)
        log: Callable[..., None] = self._log.warn if known else self._log.failure
        log(
            "Message {id} on {queue} is tried again later: {error!r}",
            id=message.message_id,
            queue=self._queue.name,
            error=error,
        )

    async def _conclude(self, message: Message, outcome: str) -> None:
        try:
            if outcome == "done":
                await self._queue.delete(message=message)
            elif outcome == "retry":
                await self._queue.extend(
                    message=message, visibility=self._delay(message.receive_count)
                )
            elif outcome == "malformed":
                await self._queue.extend(message=message, visibility=self._malformed_delay(message))
            elif outcome == _Why.RELEASED:
                await self._queue.extend(message=message, visibility=0)
        except LeaseLost:
            self._log.info(
                "The lease of message {id} on {queue} had run out",
                id=message.message_id,
                queue=self._queue.name,
            )
        except DriverError as error:
            # The message comes back by itself, and is then handled once more.
            self._metrics.conclude_errors.labels(self._queue.name).inc()
            self._log.warn(
                "Cannot conclude message {id} on {queue}: {error}",
                id=message.message_id,
                queue=self._queue.name,
                error=error,
            )

    def _malformed_delay(self, message: Message) -> float:
        if message.receive_count <= PROMPT_RECEIVES:
            return 0
        return self._delay(message.receive_count - PROMPT_RECEIVES)

    def _delay(self, count: int) -> float:
        step = min(count, len(self._retry_delays)) - 1
        return self._retry_delays[max(0, step)] * self._uniform(0.8, 1.2)

    async def _stop(self, loop: Deferred[None]) -> None:
        loop.cancel()
        await loop
        await self._hands_empty(self._grace)
        if not self._in_hand:
            return
        self._log.warn(
            "{count} messages of {queue} are handed back unfinished",
            count=len(self._in_hand),
            queue=self._queue.name,
        )
        for handling in list(self._in_hand):
            handling.cancel(_Why.RELEASED)
        await self._hands_empty(CLEANUP)
        # Whatever does not listen: all at once, because each may take its time.
        await DeferredList(
            [Deferred.fromCoroutine(self._abandon(handling)) for handling in list(self._in_hand)],
            consumeErrors=True,
        )

    async def _abandon(self, handling: _Handling) -> None:
        self._let_go(handling)
        handling.watch_no_longer()
        if handling.work is not None:
            await self._conclude(handling.message, _Why.RELEASED)

    async def _hands_empty(self, seconds: float) -> None:
        """Wait until nothing is in hand, and so many seconds at most."""
        deadline = self._clock.seconds() + seconds
        while self._in_hand and self._clock.seconds() < deadline:
            self._hand_freed = Deferred()
            late = self._clock.callLater(
                deadline - self._clock.seconds(), self._hand_freed.callback, None
            )
            await self._hand_freed
            if late.active():
                late.cancel()


class _Handling:
    """A message in hand, and the work on it."""

    def __init__(self, message: Message) -> None:
        self.message = message
        #: None before it begins and when it has ended.
        self.work: Deferred[None] | None = None
        self.why: _Why | None = None
        self.lease: Lease | None = None
        self.overdue: IDelayedCall | None = None

    def watch_no_longer(self) -> None:
        """Whatever happens now, neither the lease nor the time is looked at."""
        if self.lease is not None:
            self.lease.end()
        if self.overdue is not None and self.overdue.active():
            self.overdue.cancel()

    def cancel(self, why: _Why) -> None:
        """Cancel the work, if it goes on."""
        if self.why is not _Why.LEASE_LOST:
            self.why = why
        if self.work is not None:
            self.work.cancel()


async def _call(handler: Handler, message: Message) -> None:
    await handler(message)


def backoff(
    failures: int, *, first: float = 1, most: float = 60, uniform: Uniform = random.uniform
) -> float:
    """
    How many seconds to wait before the next try, with full jitter.

    :param failures: in a row, so far; at least 1.
    :param first: the longest wait after the first one.
    :param most: the longest wait of all.
    :param uniform: the source of the jitter.
    """
    return uniform(0.1, 1) * min(most, first * 2 ** min(failures - 1, 30))
