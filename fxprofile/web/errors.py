"""
What the API says when something goes wrong: the only place that makes a status out of
an error.
"""

from __future__ import annotations

from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.routing import RequestRedirect

from fxprofile.model.avatars import REASONS
from fxprofile.model.errors import (
    AccountUnknown,
    ApiError,
    AuthServerUnavailable,
    AuthUnavailable,
    BackendUnavailable,
    BadRequest,
    ClientGone,
    CrunchError,
    DriverError,
    InternalError,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    OAuthServerUnavailable,
    OAuthUnavailable,
    Unauthorized,
    UnprocessableImage,
)


def translate(error: BaseException) -> ApiError:
    """What a client is told of an error.  Nothing of the error's text gets out."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NoSuchMethod):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return MethodNotAllowed(headers={"Allow": allowed})
    if isinstance(error, (NoSuchPath, RequestRedirect)):
        return NotFound()
    for kind, answer in _ANSWERS:
        if isinstance(error, kind):
            return answer()
    if isinstance(error, CrunchError):
        return unprocessable(error.reason)
    return InternalError()


def unprocessable(reason: str) -> UnprocessableImage:
    """
    The answer to an image that could not be processed.

    :param reason: one word of :data:`fxprofile.model.avatars.REASONS`.
    """
    return UnprocessableImage(REASONS[reason], reason=reason)


_ANSWERS: tuple[tuple[type[BaseException], type[ApiError]], ...] = (
    (InvalidToken, Unauthorized),
    (AccountUnknown, Unauthorized),
    (OAuthUnavailable, OAuthServerUnavailable),
    (AuthUnavailable, AuthServerUnavailable),
    (DriverError, BackendUnavailable),
    (ClientGone, BadRequest),
    (HTTPException, BadRequest),
)
