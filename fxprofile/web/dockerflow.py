"""The Dockerflow paths of the API listener, and the page that a browser gets at ``/``."""

from __future__ import annotations

from dataclasses import replace

from fxprofile import __version__
from fxprofile.serving.health import Health
from fxprofile.web.api import ApiRequest, ApiResponse, Handler
from fxprofile.web.models import HealthBody, VersionBody
from fxprofile.web.operations import Operation, ResponseSpec
from fxprofile.web.page import prefers_html

_VERSION = ResponseSpec(
    "The running version.",
    VersionBody,
    (
        {
            "source": "https://github.com/example/fxprofile",
            "version": __version__,
            "commit": "1950210f0c6ab1d2b3d0a6a5a3a3e6ed2b5c8a41",
            "build": "https://ci.example/1234",
        },
    ),
)
_PASSING = {"status": "ok", "checks": {"database": "ok", "jobs queue": "ok"}}
_FAILING = {"status": "fail", "checks": {"database": "fail", "jobs queue": "ok"}}


class Dockerflow:
    """
    The endpoints for operators and load balancers.

    :param page: the handler for browsers at ``/``, if there is a page.
    """

    def __init__(self, *, health: Health, page: Handler | None = None) -> None:
        self._health = health
        self._page = page

    @Operation(
        "GET",
        "/",
        "Return the version; in development, a page for browsers",
        {200: replace(_VERSION, text_types=("text/html",))},
    )
    async def get_root(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /``."""
        if self._page is None:
            return await self.get_version(call)
        page = prefers_html(call.header("Accept"))
        response = await (self._page(call) if page else self.get_version(call))
        return replace(response, headers={**response.headers, "Vary": "Accept"})

    @Operation("GET", "/__version__", "Return the version", {200: _VERSION})
    async def get_version(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /__version__``."""
        return ApiResponse(*self._health.version())

    @Operation(
        "GET",
        "/__heartbeat__",
        "Check this process and its dependencies",
        {
            200: ResponseSpec("Every check passes.", HealthBody, (_PASSING,)),
            503: ResponseSpec("A check fails.", HealthBody, (_FAILING,)),
        },
    )
    async def get_heartbeat(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /__heartbeat__``."""
        return ApiResponse(*await self._health.heartbeat())

    @Operation(
        "GET",
        "/__lbheartbeat__",
        "Check whether this process accepts requests",
        {
            200: ResponseSpec("It does.", HealthBody, ({"status": "ok"},)),
            503: ResponseSpec("It is starting or stopping.", HealthBody, ({"status": "stopping"},)),
        },
    )
    async def get_load_balancer_heartbeat(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /__lbheartbeat__``."""
        return ApiResponse(*self._health.load_balancer_heartbeat())
