"""The Dockerflow paths of the API listener, and the page that a browser gets at ``/``."""

from __future__ import annotations

from dataclasses import replace

import attrs

from fxprofile import __version__
from fxprofile.serving.health import Health, HealthBody, VersionBody
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.operations import Operation
from fxprofile.web.page import Playground, prefers_html

_VERSION: VersionBody = {
    "source": "https://github.com/example/fxprofile",
    "version": __version__,
    "commit": "1950210f0c6ab1d2b3d0a6a5a3a3e6ed2b5c8a41",
    "build": "https://ci.example/1234",
}
_PASSING: HealthBody = {"status": "ok", "checks": {"database": "ok", "jobs queue": "ok"}}
_FAILING: HealthBody = {"status": "fail", "checks": {"database": "fail", "jobs queue": "ok"}}


@attrs.define(kw_only=True, eq=False, slots=False)
class Dockerflow:
    """
    The endpoints for operators and load balancers.

    :param playground: has the page for browsers at ``/``; None for no page.
    """

    _health: Health
    _playground: Playground | None = None

    @Operation("GET /", produces=("application/json", "text/html"), examples={200: (_VERSION,)})
    async def get_root(self, call: ApiRequest) -> ApiResponse[VersionBody]:
        """Return the version; in development, a page for browsers."""
        response = await self.get_version(call)
        if self._playground is None:
            return response
        if prefers_html(call.header("Accept")):
            response = self._playground.page()
        return replace(response, headers={**response.headers, "Vary": "Accept"})

    @Operation("GET /__version__", examples={200: (_VERSION,)})
    async def get_version(self, call: ApiRequest) -> ApiResponse[VersionBody]:
        """Return the version."""
        return ApiResponse(200, self._health.version)

    @Operation(
        "GET /__heartbeat__",
        responses={503: "A check fails."},
        examples={200: (_PASSING,), 503: (_FAILING,)},
    )
    async def get_heartbeat(self, call: ApiRequest) -> ApiResponse[HealthBody]:
        """Check this process and its dependencies."""
        return ApiResponse(*await self._health.heartbeat())

    @Operation(
        "GET /__lbheartbeat__",
        responses={503: "The process is starting or stopping."},
        examples={200: ({"status": "ok"},), 503: ({"status": "stopping"},)},
    )
    async def get_load_balancer_heartbeat(self, call: ApiRequest) -> ApiResponse[HealthBody]:
        """Check whether this process accepts requests."""
        return ApiResponse(*self._health.load_balancer_heartbeat())
