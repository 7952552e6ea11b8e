"""The Dockerflow paths of the API listener, and what a browser finds at ``/``."""

from __future__ import annotations

from dataclasses import replace

from fxprofile.serving.health import Health
from fxprofile.web.api import Api, ApiRequest, ApiResponse, Endpoint
from fxprofile.web.page import prefers_html


class Dockerflow:
    """
    The endpoints that operators and load balancers ask.

    :param page: what a browser gets at ``/``, if there is something for it.
    """

    def __init__(self, *, health: Health, page: Endpoint | None = None) -> None:
        self._health = health
        self._page = page

    def add_to(self, api: Api) -> None:
        """Register the endpoints."""
        api.route("GET", "/")(self.root)
        api.route("GET", "/__version__")(self.version)
        api.route("GET", "/__heartbeat__")(self.heartbeat)
        api.route("GET", "/__lbheartbeat__")(self.load_balancer_heartbeat)

    async def root(self, call: ApiRequest) -> ApiResponse:
        """``GET /``: the version, or for a browser the page."""
        if self._page is None:
            return await self.version(call)
        page = prefers_html(call.header("Accept"))
        answer = await (self._page(call) if page else self.version(call))
        return replace(answer, headers={**answer.headers, "Vary": "Accept"})

    async def version(self, call: ApiRequest) -> ApiResponse:
        """``GET /__version__``, also at ``/``."""
        return ApiResponse(*self._health.version())

    async def heartbeat(self, call: ApiRequest) -> ApiResponse:
        """``GET /__heartbeat__``."""
        return ApiResponse(*await self._health.heartbeat())

    async def load_balancer_heartbeat(self, call: ApiRequest) -> ApiResponse:
        """``GET /__lbheartbeat__``."""
        return ApiResponse(*self._health.load_balancer_heartbeat())
