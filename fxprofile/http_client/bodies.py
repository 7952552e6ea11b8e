"""Request bodies that are sent piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from fxprofile.deferreds.producer import StreamProducer


@implementer(IBodyProducer)
@attrs.define(eq=False, slots=False)
class IterableBody(StreamProducer):
    """
    Sends an asynchronous iterable as fast as the server accepts it, and reads no piece before.

    :param pieces: of the body.
    :param length: their bytes.
    """

    _pieces: AsyncIterable[bytes]
    length: int
    _stopped: bool = attrs.field(default=False, init=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())

        def ended(outcome: Failure | None) -> None:
            # IBodyProducer: the Deferred of a stopped producer must not fire.
            if not self._stopped:
                done.callback(outcome)  # A failure calls its errbacks.

        self._running = Deferred.fromCoroutine(self._produce(consumer))
        self._running.addBoth(ended)
        return done

    async def _produce(self, consumer: IConsumer) -> None:
        async for piece in self._pieces:
            consumer.write(piece)
            await self.writable()

    def stopProducing(self) -> None:
        self._stopped = True
        if self._running is not None:
            self._running.cancel()
