"""Read profiles; read and set display names."""

from __future__ import annotations

from email.utils import formatdate

from twisted.internet.interfaces import IReactorTime

from fxprofile.model.errors import AuthServerUnavailable, BackendUnavailable, Forbidden
from fxprofile.profiles.read import FIELD_SCOPES, Profiles
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.models import (
    ID,
    UID,
    DisplayNameBody,
    EmailBody,
    EmptyBody,
    ProfileBody,
    SetDisplayName,
    UidBody,
)
from fxprofile.web.operations import Operation, ParameterSpec, ResponseSpec

#: What responses with an ETag have in common.
IF_NONE_MATCH = ParameterSpec(
    "If-None-Match", "header", "ETags that the client has; a match gives 304.", f'"{ID}"'
)
NOT_MODIFIED = ResponseSpec("The client already has the current version.")
DONE = ResponseSpec("Done.", EmptyBody, ({},))


class ProfileEndpoints:
    """
    The endpoints of profiles.

    :param started: when the service started, in seconds since the epoch: the ``Last-Modified``
        of a profile that never changed.
    :param clock: its seconds are seconds since the epoch.
    """

    def __init__(self, *, profiles: Profiles, started: float, clock: IReactorTime) -> None:
        self._profiles = profiles
        self._started = started
        self._clock = clock

    @Operation(
        "GET",
        "/v1/profile",
        "Return the profile; this is also the UserInfo endpoint of OpenID Connect",
        {
            200: ResponseSpec(
                "The fields that the scopes of the token allow. Absent data is left out.",
                ProfileBody,
                ({"uid": UID, "displayName": "Zoë", "avatarDefault": True},),
                {"ETag": "Tag of these fields.", "Last-Modified": "When the profile changed."},
            ),
            304: NOT_MODIFIED,
        },
        scopes=(),
        errors=(AuthServerUnavailable, BackendUnavailable),
        parameters=(IF_NONE_MATCH,),
    )
    async def get_profile(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /v1/profile`` (OpenID Connect Core 1.0, section 5.3)."""
        view = await self._profiles.view(token=call.token, credentials=call.credentials)
        if view is None:
            raise Forbidden()
        # The OAuth server's clock may be ahead; RFC 9110, section 8.8.2.1, forbids the future.
        modified = min(view.modified or self._started, self._clock.seconds())
        headers = {"ETag": f'"{view.etag}"', "Last-Modified": formatdate(modified, usegmt=True)}
        if call.has_current(view.etag):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, view.fields, headers)

    @Operation(
        "GET",
        "/v1/email",
        "Return the email address",
        {
            200: ResponseSpec(
                "The address, if there is one.", EmailBody, ({"email": "user@example.com"},)
            )
        },
        scopes=FIELD_SCOPES["email"],
        errors=(AuthServerUnavailable,),
    )
    async def get_email(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /v1/email``."""
        email = await self._profiles.email(token=call.token, credentials=call.credentials)
        return ApiResponse(200, {} if email is None else {"email": email})

    @Operation(
        "GET",
        "/v1/uid",
        "Return the user id",
        {200: ResponseSpec("The uid.", UidBody, ({"uid": UID},))},
        scopes=FIELD_SCOPES["uid"],
    )
    async def get_uid(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /v1/uid``."""
        return ApiResponse(200, {"uid": call.uid})

    @Operation(
        "GET",
        "/v1/display_name",
        "Return the display name",
        {
            200: ResponseSpec("The name.", DisplayNameBody, ({"displayName": "Zoë"},)),
            204: ResponseSpec("No name is set."),
        },
        scopes=FIELD_SCOPES["displayName"],
        errors=(BackendUnavailable,),
    )
    async def get_display_name(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /v1/display_name``."""
        name = await self._profiles.display_name(call.uid)
        return ApiResponse(200, {"displayName": name}) if name else ApiResponse(204)

    @Operation(
        "POST",
        "/v1/display_name",
        "Set the display name; an empty one removes it",
        {200: DONE},
        scopes=("profile:display_name:write",),
        body=SetDisplayName,
        errors=(BackendUnavailable,),
    )
    async def set_display_name(self, call: ApiRequest, body: SetDisplayName) -> ApiResponse:
        """Answer ``POST /v1/display_name``."""
        await self._profiles.set_display_name(call.uid, body.display_name or None)
        return ApiResponse(200, {})
