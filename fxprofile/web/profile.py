"""Read profiles, and read and write display names."""

from __future__ import annotations

import re
from email.utils import formatdate
from typing import Any

from twisted.internet.interfaces import IReactorTime

from fxprofile.model.errors import BadRequest, Forbidden
from fxprofile.profiles.read import FIELD_SCOPES, Profiles
from fxprofile.serving.conditional import matches
from fxprofile.web.api import Api, ApiRequest, ApiResponse

#: Characters of a display name.
MAX_NAME = 256

# Controls, line and paragraph separators, private use, interlinear annotation, and what
# is no character at all; as the original service had it.
_FORBIDDEN = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u2028\u2029\ud800-\udfff\ue000-\uf8ff\ufff9-\ufffc\ufffe\uffff"
    "\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)


class ProfileEndpoints:
    """
    The endpoints of profiles.

    :param started: when the service started, in seconds since the epoch: what was never
        changed has not changed since.
    :param clock: of seconds since the epoch.
    """

    def __init__(self, *, profiles: Profiles, started: float, clock: IReactorTime) -> None:
        self._profiles = profiles
        self._started = started
        self._clock = clock

    def add_to(self, api: Api) -> None:
        """Register the endpoints."""
        api.route("GET", "/v1/profile", scopes=())(self.profile)
        api.route("GET", "/v1/email", scopes=FIELD_SCOPES["email"])(self.email)
        api.route("GET", "/v1/uid", scopes=FIELD_SCOPES["uid"])(self.uid)
        api.route("GET", "/v1/display_name", scopes=FIELD_SCOPES["displayName"])(self.name)
        api.route("POST", "/v1/display_name", scopes=("profile:display_name:write",))(self.set_name)

    async def profile(self, call: ApiRequest) -> ApiResponse:
        """
        ``GET /v1/profile``, which is also the UserInfo endpoint of OpenID Connect Core
        1.0, section 5.3.
        """
        view = await self._profiles.view(token=call.token, credentials=call.credentials)
        if view is None:
            raise Forbidden()
        # The OAuth server has a clock of its own (RFC 9110, section 8.8.2.1).
        modified = min(view.modified or self._started, self._clock.seconds())
        headers = {
            "ETag": f'"{view.etag}"',
            "Last-Modified": formatdate(modified, usegmt=True),
        }
        if matches(call.header("If-None-Match"), view.etag):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, view.fields, headers)

    async def email(self, call: ApiRequest) -> ApiResponse:
        """``GET /v1/email``."""
        email = await self._profiles.email(token=call.token, credentials=call.credentials)
        return ApiResponse(200, {} if email is None else {"email": email})

    async def uid(self, call: ApiRequest) -> ApiResponse:
        """``GET /v1/uid``."""
        return ApiResponse(200, {"uid": call.uid})

    async def name(self, call: ApiRequest) -> ApiResponse:
        """``GET /v1/display_name``."""
        name = await self._profiles.display_name(call.uid)
        if not name:
            return ApiResponse(204)
        return ApiResponse(200, {"displayName": name})

    async def set_name(self, call: ApiRequest) -> ApiResponse:
        """``POST /v1/display_name``."""
        name = checked_name((await call.json()).get("displayName"))
        await self._profiles.set_display_name(call.uid, name)
        return ApiResponse(200, {})


def checked_name(name: Any, key: str = "displayName") -> str | None:
    """
    A display name that a client sent; None if it is empty.

    :param key: what the client calls it.
    :raises BadRequest: if it is no text, too long, or has a character that it may not.
    """
    if not isinstance(name, str):
        raise BadRequest(f"{key} must be a string.")
    if len(name) > MAX_NAME:
        raise BadRequest(f"{key} may have at most {MAX_NAME} characters.")
    if _FORBIDDEN.search(name):
        raise BadRequest(f"{key} has a control, private or invalid character.")
    return name or None
