"""The Dockerflow paths of the API listener, and what a browser finds at ``/``."""

from __future__ import annotations

from fxprofile.serving.health import Health
from fxprofile.web.api import Answer, Api, Call


class Dockerflow:
    """The endpoints that operators and load balancers ask."""

    def __init__(self, *, health: Health) -> None:
        self._health = health

    def add_to(self, api: Api) -> None:
        """Register the endpoints."""
        api.route("GET", "/__version__")(self.version)
        api.route("GET", "/__heartbeat__")(self.heartbeat)
        api.route("GET", "/__lbheartbeat__")(self.load_balancer_heartbeat)

    async def version(self, call: Call) -> Answer:
        """``GET /__version__``, also at ``/``."""
        return Answer(*self._health.version())

    async def heartbeat(self, call: Call) -> Answer:
        """``GET /__heartbeat__``."""
        return Answer(*await self._health.heartbeat())

    async def load_balancer_heartbeat(self, call: Call) -> Answer:
        """``GET /__lbheartbeat__``."""
        return Answer(*self._health.load_balancer_heartbeat())
