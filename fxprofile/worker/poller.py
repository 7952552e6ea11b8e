"""
Consume a queue: receive messages, run a handler for each, and acknowledge them.

A poller receives only as many messages as it can start at once, extends the lease of each
message while its handler runs, deletes a message last, and survives every error.  A message
whose handler failed becomes visible again after a delay that grows with its receive
count, until the queue dead-letters it.  If messages fail one after the other, and none of
them is to blame, the poller pauses and then receives one message at a time until one
succeeds.

boto3 and the known queue workers block a thread or a process per consumer; this runs on
the reactor and serves any :class:`fxprofile.model.ports.IQueue`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.notifier import Notifier
from fxprofile.deferreds.tasks import sleep
from fxprofile.model.errors import CruncherUnavailable, DriverError, LeaseLost, MalformedMessage
from fxprofile.model.messages import Message, traceparent_of
from fxprofile.model.ports import BATCH, Handler, IQueue
from fxprofile.telemetry import traces
from fxprofile.telemetry.metrics import Metrics

#: Seconds of a long poll, which is the maximum of Amazon SQS.
WAIT: Final = 20

#: Seconds that a receive hides a message, at most.  If the response is lost because the
#: process dies, another one receives the message soon.
FIRST_VISIBILITY: Final = 15

#: Seconds between two attempts to extend a lease, at least.
_MIN_EXTEND_DELAY: Final = 1

#: Seconds until a failed message becomes visible again, by its receive count.
RETRY_DELAYS: Final = (10, 30, 120, 600)

#: The part by which these delays vary at random, so that messages that failed together
#: are not retried together.
RETRY_JITTER: Final = 0.2

#: Receives after which a malformed message is released with a delay: the queue does not
#: dead-letter it, because it has no redrive policy.  The account events queue, which belongs
#: to another service, may be such a queue.
PROMPT_RECEIVES: Final = 10

#: Seconds without a successful receive after which the poller is unhealthy.
STALE_AFTER: Final = 90

#: Seconds that a handler may take; a handler that hangs must not keep its message for ever.
HANDLER_TIMEOUT: Final = 600

#: Seconds from an empty receive to the next one, at least.
EMPTY_PAUSE: Final = 1

#: Consecutive messages that failed without being to blame, from which on the poller pauses.
MAX_FAILURES: Final = 3

#: Seconds that cancelled handlers may take to end when the service stops.
CLEANUP: Final = 1

_SLOT_FREED: Final = "slot freed"


class Outcome(StrEnum):
    """The outcome of a delivery, as the metric ``fxprofile_queue_handled`` counts it."""

    DONE = "done"
    RETRY = "retry"
    MALFORMED = "malformed"
    RELEASED = "released"
    LEASE_LOST = "lease_lost"


@dataclass(kw_only=True, eq=False, repr=False)
class Poller(Service):
    """
    Receives from one queue and runs a handler for each message.

    :param handler: handles one message.  It returns when its work is done; it raises
        :class:`MalformedMessage` if the message is invalid, and any other error if it has
        to be retried.
    :param slots: how many handlers run at the same time.
    :param visibility_timeout: of the queue, in seconds.
    :param first: see :data:`FIRST_VISIBILITY`.
    :param grace: seconds that handlers may take to end when the service stops.
    :param handler_timeout: see :data:`HANDLER_TIMEOUT`.
    :param retry_delays: see :data:`RETRY_DELAYS`.
    :param ready: waits until messages can be handled; none is received before that.
    :param chance: returns random numbers from 0 to 1, for all jitter.
    """

    _log = Logger()

    queue: IQueue
    handler: Handler
    slots: int
    visibility_timeout: float
    metrics: Metrics
    clock: IReactorTime
    first: float = FIRST_VISIBILITY
    grace: float = 25
    handler_timeout: float = HANDLER_TIMEOUT
    retry_delays: tuple[float, ...] = RETRY_DELAYS
    ready: Callable[[], Awaitable[object]] | None = None
    chance: Callable[[], float] = random.random
    _loop: Deferred[None] | None = field(init=False, default=None)
    _generation: int = field(init=False, default=0)
    _last_receive: float = field(init=False, default=0.0)
    _failures: int = field(init=False, default=0)
    # An ordered set.
    _in_flight: dict[Delivery, None] = field(init=False, default_factory=dict)
    _notifier: Notifier = field(init=False, default_factory=Notifier)

    def __post_init__(self) -> None:
        self.setName(f"poller of {self.queue.name}")
        self.first = min(self.first, self.visibility_timeout)
        name, metrics = self.queue.name, self.metrics
        metrics.expect_messages(name, Outcome)
        # Looking a label up takes as long as several increments.
        self._received = metrics.received.labels(name)
        self._receive_count = metrics.receive_count.labels(name)
        self._message_age = metrics.message_age.labels(name)
        self._in_hand = metrics.in_hand.labels(name)
        self._handle_seconds = metrics.handle_seconds.labels(name)

    def startService(self) -> None:
        super().startService()
        self._last_receive = self.clock.seconds()
        self._generation += 1
        self._loop = Deferred.fromCoroutine(self._run(self._generation))
        self._loop.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def stopService(self) -> Deferred[None]:
        """Stop receiving, wait for the handlers for the grace period, and release the rest."""
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is None:
            return succeed(None)
        return Deferred.fromCoroutine(self._stop(loop))

    async def check(self) -> bool:
        """Return whether the poller runs, receives or is at capacity, and messages succeed."""
        at_capacity = len(self._in_flight) >= self.slots
        is_recent = self.clock.seconds() - self._last_receive < STALE_AFTER
        succeeds = self._failures < MAX_FAILURES
        return self._loop is not None and (at_capacity or is_recent) and succeeds

    async def _run(self, generation: int) -> None:
        failures = 0
        backoff = Backoff(first=1, cap=5, shortest=0.1, chance=self.chance)
        # After a stop and a new start another loop is running.
        while self.running and self._generation == generation:
            try:
                pause = await self._receive()
                failures = 0
            except Exception as error:
                # A CancelledError may also come from the driver.
                if not self.running:
                    return
                failures += 1
                pause = backoff.delay(failures)
                self.metrics.receive_errors.labels(self.queue.name).inc()
                self._log.warn(
                    "Receive from {queue} failed; retrying in {delay:.1f} s: {error!r}",
                    queue=self.queue.name,
                    delay=pause,
                    error=error,
                )
            if pause > 0:
                await sleep(self.clock, pause)

    async def _receive(self) -> float:
        """
        Receive messages for the free slots and start their handlers.

        :returns: seconds to wait before the next receive.
        """
        if self._failures >= MAX_FAILURES:
            pause = Backoff(first=1, cap=5, shortest=0.5, chance=self.chance)
            await sleep(self.clock, pause.delay(self._failures - MAX_FAILURES + 1))
        if self.ready is not None:
            await self.ready()
            # The time in which no message can be handled does not count.
            self._last_receive = self.clock.seconds()
        slots = self.slots if self._failures < MAX_FAILURES else 1
        free = slots - len(self._in_flight)
        if free <= 0:
            with self._notifier.subscribe(_SLOT_FREED) as subscription:
                await subscription.wait(self.clock, WAIT)
            # The time at capacity does not count as time without a receive.
            self._last_receive = self.clock.seconds()
            return 0
        asked = self.clock.seconds()
        messages = await self.queue.receive(
            max_messages=min(free, BATCH), wait=WAIT, visibility=self.first
        )
        self._last_receive = self.clock.seconds()
        for message in messages:
            self._start(message)
        # A queue without long polling must not cause a busy loop.
        return 0 if messages else asked + EMPTY_PAUSE - self._last_receive

    def _start(self, message: Message) -> None:
        self._received.inc()
        self._receive_count.observe(message.receive_count)
        self._message_age.observe(max(0, self.clock.seconds() - message.sent))
        delivery = Delivery(message, self.queue, self.clock, self.first, self.visibility_timeout)
        self._in_flight[delivery] = None
        self._in_hand.inc()
        with traces.active(traces.continued(traceparent_of(message.body))):
            handled = Deferred.fromCoroutine(self._handle(delivery))
        handled.addErrback(
            lambda failure: self._log.failure("Handling a message failed", failure=failure)
        )
        handled.addBoth(lambda _: self._free_slot(delivery))

    def _free_slot(self, delivery: Delivery) -> None:
        if delivery not in self._in_flight:
            return
        del self._in_flight[delivery]
        self._in_hand.dec()
        self._notifier.notify(_SLOT_FREED)

    async def _handle(self, delivery: Delivery) -> None:
        started = self.clock.seconds()
        outcome = await self._run_handler(delivery)
        if delivery not in self._in_flight:
            # The stop released it, because the handler ignored its cancellation.
            return
        if delivery.cancelled_as is Outcome.LEASE_LOST:
            # Another consumer has the message, even if the handler succeeded here.
            outcome = Outcome.LEASE_LOST
        if outcome is Outcome.DONE:
            self._failures = 0
        self.metrics.handled.labels(self.queue.name, outcome).inc()
        self._handle_seconds.observe(self.clock.seconds() - started)
        await self._settle(delivery.message, outcome)

    async def _run_handler(self, delivery: Delivery) -> Outcome:
        """Run the handler, with a time limit and a lease; return the outcome."""
        message = delivery.message
        try:
            await delivery.run(self.handler, self.handler_timeout)
            return Outcome.DONE
        except MalformedMessage as error:
            if message.receive_count == 1:
                self._log_failed(self._log.error, message, "is malformed", error)
            return Outcome.MALFORMED
        except Exception as error:
            if delivery.cancelled_as is not None:
                return delivery.cancelled_as
            # An OSError is of this process: it lacks descriptors, threads or disk space.
            expected = isinstance(error, (DriverError, OSError))
            self._failures += expected
            log = self._log.warn if expected else self._log.failure
            self._log_failed(log, message, "failed and will be retried", error)
            untried = isinstance(error, (CruncherUnavailable, OSError))
            return Outcome.RELEASED if untried else Outcome.RETRY

    def _log_failed(
        self, log: Callable[..., None], message: Message, what: str, error: Exception
    ) -> None:
        log(
            "Message {id} on {queue} {what}: {error!r}",
            id=message.message_id,
            queue=self.queue.name,
            what=what,
            error=error,
        )

    async def _settle(self, message: Message, outcome: Outcome) -> None:
        """Acknowledge, retry or release a message; the queue dead-letters it if need be."""
        try:
            if outcome is Outcome.DONE:
                await self.queue.delete(message=message)
            elif outcome is Outcome.RELEASED:
                await self.queue.release(message=message)
            elif outcome is not Outcome.LEASE_LOST:
                delay = self._delay(message.receive_count, outcome)
                await self.queue.extend(message=message, visibility=delay)
        except LeaseLost:
            self._log.info(
                "The lease of message {id} on {queue} has expired",
                id=message.message_id,
                queue=self.queue.name,
            )
        except DriverError as error:
            # The message becomes visible again by itself, and is handled once more.
            self.metrics.conclude_errors.labels(self.queue.name).inc()
            self._log_failed(
                self._log.warn, message, f"cannot be settled as {outcome.value}", error
            )

    def _delay(self, receive_count: int, outcome: Outcome) -> float:
        if outcome is Outcome.MALFORMED:
            receive_count -= PROMPT_RECEIVES
        if receive_count <= 0:
            return 0
        step = self.retry_delays[min(receive_count, len(self.retry_delays)) - 1]
        return step * (1 + RETRY_JITTER * (2 * self.chance() - 1))

    async def _stop(self, loop: Deferred[None]) -> None:
        loop.cancel()
        await loop
        await self._wait_until_idle(self.grace)
        if not self._in_flight:
            return
        self._log.warn(
            "Releasing {count} unfinished messages of {queue}",
            count=len(self._in_flight),
            queue=self.queue.name,
        )
        for delivery in list(self._in_flight):
            delivery.cancel(Outcome.RELEASED)
        await self._wait_until_idle(CLEANUP)
        # Handlers that ignored their cancellation; concurrently, as each release may be slow.
        abandoned = [self._abandon(delivery) for delivery in list(self._in_flight)]
        await DeferredList(map(Deferred.fromCoroutine, abandoned), consumeErrors=True)

    async def _wait_until_idle(self, seconds: float) -> None:
        """Wait until no handler runs, for at most this many seconds."""
        deadline = self.clock.seconds() + seconds
        while self._in_flight and (left := deadline - self.clock.seconds()) > 0:
            with self._notifier.subscribe(_SLOT_FREED) as subscription:
                await subscription.wait(self.clock, left)

    async def _abandon(self, delivery: Delivery) -> None:
        self._free_slot(delivery)
        delivery.stop_watching()
        # If the handler has ended, its message is being settled.
        if delivery.work is not None:
            await self._settle(delivery.message, Outcome.RELEASED)


@dataclass(eq=False)
class Delivery:
    """
    A message in flight: its handler call, and its lease, which keeps the message invisible.

    The lease is extended after half of its time.  It is lost when the queue says so, or
    when it expires because the queue could not be reached in time; then the handler is
    cancelled.

    :param first: seconds for which the receive has hidden the message.
    :param visibility_timeout: seconds for which each extension hides it.
    :ivar work: the handler call while it runs, else None.
    :ivar cancelled_as: the outcome for which the handler was cancelled.
    """

    _log = Logger()

    message: Message
    queue: IQueue
    clock: IReactorTime
    first: float
    visibility_timeout: float
    work: Deferred[None] | None = field(init=False, default=None)
    cancelled_as: Outcome | None = field(init=False, default=None)
    _lease: Deferred[None] = field(init=False)
    _timer: IDelayedCall = field(init=False)

    async def run(self, handler: Handler, timeout: float) -> None:
        """
        Run the handler and keep the lease; the message has just been received.

        :param timeout: seconds after which the handler is cancelled.
        :raises Exception: any error of the handler.
        """
        self._timer = self.clock.callLater(timeout, self._time_out, timeout)
        self._lease = Deferred.fromCoroutine(self._keep_lease()).addCallbacks(
            lambda _: self.cancel(Outcome.LEASE_LOST),
            lambda failure: failure.trap(CancelledError) and None,
        )
        self.work = Deferred.fromCoroutine(_call(handler, self.message))
        try:
            await self.work
        finally:
            self.work = None
            self.stop_watching()

    def cancel(self, outcome: Outcome) -> None:
        """Cancel the handler, if it runs; a lost lease takes precedence over other outcomes."""
        if self.cancelled_as is not Outcome.LEASE_LOST:
            self.cancelled_as = outcome
        if self.work is not None:
            self.work.cancel()

    def stop_watching(self) -> None:
        """Stop extending the lease, and the time limit.  Repeated calls have no effect."""
        if self._timer.active():
            self._timer.cancel()
        self._lease.cancel()

    def _time_out(self, seconds: float) -> None:
        self._log.error(
            "Message {id} on {queue} timed out after {seconds} s and will be retried",
            id=self.message.message_id,
            queue=self.queue.name,
            seconds=seconds,
        )
        self.cancel(Outcome.RETRY)

    async def _keep_lease(self) -> None:
        """Extend the lease again and again; return when it is lost."""
        expires = self.clock.seconds() + self.first
        pause = self.first / 2
        while True:
            await sleep(self.clock, min(pause, expires - self.clock.seconds()))
            # The queue counts from when it receives the request, which is later than now.
            asked = self.clock.seconds()
            if asked >= expires:
                return
            try:
                extending = Deferred.fromCoroutine(
                    self.queue.extend(message=self.message, visibility=self.visibility_timeout)
                )
                await extending.addTimeout(expires - asked, self.clock)
            except CancelledError:
                raise
            except LeaseLost:
                return
            except Exception as error:
                self._log.warn(
                    "Cannot extend message {id} on {queue}: {error}",
                    id=self.message.message_id,
                    queue=self.queue.name,
                    error=error,
                )
                pause = max(_MIN_EXTEND_DELAY, (expires - self.clock.seconds()) / 3)
            else:
                pause = self.visibility_timeout / 2
                expires = asked + self.visibility_timeout


async def _call(handler: Handler, message: Message) -> None:
    await handler(message)
