"""
The parts of the API's description that its operations refer to: what is sent, and what
can go wrong.
"""

from __future__ import annotations

from typing import Any

from fxprofile.model.avatars import REASONS, Status
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.web.profile import MAX_NAME

Json = dict[str, Any]

ID = "9f86d081884c7d659a2feaa0c55ad015"
UID = "6d940dd41e636cc156074109b8092f96"
PLACEHOLDER = "LEHV6nWB2yk8pyo0adR*.7kCMdnj"
ID_SCHEMA: Json = {"type": "string", "pattern": "^[0-9a-f]{32}$", "examples": [ID]}
URL: Json = {"type": "string", "format": "uri"}
EMPTY: Json = {"type": "object", "maxProperties": 0}


def json_object(required: Json, optional: Json | None = None) -> Json:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def schemas() -> Json:
    """What goes over the wire, by name."""
    text: Json = {"type": "string"}
    name: Json = {"type": "string", "maxLength": MAX_NAME, "examples": ["Zoë"]}
    status: Json = {
        "type": "string",
        "enum": [s.value for s in Status if s is not Status.DELETING],
    }
    reason: Json = {"type": "string", "enum": list(REASONS)}
    placeholder: Json = {
        "type": "string",
        "description": "A BlurHash of the picture, to be shown until it is there.",
        "examples": [PLACEHOLDER],
    }
    return {
        "Error": {
            "type": "object",
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "errno": {"type": "integer", "enum": [100, 101, 103, 104, 105, 106, 114, 125, 999]},
                "error": text,
                "message": {**text, "description": "One sentence for a person."},
                "reason": reason,
                "maxBytes": {"type": "integer"},
                "retryAfter": {"type": "integer", "description": "As `Retry-After`."},
            },
            "required": ["code", "errno", "error", "message"],
        },
        "Profile": json_object(
            {},
            {
                "uid": {"type": "string", "examples": [UID]},
                "sub": {"type": "string", "description": "The uid, for OpenID Connect."},
                "email": {"type": "string", "format": "email"},
                "locale": {"type": "string", "examples": ["en-US"]},
                "amrValues": {"type": "array", "items": text},
                "twoFactorAuthentication": {"type": "boolean"},
                "displayName": name,
                "avatar": URL,
                "avatarDefault": {"type": "boolean"},
            },
        ),
        "Avatar": json_object(
            {
                "id": {**ID_SCHEMA, "description": f"{DEFAULT_AVATAR_ID} is the default."},
                "avatar": URL,
                "avatarDefault": {"type": "boolean"},
                "url": {**URL, "description": "The same as `avatar`, for older clients."},
            },
            {
                "placeholder": placeholder,
                "pending": {
                    **json_object({"id": ID_SCHEMA, "status": status}),
                    "description": "A newer upload that is being crunched.",
                },
            },
        ),
        "Upload": json_object(
            {"id": ID_SCHEMA, "url": URL, "status": status},
            {
                "placeholder": placeholder,
                "error": json_object({"reason": reason, "message": text}),
            },
        ),
        "DisplayName": json_object({"displayName": name}),
        "Version": {
            "type": "object",
            "properties": dict.fromkeys(("source", "version", "commit", "build"), text),
            "required": ["source", "version", "commit", "build"],
        },
        "Health": {
            "type": "object",
            "properties": {
                "status": text,
                "checks": {"type": "object", "additionalProperties": text},
            },
            "required": ["status"],
        },
    }


def ref(name: str) -> Json:
    """Refer to one of the :func:`schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}
