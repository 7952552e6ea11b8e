"""An images listener with an in-memory bucket and in-memory connections."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from fxprofile.images.resource import make_site
from fxprofile.telemetry.metrics import Metrics
from tests.serving.wire import Answer, Connection

AVATAR = "0123456789abcdef" * 2
KEY = f"a/{AVATAR}"


class Listener:
    """An images listener on a bucket."""

    def __init__(
        self, bucket: Any, formats: tuple[str, ...] = ("png",), path: str = "/a/{id}"
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.metrics = Metrics()
        self.site = make_site(
            bucket=bucket,
            formats=formats,
            path=path,
            max_age=3600,
            clock=self.clock,
            metrics=self.metrics,
        )

    def connect(self) -> Connection:
        return Connection(self.site)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send one request on a connection of its own, and return the response."""
        connection = self.connect()
        connection.request(path, method, **headers)
        answer = connection.answer(method)
        connection.lose()
        return answer

    def counted(self, name: str, **labels: str) -> float:
        """Return the value of a counter."""
        return self.metrics.registry.get_sample_value(f"fxprofile_{name}", labels) or 0.0
