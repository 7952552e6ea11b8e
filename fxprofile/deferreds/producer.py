"""A push producer that a coroutine waits for."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class StreamProducer:
    """The producer of a stream, which its consumer pauses and resumes."""

    _paused: Deferred[None] | None = None

    async def writable(self) -> None:
        """Wait until the consumer can take more."""
        while self._paused is not None:
            await self._paused

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        pass
