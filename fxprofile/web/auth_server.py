"""The endpoints of the auth server, guarded by the secret bearer token."""

from __future__ import annotations

from fxprofile.model.errors import BackendUnavailable, NotFound
from fxprofile.model.keys import is_uid
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.profiles.read import Profiles
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.models import EmptyBody, SetDisplayNameOfUser, Uid
from fxprofile.web.operations import Operation


class AuthServerEndpoints:
    """The endpoints of the auth server; register them only if there is a secret."""

    def __init__(self, *, profiles: Profiles, invalidator: ProfileInvalidator) -> None:
        self._profiles = profiles
        self._invalidator = invalidator

    @Operation("DELETE /v1/cache/<uid>", secret=True)
    async def drop_cache(self, call: ApiRequest, uid: Uid) -> ApiResponse[EmptyBody]:
        """Remove the cached profile of a user."""
        await self._invalidator.invalidate(_checked(uid))
        return ApiResponse(200, {})

    @Operation("POST /v1/_display_name/<uid>", secret=True, errors=(BackendUnavailable,))
    async def set_display_name_of(
        self, call: ApiRequest, uid: Uid, body: SetDisplayNameOfUser
    ) -> ApiResponse[EmptyBody]:
        """Set the display name of a user; an empty one removes it."""
        await self._profiles.set_display_name(_checked(uid), body.name or None)
        return ApiResponse(200, {})


def _checked(uid: str) -> str:
    if not is_uid(uid):
        raise NotFound("There is no user with this uid.")
    return uid
