"""What only the auth server may ask, with the token that the two share."""

from __future__ import annotations

import hmac

from fxprofile.model.errors import NotFound, Unauthorized
from fxprofile.model.keys import is_uid
from fxprofile.profiles.invalidation import Changes
from fxprofile.profiles.read import Profiles
from fxprofile.web.api import Api, ApiRequest, ApiResponse, bearer_token
from fxprofile.web.profile import checked_name


class ServerEndpoints:
    """
    The endpoints of the auth server.

    :param secret: the setting ``secret_bearer_token``.
    """

    def __init__(self, *, profiles: Profiles, changes: Changes, secret: str) -> None:
        self._profiles = profiles
        self._changes = changes
        self._secret = secret.encode()

    def add_to(self, api: Api) -> None:
        """Register the endpoints."""
        api.route("DELETE", "/v1/cache/<uid>")(self.drop_cache)
        api.route("POST", "/v1/_display_name/<uid>")(self.set_name)

    async def drop_cache(self, call: ApiRequest, uid: str) -> ApiResponse:
        """``DELETE /v1/cache/{uid}``: what is kept of this user is old."""
        self._check(call, uid)
        await self._changes.forget(uid)
        return ApiResponse(200, {})

    async def set_name(self, call: ApiRequest, uid: str) -> ApiResponse:
        """``POST /v1/_display_name/{uid}``: set the name of a user who signed in elsewhere."""
        self._check(call, uid)
        name = checked_name((await call.json()).get("name"), "name")
        await self._profiles.set_display_name(uid, name)
        return ApiResponse(200, {})

    def _check(self, call: ApiRequest, uid: str) -> None:
        token = bearer_token(call.request)
        if token is None or not hmac.compare_digest(token.encode(), self._secret):
            raise Unauthorized()
        if not is_uid(uid):
            raise NotFound("There is no user with this uid.")
