"""
What can go wrong, in the words of OpenAPI: one response for each status, with an example of
each errno, made of the errors themselves.
"""

from __future__ import annotations

from typing import Any, Final

from fxprofile.model.errors import (
    ApiError,
    AuthServerUnavailable,
    BackendUnavailable,
    BadRequest,
    ExpectationFailed,
    Forbidden,
    InternalError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    OAuthServerUnavailable,
    PayloadTooLarge,
    RequestBlocked,
    RequestTimeout,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
)
from fxprofile.web.api import error_answer
from fxprofile.web.errors import unprocessable
from fxprofile.web.openapi_schemas import Json, ref

#: One of each kind of error that there is.
SAMPLES: Final[tuple[ApiError, ...]] = (
    BadRequest(),
    RequestBlocked(),
    Unauthorized(),
    Forbidden(),
    NotFound(),
    MethodNotAllowed(headers={"Allow": "GET, HEAD"}),
    RequestTimeout(),
    LengthRequired(),
    PayloadTooLarge(),
    UnsupportedMediaType(),
    ExpectationFailed(),
    unprocessable("corrupt"),
    TooManyRequests(retry_after=60),
    InternalError(),
    OAuthServerUnavailable(),
    AuthServerUnavailable(),
    BackendUnavailable(),
)

_HEADERS: Final = {
    "WWW-Authenticate": "The scheme of the token that is wanted.",
    "Allow": "The methods that are allowed here.",
    "Retry-After": "Seconds after which to try again.",
}


def error_responses(kinds: frozenset[type[ApiError]]) -> Json:
    """The responses, by status, of an operation in which these errors may happen."""
    responses: Json = {}
    for sample in SAMPLES:
        if type(sample) in kinds:
            _add(responses.setdefault(str(sample.code), _empty()), sample)
    return responses


def _empty() -> Json:
    content: Json = {"schema": ref("Error"), "examples": {}}
    return {"description": "", "content": {"application/json": content}}


def _add(response: Json, sample: ApiError) -> None:
    answer: Any = error_answer(sample)
    text = f"{sample.errno}: {sample.message}"
    response["description"] = f"{response['description']}\n{text}".strip()
    example = {"summary": sample.message, "value": answer.body}
    response["content"]["application/json"]["examples"][type(sample).__name__] = example
    for name, value in answer.headers.items():
        response.setdefault("headers", {})[name] = {
            "description": _HEADERS[name],
            "required": True,
            "schema": {"type": "string"},
            "example": value,
        }
