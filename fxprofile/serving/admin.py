"""The admin listener: figures for Prometheus, and the Dockerflow paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from fxprofile.serving.health import Health
from fxprofile.telemetry.metrics import CONTENT_TYPE, Metrics


class AdminResource(Resource):
    """The root of the admin listener."""

    def __init__(self, *, health: Health, metrics: Metrics) -> None:
        super().__init__()
        self.putChild(b"metrics", _Metrics(metrics))
        self.putChild(b"__heartbeat__", _Heartbeat(health))
        self.putChild(b"__lbheartbeat__", _Static(health.load_balancer_heartbeat))
        self.putChild(b"__version__", _Static(health.version))


class _Metrics(Resource):
    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", CONTENT_TYPE.encode())
        return self._metrics.render()


class _Static(Resource):
    isLeaf = True

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def render_GET(self, request: Request) -> bytes:
        return _say(request, *self._answer())


class _Heartbeat(Resource):
    isLeaf = True

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._health = health

    def render_GET(self, request: Request) -> int:
        asked = Deferred.fromCoroutine(self._health.heartbeat())
        request.notifyFinish().addErrback(lambda _: asked.cancel())

        def answer(state: tuple[int, Mapping[str, Any]]) -> None:
            body = _say(request, *state)
            request.setHeader(b"Content-Length", b"%d" % len(body))
            request.write(body)
            request.finish()

        def failed(failure: Failure) -> None:
            if not failure.check(CancelledError):
                request.processingFailed(failure)

        asked.addCallback(answer).addErrback(failed)
        return NOT_DONE_YET


def _say(request: Request, status: int, members: Mapping[str, Any]) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Cache-Control", b"no-store")
    return json.dumps(members).encode()
