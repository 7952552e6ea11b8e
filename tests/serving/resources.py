"""Resources whose behaviour the test chooses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from fxprofile.model.errors import ApiError, ClientGone
from fxprofile.serving.channel import StreamingRequest

Handler = Callable[[StreamingRequest], Awaitable[bytes]]


class Handled(Resource):
    """
    Responds with the result of a coroutine, or with the status of the error that it raises.

    :ivar requests: those that were rendered, in order.
    :ivar problems: what was raised, in order.
    """

    isLeaf = True

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler
        self.requests: list[StreamingRequest] = []
        self.problems: list[Exception] = []

    def render(self, request: StreamingRequest) -> int:
        self.requests.append(request)
        work = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        return NOT_DONE_YET

    async def _answer(self, request: StreamingRequest) -> None:
        try:
            body = await self._handler(request)
        except (ClientGone, CancelledError) as error:
            self.problems.append(error)
            return
        except ApiError as error:
            self.problems.append(error)
            request.setResponseCode(error.code)
            body = b""
        if not request.startedWriting:
            request.setHeader(b"Content-Length", b"%d" % len(body))
        request.write(body)
        request.finish()


async def read_all(request: StreamingRequest) -> bytes:
    """Read the whole body, and return it."""
    return b"".join([piece async for piece in request.body])


async def refuse(request: StreamingRequest) -> bytes:
    """Return without reading the body."""
    return b"no"
