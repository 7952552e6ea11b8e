"""Read profiles, and read and set display names; users do, and the auth server."""

from __future__ import annotations

from email.utils import formatdate
from typing import Final, cast

import attrs
from twisted.internet.interfaces import IReactorTime

from fxprofile.model.errors import AuthServerUnavailable, BackendUnavailable, Forbidden, NotFound
from fxprofile.model.keys import is_uid
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.profiles.read import FIELD_SCOPES, Profiles, ProfileView, entity_tag
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.models import (
    DisplayNameBody,
    EmailBody,
    EmptyBody,
    IfNoneMatch,
    ProfileBody,
    SetDisplayName,
    SetDisplayNameOfUser,
    SubscriptionsBody,
    Uid,
    UidBody,
)
from fxprofile.web.operations import Operation

_PROFILE_HEADERS: Final = {
    "ETag": "Tag of these fields.",
    "Last-Modified": "When the profile changed.",
}


@attrs.define(kw_only=True, eq=False, slots=False)
class ProfileEndpoints:
    """
    The endpoints of profiles.

    :param started: when the service started, in seconds since the epoch: the ``Last-Modified``
        of a profile that never changed.
    :param clock: its seconds are seconds since the epoch.
    """

    _profiles: Profiles
    _invalidator: ProfileInvalidator
    _started: float
    _clock: IReactorTime

    @Operation(
        "GET /v1/profile",
        scopes=(),
        errors=(AuthServerUnavailable, BackendUnavailable),
        headers=_PROFILE_HEADERS,
        responses={304: "The profile has not changed."},
        parameters={"If-None-Match": IfNoneMatch},
    )
    async def get_profile(self, call: ApiRequest) -> ApiResponse[ProfileBody]:
        """
        Return the profile; this is also the UserInfo endpoint of OpenID Connect.

        See OpenID Connect Core 1.0, section 5.3.
        """
        view, headers = await self._view(call)
        if call.has_current(view.etag):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, cast(ProfileBody, view.fields), headers)

    @Operation(
        "POST /v1/profile",
        scopes=(),
        token_form=True,
        errors=(AuthServerUnavailable, BackendUnavailable),
        headers=_PROFILE_HEADERS,
    )
    async def post_profile(self, call: ApiRequest) -> ApiResponse[ProfileBody]:
        """
        Return the profile, as GET does.

        OpenID Connect Core 1.0, section 5.3.1, requires it of a UserInfo endpoint.
        """
        view, headers = await self._view(call)
        return ApiResponse(200, cast(ProfileBody, view.fields), headers)

    async def _view(self, call: ApiRequest) -> tuple[ProfileView, dict[str, str]]:
        """Return what the token may see, and the headers that go with it."""
        view = await self._profiles.view(token=call.token, credentials=call.credentials)
        if view is None:
            raise Forbidden()
        # The OAuth server's clock may be ahead; RFC 9110, section 8.8.2.1, forbids the future.
        modified = min(view.modified or self._started, self._clock.seconds())
        last_modified = formatdate(modified, usegmt=True)
        return view, {"ETag": f'"{view.etag}"', "Last-Modified": last_modified}

    @Operation("GET /v1/email", scopes=FIELD_SCOPES["email"], errors=(AuthServerUnavailable,))
    async def get_email(self, call: ApiRequest) -> ApiResponse[EmailBody]:
        """Return the email address."""
        email = await self._profiles.email(token=call.token, credentials=call.credentials)
        return ApiResponse(200, {} if email is None else {"email": email})

    @Operation("GET /v1/uid", scopes=FIELD_SCOPES["uid"])
    async def get_uid(self, call: ApiRequest) -> ApiResponse[UidBody]:
        """Return the user id."""
        return ApiResponse(200, {"uid": call.uid})

    @Operation(
        "GET /v1/subscriptions",
        scopes=FIELD_SCOPES["subscriptions"],
        errors=(AuthServerUnavailable,),
    )
    async def get_subscriptions(self, call: ApiRequest) -> ApiResponse[SubscriptionsBody]:
        """Return what the user has subscribed to, as far as it concerns the client."""
        subscriptions = await self._profiles.subscriptions(
            token=call.token, credentials=call.credentials
        )
        return ApiResponse(200, {"subscriptions": subscriptions})

    @Operation(
        "GET /v1/display_name",
        scopes=FIELD_SCOPES["displayName"],
        errors=(BackendUnavailable,),
        headers={"ETag": "Tag of the name."},
        responses={204: "No name is set.", 304: "The name has not changed."},
        parameters={"If-None-Match": IfNoneMatch},
        activity="displayName.get",
    )
    async def get_display_name(self, call: ApiRequest) -> ApiResponse[DisplayNameBody]:
        """Return the display name."""
        name = await self._profiles.display_name(call.uid)
        if not name:
            return ApiResponse(204)
        etag = entity_tag(name)
        headers = {"ETag": f'"{etag}"'}
        if call.has_current(etag):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, {"displayName": name}, headers)

    @Operation(
        "POST /v1/display_name",
        scopes=("profile:display_name:write",),
        errors=(BackendUnavailable,),
        activity="displayName.post",
    )
    async def set_display_name(
        self, call: ApiRequest, body: SetDisplayName
    ) -> ApiResponse[EmptyBody]:
        """Set the display name; an empty one removes it."""
        await self._profiles.set_display_name(call.uid, body.display_name or None)
        return ApiResponse(200, {})

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
