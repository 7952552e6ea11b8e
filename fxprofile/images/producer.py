"""
A response that goes no faster than its client takes it.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class Tap:
    """
    The producer of a response: the transport closes and opens it.

    The end of the request cancels whoever waits.
    """

    def __init__(self) -> None:
        self._closed = False
        self._waiting: Deferred[None] | None = None

    def opened(self) -> Deferred[None]:
        """Fires when the client can take more."""
        if not self._closed:
            return succeed(None)
        self._waiting = Deferred()
        return self._waiting

    def pauseProducing(self) -> None:
        self._closed = True

    def resumeProducing(self) -> None:
        self._closed = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def stopProducing(self) -> None:
        pass
