"""
``GET /openapi.json``: all of this in the words of OpenAPI 3.1
(https://spec.openapis.org/oas/v3.1.0).

A test holds it against the routes in both directions, and another one asks the live
server whether it keeps to it.
"""

from __future__ import annotations

from typing import Any

from fxprofile import __version__
from fxprofile.web.api import MAX_JSON, Answer, Api, Call
from fxprofile.web.openapi_schemas import (
    EMPTY,
    ERRNO,
    ERRORS,
    ID,
    ID_SCHEMA,
    UID,
    Json,
    json_object,
    ref,
    schemas,
)
from fxprofile.web.profile import MAX_NAME
from fxprofile.web.upload import MOST_WAIT, TYPES


def _json_response(description: str, schema: Json, example: Any = None, **headers: str) -> Json:
    content: Json = {"schema": schema}
    if example is not None:
        content["example"] = example
    response: Json = {"description": description, "content": {"application/json": content}}
    if headers:
        response["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return response


def _error(status: int) -> Json:
    errno = ERRNO.get(status, 101)
    return _json_response(
        ERRORS[status],
        ref("Error"),
        {"code": status, "errno": errno, "error": "…", "message": ERRORS[status]},
    )


def _operation(
    operation_id: str,
    summary: str,
    responses: Json,
    *,
    errors: tuple[int, ...] = (),
    scopes: tuple[str, ...] | None = None,
    secret: bool = False,
    parameters: tuple[Json, ...] = (),
    body: Json | None = None,
) -> Json:
    # Whoever sends nonsense gets 400 or 405 anywhere, and 413 for a body nobody wants.
    told = {400, 404, 405, 500, *errors}
    operation: Json = {
        "operationId": operation_id,
        "summary": summary,
        "responses": responses,
        "security": [],
    }
    if scopes is not None:
        told |= {401, 403, 503}
        operation["security"] = [{"bearer": []}]
        operation["description"] = (
            "Needs one of the scopes " + ", ".join(f"`{s}`" for s in scopes) + "."
            if scopes
            else "Needs a scope that allows at least one field."
        )
    if secret:
        told |= {401, 503}
        operation["security"] = [{"secret": []}]
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    operation["responses"] = {
        **responses,
        **{str(status): _error(status) for status in sorted(told) if str(status) not in responses},
    }
    return operation


def _in_path(name: str, description: str, schema: Json) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
    }


def _in_header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _json_body(key: str) -> Json:
    schema: Json = {
        "type": "object",
        "properties": {key: {"type": "string", "maxLength": MAX_NAME, "examples": ["Zoë"]}},
        "required": [key],
    }
    return {
        "required": True,
        "description": f"At most {MAX_JSON} bytes of UTF-8.",
        "content": {"application/json": {"schema": schema}},
    }


_IF_NONE_MATCH = _in_header("If-None-Match", "ETags that the client knows; gives 304.")
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
    profile = _json_response(
        "The fields that the scopes of the token allow. Absent data is left out.",
        ref("Profile"),
        {"uid": UID, "displayName": "Zoë", "avatarDefault": True},
        ETag="Of these fields.",
        Last_Modified="When the profile last changed.",
    )
    name = ("profile:display_name",)
    return {
        "/v1/profile": {
            "get": _operation(
                "getProfile",
                "The profile; also the UserInfo endpoint of OpenID Connect",
                {"200": profile, "304": _NOT_MODIFIED},
                scopes=(),
                parameters=(_IF_NONE_MATCH,),
            )
        },
        "/v1/email": {
            "get": _operation(
                "getEmail",
                "The e-mail address",
                {
                    "200": _json_response(
                        "The address, if there is one.",
                        json_object({}, {"email": {"type": "string"}}),
                        {"email": "user@example.com"},
                    )
                },
                scopes=("profile:email", "email"),
            )
        },
        "/v1/uid": {
            "get": _operation(
                "getUid",
                "The user id",
                {"200": _json_response("The uid.", json_object({"uid": {"type": "string"}}))},
                scopes=("profile:uid",),
            )
        },
        "/v1/display_name": {
            "get": _operation(
                "getDisplayName",
                "The display name",
                {"200": _json_response("The name.", ref("DisplayName")), "204": _NO_NAME},
                scopes=name,
            ),
            "post": _operation(
                "setDisplayName",
                "Set the display name; an empty one unsets it",
                {"200": _json_response("Done.", EMPTY, {})},
                errors=(408, 413, 415),
                scopes=("profile:display_name:write",),
                body=_json_body("displayName"),
            ),
        },
    }


def _avatar_paths() -> Json:
    avatar = _json_response(
        "The present avatar.", ref("Avatar"), None, ETag="The id of the avatar."
    )
    upload = _json_response(
        "The upload is accepted, and nothing will lose it.",
        ref("Upload"),
        {"id": ID, "url": f"https://images.example/a/{ID}", "status": "ready"},
        Location="Where to ask for its status.",
        Preference_Applied="What of the Prefer header was done.",
    )
    read, write = ("profile:avatar",), ("profile:avatar:write",)
    return {
        "/v1/avatar": {
            "get": _operation(
                "getAvatar",
                "The avatar",
                {"200": avatar, "304": _NOT_MODIFIED},
                scopes=read,
                parameters=(_IF_NONE_MATCH,),
            ),
            "delete": _operation(
                "deleteAvatar",
                "Delete the avatar, and uploads that are being crunched",
                {"200": _json_response("Done.", EMPTY, {})},
                scopes=write,
            ),
        },
        "/v1/avatar/{name}": {
            "get": _operation(
                "getMonogram",
                "One letter or digit as a picture",
                {
                    "200": {
                        "description": "The picture; it may be kept for a week.",
                        "content": {"image/svg+xml": {"schema": {"type": "string"}}},
                    },
                    "304": _NOT_MODIFIED,
                },
                parameters=(
                    _in_path("name", "The letter or digit.", {"type": "string", "minLength": 1}),
                    _IF_NONE_MATCH,
                ),
            ),
            "delete": _operation(
                "deleteAvatarById",
                "Delete one avatar",
                {"200": _json_response("Done.", EMPTY, {})},
                scopes=write,
                parameters=(_in_path("name", "The id of the avatar.", ID_SCHEMA),),
            ),
        },
        "/v1/avatar/upload": {
            "post": _operation(
                "uploadAvatar",
                "Upload an avatar: the body is the image itself",
                {"201": upload},
                errors=(408, 411, 413, 415, 417, 422, 429),
                scopes=write,
                parameters=(
                    _in_header(
                        "Prefer",
                        f"`respond-async`, or `wait=N` with up to {MOST_WAIT} seconds (RFC 7240).",
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
            "get": _operation(
                "getUpload",
                "What became of an upload",
                {"200": _json_response("Its state.", ref("Upload"))},
                scopes=read,
                parameters=(_in_path("avatar_id", "The id of the upload.", ID_SCHEMA),),
            )
        },
    }


def _other_paths() -> Json:
    uid = _in_path("uid", "The user.", {"type": "string", "examples": [UID]})
    health = _json_response("All is well.", ref("Health"), {"status": "ok"})
    ill = _json_response("Something is not well.", ref("Health"), {"status": "fail"})
    version = _json_response("What runs here.", ref("Version"))
    page: Json = {"text/html": {"schema": {"type": "string"}}}
    return {
        "/v1/cache/{uid}": {
            "delete": _operation(
                "dropCache",
                "Forget what is kept of a user",
                {"200": _json_response("Done.", EMPTY, {})},
                secret=True,
                parameters=(uid,),
            )
        },
        "/v1/_display_name/{uid}": {
            "post": _operation(
                "setDisplayNameOf",
                "Set the display name of a user",
                {"200": _json_response("Done.", EMPTY, {})},
                errors=(408, 413, 415),
                secret=True,
                parameters=(uid,),
                body=_json_body("name"),
            )
        },
        "/": {
            "get": _operation(
                "getRoot",
                "The version; in development, a page for browsers",
                {"200": {**version, "content": {**version["content"], **page}}},
            )
        },
        "/__version__": {"get": _operation("getVersion", "The version", {"200": version})},
        "/__heartbeat__": {
            "get": _operation(
                "getHeartbeat",
                "Whether this process and all that it needs are well",
                {"200": health, "503": ill},
            )
        },
        "/__lbheartbeat__": {
            "get": _operation(
                "getLoadBalancerHeartbeat",
                "Whether this process wants requests",
                {"200": health, "503": ill},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "getOpenApi",
                "This document",
                {"200": _json_response("The document.", {"type": "object"})},
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

    async def openapi(self, call: Call) -> Answer:
        """``GET /openapi.json``."""
        return Answer(200, document(self._public_url), {"Cache-Control": "public, max-age=3600"})
