"""
``GET /openapi.json``: all of this in the words of OpenAPI 3.1
(https://spec.openapis.org/oas/v3.1.0).

A test holds it against the routes in both directions, and another one asks the live
server whether it keeps to it.
"""

from __future__ import annotations

import json
from functools import cached_property

from fxprofile import __version__
from fxprofile.model.avatars import REASONS
from fxprofile.model.errors import (
    AuthServerUnavailable,
    BackendUnavailable,
    ExpectationFailed,
    LengthRequired,
    PayloadTooLarge,
    RequestBlocked,
    RequestTimeout,
    TooManyRequests,
    UnprocessableImage,
    UnsupportedMediaType,
)
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.web.api import Api, ApiRequest, ApiResponse
from fxprofile.web.openapi_operations import (
    JSON_ERRORS,
    in_header,
    in_path,
    json_body,
    json_response,
    operation,
)
from fxprofile.web.openapi_schemas import (
    EMPTY,
    ID,
    ID_SCHEMA,
    PLACEHOLDER,
    UID,
    Json,
    json_object,
    ref,
    schemas,
)
from fxprofile.web.upload import MOST_WAIT, TYPES

_IF_NONE_MATCH = in_header("If-None-Match", "ETags that the client knows; gives 304.", f'"{ID}"')
_NOT_MODIFIED: Json = {"description": "The client has this already."}
_NO_NAME: Json = {"description": "There is none."}


def document(public_url: str) -> Json:
    """
    The description of the API.

    :param public_url: the setting ``web.public_url``.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Firefox Accounts profile service",
            "version": __version__,
            "license": {"name": "MPL-2.0", "identifier": "MPL-2.0"},
            "description": "Every response has an `X-Request-Id`, which is in the log as well.",
        },
        "servers": [{"url": public_url}],
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An OAuth token."},
                "secret": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token that the auth server shares with this service.",
                },
            },
        },
        "paths": {**_profile_paths(), **_avatar_paths(), **_other_paths()},
    }


def _profile_paths() -> Json:
    profile = json_response(
        "The fields that the scopes of the token allow. Absent data is left out.",
        ref("Profile"),
        {"uid": UID, "displayName": "Zoë", "avatarDefault": True},
        ETag="Of these fields.",
        Last_Modified="When the profile last changed.",
    )
    name = ("profile:display_name",)
    return {
        "/v1/profile": {
            "get": operation(
                "getProfile",
                "The profile; also the UserInfo endpoint of OpenID Connect",
                {"200": profile, "304": _NOT_MODIFIED},
                scopes=(),
                errors=(AuthServerUnavailable, BackendUnavailable),
                parameters=(_IF_NONE_MATCH,),
            )
        },
        "/v1/email": {
            "get": operation(
                "getEmail",
                "The e-mail address",
                {
                    "200": json_response(
                        "The address, if there is one.",
                        json_object({}, {"email": {"type": "string"}}),
                        {"email": "user@example.com"},
                    )
                },
                scopes=("profile:email", "email"),
                errors=(AuthServerUnavailable,),
            )
        },
        "/v1/uid": {
            "get": operation(
                "getUid",
                "The user id",
                {
                    "200": json_response(
                        "The uid.", json_object({"uid": {"type": "string"}}), {"uid": UID}
                    )
                },
                scopes=("profile:uid",),
            )
        },
        "/v1/display_name": {
            "get": operation(
                "getDisplayName",
                "The display name",
                {
                    "200": json_response("The name.", ref("DisplayName"), {"displayName": "Zoë"}),
                    "204": _NO_NAME,
                },
                scopes=name,
                errors=(BackendUnavailable,),
            ),
            "post": operation(
                "setDisplayName",
                "Set the display name; an empty one unsets it",
                {"200": json_response("Done.", EMPTY, {})},
                errors=(*JSON_ERRORS, BackendUnavailable),
                scopes=("profile:display_name:write",),
                body=json_body("displayName"),
            ),
        },
    }


_URL = f"https://images.example/a/{ID}"
_MONOGRAM = "https://profile.example/v1/avatar/Z"

_UPLOAD_ERRORS = (
    *(RequestBlocked, RequestTimeout, LengthRequired, PayloadTooLarge, UnsupportedMediaType),
    *(ExpectationFailed, UnprocessableImage, TooManyRequests, BackendUnavailable),
)


def _avatar_paths() -> Json:
    avatar = json_response(
        "The present avatar.",
        ref("Avatar"),
        {
            "id": ID,
            "avatar": _URL,
            "avatarDefault": False,
            "url": _URL,
            "placeholder": PLACEHOLDER,
        },
        {
            "id": DEFAULT_AVATAR_ID,
            "avatar": _MONOGRAM,
            "avatarDefault": True,
            "url": _MONOGRAM,
            "pending": {"id": ID, "status": "processing"},
        },
        ETag="The id of the avatar.",
    )
    upload = json_response(
        "The upload is accepted, and nothing will lose it.",
        ref("Upload"),
        {"id": ID, "url": _URL, "status": "ready", "placeholder": PLACEHOLDER},
        {"id": ID, "url": _URL, "status": "processing"},
        Location="Where to ask for its status.",
        Preference_Applied="What of the Prefer header was done.",
    )
    read, write = ("profile:avatar",), ("profile:avatar:write",)
    return {
        "/v1/avatar": {
            "get": operation(
                "getAvatar",
                "The avatar",
                {"200": avatar, "304": _NOT_MODIFIED},
                scopes=read,
                errors=(AuthServerUnavailable, BackendUnavailable),
                parameters=(_IF_NONE_MATCH,),
            ),
            "delete": operation(
                "deleteAvatar",
                "Delete the avatar, and uploads that are being crunched",
                {"200": json_response("Done.", EMPTY, {})},
                scopes=write,
                errors=(BackendUnavailable,),
            ),
        },
        "/v1/avatar/{name}": {
            "get": operation(
                "getMonogram",
                "One letter or digit as a picture",
                {
                    "200": {
                        "description": "The picture; it may be kept for a week.",
                        "content": {
                            "image/svg+xml": {"schema": {"type": "string"}, "example": "<svg …>"}
                        },
                    },
                    "304": _NOT_MODIFIED,
                },
                parameters=(
                    in_path(
                        "name", "The letter or digit.", {"type": "string", "minLength": 1}, "Z"
                    ),
                    _IF_NONE_MATCH,
                ),
            ),
            "delete": operation(
                "deleteAvatarById",
                "Delete one avatar",
                {"200": json_response("Done.", EMPTY, {})},
                scopes=write,
                errors=(BackendUnavailable,),
                parameters=(in_path("name", "The id of the avatar.", ID_SCHEMA, ID),),
            ),
        },
        "/v1/avatar/upload": {
            "post": operation(
                "uploadAvatar",
                "Upload an avatar: the body is the image itself",
                {"201": upload},
                errors=_UPLOAD_ERRORS,
                scopes=write,
                parameters=(
                    in_header(
                        "Prefer",
                        f"`respond-async`, or `wait=N` with up to {MOST_WAIT} seconds (RFC 7240).",
                        "wait=10",
                    ),
                ),
                body={
                    "required": True,
                    "content": {
                        name: {"schema": {"type": "string", "format": "binary"}} for name in TYPES
                    },
                },
            )
        },
        "/v1/avatar/upload/{avatar_id}": {
            "get": operation(
                "getUpload",
                "What became of an upload",
                {
                    "200": json_response(
                        "Its state.",
                        ref("Upload"),
                        {"id": ID, "url": _URL, "status": "processing"},
                        {
                            "id": ID,
                            "url": _URL,
                            "status": "failed",
                            "error": {"reason": "corrupt", "message": REASONS["corrupt"]},
                        },
                    )
                },
                scopes=read,
                errors=(BackendUnavailable,),
                parameters=(in_path("avatar_id", "The id of the upload.", ID_SCHEMA, ID),),
            )
        },
    }


def _other_paths() -> Json:
    uid = in_path("uid", "The user.", {"type": "string"}, UID)
    well = {"status": "ok", "checks": {"database": "ok", "jobs queue": "ok"}}
    ill = {"status": "fail", "checks": {"database": "fail", "jobs queue": "ok"}}
    version = json_response(
        "What runs here.",
        ref("Version"),
        {
            "source": "https://github.com/example/fxprofile",
            "version": __version__,
            "commit": "1950210f0c6ab1d2b3d0a6a5a3a3e6ed2b5c8a41",
            "build": "https://ci.example/1234",
        },
    )
    page: Json = {"text/html": {"schema": {"type": "string"}}}
    return {
        "/v1/cache/{uid}": {
            "delete": operation(
                "dropCache",
                "Forget what is kept of a user",
                {"200": json_response("Done.", EMPTY, {})},
                secret=True,
                parameters=(uid,),
            )
        },
        "/v1/_display_name/{uid}": {
            "post": operation(
                "setDisplayNameOf",
                "Set the display name of a user",
                {"200": json_response("Done.", EMPTY, {})},
                errors=(*JSON_ERRORS, BackendUnavailable),
                secret=True,
                parameters=(uid,),
                body=json_body("name"),
            )
        },
        "/": {
            "get": operation(
                "getRoot",
                "The version; in development, a page for browsers",
                {"200": {**version, "content": {**version["content"], **page}}},
            )
        },
        "/__version__": {"get": operation("getVersion", "The version", {"200": version})},
        "/__heartbeat__": {
            "get": operation(
                "getHeartbeat",
                "Whether this process and all that it needs are well",
                {
                    "200": json_response("All is well.", ref("Health"), well),
                    "503": json_response("Something is not well.", ref("Health"), ill),
                },
            )
        },
        "/__lbheartbeat__": {
            "get": operation(
                "getLoadBalancerHeartbeat",
                "Whether this process wants requests",
                {
                    "200": json_response("It does.", ref("Health"), {"status": "ok"}),
                    "503": json_response(
                        "It starts or ends.", ref("Health"), {"status": "stopping"}
                    ),
                },
            )
        },
        "/openapi.json": {
            "get": operation(
                "getOpenApi",
                "This document",
                {"200": json_response("The document.", {"type": "object"}, {"openapi": "3.1.0"})},
            )
        },
    }


class OpenApi:
    """
    The endpoint of the description.

    :param public_url: the setting ``web.public_url``.
    """

    def __init__(self, *, public_url: str) -> None:
        self._public_url = public_url

    def add_to(self, api: Api) -> None:
        """Register the endpoint."""
        api.route("GET", "/openapi.json")(self.openapi)

    async def openapi(self, call: ApiRequest) -> ApiResponse:
        """``GET /openapi.json``."""
        headers = {
            "Cache-Control": "public, max-age=3600",
            "Content-Type": "application/json; charset=utf-8",
        }
        return ApiResponse(200, self._body, headers)

    @cached_property
    def _body(self) -> bytes:
        # Making it takes as long as some twenty requests.
        return json.dumps(document(self._public_url), ensure_ascii=False).encode()
