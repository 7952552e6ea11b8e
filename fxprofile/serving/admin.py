"""The admin listener: the status page, Prometheus metrics, and the Dockerflow paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from fxprofile.serving.channel import NOT_DONE_YET, StreamingRequest
from fxprofile.serving.health import Health
from fxprofile.serving.status import StatusPage


class AdminResource(Resource):
    """
    The root of the admin listener.

    :param metrics: returns the figures and their content type, or a coroutine that does, for the
        header ``Accept`` of a request.
    """

    def __init__(self, *, health: Health, metrics: Callable[[str], Any], page: StatusPage) -> None:
        super().__init__()
        self.putChild(b"", page)
        self.putChild(b"status.json", _Json(health.status))
        self.putChild(b"metrics", _Metrics(metrics))
        self.putChild(b"__heartbeat__", _Json(health.heartbeat))
        self.putChild(b"__lbheartbeat__", _Json(health.load_balancer_heartbeat))
        self.putChild(b"__version__", _Json(lambda: (200, health.version)))


class _Metrics(Resource):
    isLeaf = True

    def __init__(self, render: Callable[[str], Any]) -> None:
        super().__init__()
        self._render = render

    def render_GET(self, request: StreamingRequest) -> int:
        accept = b",".join(request.requestHeaders.getRawHeaders(b"Accept", []))

        def finish(rendered: tuple[bytes, str]) -> None:
            figures, content_type = rendered
            request.setHeader("Content-Type", content_type)
            request.setHeader("Content-Length", str(len(figures)))
            request.write(figures)
            request.finish()

        return _respond(request, lambda: self._render(accept.decode("latin-1")), finish)


def _respond(
    request: StreamingRequest, report: Callable[[], Any], finish: Callable[[Any], object]
) -> int:
    """Have a request finished with what a function returns or a coroutine resolves to."""

    def failed(failure: Failure) -> None:
        if not failure.check(CancelledError):
            request.processingFailed(failure)

    answering = maybeDeferred(report)
    request.notifyFinish().addErrback(lambda _: answering.cancel())
    answering.addCallback(finish).addErrback(failed)
    return NOT_DONE_YET


class _Json(Resource):
    """A status and a JSON object, which a function returns or a coroutine resolves to."""

    isLeaf = True

    def __init__(self, report: Callable[[], Any]) -> None:
        super().__init__()
        self._report = report

    def render_GET(self, request: StreamingRequest) -> int:
        return _respond(request, self._report, lambda report: request.finish_json(*report))
