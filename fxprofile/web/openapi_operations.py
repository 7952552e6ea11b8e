"""
What an operation is made of in OpenAPI: its parameters, its body, and its responses.
"""

from __future__ import annotations

from typing import Any

from fxprofile.model.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    OAuthServerUnavailable,
    PayloadTooLarge,
    RequestTimeout,
    Unauthorized,
    UnsupportedMediaType,
)
from fxprofile.web.api import MAX_JSON
from fxprofile.web.openapi_errors import error_responses
from fxprofile.web.openapi_schemas import Json
from fxprofile.web.profile import MAX_NAME

#: What may go wrong anywhere.
_ANYWHERE = (BadRequest, NotFound, MethodNotAllowed, InternalError)

#: What may be wrong with a body of JSON.
JSON_ERRORS = (RequestTimeout, PayloadTooLarge, UnsupportedMediaType)


def json_response(
    description: str, schema: Json, example: Any, *others: Any, **headers: str
) -> Json:
    """
    A response.

    :param example: a body, which ``others`` may follow.
    :param headers: what there is to say of each; an underscore stands for its hyphen.
    """
    content: Json = {"schema": schema}
    if others:
        content["examples"] = {str(n): {"value": v} for n, v in enumerate((example, *others), 1)}
    else:
        content["example"] = example
    response: Json = {"description": description, "content": {"application/json": content}}
    if headers:
        response["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return response


def operation(
    operation_id: str,
    summary: str,
    responses: Json,
    *,
    errors: tuple[type[ApiError], ...] = (),
    scopes: tuple[str, ...] | None = None,
    secret: bool = False,
    parameters: tuple[Json, ...] = (),
    body: Json | None = None,
) -> Json:
    """
    An operation.

    :param responses: when all goes well.
    :param errors: what may go wrong besides what may anywhere, or with any token.
    :param scopes: as :meth:`fxprofile.web.api.Api.route` has them.
    :param secret: whether it needs the secret bearer token.
    """
    told: set[type[ApiError]] = {*_ANYWHERE, *errors}
    operation: Json = {
        "operationId": operation_id,
        "summary": summary,
        "responses": responses,
        "security": [],
    }
    if scopes is not None:
        told |= {Unauthorized, Forbidden, OAuthServerUnavailable}
        operation["security"] = [{"bearer": []}]
        operation["description"] = (
            "Needs one of the scopes " + ", ".join(f"`{s}`" for s in scopes) + "."
            if scopes
            else "Needs a scope that allows at least one field."
        )
    if secret:
        told.add(Unauthorized)
        operation["security"] = [{"secret": []}]
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    operation["responses"] = {**error_responses(frozenset(told)), **responses}
    return operation


def in_path(name: str, description: str, schema: Json, example: str) -> Json:
    """A parameter that is a part of the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def in_header(name: str, description: str, example: str) -> Json:
    """A header that a client may send."""
    return {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


def json_body(key: str) -> Json:
    """A body that has a display name under this key."""
    schema: Json = {
        "type": "object",
        "properties": {key: {"type": "string", "maxLength": MAX_NAME, "examples": ["Zoë"]}},
        "required": [key],
    }
    return {
        "required": True,
        "description": f"At most {MAX_JSON} bytes of UTF-8.",
        "content": {"application/json": {"schema": schema, "example": {key: "Zoë"}}},
    }
